//! How frames are read: whatever comes in, the answer is a frame or an error.

use super::{
    COPIED_BYTES_MAX, Chunk, DecodeError, FLAG_END, FLAG_NOTHING_RAN, FLAG_TRAILERS, FRAME_VERSION, Frame,
    HEAD_BYTES_MAX, HEADER_LINE_BYTES_MIN, HEADERS_MAX, HTTP_INLINE_BODY_BYTES_MAX, KIND_CREDIT, KIND_DATA, KIND_PING,
    KIND_REQUEST, KIND_RESET, KIND_RESPONSE, RESET_MESSAGE_BYTES_MAX, RequestHead, Reset, ResetCode, ResponseHead,
    Tail,
};
use crate::id::WorkloadName;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use std::{num::NonZeroU32, sync::Arc};

impl Frame {
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
                let mut reset = Reset::new(code, message);
                reset.nothing_ran = flags & FLAG_NOTHING_RAN != 0;
                Frame::Reset(reset)
            }
            _ => Frame::Ping,
        };
        match reader.left() {
            0 => Ok((sequence, frame)),
            rest => Err(DecodeError::TrailingBytes(rest)),
        }
    }
}

/// True for the message of a request head that opens an exchange, also one whose other fields can't be read.
pub(crate) fn opens_exchange(message: &[u8]) -> bool {
    matches!(message, [FRAME_VERSION, KIND_REQUEST, _, 0, 0, 0, 0, ..])
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
