//! The body that comes in: what is held of it, and how much more the peer may send.

use super::{HTTP_CHUNK_BYTES_MAX, SMALL_CHUNK_BYTES};
use crate::frame::{Chunk, Tail};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::{collections::VecDeque, num::NonZeroU32};

/// Whose body comes in, hence which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receives {
    Request,
    Response,
}

/// The body that comes in. At any time `room` + `held` is at most the largest window that it
/// had, or the chunk beside the request's head.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) receives: Receives,
    window: usize,
    /// The owner wants the body.
    pub(super) granting: bool,
    /// Bytes that the peer has leave to send.
    pub(super) room: usize,
    /// Bytes received and not consumed; those among them that the owner has.
    pub(super) held: usize,
    handed: usize,
    queue: VecDeque<Bytes>,
    /// Small pieces, joined; behind the queue.
    small: BytesMut,
    /// The end, until it is polled; whether it was received.
    pub(super) end: Option<Option<HeaderMap>>,
    pub(super) ended: bool,
}

impl Receiving {
    pub(super) fn new(receives: Receives, window: u32) -> Self {
        Self {
            receives,
            window: window as usize,
            // A router always reads the response; a node reads the request once an instance has taken it.
            granting: receives == Receives::Response,
            room: 0,
            held: 0,
            handed: 0,
            queue: VecDeque::new(),
            small: BytesMut::new(),
            end: None,
            ended: false,
        }
    }

    pub(super) fn take(&mut self, Chunk { bytes, tail }: Chunk) {
        self.held += bytes.len();
        let behind = !self.queue.is_empty() || !self.small.is_empty();
        if bytes.len() < SMALL_CHUNK_BYTES && behind {
            self.small.extend_from_slice(&bytes);
            if self.small.len() >= HTTP_CHUNK_BYTES_MAX {
                self.queue.push_back(self.small.split().freeze());
            }
        } else if !bytes.is_empty() {
            if !self.small.is_empty() {
                self.queue.push_back(self.small.split().freeze());
            }
            self.queue.push_back(bytes);
        }
        self.end = match tail {
            Tail::More => return,
            Tail::End => Some(None),
            Tail::Trailers(trailers) => Some(Some(trailers)),
        };
        self.ended = true;
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let bytes = match self.queue.pop_front() {
            None if self.small.is_empty() => return None,
            None => self.small.split().freeze(),
            Some(bytes) => bytes,
        };
        self.handed += bytes.len();
        Some(bytes)
    }

    pub(super) fn has_some(&self) -> bool {
        !self.queue.is_empty() || !self.small.is_empty() || self.end.is_some()
    }

    pub(super) fn take_whole(&mut self) -> Option<(Bytes, Option<HeaderMap>)> {
        if self.queue.len() + usize::from(!self.small.is_empty()) > 1 {
            return None;
        }
        let trailers = self.end.take()?;
        Some((self.pop().unwrap_or_default(), trailers))
    }

    pub(super) fn set_window(&mut self, bytes: u32) {
        self.window = bytes as usize;
    }

    pub(super) fn consumed(&mut self, bytes: usize) {
        let bytes = bytes.min(self.handed);
        self.handed -= bytes;
        self.held = self.held.saturating_sub(bytes);
    }

    /// Leave to give now: at least half a window, so that credits are few; none where no more is to come.
    pub(super) fn credit(&mut self) -> Option<NonZeroU32> {
        let bytes = self.window.saturating_sub(self.room + self.held);
        if !self.granting || self.ended || bytes < (self.window / 2).max(1) {
            return None;
        }
        self.room += bytes;
        NonZeroU32::new(bytes as u32) // a window is below 2^31
    }

    /// The first leave, in the head of the request.
    pub(super) fn grant_all(&mut self) -> u32 {
        self.room = self.window;
        self.window as u32
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.small = BytesMut::new();
        self.end = None;
    }
}
