//! Requests that say what an operator wants of a node: one record for each node, which outlives its restarts.

use super::{
    Admission,
    answers::{SLOTS_NAMED_MAX, count, cut},
    body, unavailable,
};
use lattice::{
    ctl::{CordonReply, CtlError, DrainReply, DrainRequest, DrainStatus, ErrorCode, LeavingSlot},
    event::EventKind,
    id::NodeId,
    record::{DecodeError, DrainOrder, Key, NodeOrder, Phase, Record as _},
    store::{Bucket, Message, Precondition, StoreError},
    units::Millis,
    view::LatticeView,
};

/// Tries of one request against other writers.
const ATTEMPTS: usize = 8;
const DEADLINE_MAX: Millis = Millis::from_secs(168 * 3600);

/// What is to change.
#[derive(Clone, Copy)]
enum Wish {
    Cordoned(bool),
    Drained(Option<DrainOrder>),
}

impl Wish {
    fn apply(self, order: NodeOrder) -> NodeOrder {
        match self {
            Wish::Cordoned(true) => NodeOrder { cordoned: true, ..order },
            // Who lets replicas come does not want the node empty.
            Wish::Cordoned(false) => NodeOrder { cordoned: false, drain: None, ..order },
            Wish::Drained(drain) => NodeOrder { drain, ..order },
        }
    }

    fn event(self) -> (EventKind, String) {
        match self {
            Wish::Cordoned(true) => (EventKind::NodeCordoned, "nothing new is placed here".into()),
            Wish::Cordoned(false) => (EventKind::NodeUncordoned, "replicas are placed here again".into()),
            Wish::Drained(Some(DrainOrder { deadline: None })) => {
                (EventKind::NodeDraining, "what runs here moves to other nodes".into())
            }
            Wish::Drained(Some(DrainOrder { deadline: Some(deadline) })) => {
                let text = format!("what runs here moves to other nodes; what is left is stopped after {deadline}");
                (EventKind::NodeDraining, text)
            }
            Wish::Drained(None) => (EventKind::NodeUndrained, "what is here may stay".into()),
        }
    }
}

impl Admission {
    /// Let nothing new come to a node, or let it come again.
    pub(super) async fn cordon(&self, node: &NodeId, cordoned: bool) -> Result<CordonReply, CtlError> {
        let before = self.order(node, Wish::Cordoned(cordoned)).await?;
        let drain_ended = !cordoned && before.as_ref().is_some_and(|before| before.drain.is_some());
        Ok(CordonReply { node: node.clone(), cordoned, changed: before.is_some(), drain_ended })
    }

    /// Move away what runs on a node.
    pub(super) async fn drain(&self, node: &NodeId, message: &Message) -> Result<DrainReply, CtlError> {
        let DrainRequest { deadline } = body(&message.payload, r#"{"deadline": "5m"}, or nothing"#)?;
        if let Some(deadline) = deadline.filter(|deadline| *deadline > DEADLINE_MAX) {
            let text = format!("{deadline} is more than {DEADLINE_MAX}");
            return Err(CtlError::new(ErrorCode::Invalid, text)
                .field("deadline")
                .hint("leave it out, and what has no other place stays"));
        }
        let changed = self.order(node, Wish::Drained(Some(DrainOrder { deadline }))).await?.is_some();
        Ok(DrainReply { node: node.clone(), draining: true, changed })
    }

    pub(super) async fn undrain(&self, node: &NodeId) -> Result<DrainReply, CtlError> {
        let changed = self.order(node, Wish::Drained(None)).await?.is_some();
        Ok(DrainReply { node: node.clone(), draining: false, changed })
    }

    /// Answers what was asked of the node before, if something changed.
    async fn order(&self, node: &NodeId, wish: Wish) -> Result<Option<NodeOrder>, CtlError> {
        let key = Key::Node(node.clone()).to_string();
        let mut sent = None;
        for _ in 0..ATTEMPTS {
            let entry = self.platform.store.get(Bucket::Specs, &key).await.map_err(|error| unavailable(&error))?;
            let order = entry.as_ref().map(|entry| NodeOrder::decode(&entry.value));
            if let Some(Err(error @ DecodeError::Newer(_))) = &order {
                return Err(CtlError::new(ErrorCode::Conflict, format!("the order for {node}: {error}")));
            }
            if order.is_none() && !self.view()?.sessions.contains_key(node) {
                let error = CtlError::new(ErrorCode::NotFound, format!("there is no node {node}"));
                return Err(error.hint("see `lattice nodes`"));
            }
            let nothing = NodeOrder { node: node.clone(), cordoned: false, drain: None };
            let is_corrupt = matches!(order, Some(Err(_)));
            let before = order.and_then(Result::ok).unwrap_or_else(|| nothing.clone());
            let after = wish.apply(before.clone());
            // One that does not parse is written over.
            if after == before && !is_corrupt {
                return Ok(sent);
            }
            let written = match entry.map(|entry| entry.revision) {
                Some(revision) if after == nothing => self.platform.store.delete(Bucket::Specs, &key, revision).await,
                revision => {
                    let expect = revision.map_or(Precondition::Absent, Precondition::At);
                    self.platform.store.write(Bucket::Specs, &key, after.encode(), expect).await
                }
            };
            match written {
                Ok(_) => {
                    let (kind, text) = wish.event();
                    self.events.send(kind, node, text).await;
                    return Ok(Some(before));
                }
                Err(StoreError::Conflict { .. }) => {}
                // If it landed, the next look finds it so.
                Err(StoreError::OutcomeUnknown { .. }) => sent = Some(before),
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(ErrorCode::Conflict, format!("the order for {node} is being changed by others all the time"))
            .hint("try again"))
    }
}

/// How far a node is with what it was asked, if it was.
pub(super) fn drain_status(view: &LatticeView, node: &NodeId) -> Option<DrainStatus> {
    let (DrainOrder { deadline }, _) = view.drain(node)?;
    let leaving = view.slots.iter().filter_map(|(slot, held)| {
        let held = &held.record;
        let is_daemon = view.specs.get(&slot.workload).is_some_and(|spec| spec.record.spec.placement.daemon);
        let is_handed_over =
            held.phase != Phase::Ready && held.handover_from.as_ref().is_some_and(|old| old.node == *node);
        let to = match held.holder.node == *node {
            true => None,
            false if is_handed_over => Some(held.holder.node.clone()),
            false => return None,
        };
        (!is_daemon).then(|| LeavingSlot { slot: slot.to_string(), to })
    });
    let mut left: Vec<LeavingSlot> = leaving.collect();
    let left_omitted = count(cut(&mut left, SLOTS_NAMED_MAX));
    Some(DrainStatus { deadline, left, left_omitted })
}
