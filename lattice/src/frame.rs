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

use crate::{
    http::{BodyError, CallError},
    id::WorkloadName,
    limits::one_line,
};
use bytes::{BufMut as _, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

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

/// Why an exchange ended before both of its bodies did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub code: ResetCode,
    /// No guest code has seen the request. Meaningful from a node to a router only.
    pub nothing_ran: bool,
    message: String,
}

/// What a receiver of a reset can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCode {
    /// The sender has no more use for the exchange: a client went away, a body's source broke.
    Cancelled,
    /// No ready instance of the workload is on that node.
    NotHere,
    /// All instances are busy and the queue is full.
    Overloaded { retry_after_ms: u32 },
    /// The exchange's deadline or the workload's time limit passed.
    Timeout,
    /// The component failed.
    Failed,
    /// More bytes of body than a limit allows.
    BodyTooLarge,
    /// A frame that the protocol does not allow.
    ProtocolError,
    /// A frame was lost, repeated or reordered, or the exchange is unknown where its frames arrive.
    SequenceGap,
    /// The node is going away.
    ShuttingDown,
    /// Nothing was heard from the peer for the idle limit, or the server says that it is gone.
    Idle,
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

impl Frame {
    /// Write the frame. `frame_bytes_max` is the payload limit that the NATS server announced.
    pub fn encode(&self, sequence: u32, frame_bytes_max: usize) -> Result<Bytes, EncodeError> {
        let bytes = self.encoded_len(frame_bytes_max)?;
        if bytes > frame_bytes_max {
            return Err(EncodeError::FrameTooLarge { bytes, limit: frame_bytes_max });
        }
        let mut out = Vec::with_capacity(bytes);
        out.put_u8(FRAME_VERSION);
        out.put_u8(self.kind());
        out.put_u8(self.flags());
        out.put_u32(sequence);
        match self {
            Frame::Request { head, remaining_ms, window_bytes, chunk } => {
                out.put_u32(*window_bytes);
                out.put_u32(remaining_ms.map_or(0, NonZeroU32::get));
                put_str(&mut out, head.workload.as_str().as_bytes());
                put_str(&mut out, head.method.as_str().as_bytes());
                put_str(&mut out, head.scheme.as_str().as_bytes());
                put_str(&mut out, head.authority.as_str().as_bytes());
                put_str(&mut out, head.path_and_query.as_str().as_bytes());
                put_headers(&mut out, &head.headers);
                put_chunk(&mut out, chunk);
            }
            Frame::Response { head, window_bytes, chunk } => {
                out.put_u32(*window_bytes);
                out.put_u16(head.status.as_u16());
                put_headers(&mut out, &head.headers);
                put_chunk(&mut out, chunk);
            }
            Frame::Data(chunk) => put_chunk(&mut out, chunk),
            Frame::Credit { bytes } => out.put_u32(bytes.get()),
            Frame::Reset(reset) => {
                let (code, retry_after_ms) = reset.code.to_wire();
                out.put_u8(code);
                out.put_u32(retry_after_ms);
                put_str(&mut out, reset.message.as_bytes());
            }
            Frame::Ping => {}
        }
        debug_assert_eq!(out.len(), bytes);
        Ok(out.into())
    }

    /// Read one message: its sequence and the frame. Bodies and header values are slices, not copies, of the input, or of
    /// one copy of it.
    pub fn decode(message: Bytes) -> Result<(u32, Frame), DecodeError> {
        let mut reader = Reader { message, at: 0 };
        let version = reader.u8()?;
        if version != FRAME_VERSION {
            return Err(DecodeError::Version(version));
        }
        let (kind, flags, sequence) = (reader.u8()?, reader.u8()?, reader.u32()?);
        let flags_allowed = match kind {
            KIND_REQUEST | KIND_RESPONSE | KIND_DATA => FLAG_END | FLAG_TRAILERS,
            KIND_RESET => FLAG_NOTHING_RAN,
            KIND_CREDIT | KIND_PING => 0,
            _ => return Err(DecodeError::Kind(kind)),
        };
        if flags & !flags_allowed != 0 || (flags & FLAG_TRAILERS != 0 && flags & FLAG_END == 0) {
            return Err(DecodeError::Flags { kind, flags });
        }
        if matches!(kind, KIND_REQUEST | KIND_RESPONSE) && reader.message.len() <= COPIED_BYTES_MAX {
            reader.message = Bytes::copy_from_slice(&reader.message);
        }
        let frame = match kind {
            KIND_REQUEST => {
                let window_bytes = reader.u32()?;
                let remaining_ms = NonZeroU32::new(reader.u32()?);
                let head = Box::new(RequestHead {
                    workload: reader.workload()?,
                    method: reader.method()?,
                    scheme: reader.scheme()?,
                    authority: reader.authority()?,
                    path_and_query: reader.path_and_query()?,
                    headers: Arc::new(reader.headers()?),
                });
                let chunk = reader.inline_chunk(flags)?;
                Frame::Request { head, remaining_ms, window_bytes, chunk }
            }
            KIND_RESPONSE => {
                let window_bytes = reader.u32()?;
                let status = StatusCode::from_u16(reader.u16()?).map_err(|_| DecodeError::Malformed("status"))?;
                let head = Box::new(ResponseHead { status, headers: reader.headers()? });
                let chunk = reader.inline_chunk(flags)?;
                Frame::Response { head, window_bytes, chunk }
            }
            KIND_DATA => {
                let chunk = reader.chunk(flags)?;
                if chunk.bytes.is_empty() && chunk.tail == Tail::More {
                    return Err(DecodeError::EmptyData);
                }
                Frame::Data(chunk)
            }
            KIND_CREDIT => Frame::Credit { bytes: NonZeroU32::new(reader.u32()?).ok_or(DecodeError::ZeroCredit)? },
            KIND_RESET => {
                let code = ResetCode::from_wire(reader.u8()?, reader.u32()?)?;
                let message = reader.str()?;
                if message.len() > RESET_MESSAGE_BYTES_MAX {
                    return Err(DecodeError::Malformed("reset message"));
                }
                let message = std::str::from_utf8(&message).map_err(|_| DecodeError::Malformed("reset message"))?;
                let message = one_line(message, RESET_MESSAGE_BYTES_MAX);
                Frame::Reset(Reset { code, nothing_ran: flags & FLAG_NOTHING_RAN != 0, message })
            }
            _ => Frame::Ping,
        };
        match reader.left() {
            0 => Ok((sequence, frame)),
            rest => Err(DecodeError::TrailingBytes(rest)),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Request { .. } => KIND_REQUEST,
            Frame::Response { .. } => KIND_RESPONSE,
            Frame::Data(_) => KIND_DATA,
            Frame::Credit { .. } => KIND_CREDIT,
            Frame::Reset(_) => KIND_RESET,
            Frame::Ping => KIND_PING,
        }
    }

    fn flags(&self) -> u8 {
        match self {
            Frame::Request { chunk, .. } | Frame::Response { chunk, .. } | Frame::Data(chunk) => match chunk.tail {
                Tail::More => 0,
                Tail::End => FLAG_END,
                Tail::Trailers(_) => FLAG_END | FLAG_TRAILERS,
            },
            Frame::Reset(reset) if reset.nothing_ran => FLAG_NOTHING_RAN,
            Frame::Reset(_) | Frame::Credit { .. } | Frame::Ping => 0,
        }
    }

    /// The exact length, once every limit but the frame's own is known to hold.
    fn encoded_len(&self, frame_bytes_max: usize) -> Result<usize, EncodeError> {
        Ok(match self {
            Frame::Request { head, chunk, .. } => {
                head.check(frame_bytes_max)? + inline_chunk_len(chunk, frame_bytes_max)?
            }
            Frame::Response { head, chunk, .. } => {
                head.check(frame_bytes_max)? + inline_chunk_len(chunk, frame_bytes_max)?
            }
            Frame::Data(chunk) if chunk.bytes.is_empty() && chunk.tail == Tail::More => {
                return Err(EncodeError::EmptyData);
            }
            Frame::Data(chunk) => FRAME_HEADER_BYTES + chunk_len(chunk, frame_bytes_max)?,
            Frame::Credit { .. } => FRAME_HEADER_BYTES + 4,
            Frame::Reset(reset) => FRAME_HEADER_BYTES + 1 + 4 + str_len(reset.message.len()),
            Frame::Ping => FRAME_HEADER_BYTES,
        })
    }
}

impl RequestHead {
    /// Bytes of the frame before the chunk, or why the head can't be sent in a frame of that size.
    pub fn check(&self, frame_bytes_max: usize) -> Result<usize, EncodeError> {
        let strings = [
            self.workload.as_str(),
            self.method.as_str(),
            self.scheme.as_str(),
            self.authority.as_str(),
            self.path_and_query.as_str(),
        ];
        let strings: usize = strings.iter().map(|text| str_len(text.len())).sum();
        check_head(FRAME_HEADER_BYTES + 4 + 4 + strings, &self.headers, frame_bytes_max)
    }
}

impl ResponseHead {
    /// Bytes of the frame before the chunk, or why the head can't be sent in a frame of that size.
    pub fn check(&self, frame_bytes_max: usize) -> Result<usize, EncodeError> {
        check_head(FRAME_HEADER_BYTES + 4 + 2, &self.headers, frame_bytes_max)
    }
}

impl Reset {
    /// The message is for the operator's log: it is cut at [`RESET_MESSAGE_BYTES_MAX`], and control characters become
    /// spaces.
    pub fn new(code: ResetCode, message: impl AsRef<str>) -> Self {
        Self { code, nothing_ran: false, message: one_line(message.as_ref(), RESET_MESSAGE_BYTES_MAX) }
    }

    /// State that no guest code has seen the request.
    pub fn with_nothing_ran(mut self) -> Self {
        self.nothing_ran = true;
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the reset means to who awaits a response. `limit` is the time that the exchange was given.
    pub fn to_call_error(&self, limit: Duration) -> CallError {
        match self.code {
            ResetCode::Overloaded { retry_after_ms } if self.nothing_ran => {
                CallError::Overloaded { retry_after: Duration::from_millis(retry_after_ms.into()) }
            }
            ResetCode::Timeout => CallError::Timeout { limit },
            // Whatever the reason, the request may go elsewhere: that is what `NotHere` says.
            _ if self.nothing_ran => CallError::NotHere,
            _ => CallError::Failed { message: self.to_string() },
        }
    }

    /// What the reset means to who reads a body.
    pub fn to_body_error(&self) -> BodyError {
        match self.code {
            ResetCode::Timeout => BodyError::Timeout,
            _ => BodyError::Aborted(self.to_string()),
        }
    }
}

impl From<&CallError> for Reset {
    fn from(error: &CallError) -> Self {
        let code = match error {
            CallError::NotHere => ResetCode::NotHere,
            CallError::Overloaded { retry_after } => {
                ResetCode::Overloaded { retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX) }
            }
            CallError::Timeout { .. } | CallError::Body(BodyError::Timeout) => ResetCode::Timeout,
            CallError::Failed { .. } => ResetCode::Failed,
            CallError::Body(BodyError::TooLarge { .. }) => ResetCode::BodyTooLarge,
            CallError::Body(BodyError::Aborted(_)) => ResetCode::Cancelled,
        };
        let reset = Reset::new(code, error.to_string());
        if error.nothing_ran() { reset.with_nothing_ran() } else { reset }
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => self.code.fmt(f),
            message => write!(f, "{}: {message}", self.code),
        }
    }
}

impl ResetCode {
    fn to_wire(self) -> (u8, u32) {
        match self {
            ResetCode::Cancelled => (1, 0),
            ResetCode::NotHere => (2, 0),
            ResetCode::Overloaded { retry_after_ms } => (3, retry_after_ms),
            ResetCode::Timeout => (4, 0),
            ResetCode::Failed => (5, 0),
            ResetCode::BodyTooLarge => (6, 0),
            ResetCode::ProtocolError => (7, 0),
            ResetCode::SequenceGap => (8, 0),
            ResetCode::ShuttingDown => (9, 0),
            ResetCode::Idle => (10, 0),
        }
    }

    fn from_wire(code: u8, retry_after_ms: u32) -> Result<Self, DecodeError> {
        let code = match code {
            1 => ResetCode::Cancelled,
            2 => ResetCode::NotHere,
            3 => return Ok(ResetCode::Overloaded { retry_after_ms }),
            4 => ResetCode::Timeout,
            5 => ResetCode::Failed,
            6 => ResetCode::BodyTooLarge,
            7 => ResetCode::ProtocolError,
            8 => ResetCode::SequenceGap,
            9 => ResetCode::ShuttingDown,
            10 => ResetCode::Idle,
            other => return Err(DecodeError::ResetCode(other)),
        };
        if retry_after_ms != 0 { Err(DecodeError::Malformed("retry time")) } else { Ok(code) }
    }
}

impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResetCode::Cancelled => "cancelled",
            ResetCode::NotHere => "not-here",
            ResetCode::Overloaded { .. } => "overloaded",
            ResetCode::Timeout => "timeout",
            ResetCode::Failed => "failed",
            ResetCode::BodyTooLarge => "body-too-large",
            ResetCode::ProtocolError => "protocol-error",
            ResetCode::SequenceGap => "sequence-gap",
            ResetCode::ShuttingDown => "shutting-down",
            ResetCode::Idle => "idle",
        })
    }
}

/// True for the message of a request head that opens an exchange, also one whose other fields can't be read.
pub(crate) fn opens_exchange(message: &[u8]) -> bool {
    matches!(message, [FRAME_VERSION, KIND_REQUEST, _, 0, 0, 0, 0, ..])
}

/// Bytes of a block of trailers, or why it can't be sent.
pub(crate) fn check_trailers(trailers: &HeaderMap, frame_bytes_max: usize) -> Result<usize, EncodeError> {
    check_header_count(trailers)?;
    let bytes = headers_len(trailers);
    // Alone in a data frame, at worst.
    let limit = HEAD_BYTES_MAX.min(frame_bytes_max.saturating_sub(FRAME_HEADER_BYTES + CHUNK_LENGTH_BYTES));
    if bytes > limit { Err(EncodeError::TrailersTooLarge { bytes, limit }) } else { Ok(bytes) }
}

pub(crate) fn headers_len(headers: &HeaderMap) -> usize {
    2 + headers.iter().map(|(name, value)| str_len(name.as_str().len()) + str_len(value.len())).sum::<usize>()
}

fn check_header_count(headers: &HeaderMap) -> Result<(), EncodeError> {
    match headers.len() {
        count if count > HEADERS_MAX => Err(EncodeError::TooManyHeaders { count }),
        _ => Ok(()),
    }
}

fn check_head(fixed: usize, headers: &HeaderMap, frame_bytes_max: usize) -> Result<usize, EncodeError> {
    check_header_count(headers)?;
    let bytes = fixed + headers_len(headers);
    let limit = HEAD_BYTES_MAX.min(frame_bytes_max.saturating_sub(CHUNK_LENGTH_BYTES));
    if bytes > limit { Err(EncodeError::HeadTooLarge { bytes, limit }) } else { Ok(bytes) }
}

fn chunk_len(chunk: &Chunk, frame_bytes_max: usize) -> Result<usize, EncodeError> {
    let trailers = match &chunk.tail {
        Tail::Trailers(trailers) => check_trailers(trailers, frame_bytes_max)?,
        Tail::More | Tail::End => 0,
    };
    Ok(CHUNK_LENGTH_BYTES + chunk.bytes.len() + trailers)
}

fn inline_chunk_len(chunk: &Chunk, frame_bytes_max: usize) -> Result<usize, EncodeError> {
    match chunk.bytes.len() {
        bytes if bytes > HTTP_INLINE_BODY_BYTES_MAX => Err(EncodeError::InlineTooLarge { bytes }),
        _ => chunk_len(chunk, frame_bytes_max),
    }
}

fn str_len(bytes: usize) -> usize {
    2 + bytes
}

fn put_str(out: &mut Vec<u8>, bytes: &[u8]) {
    // Checked limits keep every string below 64 KiB: see the assertions at the top.
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

fn put_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    out.put_u16(headers.len() as u16);
    for (name, value) in headers {
        put_str(out, name.as_str().as_bytes());
        put_str(out, value.as_bytes());
    }
}

fn put_chunk(out: &mut Vec<u8>, chunk: &Chunk) {
    // The frame is at most a NATS payload, which is below 4 GiB.
    out.put_u32(chunk.bytes.len() as u32);
    out.put_slice(&chunk.bytes);
    if let Tail::Trailers(trailers) = &chunk.tail {
        put_headers(out, trailers);
    }
}

/// A message, and how much of it was read.
struct Reader {
    message: Bytes,
    at: usize,
}

impl Reader {
    fn left(&self) -> usize {
        self.message.len() - self.at
    }

    fn slice(&mut self, bytes: usize) -> Result<&[u8], DecodeError> {
        let from = self.at;
        let end = from.checked_add(bytes).ok_or(DecodeError::Truncated)?;
        let slice = self.message.get(from..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.slice(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes, DecodeError> {
        let from = self.at;
        self.slice(bytes)?;
        Ok(self.message.slice(from..self.at))
    }

    fn str(&mut self) -> Result<Bytes, DecodeError> {
        let bytes = self.u16()?;
        self.take(bytes.into())
    }

    /// A string that is not kept.
    fn str_slice(&mut self) -> Result<&[u8], DecodeError> {
        let bytes = self.u16()?;
        self.slice(bytes.into())
    }

    fn workload(&mut self) -> Result<WorkloadName, DecodeError> {
        let malformed = || DecodeError::Malformed("workload name");
        let text = self.str_slice()?;
        WorkloadName::new(std::str::from_utf8(text).map_err(|_| malformed())?).map_err(|_| malformed())
    }

    fn method(&mut self) -> Result<Method, DecodeError> {
        Method::from_bytes(self.str_slice()?).map_err(|_| DecodeError::Malformed("method"))
    }

    // The three below are compared with what was read: the `http` crate quietly turns some texts into others (an empty
    // path into "/", a fragment into nothing), and two readers must not differ about what was asked.

    fn scheme(&mut self) -> Result<Scheme, DecodeError> {
        let text = self.str_slice()?;
        let scheme = Scheme::try_from(text).map_err(|_| DecodeError::Malformed("scheme"))?;
        if scheme.as_str().as_bytes() == text { Ok(scheme) } else { Err(DecodeError::Malformed("scheme")) }
    }

    fn authority(&mut self) -> Result<Authority, DecodeError> {
        let text = self.str()?;
        let authority = Authority::from_maybe_shared(text.clone()).map_err(|_| DecodeError::Malformed("authority"))?;
        if authority.as_str().as_bytes() == text { Ok(authority) } else { Err(DecodeError::Malformed("authority")) }
    }

    fn path_and_query(&mut self) -> Result<PathAndQuery, DecodeError> {
        let text = self.str()?;
        let path = PathAndQuery::from_maybe_shared(text.clone()).map_err(|_| DecodeError::Malformed("path"))?;
        if path.as_str().as_bytes() == text { Ok(path) } else { Err(DecodeError::Malformed("path")) }
    }

    fn headers(&mut self) -> Result<HeaderMap, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > HEADERS_MAX {
            return Err(DecodeError::TooManyHeaders(count));
        }
        // No larger than what is there can fill: the count alone is a peer's word.
        let room = count.min(self.left() / HEADER_LINE_BYTES_MIN);
        let mut headers = HeaderMap::try_with_capacity(room).map_err(|_| DecodeError::TooManyHeaders(count))?;
        for _ in 0..count {
            let name =
                HeaderName::from_lowercase(self.str_slice()?).map_err(|_| DecodeError::Malformed("header name"))?;
            let value =
                HeaderValue::from_maybe_shared(self.str()?).map_err(|_| DecodeError::Malformed("header value"))?;
            headers.try_append(name, value).map_err(|_| DecodeError::TooManyHeaders(count))?;
        }
        Ok(headers)
    }

    fn chunk(&mut self, flags: u8) -> Result<Chunk, DecodeError> {
        let bytes = self.u32()?;
        let bytes = self.take(usize::try_from(bytes).map_err(|_| DecodeError::Truncated)?)?;
        let tail = if flags & FLAG_TRAILERS != 0 {
            let before = self.at;
            let trailers = self.headers()?;
            let trailers_bytes = self.at - before;
            if trailers_bytes > HEAD_BYTES_MAX {
                return Err(DecodeError::HeadTooLarge(trailers_bytes));
            }
            Tail::Trailers(trailers)
        } else if flags & FLAG_END != 0 {
            Tail::End
        } else {
            Tail::More
        };
        Ok(Chunk { bytes, tail })
    }

    /// The chunk after a head, which must have been within its limit.
    fn inline_chunk(&mut self, flags: u8) -> Result<Chunk, DecodeError> {
        let head_bytes = self.at;
        if head_bytes > HEAD_BYTES_MAX {
            return Err(DecodeError::HeadTooLarge(head_bytes));
        }
        let chunk = self.chunk(flags)?;
        match chunk.bytes.len() {
            bytes if bytes > HTTP_INLINE_BODY_BYTES_MAX => Err(DecodeError::InlineTooLarge(bytes)),
            _ => Ok(chunk),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn request_head() -> RequestHead {
        let mut headers = HeaderMap::new();
        headers.append("accept", HeaderValue::from_static("a"));
        headers.append("accept", HeaderValue::from_static("b"));
        RequestHead {
            workload: WorkloadName::new("shop").unwrap(),
            method: Method::GET,
            scheme: Scheme::HTTP,
            authority: Authority::from_static("h.test"),
            path_and_query: PathAndQuery::from_static("/x?y"),
            headers: Arc::new(headers),
        }
    }

    pub(crate) fn response_head() -> ResponseHead {
        let mut headers = HeaderMap::new();
        headers.append("x-v", HeaderValue::from_bytes(b"\xff").unwrap());
        ResponseHead { status: StatusCode::OK, headers }
    }

    /// The frame, its sequence, and its bytes; `|` and blanks stand between fields.
    fn check_golden(frame: Frame, sequence: u32, golden: &[&[u8]]) {
        let golden = golden.concat();
        let encoded = frame.encode(sequence, FRAME_BYTES_MIN).unwrap();
        assert_eq!(encoded, golden, "{frame:?} became {:?}", encoded.escape_ascii().to_string());
        assert_eq!(Frame::decode(encoded.clone()), Ok((sequence, frame)));
        for end in 0..encoded.len() {
            assert!(Frame::decode(encoded.slice(..end)).is_err(), "cut at {end}");
        }
        let longer = [encoded.as_ref(), b"\0"].concat();
        assert!(Frame::decode(longer.into()).is_err(), "one byte more");
    }

    #[test]
    fn golden_request() {
        check_golden(
            Frame::Request {
                head: Box::new(request_head()),
                remaining_ms: NonZeroU32::new(1000),
                window_bytes: 1 << 20,
                chunk: Chunk { bytes: "hi".into(), tail: Tail::End },
            },
            0,
            &[
                b"\x01\x01\x01\0\0\0\0",                                // version, kind, END, sequence
                b"\0\x10\0\0\0\0\x03\xe8",                              // window, remaining time
                b"\0\x04shop\0\x03GET\0\x04http\0\x06h.test\0\x04/x?y", // workload … path
                b"\0\x02\0\x06accept\0\x01a\0\x06accept\0\x01b",        // headers
                b"\0\0\0\x02hi",                                        // chunk
            ],
        );
    }

    #[test]
    fn golden_response() {
        let mut trailers = HeaderMap::new();
        trailers.append("grpc-status", HeaderValue::from_static("0"));
        check_golden(
            Frame::Response {
                head: Box::new(response_head()),
                window_bytes: 0,
                chunk: Chunk { bytes: "ok".into(), tail: Tail::Trailers(trailers) },
            },
            7,
            &[
                b"\x01\x02\x03\0\0\0\x07",
                b"\0\0\0\0\0\xc8",
                b"\0\x01\0\x03x-v\0\x01\xff",
                b"\0\0\0\x02ok",
                b"\0\x01\0\x0bgrpc-status\0\x010",
            ],
        );
    }

    #[test]
    fn golden_others() {
        let data = |bytes: &'static str, tail| Frame::Data(Chunk { bytes: bytes.into(), tail });
        check_golden(data("abc", Tail::More), 1, &[b"\x01\x03\0\0\0\0\x01", b"\0\0\0\x03abc"]);
        check_golden(data("", Tail::End), u32::MAX, &[b"\x01\x03\x01\xff\xff\xff\xff", b"\0\0\0\0"]);
        check_golden(
            Frame::Credit { bytes: NonZeroU32::new(0x8_0000).unwrap() },
            2,
            &[b"\x01\x04\0\0\0\0\x02\0\x08\0\0"],
        );
        check_golden(
            Frame::Reset(Reset::new(ResetCode::Overloaded { retry_after_ms: 2000 }, "full").with_nothing_ran()),
            3,
            &[b"\x01\x05\x04\0\0\0\x03", b"\x03\0\0\x07\xd0", b"\0\x04full"],
        );
        check_golden(Frame::Ping, 4, &[b"\x01\x06\0\0\0\0\x04"]);
    }

    #[test]
    fn codes_have_fixed_numbers() {
        let codes: Vec<String> = (0..=255)
            .filter_map(|number| ResetCode::from_wire(number, 0).ok().map(|code| (number, code)))
            .inspect(|(number, code)| assert_eq!(code.to_wire(), (*number, 0)))
            .map(|(number, code)| format!("{number} {code}"))
            .collect();
        assert_eq!(
            codes.join(", "),
            "1 cancelled, 2 not-here, 3 overloaded, 4 timeout, 5 failed, 6 body-too-large, 7 protocol-error, \
             8 sequence-gap, 9 shutting-down, 10 idle"
        );
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        let check = |bytes: &[u8], expect: DecodeError| {
            assert_eq!(Frame::decode(Bytes::copy_from_slice(bytes)), Err(expect), "{}", bytes.escape_ascii());
        };
        check(b"", DecodeError::Truncated);
        check(b"\x02\x06\0\0\0\0\0", DecodeError::Version(2));
        check(b"\x01\x07\0\0\0\0\0", DecodeError::Kind(7));
        check(b"\x01\x06\x01\0\0\0\0", DecodeError::Flags { kind: 6, flags: 1 });
        check(b"\x01\x03\x02\0\0\0\0\0\0\0\x01a\0\0", DecodeError::Flags { kind: 3, flags: 2 });
        check(b"\x01\x03\0\0\0\0\0\0\0\0\0", DecodeError::EmptyData);
        check(b"\x01\x03\0\0\0\0\0\xff\xff\xff\xffa", DecodeError::Truncated);
        check(b"\x01\x04\0\0\0\0\0\0\0\0\0", DecodeError::ZeroCredit);
        check(b"\x01\x05\0\0\0\0\0\x0b\0\0\0\0\0\0", DecodeError::ResetCode(11));
        check(b"\x01\x05\0\0\0\0\0\x01\0\0\0\x01\0\0", DecodeError::Malformed("retry time"));
        check(b"\x01\x05\0\0\0\0\0\x01\0\0\0\0\0\x01\xff", DecodeError::Malformed("reset message"));
        check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\x01\0\0", DecodeError::Malformed("status"));
        check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8\x01\x01", DecodeError::TooManyHeaders(257));
        check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8\0\x01\0\x01A\0\0", DecodeError::Malformed("header name"));
        check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8\0\x01\0\x01a\0\x01\n", DecodeError::Malformed("header value"));
        let request = b"\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0";
        check(&[request, b"\0\x03a.b".as_slice()].concat(), DecodeError::Malformed("workload name"));
        check(&[request, b"\0\x01w\0\x01 ".as_slice()].concat(), DecodeError::Malformed("method"));
        check(&[request, b"\0\x01w\0\x01A\0\x01 ".as_slice()].concat(), DecodeError::Malformed("scheme"));
        check(&[request, b"\0\x01w\0\x01A\0\x04http\0\0".as_slice()].concat(), DecodeError::Malformed("authority"));
        let path = b"\0\x01w\0\x01A\0\x04http\0\x01h\0\x04/x#y".as_slice();
        check(&[request, path].concat(), DecodeError::Malformed("path"));
    }

    #[test]
    fn a_reader_enforces_the_limits_too() {
        let head = b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8".as_slice();
        let no_chunk = [0; 4];
        // 15 bytes before the first header, 5 beside the value of each.
        let response = |value: usize| {
            let first = [b"\0\x02\0\x01a\x80\0".as_slice(), &[b'v'; 0x8000]].concat();
            let second = [b"\0\x01a".as_slice(), &(value as u16).to_be_bytes(), &vec![b'v'; value]].concat();
            Frame::decode([head, &first, &second, &no_chunk].concat().into())
        };
        let fits = HEAD_BYTES_MAX - 15 - 5 - 0x8000 - 5;
        assert!(response(fits).is_ok());
        assert_eq!(response(fits + 1), Err(DecodeError::HeadTooLarge(HEAD_BYTES_MAX + 1)));

        let inline = |bytes: usize| {
            let chunk = [(bytes as u32).to_be_bytes().as_slice(), &vec![0; bytes]].concat();
            Frame::decode([head, b"\0\0", &chunk].concat().into())
        };
        assert!(inline(HTTP_INLINE_BODY_BYTES_MAX).is_ok());
        let beyond = HTTP_INLINE_BODY_BYTES_MAX + 1;
        assert_eq!(inline(beyond), Err(DecodeError::InlineTooLarge(beyond)));
    }

    #[test]
    fn heads_beyond_their_limits_are_errors() {
        let response = |headers: HeaderMap| Frame::Response {
            head: Box::new(ResponseHead { status: StatusCode::OK, headers }),
            window_bytes: 0,
            chunk: Chunk::default(),
        };
        let large = |bytes: usize| {
            HeaderMap::from_iter([(HeaderName::from_static("a"), HeaderValue::from_bytes(&vec![b'v'; bytes]).unwrap())])
        };
        // 13 fixed, 2 for the count, 5 for the header beside its value.
        for (frame_max, fits) in [(FRAME_BYTES_MIN, FRAME_BYTES_MIN - 24), (1 << 20, HEAD_BYTES_MAX - 20)] {
            let encoded = response(large(fits)).encode(0, frame_max).unwrap();
            assert!(encoded.len() <= frame_max);
            assert!(Frame::decode(encoded).is_ok());
            let error = response(large(fits + 1)).encode(0, frame_max).unwrap_err();
            assert!(matches!(error, EncodeError::HeadTooLarge { .. }), "{error}");
        }
        let mut many = HeaderMap::new();
        for _ in 0..HEADERS_MAX {
            many.append("a", HeaderValue::from_static(""));
        }
        assert!(Frame::decode(response(many.clone()).encode(0, FRAME_BYTES_MIN).unwrap()).is_ok());
        many.append("a", HeaderValue::from_static(""));
        assert_eq!(response(many).encode(0, FRAME_BYTES_MIN), Err(EncodeError::TooManyHeaders { count: 257 }));

        let chunk = |bytes| Chunk { bytes: vec![0; bytes].into(), tail: Tail::End };
        let inline = |bytes| Frame::Response { head: Box::new(response_head()), window_bytes: 0, chunk: chunk(bytes) };
        assert!(inline(HTTP_INLINE_BODY_BYTES_MAX).encode(0, 1 << 20).is_ok());
        let error = inline(HTTP_INLINE_BODY_BYTES_MAX + 1).encode(0, 1 << 20);
        assert_eq!(error, Err(EncodeError::InlineTooLarge { bytes: HTTP_INLINE_BODY_BYTES_MAX + 1 }));
        let error = Frame::Data(chunk(FRAME_BYTES_MIN)).encode(0, FRAME_BYTES_MIN);
        assert_eq!(error, Err(EncodeError::FrameTooLarge { bytes: FRAME_BYTES_MIN + 11, limit: FRAME_BYTES_MIN }));
        let trailers = Chunk { bytes: Bytes::new(), tail: Tail::Trailers(large(FRAME_BYTES_MIN)) };
        let error = Frame::Data(trailers).encode(0, FRAME_BYTES_MIN).unwrap_err();
        assert!(matches!(error, EncodeError::TrailersTooLarge { .. }), "{error}");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let reset = Reset::new(ResetCode::Failed, "ä".repeat(RESET_MESSAGE_BYTES_MAX));
        assert_eq!(reset.message().len(), RESET_MESSAGE_BYTES_MAX);
        assert_eq!(Reset::new(ResetCode::Failed, format!("x{}", "ä".repeat(300))).message().len(), 511);
    }

    #[test]
    fn a_message_can_not_forge_a_line() {
        assert_eq!(Reset::new(ResetCode::Failed, "a\nb\u{1b}[2J\u{85}ä").message(), "a b [2J ä");
        let sent = Bytes::from_static(b"\x01\x05\0\0\0\0\0\x05\0\0\0\0\0\x04a\nb\r");
        let (_, decoded) = Frame::decode(sent).unwrap();
        assert_eq!(decoded, Frame::Reset(Reset::new(ResetCode::Failed, "a b ")));
    }

    #[test]
    fn errors_of_a_call_survive_the_hop() {
        let limit = Duration::from_secs(9);
        for error in [
            CallError::NotHere,
            CallError::Overloaded { retry_after: Duration::from_millis(1500) },
            CallError::Timeout { limit },
        ] {
            assert_eq!(Reset::from(&error).to_call_error(limit), error);
        }
        let failed = Reset::from(&CallError::Failed { message: "trap".into() }).to_call_error(limit);
        assert!(matches!(&failed, CallError::Failed { message } if message.contains("trap")), "{failed}");
        assert!(!failed.nothing_ran());
        // Not even a node that says "not here" is believed to have run nothing, unless it says that too.
        assert!(!Reset::new(ResetCode::NotHere, "").to_call_error(limit).nothing_ran());
        assert!(Reset::new(ResetCode::ShuttingDown, "").with_nothing_ran().to_call_error(limit).nothing_ran());
        let late = Reset::from(&CallError::Body(BodyError::Timeout)).to_body_error();
        assert_eq!(late, BodyError::Timeout);
    }

    pub(crate) fn headers() -> impl Strategy<Value = HeaderMap> {
        let value = prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..40);
        prop::collection::vec(("[a-z0-9!#$%&'*+.^_`|~-]{1,12}|a|b", value), 0..12).prop_map(|lines| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            headers
        })
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        let tail = prop_oneof![Just(Tail::More), Just(Tail::End), headers().prop_map(Tail::Trailers)];
        (prop::collection::vec(any::<u8>(), 0..2000), tail)
            .prop_map(|(bytes, tail)| Chunk { bytes: bytes.into(), tail })
    }

    fn any_request_head() -> impl Strategy<Value = RequestHead> {
        (
            "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            "[A-Za-z!#$]{1,20}",
            "https?|[a-z][a-z0-9+.-]{0,10}",
            "([A-Za-z0-9.-]{1,30}|\\[::1\\])(:[0-9]{1,4})?",
            "\\*|/[a-zA-Z0-9/._~%-]{0,40}(\\?[a-z=&?/]{0,20})?",
            headers(),
        )
            .prop_map(|(workload, method, scheme, authority, path, headers)| RequestHead {
                workload: WorkloadName::new(workload).unwrap(),
                method: Method::from_bytes(method.as_bytes()).unwrap(),
                scheme: scheme.parse().unwrap(),
                authority: authority.parse().unwrap(),
                path_and_query: path.parse().unwrap(),
                headers: Arc::new(headers),
            })
    }

    fn reset() -> impl Strategy<Value = Reset> {
        (1..=10_u8, any::<u32>(), any::<bool>(), ".{0,80}").prop_map(|(code, retry, nothing_ran, message)| {
            let code = ResetCode::from_wire(code, if code == 3 { retry } else { 0 }).unwrap();
            let reset = Reset::new(code, message);
            if nothing_ran { reset.with_nothing_ran() } else { reset }
        })
    }

    fn frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            (any_request_head(), any::<u32>(), any::<u32>(), chunk()).prop_map(|(head, ms, window_bytes, chunk)| {
                Frame::Request { head: Box::new(head), remaining_ms: NonZeroU32::new(ms), window_bytes, chunk }
            }),
            (100..=999_u16, headers(), any::<u32>(), chunk()).prop_map(|(status, headers, window_bytes, chunk)| {
                let head = ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers };
                Frame::Response { head: Box::new(head), window_bytes, chunk }
            }),
            chunk()
                .prop_filter("data has bytes or an end", |chunk| !chunk.bytes.is_empty() || chunk.tail != Tail::More)
                .prop_map(Frame::Data),
            (1..=u32::MAX).prop_map(|bytes| Frame::Credit { bytes: NonZeroU32::new(bytes).unwrap() }),
            reset().prop_map(Frame::Reset),
            Just(Frame::Ping),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_round_trips(frame in frame(), sequence: u32) {
            let encoded = frame.encode(sequence, 1 << 20).unwrap();
            prop_assert_eq!(frame.encode(sequence, encoded.len().max(FRAME_BYTES_MIN)).unwrap(), encoded.clone());
            let (decoded_sequence, decoded) = Frame::decode(encoded).unwrap();
            prop_assert_eq!(decoded_sequence, sequence);
            if let (Frame::Request { head, .. }, Frame::Request { head: decoded, .. }) = (&frame, &decoded) {
                // `Authority` and repeated headers compare loosely; the wire must not.
                prop_assert_eq!(head.authority.as_str(), decoded.authority.as_str());
                let lines = |head: &RequestHead| {
                    head.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>()
                };
                prop_assert_eq!(lines(head), lines(decoded));
            }
            prop_assert_eq!(decoded, frame);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(bytes.into());
        }

        #[test]
        fn a_damaged_frame_is_refused_or_means_something(
            frame in frame(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = frame.encode(0, 1 << 20).unwrap().to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len().min(200));
                bytes[at] = byte;
            }
            if let Ok((sequence, decoded)) = Frame::decode(bytes.into()) {
                let again = decoded.encode(sequence, 1 << 20).unwrap();
                prop_assert_eq!(Frame::decode(again), Ok((sequence, decoded)));
            }
        }
    }
}
