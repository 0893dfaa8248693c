//! Compiled code on disk. It is native code: whoever can put a file here runs as this node. So it is only ever read from
//! the node's own directory, and each file is sealed with a key that never leaves the machine; the seal is checked
//! before anything else looks at the bytes. Nothing here ever comes from the object store or from a registry.
//!
//! A file is the code, then 32 bytes of HMAC-SHA256 over (digest, compatibility hash, code): the code comes first because
//! it is mapped from the file, not copied, and what is mapped begins at a page. One that does not fit is deleted and made
//! again. No failure here is worse than compiling.

use crate::{engine::RuntimeError, lock};
use hmac::{Hmac, KeyInit as _, Mac as _};
use lattice::{id::Digest, record::COMPILED_MAX};
use sha2::{Digest as _, Sha256};
use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{Hash, Hasher},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Mutex,
    time::SystemTime,
};
use wasmtime::{Engine, component::Component};

const SEAL_BYTES: usize = 32;
/// Read at a time while a seal is checked.
const READ_BYTES: usize = 256 << 10;
/// One block of SHA-256, the longest key that HMAC takes as it is.
const KEY_BYTES: usize = 64;
/// Ends the names of files that are whole.
const SUFFIX: &str = "code";

pub(crate) struct CodeCache {
    dir: PathBuf,
    bytes_max: u64,
    key: [u8; KEY_BYTES],
    /// Marks of what was used last, the latest at the end: what peers are told.
    recent: Mutex<VecDeque<u32>>,
}

impl CodeCache {
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Result<Self, RuntimeError> {
        let failed = |source| RuntimeError::Cache { path: dir.to_owned(), source };
        make_private_dir(dir).map_err(failed)?;
        let mut key_path = dir.as_os_str().to_owned();
        key_path.push(".key");
        let key_path = PathBuf::from(key_path);
        let key = read_or_make_key(&key_path).map_err(|source| RuntimeError::Cache { path: key_path, source })?;
        Ok(Self { dir: dir.to_owned(), bytes_max, key, recent: Mutex::default() })
    }

    /// Remember which files there are that these engines can read.
    pub(crate) fn recall<'e>(&self, engines: impl IntoIterator<Item = &'e Engine>) {
        let suffixes: Vec<String> = engines.into_iter().map(|engine| file_suffix(&compatibility(engine))).collect();
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let used = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            suffixes.iter().any(|suffix| name.ends_with(suffix)).then_some(())?;
            let mark = u32::from_str_radix(name.get(..8)?, 16).ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, mark))
        };
        let mut used: Vec<(SystemTime, u32)> = entries.filter_map(used).collect();
        used.sort_unstable();
        used.into_iter().for_each(|(_, mark)| self.note(mark));
    }

    /// Marks of the components whose code was used last.
    pub(crate) fn recent(&self) -> Vec<u32> {
        lock(&self.recent).iter().copied().collect()
    }

    fn note(&self, mark: u32) {
        let mut recent = lock(&self.recent);
        recent.retain(|other| *other != mark);
        recent.push_back(mark);
        if recent.len() > COMPILED_MAX {
            recent.pop_front();
        }
    }

    pub(crate) fn read(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let compatibility = compatibility(engine);
        let path = self.path(&digest, &compatibility);
        let mut file = match open_own_file(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return self.discard(&path, &error.to_string()),
        };
        match self.is_sealed(&mut file, &digest, &compatibility) {
            Ok(true) => {}
            Ok(false) => return self.discard(&path, "its seal is broken"),
            Err(error) => return self.discard(&path, &error.to_string()),
        }
        match map_code(engine, &file) {
            Ok(component) => {
                // What is used is kept: the oldest files go first.
                let _ = file.set_modified(SystemTime::now());
                self.note(digest.mark());
                Some(component)
            }
            Err(error) => self.discard(&path, &format!("{error:#}")),
        }
    }

    /// Best effort: without it the component is compiled again at the next start.
    pub(crate) fn write(&self, engine: &Engine, digest: Digest, code: &[u8]) {
        let compatibility = compatibility(engine);
        let path = self.path(&digest, &compatibility);
        let mut mac = self.mac(&digest, &compatibility);
        mac.update(code);
        let seal = mac.finalize().into_bytes();
        // Whole or not at all, under its name: another process may read it at any time.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let written = create_private(&part).and_then(|mut file| {
            file.write_all(code)?;
            file.write_all(&seal)
        });
        if let Err(error) = written.and_then(|()| fs::rename(&part, &path)) {
            let _ = fs::remove_file(&part);
            tracing::warn!(path = %path.display(), %error, "compiled code is not cached");
        }
        if let Err(error) = crate::prune::prune(&self.dir, SUFFIX, self.bytes_max, &path) {
            tracing::warn!(path = %self.dir.display(), %error, "the cache of compiled code is not pruned");
        }
    }

    fn path(&self, digest: &Digest, compatibility: &[u8; 32]) -> PathBuf {
        self.dir.join(format!("{}{}", digest.to_hex(), file_suffix(compatibility)))
    }

    /// Reads the whole file once, through a small buffer: its pages are then in the system's cache for the mapping.
    fn is_sealed(&self, file: &mut File, digest: &Digest, compatibility: &[u8; 32]) -> io::Result<bool> {
        let Some(mut left) = file.metadata()?.len().checked_sub(SEAL_BYTES as u64) else { return Ok(false) };
        let mut mac = self.mac(digest, compatibility);
        let mut buffer = vec![0; READ_BYTES];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Some(part) = buffer.get_mut(..wanted) else { break };
            file.read_exact(part)?;
            mac.update(part);
            left -= wanted as u64;
        }
        let mut seal = [0; SEAL_BYTES];
        file.read_exact(&mut seal)?;
        Ok(mac.verify_slice(&seal).is_ok())
    }

    /// The code is still to be added. All parts before it have a fixed length, so no two inputs read the same.
    fn mac(&self, digest: &Digest, compatibility: &[u8; 32]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        mac.update(digest.to_hex().as_bytes());
        mac.update(compatibility);
        mac
    }

    fn discard(&self, path: &Path, reason: &str) -> Option<Component> {
        tracing::warn!(path = %path.display(), reason, "cached code is thrown away and compiled again");
        let _ = fs::remove_file(path);
        None
    }
}

/// How names of files end that hold code for such an engine.
fn file_suffix(compatibility: &[u8; 32]) -> String {
    let short: String = compatibility.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("-{short}.{SUFFIX}")
}

/// The only place where bytes become native code.
#[allow(unsafe_code)]
fn map_code(engine: &Engine, file: &File) -> wasmtime::Result<Component> {
    // By its number, so that it is the file whose seal was checked, whatever is under its name by now.
    let path = format!("/dev/fd/{}", file.as_raw_fd());
    // SAFETY: `deserialize_file` trusts the file to come from `Component::serialize` and not to change while it is mapped.
    // The seal over these very bytes was checked above, with a key that only this node has, for this component and this
    // engine's compatibility hash. The file belongs to this user alone, nothing here writes to one that is in place (a
    // new one replaces it, with pages of its own), and a process of this user that means harm could write to our memory
    // as well. Needed because compiling takes seconds where this takes milliseconds: 5.4 s for a JavaScript guest of
    // 13 MB, at each start of a node, for each component; mapped, its 60 MB of code cost memory only where they are used.
    unsafe { Component::deserialize_file(engine, path) }
}

/// Names everything that compiled code depends on: the version and the settings of wasmtime, and the processor.
fn compatibility(engine: &Engine) -> [u8; 32] {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0 // the digest is taken as a whole instead
        }
    }
    let mut hash = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hash);
    hash.0.finalize().into()
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let about = fs::symlink_metadata(dir)?;
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of this user's own"));
    }
    if about.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A new file. One that a crash left under its name goes: where processes are few, their ids come again.
fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Follows no link: a link could lead to bytes of somebody else. Nor are those read that others may have written or read.
fn open_own_file(path: &Path) -> io::Result<File> {
    let no_links = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(no_links).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o077 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a file of this user alone; remove it"));
    }
    Ok(file)
}

/// A damaged key is replaced: what it sealed is compiled again.
fn read_or_make_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    match read_key(path) {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => {
            tracing::warn!(path = %path.display(), "the key of cached code is damaged and made anew");
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let part = path.with_extension(format!("key.{}.part", std::process::id()));
    let key: [u8; KEY_BYTES] = rand::random();
    create_private(&part).and_then(|mut file| {
        file.write_all(&key)?;
        file.sync_all() // a name whose bytes were lost would be a damaged key
    })?;
    // Two processes may start at once: the first link wins, and both read the same key afterwards.
    let linked = fs::hard_link(&part, path);
    let _ = fs::remove_file(&part);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    read_key(path)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the key is damaged; remove it"))
}

/// Nothing where the file has another length than a key.
fn read_key(path: &Path) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    open_own_file(path)?.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.try_into().ok())
}
