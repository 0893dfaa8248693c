//! Code that is compiled with inlining over borders, beside code that is not.

use super::*;
use lattice::spec::Optimize;

#[tokio::test]
async fn what_is_optimized_is_compiled_apart_and_answers_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let options = RuntimeOptions::new(dir.path().join("code"));
    let runtime = Runtime::new(options.clone()).unwrap();
    for (count, name) in ["hello-http02", "hello-http03"].into_iter().enumerate() {
        let bytes = guest(name);
        let digest = Digest::of(&bytes);
        let plain = runtime.load(digest, bytes.clone()).await.unwrap();
        assert!(runtime.loaded_as(&digest, Optimize::Max).is_none(), "{name}: the other one is none");
        assert!(
            runtime.load_cached_as(digest, Optimize::Max).await.is_none(),
            "{name}: nor is it in its place on disk"
        );
        let optimized = runtime.load_as(digest, bytes, Optimize::Max).await.unwrap();
        assert_eq!(runtime.load_stats().compiled, 2 * (count as u64 + 1), "{name}");
        assert_eq!(std::fs::read_dir(&options.cache_dir).unwrap().count(), 2 * (count + 1), "{name}");

        for component in [plain, optimized] {
            let assembly = runtime.assemble(component, Vec::new(), Vec::new()).unwrap();
            let unit = Unit::start(&runtime, assembly, config()).await.unwrap();
            assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{name}");
        }
        // From the disk, by another life of the node.
        let restarted = Runtime::new(options.clone()).unwrap();
        assert!(restarted.load_cached_as(digest, Optimize::Max).await.is_some(), "{name}");
        assert_eq!((restarted.load_stats().compiled, restarted.load_stats().from_disk), (0, 1), "{name}");
    }
}

#[tokio::test]
async fn what_is_optimized_is_stopped_like_all_else() {
    let bytes = guest("faults");
    let component = RUNTIME.load_as(Digest::of(&bytes), bytes, Optimize::Max).await.unwrap();
    let assembly = RUNTIME.assemble(component, Vec::new(), Vec::new()).unwrap();
    let limits = Limits { cpu: Duration::from_millis(200), ..config().limits };
    let unit = Unit::start(&RUNTIME, assembly, UnitConfig { limits, ..config() }).await.unwrap();
    // Its engine was made late, and its clock ticks all the same.
    let error = text(&unit, get("/loop")).await.unwrap_err();
    assert_eq!(error, CallError::Timeout { limit: Duration::from_millis(200) });
}
