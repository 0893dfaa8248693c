//! How an exchange begins at a node, and how it answers.

use super::{Config, Exchange, GRANT_BYTES_MAX, Head, Opened, Receives, Responder, refuse};
use crate::frame::{self, EncodeError, Frame, Reset, ResetCode, ResponseHead};
use bytes::Bytes;
use std::time::Duration;

impl Exchange<Responder> {
    /// Take a message whose reply subject names no exchange known here.
    pub fn accept(now: Duration, config: Config, message: Bytes) -> Opened {
        let opens = frame::opens_exchange(&message);
        match Frame::decode(message) {
            Ok((0, Frame::Request { head, remaining_ms, window_bytes, chunk })) => {
                if window_bytes > GRANT_BYTES_MAX {
                    let reset = Reset::new(ResetCode::ProtocolError, "the window is larger than 2^31 - 1");
                    return Opened::Refused(refuse(reset.with_nothing_ran()));
                }
                let mut exchange = Self::new(now, config, window_bytes, Receives::Request);
                exchange.deadline = remaining_ms.map(|ms| now.saturating_add(Duration::from_millis(ms.get().into())));
                exchange.next_in = 1;
                exchange.heard = true;
                exchange.started = true; // the peer awaits an answer
                exchange.receiving.take(chunk);
                Opened::Exchange(Box::new(exchange), head)
            }
            // What was lost, the exchange's head or this side's end of it, is not known here.
            Ok((_, Frame::Ping | Frame::Request { .. })) => {
                Opened::Refused(refuse(Reset::new(ResetCode::SequenceGap, "the exchange is not known here")))
            }
            Ok(_) => Opened::Ignored,
            Err(error @ frame::DecodeError::Version(_)) => {
                Opened::Refused(refuse(Reset::new(ResetCode::ProtocolError, error.to_string()).with_nothing_ran()))
            }
            Err(error) if opens => {
                Opened::Refused(refuse(Reset::new(ResetCode::ProtocolError, error.to_string()).with_nothing_ran()))
            }
            Err(_) => Opened::Ignored,
        }
    }

    /// The request's body will be read: give the router leave for a window of it. Call this once an instance has taken
    /// the request; until then only the chunk beside the head is here.
    pub fn accept_body(&mut self) {
        self.receiving.granting = true;
    }

    /// Answer. Body that is already there should be given, and ended, before [`Exchange::poll_transmit`]: then it
    /// travels in the same message. Only the first answer counts.
    pub fn respond(&mut self, head: ResponseHead) -> Result<(), EncodeError> {
        head.check(self.config.frame_bytes_max)?;
        if !self.closed && !self.responded {
            self.responded = true;
            self.head = Some(Head::Response(Box::new(head)));
        }
        Ok(())
    }

    /// When the router gives up, on the clock of `now`.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
}
