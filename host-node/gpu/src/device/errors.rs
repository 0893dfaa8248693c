//! Where the errors of a device go: to the innermost error scope with their filter, else to those who listen for
//! uncaptured ones. wgpu has scopes of its own, but they belong to threads and panic on a mismatch.

use tokio::sync::mpsc;

/// Scopes that may be open. More are counted only, and catch nothing.
const SCOPES_MAX: usize = 1_000;
/// Listeners of one device, and errors that one may leave unread. What does not fit is dropped, as nobody reads it.
const LISTENERS_MAX: usize = 8;
const UNREAD_MAX: usize = 32;
/// Of one message. naga's quote the source.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Validation,
    OutOfMemory,
    Internal,
}

/// An error as a guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        Self { kind, message }
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Validation, message)
    }

    pub(crate) fn out_of_memory(message: impl Into<String>) -> Self {
        Self::new(FaultKind::OutOfMemory, message)
    }
}

impl From<wgpu::Error> for Fault {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self::out_of_memory(source.to_string()),
            wgpu::Error::Validation { description, .. } => Self::validation(description),
            wgpu::Error::Internal { description, .. } => Self::new(FaultKind::Internal, description),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Errors {
    scopes: Vec<(FaultKind, Option<Fault>)>,
    /// Opened beyond [`SCOPES_MAX`].
    beyond: u64,
    listeners: Vec<mpsc::Sender<Fault>>,
    /// Errors of calls whose answer they are, one within the other.
    captured: Vec<Option<Fault>>,
    uncaptured: u64,
}

impl Errors {
    pub(crate) fn report(&mut self, fault: Fault) {
        if let Some(first) = self.captured.last_mut() {
            first.get_or_insert(fault);
            return;
        }
        let scope = self.scopes.iter_mut().rev().find(|(filter, _)| *filter == fault.kind);
        if let Some((_, first)) = scope {
            first.get_or_insert(fault);
            return;
        }
        self.uncaptured += 1;
        if self.uncaptured == 1 {
            tracing::debug!(kind = ?fault.kind, message = fault.message, "a GPU error that the guest did not ask for");
        }
        self.listeners.retain(|listener| !listener.is_closed());
        for listener in &self.listeners {
            let _ = listener.try_send(fault.clone());
        }
    }

    pub(crate) fn push(&mut self, filter: FaultKind) {
        if self.scopes.len() < SCOPES_MAX {
            self.scopes.push((filter, None));
        } else {
            self.beyond += 1;
        }
    }

    /// `None`: no scope is open.
    pub(crate) fn pop(&mut self) -> Option<Option<Fault>> {
        if self.beyond > 0 {
            self.beyond -= 1;
            return Some(None);
        }
        self.scopes.pop().map(|(_, fault)| fault)
    }

    /// From here on errors are kept for [`Errors::captured`].
    pub(crate) fn capture(&mut self) {
        self.captured.push(None);
    }

    /// The first one since [`Errors::capture`].
    pub(crate) fn captured(&mut self) -> Option<Fault> {
        self.captured.pop().flatten()
    }

    /// `None` once there are too many.
    pub(crate) fn listen(&mut self) -> Option<mpsc::Receiver<Fault>> {
        self.listeners.retain(|listener| !listener.is_closed());
        if self.listeners.len() >= LISTENERS_MAX {
            return None;
        }
        let (sender, receiver) = mpsc::channel(UNREAD_MAX);
        self.listeners.push(sender);
        Some(receiver)
    }

    /// Nobody will be told anything more.
    pub(crate) fn end(&mut self) {
        self.listeners.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_scope_with_the_filter_gets_the_first_error() {
        let mut errors = Errors::default();
        let mut listener = errors.listen().unwrap();
        errors.push(FaultKind::Validation);
        errors.push(FaultKind::OutOfMemory);
        errors.report(Fault::validation("a"));
        errors.report(Fault::validation("b"));
        errors.report(Fault::new(FaultKind::Internal, "c"));
        assert_eq!(errors.pop(), Some(None));
        assert_eq!(errors.pop(), Some(Some(Fault::validation("a"))));
        assert_eq!(errors.pop(), None);
        assert_eq!(listener.try_recv().unwrap().message, "c");
        assert!(listener.try_recv().is_err());
    }

    #[test]
    fn nothing_grows_with_what_a_guest_does() {
        let mut errors = Errors::default();
        let listeners: Vec<_> = (0..100).map_while(|_| errors.listen()).collect();
        assert_eq!(listeners.len(), LISTENERS_MAX);
        for _ in 0..10_000 {
            errors.report(Fault::validation("x"));
            errors.push(FaultKind::Internal);
        }
        assert_eq!(errors.scopes.len(), SCOPES_MAX);
        for _ in 0..10_000 {
            assert_eq!(errors.pop(), Some(None));
        }
        assert_eq!(errors.pop(), None, "as many as were opened");
        assert!(Fault::validation("ä".repeat(1 << 20)).message.len() < MESSAGE_BYTES_MAX + 8);
    }

    #[test]
    fn what_is_captured_reaches_nobody_else() {
        let mut errors = Errors::default();
        let mut listener = errors.listen().unwrap();
        errors.push(FaultKind::Validation);
        errors.capture();
        errors.report(Fault::validation("mine"));
        errors.capture();
        assert_eq!(errors.captured(), None, "nothing within it");
        assert_eq!(errors.captured(), Some(Fault::validation("mine")));
        assert_eq!(errors.pop(), Some(None));
        errors.report(Fault::validation("theirs"));
        assert_eq!(listener.try_recv().unwrap().message, "theirs");
    }
}
