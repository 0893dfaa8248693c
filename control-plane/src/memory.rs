//! What a node remembers of the store beside the store: the specs that it has seen and how far each bucket had come.
//! NATS has lost acknowledged writes under power failure; with this the loss is noticed and repaired.

use crate::ControlPlaneError;
use lattice::{
    id::{Revision, WorkloadName},
    record::{Record as _, SpecRecord},
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
    specs: BTreeMap<WorkloadName, SpecRecord>,
}

/// `seen.json`.
#[derive(Serialize, Deserialize, Default)]
struct SeenFile {
    buckets: BTreeMap<String, (String, u64)>,
}

impl Memory {
    pub(crate) async fn open(data_dir: Option<&Path>) -> Result<Memory, ControlPlaneError> {
        let Some(data_dir) = data_dir else { return Ok(Memory::default()) };
        let dir = data_dir.join("lattice-state");
        let specs_dir = dir.join("specs");
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| ControlPlaneError::DataDir { path, source }
        };
        tokio::fs::create_dir_all(&specs_dir).await.map_err(fail(&specs_dir))?;
        let mut memory = Memory { dir: Some(dir.clone()), ..Memory::default() };
        if let Ok(bytes) = tokio::fs::read(dir.join("seen.json")).await
            && let Ok(file) = serde_json::from_slice::<SeenFile>(&bytes)
        {
            for bucket in Bucket::ALL {
                if let Some((identity, head)) = file.buckets.get(bucket.name()) {
                    memory.seen.insert(bucket, Seen { identity: identity.clone(), head: *head });
                }
            }
        }
        let mut files = tokio::fs::read_dir(&specs_dir).await.map_err(fail(&specs_dir))?;
        while let Some(file) = files.next_entry().await.map_err(fail(&specs_dir))? {
            if file.path().extension().is_none_or(|extension| extension != "json") {
                continue; // half a write of a process that was killed
            }
            let bytes = tokio::fs::read(file.path()).await.map_err(fail(&file.path()))?;
            match SpecRecord::decode(&bytes) {
                Ok(record) => drop(memory.specs.insert(record.spec.name.clone(), record)),
                // A copy that was cut short by a crash; the store has the original.
                Err(error) => {
                    tracing::warn!(file = %file.path().display(), %error, "ignoring a damaged copy of a spec")
                }
            }
        }
        Ok(memory)
    }

    /// True if what the store says now can't follow from what it said before.
    pub(crate) fn contradicts(&self, bucket: Bucket, identity: &str, head: Revision) -> bool {
        self.seen.get(&bucket).is_some_and(|before| before.identity != identity || head.0 < before.head)
    }

    /// True if what was seen before was seen in another bucket.
    pub(crate) fn is_of_another_bucket(&self, bucket: Bucket, identity: &str) -> bool {
        self.seen.get(&bucket).is_some_and(|before| before.identity != identity)
    }

    /// Drop the copies; the next [`Memory::remember`] writes what is there then.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }

    /// The copy of a spec.
    pub(crate) fn spec(&self, workload: &WorkloadName) -> Option<&SpecRecord> {
        self.specs.get(workload)
    }

    pub(crate) fn specs(&self) -> impl Iterator<Item = &SpecRecord> {
        self.specs.values()
    }

    /// Remember a view. Only what changed is written; a write that fails costs the copy, not the node.
    pub(crate) async fn remember(&mut self, view: &LatticeView) {
        let gone: Vec<WorkloadName> = self
            .specs
            .keys()
            .filter(|name| !view.specs.contains_key(*name) && !view.corrupt.contains_key(&format!("spec.{name}")))
            .cloned()
            .collect();
        for name in gone {
            self.specs.remove(&name);
            if let Some(path) = self.spec_path(&name)
                && let Err(error) = tokio::fs::remove_file(&path).await
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove the copy of a deleted spec");
            }
        }
        for (name, spec) in &view.specs {
            if self
                .specs
                .get(name)
                .is_some_and(|copy| copy.uid == spec.record.uid && copy.generation == spec.record.generation)
            {
                continue;
            }
            self.specs.insert(name.clone(), spec.record.clone());
            if let Some(path) = self.spec_path(name) {
                write_whole(&path, &spec.record.encode()).await;
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

    fn spec_path(&self, name: &WorkloadName) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join("specs").join(format!("{name}.json")))
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
