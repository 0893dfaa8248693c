//! Compiled code on disk: used when it is whole, never when it is not.

use super::*;
use lattice_runtime::LoadStats;
use std::{fs, os::unix::fs::PermissionsExt as _};

async fn loaded(cache: &Path) -> LoadStats {
    let runtime = Runtime::new(RuntimeOptions::new(cache)).unwrap();
    let bytes = guest("hello-http02");
    let component = runtime.load(Digest::of(&bytes), bytes.clone()).await.unwrap();
    let again = runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    let unit = Unit::start(&runtime, again, config()).await.unwrap();
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
