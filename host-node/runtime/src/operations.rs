//! What guests do with NATS, through whichever interface: the one layer in which each operation becomes a span, and is
//! counted. Labels are words of the closed sets here, never a subject, a key or another name; nothing of this is known to what
//! carries an operation out.
//!
//! Start at [`Operation`], which begins with the call of a guest. What is counted is in `counts.rs`, what a failure is
//! called in `faults.rs`.

mod counts;
mod faults;

pub(crate) use counts::Counts;
pub use counts::{OPERATION_BUCKETS, OperationStats};
pub(crate) use faults::{Fault, Faulty};

use crate::inherited::Inherited;
use lattice::trace::{OpenSpan, SpanKind, Tracer, Value};
use std::{sync::Arc, time::Instant};

/// What a guest calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Core,
    Kv,
    Jetstream,
    Counters,
    Schedules,
    Services,
    Transactions,
    Objects,
    Keyvalue,
    Blobstore,
    Messaging,
}

impl Interface {
    pub(crate) const ALL: [Self; 11] = [
        Self::Core,
        Self::Kv,
        Self::Jetstream,
        Self::Counters,
        Self::Schedules,
        Self::Services,
        Self::Transactions,
        Self::Objects,
        Self::Keyvalue,
        Self::Blobstore,
        Self::Messaging,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Core => "lattice:nats/core",
            Self::Kv => "lattice:nats/kv",
            Self::Jetstream => "lattice:nats/jetstream",
            Self::Counters => "lattice:nats/counters",
            Self::Schedules => "lattice:nats/schedules",
            Self::Services => "lattice:nats/services",
            Self::Transactions => "lattice:nats/transactions",
            Self::Objects => "lattice:nats/objects",
            Self::Keyvalue => "wasi:keyvalue",
            Self::Blobstore => "wasi:blobstore",
            Self::Messaging => "wasmcloud:messaging",
        }
    }

    /// Buckets are named, read and written, as those of a database are; nobody is sent a message.
    fn is_database(self) -> bool {
        matches!(self, Self::Kv | Self::Transactions | Self::Objects | Self::Keyvalue | Self::Blobstore)
    }
}

/// Operations that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bucket, a stream, a consumer or a container is opened.
    Open,
    Read,
    Write,
    /// What ends with what there is: keys, a history, objects. Until it begins to come.
    List,
    /// What does not end: subscriptions, watches, readers. Until it stands.
    Subscribe,
    Publish,
    Flush,
    Request,
    /// Deliveries are fetched.
    Receive,
    /// It is said what becomes of one.
    Settle,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Open,
        Self::Read,
        Self::Write,
        Self::List,
        Self::Subscribe,
        Self::Publish,
        Self::Flush,
        Self::Request,
        Self::Receive,
        Self::Settle,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Flush => "flush",
            Self::Request => "request",
            Self::Receive => "receive",
            Self::Settle => "settle",
        }
    }

    /// Whatever is known of one that failed: there is nothing that it may have done.
    fn changes_nothing(self) -> bool {
        matches!(self, Self::Open | Self::Read | Self::List | Self::Subscribe | Self::Receive)
    }

    /// `messaging.operation.type`, of those that the conventions have one for.
    fn of_messaging(self) -> Option<&'static str> {
        match self {
            Self::Publish | Self::Request => Some("send"),
            Self::Receive => Some("receive"),
            Self::Settle => Some("settle"),
            _ => None,
        }
    }

    fn of_span(self) -> SpanKind {
        match self {
            Self::Publish => SpanKind::Producer,
            _ => SpanKind::Client,
        }
    }
}

/// How an operation ended, by what its caller is told. Those that end in `-maybe` may have taken effect, or may yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// No grant covers it.
    Denied,
    /// What was expected is not so: another writer was first.
    Conflict,
    Timeout,
    TimeoutMaybe,
    Failed,
    FailedMaybe,
    /// Whoever called waits no longer: it was cancelled, or its instance ended.
    Cancelled,
}

impl Outcome {
    pub(crate) const ALL: [Self; 8] = [
        Self::Done,
        Self::Denied,
        Self::Conflict,
        Self::Timeout,
        Self::TimeoutMaybe,
        Self::Failed,
        Self::FailedMaybe,
        Self::Cancelled,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
            Self::TimeoutMaybe => "timeout-maybe",
            Self::Failed => "failed",
            Self::FailedMaybe => "failed-maybe",
            Self::Cancelled => "cancelled",
        }
    }

    /// What is known of its effect, in the words of `wit/nats/types.wit`.
    fn known(self) -> Option<&'static str> {
        match self {
            Self::Done => None,
            Self::Denied | Self::Conflict | Self::Timeout | Self::Failed => Some("definitely-not"),
            Self::TimeoutMaybe | Self::FailedMaybe | Self::Cancelled => Some("maybe"),
        }
    }
}

/// Which operation it is: of which interface, counted as what, and its name there.
pub(crate) type Named = (Interface, Kind, &'static str);

/// An operation under way. Dropped without an end it was cancelled. Where its trace is not recorded it allocates nothing.
pub(crate) struct Operation {
    counts: Arc<Counts>,
    named: Named,
    began: Instant,
    span: Option<OpenSpan>,
    is_over: bool,
}

impl Operation {
    /// On account of the work that this is inherited from. What the operation sends is a part of its span.
    pub(crate) fn begin(tracer: &Tracer, counts: Arc<Counts>, named: Named, inherited: &mut Inherited) -> Self {
        let span = span(tracer, named, inherited);
        Self { counts, named, began: Instant::now(), span, is_over: false }
    }

    /// What it is about: a subject, or the name under which a bucket or a stream is granted.
    pub(crate) fn on(mut self, target: &str) -> Self {
        let (interface, kind, name) = self.named;
        if let Some(span) = &mut self.span {
            let is_database = interface.is_database();
            let key = if is_database { "db.collection.name" } else { "messaging.destination.name" };
            span.set(key, target.to_owned());
            // What a guest would have opened is any text, and subjects are many.
            if is_database && kind != Kind::Open {
                span.rename(format!("{name} {target}"));
            }
        }
        self
    }

    /// An attribute, which is asked for where it is recorded.
    pub(crate) fn with<V: Into<Value>>(mut self, key: &'static str, value: impl FnOnce() -> V) -> Self {
        if let Some(span) = &mut self.span {
            span.set(key, value());
        }
        self
    }

    pub(crate) fn end<T, F: Faulty>(mut self, result: Result<T, F>) -> Result<T, F> {
        self.over(result.as_ref().err().map(F::fault));
        result
    }

    fn over(&mut self, fault: Option<Fault>) {
        self.is_over = true;
        let (interface, kind, _) = self.named;
        let fault = fault.map(|fault| if kind.changes_nothing() { fault.of_read() } else { fault });
        let outcome = fault.map_or(Outcome::Done, |fault| fault.outcome);
        self.counts.observe((interface, kind, outcome), self.began.elapsed());
        if let (Some(mut span), Some(fault)) = (self.span.take(), fault) {
            span.fail(fault.error);
            if let Some(known) = outcome.known() {
                span.set("lattice.nats.outcome", known);
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if !self.is_over {
            self.over(Some(Fault { error: "cancelled", outcome: Outcome::Cancelled }));
        }
    }
}

fn span(tracer: &Tracer, (interface, kind, name): Named, inherited: &mut Inherited) -> Option<OpenSpan> {
    let mut span = tracer.under(inherited.traceparent()?, kind.of_span(), name)?;
    span.set("lattice.interface", interface.as_str());
    if interface.is_database() {
        span.set("db.system.name", "nats");
        span.set("db.operation.name", name);
    } else {
        span.set("messaging.system", "nats");
        span.set("messaging.operation.name", name);
        if let Some(operation) = kind.of_messaging() {
            span.set("messaging.operation.type", operation);
        }
    }
    inherited.within(&span);
    Some(span)
}

#[cfg(test)]
mod tests;
