//! Why an exchange ended before its bodies did, as frames say it and as callers learn it.

use super::{DecodeError, RESET_MESSAGE_BYTES_MAX};
use crate::{
    http::{BodyError, CallError},
    limits::one_line,
};
use std::{fmt, time::Duration};

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
    pub(super) fn to_wire(self) -> (u8, u32) {
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

    pub(super) fn from_wire(code: u8, retry_after_ms: u32) -> Result<Self, DecodeError> {
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
