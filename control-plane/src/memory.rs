//! What a node remembers of the store beside the store: the specs and the configuration that it has seen, which rollouts
//! are over, and how far each bucket had come.
//! NATS has lost acknowledged writes under power failure; with this the loss is noticed and repaired.

use crate::ControlPlaneError;
use lattice::{
    id::{ConfigName, Generation, Revision, WorkloadName},
    record::{ConfigRecord, Record, Rollout, RolloutState, SpecRecord},
    store::Bucket,
    view::{LatticeView, Seen},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    dir: Option<PathBuf>,
    seen: BTreeMap<Bucket, Seen>,
    specs: Copies<SpecRecord>,
    configs: Copies<ConfigRecord>,
    /// Those that are over, of specs that have a stable one still: without them all replicas would go back to it.
    rollouts: BTreeMap<WorkloadName, Rollout>,
}

/// Copies of all records of one kind that a person gave us, a file each.
#[derive(Debug)]
struct Copies<R> {
    dir: Option<PathBuf>,
    records: BTreeMap<String, R>,
}

impl<R> Default for Copies<R> {
    fn default() -> Self {
        Self { dir: None, records: BTreeMap::new() }
    }
}

/// What of a record tells it from another one of the same name.
trait Copied: Record + Clone {
    fn name(&self) -> &str;
    fn edition(&self) -> (uuid::Uuid, Generation);
}

impl Copied for SpecRecord {
    fn name(&self) -> &str {
        self.spec.name.as_str()
    }
    fn edition(&self) -> (uuid::Uuid, Generation) {
        (self.uid, self.generation)
    }
}

impl Copied for ConfigRecord {
    fn name(&self) -> &str {
        self.name.as_str()
    }
    fn edition(&self) -> (uuid::Uuid, Generation) {
        (self.stamp.uid, self.stamp.version)
    }
}

impl<R: Copied> Copies<R> {
    async fn open(dir: &Path, kind: &str) -> Result<Self, ControlPlaneError> {
        let dir = dir.join(kind);
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| ControlPlaneError::DataDir { path, source }
        };
        tokio::fs::create_dir_all(&dir).await.map_err(fail(&dir))?;
        let mut records = BTreeMap::new();
        let mut files = tokio::fs::read_dir(&dir).await.map_err(fail(&dir))?;
        while let Some(file) = files.next_entry().await.map_err(fail(&dir))? {
            if file.path().extension().is_none_or(|extension| extension != "json") {
                continue; // half a write of a process that was killed
            }
            let bytes = tokio::fs::read(file.path()).await.map_err(fail(&file.path()))?;
            match R::decode(&bytes) {
                Ok(record) => drop(records.insert(record.name().to_owned(), record)),
                // A copy that was cut short by a crash; the store has the original.
                Err(error) => tracing::warn!(file = %file.path().display(), %error, "ignoring a damaged copy"),
            }
        }
        Ok(Self { dir: Some(dir), records })
    }

    /// Make them the same as those that live. A copy of what is corrupt in the store stays. Only what changed is written.
    async fn follow(&mut self, live: BTreeMap<&str, &R>, is_corrupt: impl Fn(&str) -> bool) {
        let is_gone = |name: &&String| !live.contains_key(name.as_str()) && !is_corrupt(name);
        let gone: Vec<String> = self.records.keys().filter(is_gone).cloned().collect();
        for name in gone {
            self.records.remove(&name);
            if let Some(path) = self.path(&name)
                && let Err(error) = tokio::fs::remove_file(&path).await
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove the copy of what was deleted");
            }
        }
        for (name, record) in live {
            if self.records.get(name).is_some_and(|copy| copy.edition() == record.edition()) {
                continue;
            }
            self.records.insert(name.to_owned(), record.clone());
            if let Some(path) = self.path(name) {
                write_whole(&path, &record.encode()).await;
            }
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{name}.json")))
    }
}

/// [`Memory::rollouts`] by workload.
const ROLLOUTS: &str = "rollouts.json";

/// `seen.json`.
#[derive(Serialize, Deserialize, Default)]
struct SeenFile {
    buckets: BTreeMap<String, (String, u64)>,
}

impl Memory {
    pub(crate) async fn open(data_dir: Option<&Path>) -> Result<Memory, ControlPlaneError> {
        let Some(data_dir) = data_dir else { return Ok(Memory::default()) };
        let dir = data_dir.join("lattice-state");
        let specs = Copies::open(&dir, "specs").await?;
        let configs = Copies::open(&dir, "configs").await?;
        let mut memory = Memory { dir: Some(dir.clone()), specs, configs, ..Memory::default() };
        if let Ok(bytes) = tokio::fs::read(dir.join(ROLLOUTS)).await {
            match serde_json::from_slice(&bytes) {
                Ok(rollouts) => memory.rollouts = rollouts,
                Err(error) => tracing::warn!(file = ROLLOUTS, %error, "ignoring a damaged copy"),
            }
        }
        if let Ok(bytes) = tokio::fs::read(dir.join("seen.json")).await
            && let Ok(file) = serde_json::from_slice::<SeenFile>(&bytes)
        {
            for bucket in Bucket::ALL {
                if let Some((identity, head)) = file.buckets.get(bucket.name()) {
                    memory.seen.insert(bucket, Seen { identity: identity.clone(), head: *head });
                }
            }
        }
        Ok(memory)
    }

    /// True if what the store says now can't follow from what it said before.
    pub(crate) fn contradicts(&self, bucket: Bucket, identity: &str, head: Revision) -> bool {
        self.seen.get(&bucket).is_some_and(|before| before.identity != identity || head.0 < before.head)
    }

    /// Whether what was seen before was seen in this bucket; nothing if nothing was.
    pub(crate) fn is_of_bucket(&self, bucket: Bucket, identity: &str) -> Option<bool> {
        self.seen.get(&bucket).map(|before| before.identity == identity)
    }

    /// Rollouts that are over.
    pub(crate) fn rollouts(&self) -> impl Iterator<Item = (&WorkloadName, &Rollout)> {
        self.rollouts.iter()
    }

    /// Drop the copies; the next [`Memory::remember`] writes what is there then.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }

    /// The copy of a spec.
    pub(crate) fn spec(&self, workload: &WorkloadName) -> Option<&SpecRecord> {
        self.specs.records.get(workload.as_str())
    }

    pub(crate) fn specs(&self) -> impl Iterator<Item = &SpecRecord> {
        self.specs.records.values()
    }

    /// The copy of configuration by name.
    pub(crate) fn config(&self, name: &ConfigName) -> Option<&ConfigRecord> {
        self.configs.records.get(name.as_str())
    }

    pub(crate) fn configs(&self) -> impl Iterator<Item = &ConfigRecord> {
        self.configs.records.values()
    }

    /// Remember a view. Only what changed is written; a write that fails costs the copy, not the node.
    pub(crate) async fn remember(&mut self, view: &LatticeView) {
        let is_corrupt = |kind: &str, name: &str| view.corrupt.contains_key(&format!("{kind}.{name}"));
        let specs = view.specs.iter().map(|(name, spec)| (name.as_str(), &spec.record)).collect();
        self.specs.follow(specs, |name| is_corrupt("spec", name)).await;
        let configs = view.configs.iter().map(|(name, config)| (name.as_str(), &config.record)).collect();
        self.configs.follow(configs, |name| is_corrupt("config", name)).await;
        let is_over = |name: &WorkloadName, rollout: &Rollout| {
            let spec = view.specs.get(name).map(|spec| &spec.record);
            rollout.state == RolloutState::Done && spec.is_some_and(|spec| spec.stable.is_some() && rollout.is_of(spec))
        };
        let rollouts = view.rollouts.iter().map(|(name, rollout)| (name, &rollout.record));
        let over = || rollouts.clone().filter(|(name, rollout)| is_over(name, rollout));
        if !over().eq(&self.rollouts) {
            self.rollouts = over().map(|(name, rollout)| (name.clone(), rollout.clone())).collect();
            if let Some(dir) = &self.dir {
                write_whole(&dir.join(ROLLOUTS), &serde_json::to_vec(&self.rollouts).unwrap_or_default()).await;
            }
        }
        // The head moves with each renewal of each session. It is written with the resyncs, not with each change.
        if self.seen != view.seen {
            self.seen = view.seen.clone();
            if let Some(dir) = &self.dir {
                let row = |(bucket, seen): (&Bucket, &Seen)| (bucket.name().into(), (seen.identity.clone(), seen.head));
                let file = SeenFile { buckets: self.seen.iter().map(row).collect() };
                write_whole(&dir.join("seen.json"), &serde_json::to_vec(&file).unwrap_or_default()).await;
            }
        }
    }
}

/// Write beside, then rename: a crash leaves the old file or the new one.
async fn write_whole(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    let written = async {
        tokio::fs::write(&beside, bytes).await?;
        tokio::fs::rename(&beside, path).await
    };
    if let Err(error) = written.await {
        tracing::warn!(path = %path.display(), %error, "cannot write");
    }
}
