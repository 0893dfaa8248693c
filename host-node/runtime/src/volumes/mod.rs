//! Directories that guests see. What lies behind a volume is prepared once for a unit and goes with it; each instance
//! gets it as a preopened directory, out of which no path and no link leads.
//!
//! Start at [`Volumes::prepare`]; `quota.rs` bounds what a guest may write, `p2.rs` and `p3.rs` ask it.

mod p2;
mod p3;
mod quota;

pub(crate) use p2::add_to_linker as add_p2_to_linker;
pub(crate) use p3::add_to_linker as add_p3_to_linker;

use crate::host::Host;
use quota::Quota;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    FsPerms, WasiCtxBuilder,
    filesystem::{Descriptor, WasiFilesystemCtxView},
};

/// Tries to remove a directory, and the time between them.
const REMOVE_TRIES: u32 = 10;
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

/// A directory for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Names the volume in errors and in the node's directory: letters, digits and `-`.
    pub name: String,
    /// The guest's path.
    pub mount: String,
    pub content: VolumeContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeContent {
    /// Nothing at first. All files together have at most so many bytes.
    Empty { bytes_max: u64 },
    /// A directory of the node, below one that the operator allowed.
    Host { path: PathBuf, read_only: bool },
    /// Files that can only be read.
    Files(BTreeMap<String, String>),
}

/// What a node offers to volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeOptions {
    /// Where volumes are made; nobody else's, and emptied at the start. Without it there are none.
    pub dir: Option<PathBuf>,
    /// Bytes of all empty volumes together.
    pub bytes_total: u64,
    /// Directories of the node that guests may be given, with what is below.
    pub host_paths: Vec<PathBuf>,
}

/// Why a volume is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {name}: this node has no room for {bytes} bytes more of its {total}")]
    NoRoom { name: String, bytes: u64, total: u64 },
    #[error("volume {name}: {} is in no directory that this node's operator allowed (lattice node --allow-host-path), or a link leads to it", path.display())]
    NotAllowed { name: String, path: PathBuf },
    #[error("volume {name}: {message}")]
    Failed { name: String, message: String },
}

/// The part of a runtime that keeps volumes.
#[derive(Debug, Default)]
pub(crate) struct VolumeKeeper {
    options: VolumeOptions,
    /// Bytes that empty volumes may take by now.
    reserved: AtomicU64,
    made: AtomicU64,
}

/// The volumes of one unit, or those that one of its parts sees. What was made for the unit is removed with the last of them.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    mounts: Vec<Mount>,
    quotas: Arc<[Option<Arc<Quota>>]>,
    made: Option<Arc<Made>>,
}

#[derive(Debug, Clone)]
struct Mount {
    name: String,
    dir: Arc<File>,
    guest: String,
    perms: FsPerms,
}

/// A unit's own directory on the node's disk.
#[derive(Debug)]
struct Made {
    dir: PathBuf,
    reserved: u64,
    keeper: Arc<VolumeKeeper>,
}

impl Made {
    /// The unit's own directory, which is made at its first use.
    fn get<'a>(own: &'a mut Option<Self>, keeper: &Arc<VolumeKeeper>, unit: &str) -> io::Result<&'a mut Self> {
        if let Some(made) = own {
            return Ok(made);
        }
        let Some(root) = &keeper.options.dir else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this node keeps no volumes"));
        };
        // A new generation of a replica starts while the old one still runs.
        let dir = root.join(format!("{unit}.{}", keeper.made.fetch_add(1, Relaxed)));
        private_dir(&dir)?;
        Ok(own.insert(Self { dir, reserved: 0, keeper: keeper.clone() }))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let (dir, keeper, reserved) = (std::mem::take(&mut self.dir), self.keeper.clone(), self.reserved);
        let remove = move || {
            match remove_dir(&dir) {
                // Only then there is room for another one.
                Ok(()) => drop(keeper.reserved.fetch_sub(reserved, Relaxed)),
                Err(error) => tracing::warn!(dir = %dir.display(), %error, "a volume is not removed"),
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl VolumeKeeper {
    /// Removes what an earlier process left behind. Blocking.
    pub(crate) fn open(options: VolumeOptions) -> io::Result<Arc<Self>> {
        if let Some(dir) = &options.dir {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => private_dir(dir)?,
            }
        }
        Ok(Arc::new(Self { options, ..Self::default() }))
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<(), VolumeError> {
        let total = self.options.bytes_total;
        let fits = |reserved: u64| reserved.checked_add(bytes).filter(|reserved| *reserved <= total);
        let reserved = self.reserved.fetch_update(Relaxed, Relaxed, fits);
        reserved.map(drop).map_err(|_| VolumeError::NoRoom { name: name.to_owned(), bytes, total })
    }

    /// The directory of a host path, if it is allowed. Guests that may write above it can put a link in its place at any
    /// moment: what was opened is judged, and it alone is given to instances, never what the path leads to later.
    fn host_dir(&self, name: &str, path: &Path) -> Result<File, VolumeError> {
        let failed = |path: &Path, error: io::Error| VolumeError::Failed {
            name: name.to_owned(),
            message: format!("{}: {error}", path.display()),
        };
        // Opened before it is judged: nothing but a directory, whose opening does nothing.
        let dir = open_dir(path).map_err(|error| failed(path, error))?;
        let real = fs::read_link(path_of(&dir)).map_err(|error| failed(path, error))?;
        for allowed in &self.options.host_paths {
            let Ok(below) = path.strip_prefix(allowed) else { continue };
            // The operator's own path may have links, but none lies below it.
            if real == allowed.canonicalize().map_err(|error| failed(allowed, error))?.join(below) {
                return Ok(dir);
            }
        }
        Err(VolumeError::NotAllowed { name: name.to_owned(), path: path.to_owned() })
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// A path of a directory that is open, which leads to this very one though others were moved to its place.
fn path_of(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// A call of an instance that has ended may still be under way on some thread, and make one entry more. Blocking.
fn remove_dir(dir: &Path) -> io::Result<()> {
    let mut more = 1..REMOVE_TRIES;
    loop {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => match more.next() {
                Some(_) => std::thread::sleep(REMOVE_PAUSE),
                None => return Err(error),
            },
            _ => return Ok(()),
        }
    }
}

fn private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Volumes {
    /// Make what a unit needs. `unit` names it among files.
    pub(crate) async fn prepare(
        keeper: &Arc<VolumeKeeper>,
        unit: String,
        volumes: Vec<Volume>,
    ) -> Result<Self, VolumeError> {
        if volumes.is_empty() {
            return Ok(Self::default());
        }
        let keeper = keeper.clone();
        let made = tokio::task::spawn_blocking(move || Self::make(&keeper, &unit, &volumes)).await;
        made.unwrap_or_else(|error| Err(VolumeError::Failed { name: String::new(), message: error.to_string() }))
    }

    fn make(keeper: &Arc<VolumeKeeper>, unit: &str, volumes: &[Volume]) -> Result<Self, VolumeError> {
        let mut own = None;
        let (mut mounts, mut quotas) = (Vec::new(), Vec::new());
        for Volume { name, mount, content } in volumes {
            let failed = |error: io::Error| VolumeError::Failed { name: name.clone(), message: error.to_string() };
            let (dir, perms, quota) = match content {
                VolumeContent::Host { path, read_only } => {
                    let perms = if *read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
                    (keeper.host_dir(name, path)?, perms, None)
                }
                VolumeContent::Empty { bytes_max } => {
                    let made = Made::get(&mut own, keeper, unit).map_err(failed)?;
                    keeper.reserve(name, *bytes_max)?;
                    made.reserved += bytes_max;
                    let path = made.dir.join(name);
                    private_dir(&path).map_err(failed)?;
                    (open_dir(&path).map_err(failed)?, FsPerms::ReadWrite, Some(Quota::new(path, *bytes_max)))
                }
                VolumeContent::Files(files) => {
                    let path = Made::get(&mut own, keeper, unit).map_err(failed)?.dir.join(name);
                    private_dir(&path).map_err(failed)?;
                    for (file, text) in files {
                        fs::write(path.join(file), text).map_err(failed)?;
                    }
                    (open_dir(&path).map_err(failed)?, FsPerms::ReadOnly, None)
                }
            };
            mounts.push(Mount { name: name.clone(), dir: Arc::new(dir), guest: mount.clone(), perms });
            quotas.push(quota);
        }
        Ok(Self { mounts, quotas: quotas.into(), made: own.map(Arc::new) })
    }

    /// Those of them that a part sees: the same directories, and the same quotas.
    pub(crate) fn only(&self, names: &[String]) -> Self {
        let is_seen = |(mount, _): &(&Mount, &Option<Arc<Quota>>)| names.contains(&mount.name);
        let seen = self.mounts.iter().zip(self.quotas.iter()).filter(is_seen);
        let (mounts, quotas): (Vec<Mount>, Vec<_>) = seen.map(|(mount, quota)| (mount.clone(), quota.clone())).unzip();
        let made = self.made.clone().filter(|_| !mounts.is_empty());
        Self { mounts, quotas: quotas.into(), made }
    }

    /// Give an instance its directories.
    pub(crate) fn open(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for Mount { dir, guest, perms, .. } in &self.mounts {
            wasi.preopened_dir(path_of(dir), guest, *perms)?;
        }
        Ok(())
    }

    /// Of one instance: which of its descriptors lie in a volume that has a quota.
    pub(crate) fn descriptors(&self) -> Descriptors {
        Descriptors { quotas: self.quotas.clone(), open: BTreeMap::new() }
    }
}

/// The descriptors of one instance that must pay for what they write.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    /// In the order of the preopened directories.
    quotas: Arc<[Option<Arc<Quota>>]>,
    open: BTreeMap<u32, Arc<Quota>>,
}

/// [`HasData`] of the file system with quotas.
pub(crate) struct Files;

impl HasData for Files {
    type Data<'a> = FilesView<'a>;
}

pub(crate) struct FilesView<'a> {
    inner: WasiFilesystemCtxView<'a>,
    descriptors: &'a mut Descriptors,
}

/// The file system of an instance, with quotas.
fn files(host: &mut Host) -> FilesView<'_> {
    let (wasi, descriptors) = host.files();
    let inner = WasiFilesystemCtxView { ctx: wasi.ctx.filesystem(), table: wasi.table };
    FilesView { inner, descriptors }
}

/// The same without.
fn plain_files(host: &mut Host) -> WasiFilesystemCtxView<'_> {
    files(host).inner
}

impl FilesView<'_> {
    /// The guest got its preopened directories, in their order.
    fn preopened(&mut self, directories: &[(Resource<Descriptor>, String)]) {
        let quotas = self.descriptors.quotas.iter();
        for ((directory, _), quota) in directories.iter().zip(quotas) {
            if let Some(quota) = quota {
                self.descriptors.open.insert(directory.rep(), quota.clone());
            }
        }
    }

    /// A file or directory of a volume was opened.
    fn opened(
        &mut self,
        opened: &Resource<Descriptor>,
        quota: Arc<Quota>,
    ) -> Result<(), wasmtime_wasi::ResourceTableError> {
        if let Descriptor::File(file) = self.inner.table.get(opened)? {
            quota.opened(&file.file);
        }
        self.descriptors.open.insert(opened.rep(), quota);
        Ok(())
    }

    fn closed(&mut self, descriptor: &Resource<Descriptor>) {
        self.descriptors.open.remove(&descriptor.rep());
    }

    fn quota(&self, descriptor: &Resource<Descriptor>) -> Option<Arc<Quota>> {
        self.descriptors.open.get(&descriptor.rep()).cloned()
    }

    /// Nothing moves between two volumes, nor into or out of one that has a quota.
    fn is_one_volume(&self, a: &Resource<Descriptor>, b: &Resource<Descriptor>) -> bool {
        match (self.quota(a), self.quota(b)) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a, &b),
            _ => false,
        }
    }
}
