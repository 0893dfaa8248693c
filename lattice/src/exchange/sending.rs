//! The body that goes out: what waits, how much of it may go, and how it is cut into chunks.

use crate::frame::{self, CHUNK_LENGTH_BYTES, Chunk, Tail};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// The body that goes out.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Bytes that the peer has room for, the queued ones included.
    pub(super) leave: u32,
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued: usize,
    /// How the body ends, once that is known and until it is sent.
    pub(super) end: Option<Tail>,
    /// The end was sent.
    pub(super) ended: bool,
}

impl Sending {
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.end.is_some()
    }

    /// The next chunk, for a frame that has `room` bytes left for it, its length field included.
    pub(super) fn take(&mut self, room: usize, bytes_max: usize) -> Chunk {
        let room = room.saturating_sub(CHUNK_LENGTH_BYTES);
        let bytes = self.take_bytes(room.min(bytes_max));
        let fits = match &self.end {
            _ if !self.queue.is_empty() => false,
            Some(Tail::Trailers(trailers)) => frame::headers_len(trailers) <= room - bytes.len(),
            other => other.is_some(),
        };
        let tail = if fits { self.end.take().unwrap_or_default() } else { Tail::More };
        self.ended |= tail != Tail::More;
        Chunk { bytes, tail }
    }

    /// Up to `limit` bytes from the queue, small pieces joined.
    fn take_bytes(&mut self, limit: usize) -> Bytes {
        let Some(mut bytes) = self.queue.pop_front() else { return Bytes::new() };
        if bytes.len() > limit {
            let rest = bytes.split_off(limit);
            self.queue.push_front(rest);
        } else if bytes.len() < limit && !self.queue.is_empty() {
            let mut joined = BytesMut::with_capacity(limit.min(self.queued));
            joined.extend_from_slice(&bytes);
            while joined.len() < limit {
                let Some(mut next) = self.queue.pop_front() else { break };
                let piece = next.split_to(next.len().min(limit - joined.len()));
                joined.extend_from_slice(&piece);
                if !next.is_empty() {
                    self.queue.push_front(next);
                }
            }
            bytes = joined.freeze();
        }
        self.queued -= bytes.len();
        // What is queued is within the leave.
        self.leave = self.leave.saturating_sub(bytes.len() as u32);
        bytes
    }
}
