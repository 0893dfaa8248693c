//! How an exchange begins at a router, and how it learns that the node is gone.

use super::{Config, Exchange, Head, Receives, Requester};
use crate::frame::{CHUNK_LENGTH_BYTES, EncodeError, HTTP_INLINE_BODY_BYTES_MAX, RequestHead, Reset, ResetCode};
use std::time::Duration;

impl Exchange<Requester> {
    /// Begin an exchange. `deadline` is a time on the clock of `now`; what is left of it travels with the head.
    /// Body that is already there and fits beside the head should be given before the first
    /// [`Exchange::poll_transmit`]: then it travels in the same message. More is sent once the node grants room for it.
    pub fn request(
        now: Duration,
        config: Config,
        head: RequestHead,
        deadline: Option<Duration>,
    ) -> Result<Self, EncodeError> {
        let head_bytes = head.check(config.frame_bytes_max)?;
        let inline = config.frame_bytes_max - head_bytes - CHUNK_LENGTH_BYTES;
        // The chunk beside the head needs no leave: it is the leave. Beyond it, nothing until the node has answered, so
        // that a request refused, or sent to a node that is gone, costs one message and proves that nothing ran.
        let leave = inline.min(HTTP_INLINE_BODY_BYTES_MAX) as u32;
        let mut exchange = Self::new(now, config, leave, Receives::Response);
        exchange.deadline = deadline;
        exchange.head = Some(Head::Request(Box::new(head)));
        Ok(exchange)
    }

    /// The server found no subscriber for a frame of this exchange: the node is gone.
    pub fn on_no_responders(&mut self) {
        if self.closed {
            return;
        }
        let gone = if self.next_out == 1 && !self.heard {
            Reset::new(ResetCode::NotHere, "the node is not connected").with_nothing_ran()
        } else {
            // Which of the frames found nobody is not told, so the head may have been delivered.
            Reset::new(ResetCode::Idle, "the node is gone")
        };
        self.close();
        self.fault = Some(gone);
    }

    /// The node is known to be gone, and what became of the request is not.
    pub fn on_peer_gone(&mut self) {
        if !self.closed {
            self.close();
            self.fault = Some(Reset::new(ResetCode::Idle, "the node is gone"));
        }
    }
}
