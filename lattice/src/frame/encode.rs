//! How frames are written, and whether what they are made of fits.

use super::{
    CHUNK_LENGTH_BYTES, Chunk, EncodeError, FLAG_END, FLAG_NOTHING_RAN, FLAG_TRAILERS, FRAME_HEADER_BYTES,
    FRAME_VERSION, Frame, HEAD_BYTES_MAX, HEADERS_MAX, HTTP_INLINE_BODY_BYTES_MAX, KIND_CREDIT, KIND_DATA, KIND_PING,
    KIND_REQUEST, KIND_RESET, KIND_RESPONSE, RequestHead, ResponseHead, Tail,
};
use bytes::{BufMut as _, Bytes};
use http::HeaderMap;
use std::num::NonZeroU32;

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
                put_str(&mut out, reset.message().as_bytes());
            }
            Frame::Ping => {}
        }
        debug_assert_eq!(out.len(), bytes);
        Ok(out.into())
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
            Frame::Reset(reset) => FRAME_HEADER_BYTES + 1 + 4 + str_len(reset.message().len()),
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
    // Checked limits keep every string below 64 KiB: see the assertions beside `HEAD_BYTES_MAX`.
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
