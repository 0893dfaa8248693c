//! Compiled code on disk: used when it is whole, never when it is not.

use super::*;
use lattice_runtime::{LoadStats, RuntimeError};
use std::{fs, os::unix::fs::PermissionsExt as _};

async fn loaded(cache: &Path) -> LoadStats {
    let runtime = Runtime::new(RuntimeOptions::new(cache)).unwrap();
    let bytes = guest("hello-http02");
    let component = runtime.load(Digest::of(&bytes), bytes.clone()).await.unwrap();
    let again = runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    let unit = Unit::start(&runtime, alone(&runtime, again), config()).await.unwrap();
    drop((runtime, component));
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "a unit keeps what it needs of the runtime");
    let runtime = Runtime::new(RuntimeOptions::new(cache)).unwrap();
    assert_eq!(runtime.load_stats(), LoadStats::default());
    let bytes = guest("hello-http02");
    runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    runtime.load_stats()
}

const FROM_DISK: LoadStats = LoadStats { compiled: 0, from_disk: 1 };
const COMPILED: LoadStats = LoadStats { compiled: 1, from_disk: 0 };

async fn load_once(cache: &Path) -> LoadStats {
    let runtime = Runtime::new(RuntimeOptions::new(cache)).unwrap();
    let bytes = guest("hello-http02");
    runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    runtime.load_stats()
}

#[tokio::test]
async fn code_is_compiled_once_and_a_damaged_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("code");
    assert_eq!(load_once(&cache).await, COMPILED);
    assert_eq!(loaded(&cache).await, FROM_DISK);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache), mode(&dir.path().join("code.key"))), (0o700, 0o600));
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let whole = fs::read(file).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [flipped, whole[..whole.len() / 2].to_vec(), whole[..10].to_vec(), Vec::new()] {
        fs::write(file, damaged).unwrap();
        assert_eq!(load_once(&cache).await, COMPILED);
        assert_eq!(load_once(&cache).await, FROM_DISK, "the good file replaced the damaged one");
    }

    // Another key, as on another machine: the seal does not fit.
    fs::remove_file(dir.path().join("code.key")).unwrap();
    assert_eq!(load_once(&cache).await, COMPILED);

    // A link is not followed, wherever it leads.
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, file).unwrap();
    assert_eq!(load_once(&cache).await, COMPILED);
}

#[tokio::test]
async fn code_is_found_without_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("code");
    for name in ["hello-http02", "hello-http03"] {
        let bytes = guest(name);
        let digest = Digest::of(&bytes);
        let runtime = Runtime::new(RuntimeOptions::new(&cache)).unwrap();
        assert!(runtime.load_cached(digest).await.is_none() && runtime.loaded(&digest).is_none(), "{name}");
        let compiled = runtime.load(digest, bytes).await.unwrap();
        assert!(runtime.loaded(&digest).is_some());

        let runtime = Runtime::new(RuntimeOptions::new(&cache)).unwrap();
        assert!(runtime.loaded(&digest).is_none(), "{name}: nothing is in the memory of this one");
        let cached = runtime.load_cached(digest).await.unwrap();
        assert_eq!(cached.inspection(), compiled.inspection(), "{name}");
        assert_eq!(runtime.load_stats(), FROM_DISK, "{name}");
        assert!(runtime.loaded(&digest).is_some(), "{name}");
        let is_mapped = || fs::read_to_string("/proc/self/maps").unwrap().contains(&digest.to_hex());
        assert!(is_mapped(), "{name}: its code is used where it lies, not copied");
        let unit = Unit::start(&runtime, alone(&runtime, cached), config()).await.unwrap();
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{name}");
        drop(unit);
        until("the code goes with its last user", || runtime.loaded(&digest).is_none()).await;
    }
}

#[tokio::test]
async fn a_damaged_key_is_made_anew_and_one_that_others_can_read_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("code");
    let key = dir.path().join("code.key");
    // What a process with this very id left when it crashed.
    fs::write(dir.path().join(format!("code.key.{}.part", std::process::id())), "half").unwrap();
    assert_eq!(load_once(&cache).await, COMPILED);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the cache and its key");
    for damaged in [&b""[..], b"half", &[7; 65]] {
        fs::write(&key, damaged).unwrap();
        assert_eq!(load_once(&cache).await, COMPILED);
        assert_eq!(load_once(&cache).await, FROM_DISK);
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let Err(RuntimeError::Cache { path, source }) = Runtime::new(RuntimeOptions::new(&cache)) else {
        panic!("others may know this key");
    };
    assert_eq!((path, source.kind()), (key, std::io::ErrorKind::PermissionDenied));
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("code");
    let mut options = RuntimeOptions::new(&cache);
    options.cache_bytes_max = 1;
    let runtime = Runtime::new(options).unwrap();
    for name in ["hello-http02", "faults"] {
        let bytes = guest(name);
        runtime.load(Digest::of(&bytes), bytes).await.unwrap();
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "the newest is kept, whatever its size");
    }
}

/// The system can drop what is mapped, and read it again: an idle workload is mostly code.
#[tokio::test]
async fn what_was_compiled_is_mapped_like_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("code");
    let is_mapped = || fs::read_to_string("/proc/self/maps").unwrap().contains(cache.to_str().unwrap());
    for expected in [COMPILED, FROM_DISK] {
        let runtime = Runtime::new(RuntimeOptions::new(&cache)).unwrap();
        let bytes = guest("hello-http02");
        let component = runtime.load(Digest::of(&bytes), bytes).await.unwrap();
        assert_eq!((runtime.load_stats(), is_mapped()), (expected, true));
        drop((component, runtime));
        until("nobody holds it", || !is_mapped()).await;
    }
}
