//! The bytes that a router and a node send each other about one HTTP exchange: one [`Frame`] is one NATS message.
//! Only the layout is here; who may send what, and when, is in [`crate::exchange`]. Decoding is total: whatever bytes
//! come in, the answer is a frame or an error, and nothing is allocated that the input does not pay for.
//!
//! Start at [`Frame`]. Integers are big-endian; `str` is a `u16` length and as many bytes.
//!
//! | part         | fields, in order                                                                                  |
//! |--------------|---------------------------------------------------------------------------------------------------|
//! | every frame  | version `u8` = 1, kind `u8`, flags `u8`, sequence `u32`, then by kind:                            |
//! | 1 request    | window `u32`, remaining ms `u32` (0: none), workload `str`, method `str`, scheme `str`, authority `str`, path and query `str`, headers, chunk |
//! | 2 response   | window `u32`, status `u16`, headers, chunk                                                        |
//! | 3 data       | chunk                                                                                             |
//! | 4 credit     | bytes `u32`, not 0                                                                                |
//! | 5 reset      | code `u8`, retry after ms `u32` (0 unless overloaded), message `str` (UTF-8)                      |
//! | 6 ping       | nothing                                                                                           |
//! | headers      | count `u16`, then for each: name `str` (lower case), value `str`                                  |
//! | chunk        | length `u32`, bytes, then headers if the flag TRAILERS is set                                     |
//!
//! | flag | name        | may be set on            | meaning                                                |
//! |------|-------------|--------------------------|--------------------------------------------------------|
//! | 0x01 | END         | request, response, data  | the body of this direction ends with this frame        |
//! | 0x02 | TRAILERS    | the same, only with END  | trailers follow the chunk                              |
//! | 0x04 | NOTHING_RAN | reset                    | no guest code has seen the request: it may be sent elsewhere |
//!
//! Anything else is refused: an unknown version, kind, flag or code, bytes after the last field, a length beyond the
//! frame, an upper-case header name, an empty chunk in a data frame without END.

mod decode;
mod encode;
mod reset;
#[cfg(test)]
pub(crate) mod tests;

pub use reset::{Reset, ResetCode};

pub(crate) use decode::opens_exchange;
pub(crate) use encode::{check_trailers, headers_len};

use crate::id::WorkloadName;
use bytes::Bytes;
use http::{
    HeaderMap, Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use std::{num::NonZeroU32, sync::Arc};

/// First byte of every frame.
pub const FRAME_VERSION: u8 = 1;
/// Version, kind, flags, sequence.
pub const FRAME_HEADER_BYTES: usize = 7;
/// The smallest NATS payload limit that the protocol works with.
pub const FRAME_BYTES_MIN: usize = 8 * 1024;
/// Largest head, in bytes of its frame before the chunk; largest block of trailers.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header lines in a head, and in trailers.
pub const HEADERS_MAX: usize = 256;
/// Most body bytes that travel in the frame of a head.
pub const HTTP_INLINE_BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest frame: a head, body bytes beside it, and trailers.
pub const FRAME_BYTES_MAX: usize = HEAD_BYTES_MAX + CHUNK_LENGTH_BYTES + HTTP_INLINE_BODY_BYTES_MAX + HEAD_BYTES_MAX;
/// Longest message of a reset; longer ones are cut.
pub const RESET_MESSAGE_BYTES_MAX: usize = 512;

/// Messages with a head are copied up to this size: a head is kept as long as its exchange lives, and must not keep the
/// buffer that it was received into, with many other messages.
const COPIED_BYTES_MAX: usize = 8 * 1024;
/// Two lengths, and a name of one character.
const HEADER_LINE_BYTES_MIN: usize = 5;

/// Length field of a chunk.
pub(crate) const CHUNK_LENGTH_BYTES: usize = 4;

// A string inside a head or a block of trailers is shorter than the whole, so that its length always fits a `u16`:
// a trailer block spends a count and two lengths beside its longest string.
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize + 6);
const _: () = assert!(FRAME_HEADER_BYTES + 7 + RESET_MESSAGE_BYTES_MAX <= FRAME_BYTES_MIN);

/// One message of an exchange.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Opens an exchange; sent by the router with sequence 0.
    Request {
        head: Box<RequestHead>,
        /// Milliseconds left until the response's head when the frame was sent. Remaining time, not a point in time, so
        /// that no two clocks are compared.
        remaining_ms: Option<NonZeroU32>,
        /// Bytes of response body that the router has room for.
        window_bytes: u32,
        chunk: Chunk,
    },
    /// The answer to a request.
    Response {
        head: Box<ResponseHead>,
        /// Further bytes of request body that the node has room for: a credit that rides along. 0 for none.
        window_bytes: u32,
        chunk: Chunk,
    },
    /// More of the body.
    Data(Chunk),
    /// The receiver of a body has room for so many bytes more.
    Credit { bytes: NonZeroU32 },
    /// The exchange is over. Nothing follows, and nothing is answered.
    Reset(Reset),
    /// The sender is alive and has nothing else to say. Its sequence lets the peer notice a frame lost before it.
    Ping,
}

/// Where a request goes and what it asks, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub workload: WorkloadName,
    pub method: Method,
    pub scheme: Scheme,
    pub authority: Authority,
    pub path_and_query: PathAndQuery,
    /// Shared with whoever may have to send the request once more.
    pub headers: Arc<HeaderMap>,
}

/// Status and headers of a response. Interim responses (1xx) are not carried, but for 101, which is final here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// A piece of a body, and whether the body ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    pub bytes: Bytes,
    pub tail: Tail,
}

/// What follows a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tail {
    /// More of the body.
    #[default]
    More,
    /// Nothing: this was the last chunk.
    End,
    /// The trailers, in the same frame, and nothing after them.
    Trailers(HeaderMap),
}

/// Why a frame can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the head takes {bytes} bytes; at most {limit} are allowed")]
    HeadTooLarge { bytes: usize, limit: usize },
    #[error("the trailers take {bytes} bytes; at most {limit} are allowed")]
    TrailersTooLarge { bytes: usize, limit: usize },
    #[error("{count} header lines; at most {HEADERS_MAX} are allowed")]
    TooManyHeaders { count: usize },
    #[error("the frame takes {bytes} bytes; at most {limit} are allowed")]
    FrameTooLarge { bytes: usize, limit: usize },
    #[error("{bytes} body bytes beside a head; at most {HTTP_INLINE_BODY_BYTES_MAX} are allowed")]
    InlineTooLarge { bytes: usize },
    #[error("a data frame without bytes does not end the body")]
    EmptyData,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the frame ends inside a field")]
    Truncated,
    #[error("version {0} of the protocol is not spoken here")]
    Version(u8),
    #[error("there is no frame of kind {0}")]
    Kind(u8),
    #[error("flags {flags:#04x} are not allowed on a frame of kind {kind}")]
    Flags { kind: u8, flags: u8 },
    #[error("{0} bytes after the last field")]
    TrailingBytes(usize),
    #[error("a head or trailers of {0} bytes; at most {HEAD_BYTES_MAX} are allowed")]
    HeadTooLarge(usize),
    #[error("{0} header lines; at most {HEADERS_MAX} are allowed")]
    TooManyHeaders(usize),
    #[error("{0} body bytes beside a head; at most {HTTP_INLINE_BODY_BYTES_MAX} are allowed")]
    InlineTooLarge(usize),
    #[error("a data frame without bytes does not end the body")]
    EmptyData,
    #[error("a credit of no bytes")]
    ZeroCredit,
    #[error("there is no reset code {0}")]
    ResetCode(u8),
    #[error("the {0} is malformed")]
    Malformed(&'static str),
}

const KIND_REQUEST: u8 = 1;
const KIND_RESPONSE: u8 = 2;
const KIND_DATA: u8 = 3;
const KIND_CREDIT: u8 = 4;
const KIND_RESET: u8 = 5;
const KIND_PING: u8 = 6;

const FLAG_END: u8 = 0x01;
const FLAG_TRAILERS: u8 = 0x02;
const FLAG_NOTHING_RAN: u8 = 0x04;
