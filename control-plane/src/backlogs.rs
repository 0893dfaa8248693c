//! Messages that wait at consumers, for workloads whose number of replicas follows from them: asked for once in a while by those who
//! decide. What was not heard for some time is not known, which is never taken for none.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lattice::{
    Fut,
    account::Login,
    id::WorkloadName,
    messaging::{BacklogError, Messaging},
    spec::{AutoscaleSpec, Grants, PendingTarget},
    store::{Bus, Platform},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Between two questions of the node that decides. Those who stand in ask less often.
const EVERY: Duration = Duration::from_secs(2);
/// After so long what was heard says nothing any more.
const OLD: Duration = Duration::from_secs(20);
/// Questions of one node that are under way at a time. More have their turn at a later look.
const QUESTIONS_MAX: usize = 64;

pub(crate) struct Backlogs {
    platform: Platform,
    messaging: Arc<dyn Messaging>,
    followed: BTreeMap<WorkloadName, Backlog>,
    under_way: FuturesUnordered<Fut<'static, Heard>>,
}

struct Backlog {
    of: PendingTarget,
    /// What says as whom it is asked for.
    grants: Grants,
    /// Keeps the connection.
    bus: Option<Arc<dyn Bus>>,
    is_asked: bool,
    due: Duration,
    heard: Option<(Duration, u64)>,
    /// What was told last.
    failed: Option<BacklogError>,
}

struct Heard {
    workload: WorkloadName,
    of: PendingTarget,
    bus: Option<Arc<dyn Bus>>,
    pending: Result<u64, BacklogError>,
}

impl Backlogs {
    pub(crate) fn new(platform: Platform, messaging: Arc<dyn Messaging>) -> Self {
        Self { platform, messaging, followed: BTreeMap::new(), under_way: FuturesUnordered::new() }
    }

    /// What is known of it now; asks again if it is time to. `rank` is this node's place among those who decide.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        workload: &WorkloadName,
        (autoscale, grants): (&AutoscaleSpec, &Grants),
        rank: u32,
    ) -> Option<u64> {
        let Some(of) = autoscale.target.pending() else {
            self.forget(workload);
            return None;
        };
        let is_other = self
            .followed
            .get(workload)
            .is_none_or(|backlog| backlog.of != *of || backlog.grants.nats.account != grants.nats.account);
        if is_other {
            let bus = None;
            let new = Backlog {
                of: of.clone(),
                grants: grants.clone(),
                bus,
                is_asked: false,
                due: now,
                heard: None,
                failed: None,
            };
            self.followed.insert(workload.clone(), new);
        }
        let backlog = self.followed.get_mut(workload)?;
        if !backlog.is_asked && now >= backlog.due && self.under_way.len() < QUESTIONS_MAX {
            (backlog.is_asked, backlog.due) = (true, now + EVERY * (rank + 1));
            let (of, bus) = (of.clone(), backlog.bus.clone());
            let with = (self.platform.clone(), self.messaging.clone());
            self.under_way.push(Box::pin(ask(with, (workload.clone(), backlog.grants.clone()), of, bus)));
        }
        backlog.heard.filter(|(at, _)| now.saturating_sub(*at) < OLD).map(|(_, pending)| pending)
    }

    pub(crate) fn forget(&mut self, workload: &WorkloadName) {
        self.followed.remove(workload);
    }

    pub(crate) fn keep_only(&mut self, is_followed: impl Fn(&WorkloadName) -> bool) {
        self.followed.retain(|workload, _| is_followed(workload));
    }

    /// Wait for an answer, and answer whether one came: none where nothing is asked. May be dropped and called again without
    /// a loss. `now` is asked when it has come.
    pub(crate) async fn hear(&mut self, now: impl Fn() -> Duration) -> Option<()> {
        let Heard { workload, of, bus, pending } = self.under_way.next().await?;
        let Some(backlog) = self.followed.get_mut(&workload).filter(|backlog| backlog.of == of) else {
            return Some(());
        };
        (backlog.is_asked, backlog.bus) = (false, bus);
        match pending {
            Ok(pending) => (backlog.heard, backlog.failed) = (Some((now(), pending)), None),
            Err(error) => {
                if backlog.failed.as_ref() != Some(&error) {
                    tracing::warn!(%workload, %error, "it is not known how many messages wait: replicas stay as many as they are");
                }
                backlog.failed = Some(error);
            }
        }
        Some(())
    }
}

async fn ask(
    (platform, messaging): (Platform, Arc<dyn Messaging>),
    (workload, grants): (WorkloadName, Grants),
    of: PendingTarget,
    bus: Option<Arc<dyn Bus>>,
) -> Heard {
    let asked = async {
        // With the credentials of the moment: an account whose secret was changed has another connection.
        let login =
            Login::of(&platform, &workload, &grants, &BTreeMap::new()).await.map_err(|error| error.to_string())?;
        let bus = match bus.filter(|_| login.account.is_none()) {
            Some(bus) => bus,
            None => messaging.open(&login).await.map_err(|error| error.to_string())?,
        };
        let pending = messaging.pending(&login, &of).await;
        Ok((bus, pending))
    };
    let (bus, pending) = match asked.await {
        Ok((bus, pending)) => (Some(bus), pending),
        Err(why) => {
            let PendingTarget { stream, consumer, .. } = of.clone();
            (None, Err(BacklogError::Unknown { stream, consumer, why }))
        }
    };
    Heard { workload, of, bus, pending }
}
