//! How an exchange with a guest fails, and what follows: for the caller, for the instance, for reuse.

use crate::{
    host::{HANDLES_MAX, Host},
    limits::{CpuSpent, MemoryRefusal},
    parts::{PartError, PartFault},
    pool::Retirement,
};
use lattice::{
    http::{BodyError, CallError},
    limits::{MESSAGE_BYTES_MAX, clip},
    units::Bytes,
};
use std::time::Duration;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// wasm trapped, or the host refused to go on with it.
    Trap(String),
    Exit(i32),
    /// The guest asked for more memory than its limit and did not survive the refusal.
    Memory {
        limit: u64,
    },
    /// The guest asked for more memory than the node had left and did not survive the refusal.
    NodeMemory,
    /// The guest held as many handles as an instance may, and wanted one more.
    Handles,
    Cpu {
        limit: Duration,
    },
    Wall {
        limit: Duration,
    },
    /// The guest was done without having answered.
    NoResponse,
    /// The guest answered with an error code instead of a response.
    Refused(String),
    /// The guest was done without having finished the body.
    Unfinished,
    RequestBody(BodyError),
    /// A part that the guest called failed.
    Part(PartError),
    /// It did not answer the request that it was to answer before all others.
    WarmUp(String),
    /// A host function panicked.
    Panic,
    /// The instance failed while several requests were in it, and it was another one's doing or nobody knows whose.
    Neighbour(String),
    /// There is no room for one more instance, or no more of it in time.
    NoRoom(NoRoom),
    /// The caller went away.
    Cancelled,
    /// The unit ended.
    Stopped,
}

/// What has run out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The node's number of instances, in all units together.
    #[error("all {0} places for instances on this node are taken, or kept for other replicas")]
    Places(u64),
    /// The node's memory for instances.
    #[error("the memory of this node is used up, or kept for other replicas")]
    Memory,
    /// A part that instances are made of, like linear memories: composed components have many of them.
    #[error("{0}")]
    Pool(String),
    /// The unit's own instances.
    #[error("all instances of this replica are busy")]
    Unit,
}

impl Failure {
    pub(crate) fn of(error: &wasmtime::Error, host: &Host) -> Self {
        if error.is::<CpuSpent>() {
            return Self::Cpu { limit: host.limits.cpu };
        }
        if let Some(error) = error.downcast_ref::<PartError>() {
            return Self::Part(error.clone());
        }
        if let Some(I32Exit(status)) = error.downcast_ref() {
            return Self::Exit(*status);
        }
        // The second has no type. A test holds it to its text.
        let is_full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
        if is_full || error.root_cause().to_string().contains("store handle limit exceeded") {
            return Self::Handles;
        }
        if let Some(limit) = error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>() {
            return Self::NoRoom(NoRoom::Pool(limit.to_string()));
        }
        match host.memory.refused() {
            Some(MemoryRefusal::Limit) => Self::Memory { limit: host.limits.memory_bytes },
            Some(MemoryRefusal::Node) => Self::NodeMemory,
            None => Self::Trap(cause_and_place(error)),
        }
    }

    /// For people: one line of at most [`MESSAGE_BYTES_MAX`]. A guest chooses part of it (names of functions, the text of
    /// an error code), and it ends in logs and on terminals.
    pub(crate) fn message(&self) -> String {
        let text = match self {
            Self::Trap(message) => message.clone(),
            Self::Exit(status) => format!("exited with status {status}"),
            Self::Memory { limit } => format!("needs more memory than its limit, {}: see limits.memory", Bytes(*limit)),
            Self::NodeMemory => "needs more memory than is left on this node".into(),
            Self::Handles => format!("holds more than {HANDLES_MAX} handles"),
            Self::Cpu { limit } => format!("computed for more than {} ms", limit.as_millis()),
            Self::Wall { limit } => format!("took longer than {} ms", limit.as_millis()),
            Self::NoResponse => "returned without a response".into(),
            Self::Refused(code) => format!("answered with the error {code}"),
            Self::Unfinished => "returned without finishing the body".into(),
            Self::RequestBody(error) => error.to_string(),
            Self::Part(error) => error.message(),
            Self::WarmUp(message) => format!("failed its warm-up: {message}"),
            Self::Panic => "a host function panicked".into(),
            Self::Neighbour(message) => format!("ended with the other requests of its instance, which {message}"),
            Self::NoRoom(what) => format!("no room for one more instance: {what}"),
            Self::Cancelled => "the caller went away".into(),
            Self::Stopped => "the instance was stopped".into(),
        };
        clip(&text, MESSAGE_BYTES_MAX).replace(char::is_control, " ")
    }

    pub(crate) fn call_error(&self) -> CallError {
        match self {
            // The time that counts for the caller: there is no answer within it.
            Self::Cpu { limit } | Self::Wall { limit } => CallError::Timeout { limit: *limit },
            Self::RequestBody(error) => CallError::Body(error.clone()),
            Self::Part(PartError { fault: PartFault::Failed(failure), .. }) => match failure.call_error() {
                timeout @ CallError::Timeout { .. } => timeout,
                // Whatever the part's error says of itself, the guest that called it had begun.
                _ => CallError::Failed { message: self.message() },
            },
            Self::NoRoom(_) => CallError::Overloaded { retry_after: crate::admission::RETRY_AFTER },
            _ => CallError::Failed { message: self.message() },
        }
    }

    pub(crate) fn body_error(&self) -> BodyError {
        match self {
            Self::Cpu { .. } | Self::Wall { .. } => BodyError::Timeout,
            Self::RequestBody(error) => error.clone(),
            _ => BodyError::Aborted(self.message()),
        }
    }

    pub(crate) fn retirement(&self) -> Retirement {
        match self {
            Self::Trap(_) | Self::Exit(_) | Self::Handles | Self::Panic => Retirement::Trap,
            Self::Part(_) => Retirement::Part,
            Self::Memory { .. } | Self::NodeMemory => Retirement::Memory,
            Self::Cpu { .. } | Self::Wall { .. } => Retirement::Timeout,
            Self::NoResponse | Self::Refused(_) | Self::Unfinished | Self::WarmUp(_) => Retirement::NoResponse,
            Self::RequestBody(_) | Self::Cancelled | Self::NoRoom(_) => Retirement::Cancelled,
            Self::Neighbour(_) => Retirement::Room,
            Self::Stopped => Retirement::Stopped,
        }
    }

    /// True where the guest's own state may be why: it ran to its end and gave no answer. On a kept instance that may
    /// mean that it survives one request only, as some language runtimes do. Neither a trap nor an error code, which is an
    /// answer, is held against reuse.
    pub(crate) fn may_be_reuse(&self, request_was_read: bool) -> bool {
        match self {
            Self::NoResponse | Self::Unfinished => true,
            // Waits for ever; but a slow client makes a guest wait as well.
            Self::Wall { .. } => request_was_read,
            _ => false,
        }
    }

    /// True where a fresh instance may answer the same request and there is time left to try.
    pub(crate) fn may_retry(&self) -> bool {
        matches!(self, Self::NoResponse | Self::Unfinished | Self::Neighbour(_))
    }
}

/// The cause, and where in the guest: wasmtime's own text has a line for each frame.
fn cause_and_place(error: &wasmtime::Error) -> String {
    const FRAMES_MAX: usize = 4;
    let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() else { return format!("{error:#}") };
    let names = backtrace.frames().iter().filter_map(|frame| frame.func_name()).take(FRAMES_MAX);
    let place = names.collect::<Vec<_>>().join(" < ");
    let cause = error.root_cause();
    if place.is_empty() { cause.to_string() } else { format!("{cause} in {place}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_stays_one_short_line() {
        let failures = |text: &str| [Failure::Trap(text.into()), Failure::Refused(text.into())];
        for failure in failures("wasm trap in f\u{1b}[2J\r\n{\"level\":\"info\"}\u{85}\0") {
            let message = failure.message();
            assert!(message.contains("f [2J  {\"level\":\"info\"}  "), "{message:?}");
        }
        for failure in failures(&"é".repeat(MESSAGE_BYTES_MAX)) {
            let length = failure.message().len();
            assert!((MESSAGE_BYTES_MAX - 1..=MESSAGE_BYTES_MAX).contains(&length), "{length}");
        }
    }
}
