//! What everything in the control plane that writes of its own accord shares: who this node is, its way to the store, whether it
//! may write, and what it sees.

use crate::{NodeOptions, events::Events, session::Member};
use lattice::{
    store::{Connection, Platform},
    view::LatticeView,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct ThisNode {
    pub(crate) options: Arc<NodeOptions>,
    pub(crate) platform: Platform,
    pub(crate) events: Events,
    pub(crate) member: Member,
    pub(crate) view: watch::Receiver<Arc<LatticeView>>,
}

impl ThisNode {
    /// Whether what is decided on this view at `now` (monotonic) may be written: the node is a member, and was not cut off.
    pub(crate) fn may_write(&self, view: &LatticeView, now: Duration) -> bool {
        view.is_loaded() && self.platform.bus.connection() == Connection::Up && self.member.is_current(now)
    }
}
