//! What a guest may put into an empty volume. Every byte and every entry is paid for before it is written, out of an
//! allowance; when that is used up, what is really there is measured, and the rest of the limit is the next allowance. So
//! the limit holds at every moment, and what was overwritten, truncated or removed counts no more once it is needed.
//!
//! Blocking: measuring walks the directory.

use std::{
    collections::BTreeSet,
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Files, directories and links of one volume.
const ENTRIES_MAX: u64 = 4096;
/// Entries that may be made between two looks at how deep they lie.
const ENTRIES_AT_ONCE: u64 = 64;
/// Deepest directory. What lies deeper could neither be walked nor removed within the bounds of an operating system.
const DEPTH_MAX: usize = 64;
/// A volume that was found full is not measured again before.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// So many times as long as it took is the least time between two measurements: walking costs the node, not the guest.
const MEASURE_REST: u32 = 4;
/// Tries of one measurement while things are moved about.
const MEASURE_TRIES: u32 = 5;
/// Operations that one volume has on threads of its own at a time. Others wait without one.
const THREADS_MAX: usize = 4;

/// An empty volume.
#[derive(Debug)]
pub(crate) struct Quota {
    root: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
    appending: Mutex<()>,
    measuring: Mutex<Option<Measured>>,
    threads: Arc<Semaphore>,
}

/// When the last measurement ended, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Measured {
    end: Instant,
    took: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// What may still be used up without measuring.
    bytes: u64,
    entries: u64,
    /// Paid for, and perhaps not on the disk yet.
    pending: Use,
    /// All that was ever paid for.
    paid: Use,
    /// Files that some guest has or had open: those that were removed since are in no directory, and use room.
    open: Vec<Weak<File>>,
    /// What was refused last, and when.
    refused: Option<(Instant, Use)>,
    /// Moves that are under way, and all that ever were: what is moved while a directory is walked may not be seen.
    moving: u64,
    moves: u64,
    /// Opens that are under way, and how many ever were: such a file is in no list yet, and perhaps in no directory any more.
    opening: BTreeSet<u64>,
    opens: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Use {
    bytes: u64,
    entries: u64,
}

impl std::ops::Add for Use {
    type Output = Use;
    fn add(self, other: Use) -> Use {
        Use { bytes: self.bytes.saturating_add(other.bytes), entries: self.entries.saturating_add(other.entries) }
    }
}

impl std::ops::Sub for Use {
    type Output = Use;
    fn sub(self, other: Use) -> Use {
        Use { bytes: self.bytes.saturating_sub(other.bytes), entries: self.entries.saturating_sub(other.entries) }
    }
}

/// What was paid for, until it is written or was given up.
#[derive(Debug)]
pub(crate) struct Paid {
    quota: Arc<Quota>,
    what: Use,
    is_move: bool,
}

impl Drop for Paid {
    fn drop(&mut self) {
        let mut state = self.quota.state();
        state.pending = state.pending - self.what;
        state.moving -= u64::from(self.is_move);
    }
}

/// An open that is under way, until the file is remembered.
#[derive(Debug)]
pub(crate) struct Opening {
    quota: Arc<Quota>,
    number: u64,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.quota.state().opening.remove(&self.number);
    }
}

impl Paid {
    fn of_a_move(mut self) -> Self {
        let mut state = self.quota.state();
        state.moving += 1;
        state.moves += 1;
        drop(state);
        self.is_move = true;
        self
    }
}

impl Quota {
    pub(crate) fn new(root: PathBuf, bytes_max: u64) -> Arc<Self> {
        let state = State { bytes: bytes_max, entries: ENTRIES_AT_ONCE, ..State::default() };
        Arc::new(Self {
            root,
            bytes_max,
            state: Mutex::new(state),
            appending: Mutex::default(),
            measuring: Mutex::default(),
            threads: Arc::new(Semaphore::new(THREADS_MAX)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is going to be opened. To be kept until [`Self::opened`] was told.
    pub(crate) fn opening(self: &Arc<Self>) -> Opening {
        let mut state = self.state();
        let number = state.opens;
        state.opens += 1;
        state.opening.insert(number);
        Opening { quota: self.clone(), number }
    }

    /// All files that are open, with those whose opening began before now: these are waited for, later ones are not.
    fn open_files(&self) -> io::Result<Vec<Weak<File>>> {
        let (begin, before) = (Instant::now(), self.state().opens);
        loop {
            let state = self.state();
            if state.opening.first().is_none_or(|first| *first >= before) {
                return Ok(state.open.clone());
            }
            drop(state);
            if begin.elapsed() > FULL_PAUSE {
                return Err(full());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Remember a file that a guest has opened.
    pub(crate) fn opened(&self, file: &Arc<File>) {
        let mut state = self.state();
        state.open.retain(|file| file.strong_count() > 0);
        state.open.push(Arc::downgrade(file));
    }

    /// Pay for an entry.
    pub(crate) fn entry(self: &Arc<Self>) -> io::Result<Paid> {
        self.pay(Use { bytes: 0, entries: 1 })
    }

    /// Pay for something that is moved: it may be a whole tree, which lies deeper then.
    pub(crate) fn rename(self: &Arc<Self>) -> io::Result<Paid> {
        self.pay(Use { bytes: 0, entries: ENTRIES_AT_ONCE }).map(Paid::of_a_move)
    }

    /// Pay for a second name of a file.
    pub(crate) fn link(self: &Arc<Self>) -> io::Result<Paid> {
        self.entry().map(Paid::of_a_move)
    }

    /// Write to a file, at an offset or at its end. Writes less than asked for only as the system does.
    pub(crate) fn write(self: &Arc<Self>, file: &File, bytes: &[u8], at: Option<u64>) -> io::Result<usize> {
        // Whoever appends writes where the one before has ended.
        let _turn = at.is_none().then(|| self.appending.lock().unwrap_or_else(PoisonError::into_inner));
        let length = file.metadata()?.len();
        let (at, count) = (at.unwrap_or(length), bytes.len() as u64);
        // A hole that the write leaves before it counts as well.
        let growth = at.saturating_add(count).saturating_sub(length).max(count);
        let _paid = self.pay(Use { bytes: growth, entries: 0 })?;
        file.write_at(bytes, at)
    }

    /// Set a file's length.
    pub(crate) fn set_size(self: &Arc<Self>, file: &File, size: u64) -> io::Result<()> {
        let growth = size.saturating_sub(file.metadata()?.len());
        let _paid = self.pay(Use { bytes: growth, entries: 0 })?;
        file.set_len(size)
    }

    /// Do something that blocks, away from the threads that run guests.
    pub(crate) async fn run<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.threads.clone().acquire_owned().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&self)
        });
        done.await.map_err(io::Error::other)?
    }

    fn pay(self: &Arc<Self>, what: Use) -> io::Result<Paid> {
        if let Some(paid) = self.try_pay(what) {
            return Ok(paid);
        }
        let is_more = |than: Use| what.bytes >= than.bytes && what.entries >= than.entries;
        if self.state().refused.is_some_and(|(at, refused)| at.elapsed() < FULL_PAUSE && is_more(refused)) {
            return Err(full());
        }
        let mut last = self.measuring.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have measured meanwhile.
        if let Some(paid) = self.try_pay(what) {
            return Ok(paid);
        }
        if let Some(Measured { end, took }) = *last {
            std::thread::sleep((took * MEASURE_REST).min(FULL_PAUSE).saturating_sub(end.elapsed()));
        }
        let begin = Instant::now();
        let measured = self.measure();
        *last = Some(Measured { end: Instant::now(), took: begin.elapsed() });
        drop(last);
        let paid = measured.ok().and_then(|()| self.try_pay(what));
        self.state().refused = paid.is_none().then(|| (Instant::now(), what));
        paid.ok_or_else(full)
    }

    fn try_pay(self: &Arc<Self>, what: Use) -> Option<Paid> {
        let mut state = self.state();
        let (bytes, entries) = (state.bytes.checked_sub(what.bytes)?, state.entries.checked_sub(what.entries)?);
        state.bytes = bytes;
        state.entries = entries;
        state.pending = state.pending + what;
        state.paid = state.paid + what;
        Some(Paid { quota: self.clone(), what, is_move: false })
    }

    /// Look at what is there, and make the rest of the limit the next allowance. What is under way meanwhile is taken for
    /// not seen.
    fn measure(&self) -> io::Result<()> {
        for _ in 0..MEASURE_TRIES {
            let (pending, paid, moves) = {
                let state = self.state();
                if state.moving > 0 {
                    drop(state);
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                (state.pending, state.paid, state.moves)
            };
            let there = walk(&self.root)?;
            // Only then: what was removed before the walk came to it, and still uses room, is among the open files by now.
            let there = there + removed(&self.open_files()?);
            let mut state = self.state();
            if state.moves != moves {
                continue;
            }
            let used = there + pending + (state.paid - paid);
            state.bytes = self.bytes_max.saturating_sub(used.bytes);
            state.entries = ENTRIES_MAX.saturating_sub(used.entries).min(ENTRIES_AT_ONCE);
            return Ok(());
        }
        Err(full())
    }
}

fn full() -> io::Error {
    io::Error::from(rustix::io::Errno::NOSPC)
}

/// A file counts with its length, holes included, or with what it takes on the disk if that is more.
fn bytes_of(metadata: &Metadata) -> u64 {
    metadata.len().max(metadata.blocks().saturating_mul(512))
}

/// All that lies below a directory. An error, such as of a tree that is too deep, makes the volume count as full.
fn walk(root: &Path) -> io::Result<Use> {
    let mut used = Use::default();
    let mut directories = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        if depth > DEPTH_MAX {
            return Err(full());
        }
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Removed while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return Err(full()),
        };
        for entry in entries {
            let entry = entry.map_err(|_| full())?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return Err(full()),
            };
            used = used + Use { bytes: bytes_of(&metadata), entries: 1 };
            // A link that was put in the place of a directory may have led out of the volume, to no end of files.
            if used.entries > 2 * ENTRIES_MAX {
                return Err(full());
            }
            if metadata.is_dir() {
                directories.push((entry.path(), depth + 1));
            }
        }
    }
    Ok(used)
}

/// Files that are open and in no directory any more.
fn removed(open: &[Weak<File>]) -> Use {
    let metadata = open.iter().filter_map(|file| file.upgrade()?.metadata().ok());
    let orphans: std::collections::BTreeMap<u64, u64> = metadata
        .filter(|metadata| metadata.nlink() == 0)
        .map(|metadata| (metadata.ino(), bytes_of(&metadata)))
        .collect();
    Use { bytes: orphans.values().sum(), entries: orphans.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_removed_while_it_is_opened_counts() {
        let dir = tempfile::tempdir().unwrap();
        let quota = Quota::new(dir.path().to_owned(), 8192);
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 8192]).unwrap();
        let opening = quota.opening();
        let file = Arc::new(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        // As long as nobody knows whether it is there the volume is full.
        assert!(quota.measure().is_err());
        quota.opened(&file);
        drop(opening);
        quota.measure().unwrap();
        assert!(quota.try_pay(Use { bytes: 1, entries: 0 }).is_none());
        drop(file);
        quota.measure().unwrap();
        assert!(quota.try_pay(Use { bytes: 8192, entries: 0 }).is_some());
    }
}
