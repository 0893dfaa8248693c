//! The directory that one node keeps over restarts. A lock keeps a second process out: two nodes with one id would take
//! each other's session away.

use crate::error::Failure;
use anyhow::Context as _;
use lattice::id::NodeId;
use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// Open as long as the node runs: the lock ends with it.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    node: NodeId,
    _lock: File,
}

impl DataDir {
    /// Make the directory if it is missing and take it. `id` is kept there; without one, the kept one is used.
    pub(super) fn open(path: &Path, id: Option<NodeId>) -> anyhow::Result<Self> {
        let shown = path.display();
        // What is in it, specs with their configuration among it, is this node's alone.
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
            Failure::failed(format!("can't make the data directory {shown}")).hint("name another with --data DIR")
        })?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.with_context(|| format!("can't write in the data directory {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::failed(format!("another node uses the data directory {shown}"))
                    .hint("give each node on a machine its own --data, --http and --admin")
                    .into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("can't lock {shown}")),
        }
        let file = path.join("node-id");
        let kept = match std::fs::read_to_string(&file) {
            Ok(text) => Some(NodeId::new(text.trim()).with_context(|| format!("{} holds no node id", file.display()))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
        };
        let node = match id.or_else(|| kept.clone()) {
            Some(id) => id,
            None => made_up()?,
        };
        if kept.as_ref() != Some(&node) {
            keep(&file, &node).with_context(|| format!("can't write {}", file.display()))?;
        }
        Ok(Self { path: path.to_owned(), node, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.node
    }

    /// A directory of its own for one part of the node.
    pub(super) fn part(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn made_up() -> anyhow::Result<NodeId> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    Ok(NodeId::new(format!("n-{}", lattice::limits::clip(&random, 8)))?)
}

/// Whole or not at all, also after a power failure: a node that comes back with another id leaves its replicas behind.
fn keep(file: &Path, node: &NodeId) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    let mut written = File::create(&fresh)?;
    writeln!(written, "{node}")?;
    written.sync_all()?;
    std::fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_survives_and_can_be_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path, None).unwrap().node().clone();
        assert!(first.as_str().starts_with("n-") && first.as_str().len() == 10, "{first}");
        assert_eq!(DataDir::open(&path, None).unwrap().node(), &first);
        let given = NodeId::new("n1").unwrap();
        assert_eq!(DataDir::open(&path, Some(given.clone())).unwrap().node(), &given);
        assert_eq!(DataDir::open(&path, None).unwrap().node(), &given);
    }

    #[test]
    fn two_nodes_cannot_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path(), None).unwrap();
        let error = DataDir::open(dir.path(), None).unwrap_err();
        assert!(error.to_string().contains("another node uses"), "{error:#}");
        drop(held);
        DataDir::open(dir.path(), None).unwrap();
    }

    #[test]
    fn a_damaged_id_is_an_error_not_a_new_node() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node-id"), "\0\0").unwrap();
        assert!(DataDir::open(dir.path(), None).is_err());
    }
}
