//! A message that came for a workload of which no replica ran, on its way from the node that kept it to one that has a replica
//! now: a request on [`crate::subject::Topic::Held`]. Its payload and headers are the message's own; one header says the rest.

use crate::{
    id::WorkloadName,
    store::{Headers, Message},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use uuid::Uuid;

/// Says what the subject of the request does not. Of a message that has one by itself it is replaced.
const HEADER: &str = "Lattice-Held";

/// The answer of a node whose replica has taken the message: it will be handled.
pub const TAKEN: &str = "taken";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub of: HeldOf,
    pub headers: Headers,
    pub payload: Bytes,
}

/// Hand-overs that a node remembers: a repetition comes within seconds, and no node takes so many in that time.
const REMEMBERED: usize = 4096;

/// Where it came, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HeldOf {
    /// Of this hand-over, so that a request that comes twice is one. Nil, where the node that sends it is of a version that gives
    /// none: then each counts.
    #[serde(default, skip_serializing_if = "Uuid::is_nil")]
    pub id: Uuid,
    pub workload: WorkloadName,
    /// The subscription: what its spec says, and the name of the queue group.
    pub subscription: String,
    pub group: String,
    /// The message's own.
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

impl Held {
    /// A message that came through this subscription. `id` is drawn for it.
    pub fn new(id: Uuid, workload: WorkloadName, (subscription, group): (String, String), message: Message) -> Self {
        let Message { subject, reply, headers, payload, .. } = message;
        Self { of: HeldOf { id, workload, subscription, group, subject, reply }, headers, payload }
    }

    /// Bytes that it takes while it is kept.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let HeldOf { id: _, workload: _, subscription: _, group: _, subject, reply } = &self.of;
        self.payload.len() + headers + subject.len() + reply.as_ref().map_or(0, String::len)
    }

    /// Headers and payload of the request.
    pub fn encode(&self) -> (Headers, Bytes) {
        let mut headers = self.headers.clone();
        headers.retain(|name, _| !name.eq_ignore_ascii_case(HEADER));
        // A header has one line, and JSON needs no more.
        headers.insert(HEADER.to_owned(), serde_json::to_string(&self.of).unwrap_or_default());
        (headers, self.payload.clone())
    }

    /// None of what is no such request.
    pub fn decode(message: Message) -> Option<Self> {
        let Message { mut headers, payload, .. } = message;
        let of = serde_json::from_str(&headers.remove(HEADER)?).ok()?;
        Some(Self { of, headers, payload })
    }

    /// The message as it came.
    pub fn into_message(self) -> Message {
        let Self { of: HeldOf { subject, reply, .. }, headers, payload } = self;
        Message { subject, reply, headers, payload, status: None }
    }
}

/// Which hand-overs a node took. The bus may bring a request twice, or late, and what was taken must not be taken again.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    ids: BTreeSet<Uuid>,
    /// In the order in which they were taken.
    order: VecDeque<Uuid>,
}

impl Taken {
    /// Whether this one was taken before.
    pub fn contains(&self, id: &Uuid) -> bool {
        self.ids.contains(id)
    }

    /// It is taken. The oldest is forgotten for it where there are too many.
    pub fn insert(&mut self, id: Uuid) {
        if id.is_nil() || !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_came() {
        let came = Message {
            subject: "tasks.new".into(),
            reply: Some("_INBOX.a.b".into()),
            headers: [("traceparent".to_owned(), "00-aa".to_owned())].into(),
            payload: Bytes::from_static(b"hello"),
            status: None,
        };
        let workload: WorkloadName = "w".parse().unwrap();
        let held = Held::new(Uuid::from_u128(7), workload, ("tasks.*".into(), "g".into()), came.clone());
        assert_eq!(held.bytes(), 5 + 16 + 9 + 10);
        let (headers, payload) = held.encode();
        let request = Message { subject: "lattice.l.held.n1".into(), headers, payload, ..Message::default() };
        request.check().unwrap();
        let read = Held::decode(request).unwrap();
        assert_eq!(read, held);
        assert_eq!(read.into_message(), came);
    }

    #[test]
    fn what_a_stranger_writes_into_the_header_is_replaced() {
        for name in ["Lattice-Held", "lattice-held"] {
            let headers = [(name.to_owned(), "{\"workload\": \"other\"}".to_owned())].into();
            let came = Message { subject: "tasks.new".into(), headers, ..Message::default() };
            let held = Held::new(Uuid::nil(), "w".parse().unwrap(), ("tasks.*".into(), "g".into()), came);
            let (headers, payload) = held.encode();
            let read = Held::decode(Message { headers, payload, ..Message::default() }).unwrap();
            assert_eq!((read.of.workload.as_str(), read.headers.len()), ("w", 0));
        }
        for header in ["", "{}", "no"] {
            let headers = [(HEADER.to_owned(), header.to_owned())].into();
            assert_eq!(Held::decode(Message { headers, ..Message::default() }), None);
        }
    }

    #[test]
    fn what_was_taken_is_remembered_for_a_while() {
        let (mut taken, id) = (Taken::default(), |number: usize| Uuid::from_u128(number as u128));
        (1..=REMEMBERED).for_each(|number| taken.insert(id(number)));
        taken.insert(id(1));
        assert!(taken.contains(&id(1)) && taken.contains(&id(REMEMBERED)));
        taken.insert(id(REMEMBERED + 1));
        assert!(!taken.contains(&id(1)) && taken.contains(&id(2)), "the oldest goes");
        assert_eq!((taken.ids.len(), taken.order.len()), (REMEMBERED, REMEMBERED));
        taken.insert(Uuid::nil());
        assert!(!taken.contains(&Uuid::nil()), "what has no id is never the same");
    }
}
