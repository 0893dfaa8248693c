//! A node of a test's own: what it writes is what a node would write.

use super::{Api, Lattice};
use lattice::{
    id::NodeId,
    record::{Capacity, Holder, Key, Record as _, Session},
    store::{Bucket, Precondition},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// A peer that is alive in the store and does nothing.
pub struct Peer {
    pub holder: Holder,
    renewing: JoinHandle<()>,
}

impl Peer {
    /// Its session is written, and renewed until this is dropped. `says` makes it say more than that it is there.
    pub async fn join(api: Arc<Api>, id: &str, says: impl FnOnce(&mut Session)) -> Self {
        let node = NodeId::new(id).unwrap();
        let holder = Holder { node: node.clone(), incarnation: uuid::Uuid::from_u128(9) };
        let mut session = Session {
            capacity: Capacity { memory: 1 << 30, slots: 8, millicores: 0 },
            started_at: 1,
            ..lattice::testing::session(node.clone(), holder.incarnation)
        };
        says(&mut session);
        let key = Key::Session(node).to_string();
        let first =
            api.platform.store.write(Bucket::State, &key, session.encode(), Precondition::Absent).await.unwrap();
        let renewing = tokio::spawn(async move {
            let mut at = first;
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                session.renewals += 1;
                let expect = Precondition::At(at);
                match api.platform.store.write(Bucket::State, &key, session.encode(), expect).await {
                    Ok(revision) => at = revision,
                    Err(error) => return eprintln!("{key} is not renewed: {error}"),
                }
            }
        });
        Self { holder, renewing }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Lattice {
    /// The rule and the reason of each node that `lattice explain` has no rank for, in the order of nodes.
    pub async fn refusals(&self, name: &str) -> Vec<(String, String, String)> {
        let text = self.cli_ok(&["explain", name, "-o", "json"]).await;
        let value: Value = serde_json::from_str(&text).unwrap();
        let refused = value["nodes"].as_array().unwrap().iter().filter(|node| node["rank"].is_null());
        let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_default().to_owned();
        refused.map(|node| (text(node, "node"), text(node, "rule"), text(node, "reason"))).collect()
    }
}
