//! Volumes: what guests find in them, and what they can't do with them however they try.

use crate::{
    BOTH, RUNTIME, alone, config, get, guest, hello,
    parts::{name, part},
    request, text, until,
};
use lattice::id::Digest;
use lattice_runtime::{
    Edge, FailureKind, Part, PartRole, PartState, Restart, Reuse, Runtime, RuntimeOptions, StartError, Unit,
    UnitConfig, Volume, VolumeContent, VolumeError, VolumeOptions,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A node with 64 MiB for volumes, which allows one directory to guests.
struct Node {
    runtime: Runtime,
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    fn over(dir: TempDir) -> Self {
        fs::create_dir_all(dir.path().join("allowed")).unwrap();
        // It makes the key of the cache, which two must not do at once.
        LazyLock::force(&RUNTIME);
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-code");
        let mut options = RuntimeOptions::new(cache);
        options.volumes = VolumeOptions {
            dir: Some(dir.path().join("volumes")),
            bytes_total: 64 * MIB,
            host_paths: vec![dir.path().join("allowed")],
        };
        Self { runtime: Runtime::new(options).unwrap(), dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    async fn start_as(&self, name: &str, volumes: Vec<Volume>) -> Result<Unit, StartError> {
        let bytes = guest(name);
        let component = self.runtime.load(Digest::of(&bytes), bytes).await.unwrap();
        Unit::start(&self.runtime, alone(&self.runtime, component), UnitConfig { volumes, ..config() }).await
    }

    async fn start(&self, volumes: Vec<Volume>) -> Unit {
        self.start_as("files", volumes).await.unwrap()
    }

    /// Directories that units have here.
    fn made(&self) -> usize {
        fs::read_dir(self.path("volumes")).unwrap().count()
    }

    /// Bytes on the disk below a directory.
    fn used(&self, path: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() { self.used(&entry.path()) } else { metadata.blocks() * 512 }
            })
            .sum()
    }
}

fn volume(mount: &str, content: VolumeContent) -> Volume {
    Volume { name: mount.trim_matches('/').to_owned(), mount: mount.to_owned(), content }
}

fn empty(mount: &str, bytes_max: u64) -> Volume {
    volume(mount, VolumeContent::Empty { bytes_max })
}

async fn ask(unit: &Unit, method: &str, path: &str) -> (u16, String) {
    let (status, body) = text(unit, request(method, path, lattice::http::empty())).await.unwrap();
    (status, body.trim().to_owned())
}

/// What an attack came to: how much, and why not more.
async fn attack(unit: &Unit, what: &str) -> (u64, String) {
    let (status, body) = ask(unit, "GET", &format!("/-/{what}?/data")).await;
    assert_eq!(status, 200, "{what}: {body}");
    let (count, why) = body.split_once(' ').unwrap_or((&body, ""));
    // What the guest's C library makes of an error of a stream is any I/O error.
    let why = if why == "Uncategorized" { "StorageFull" } else { why };
    (count.parse().unwrap(), why.to_owned())
}

#[tokio::test]
async fn instances_of_a_unit_share_a_volume_and_it_goes_with_them() {
    let node = Node::new();
    let one = node.start(vec![empty("/data", MIB)]).await;
    assert_eq!(ask(&one, "GET", "/data").await, (200, String::new()));
    assert_eq!(ask(&one, "POST", "/data/log?abc").await, (200, "3".into()));
    assert_eq!(ask(&one, "POST", "/data/log?def").await, (200, "6".into()));
    assert_eq!(ask(&one, "GET", "/data/log").await, (200, "abcdef".into()));
    // Another unit of the same replica, as of its next generation, has its own.
    let other = node.start(vec![empty("/data", MIB)]).await;
    assert_eq!(ask(&other, "GET", "/data").await, (200, String::new()));
    assert_eq!(node.made(), 2);
    assert_eq!(ask(&one, "DELETE", "/data/log").await, (200, "gone".into()));
    assert_eq!(ask(&one, "GET", "/data/log").await.0, 404);
    drop((one, other));
    until("the volumes are removed", || node.made() == 0).await;
    // What a process that was killed left behind goes at the next start.
    fs::create_dir_all(node.path("volumes/shop.0.7/data")).unwrap();
    fs::write(node.path("volumes/shop.0.7/data/left"), "behind").unwrap();
    let Node { dir, runtime } = node;
    drop(runtime);
    assert_eq!(Node::over(dir).made(), 0);
}

/// A service that keeps what it counts in a file, and the component that calls it.
async fn visits(node: &Node, sees: &[&str]) -> Unit {
    let load = async |name: &str| {
        let bytes = guest(name);
        node.runtime.load(Digest::of(&bytes), bytes).await.unwrap()
    };
    let quick = Restart { backoff_min: Duration::from_millis(1), ..Restart::default() };
    let part = Part {
        env: [("COUNTS".to_owned(), "/data/counts".to_owned())].into(),
        volumes: sees.iter().map(|name| (*name).to_owned()).collect(),
        ..Part::new(name("tally"), load("tally").await, PartRole::Service { restart: quick })
    };
    let interface = "example:tally/tally@0.1.0".to_owned();
    let edge = Edge { from: None, import: interface.clone(), to: name("tally"), export: interface };
    let assembly = node.runtime.assemble(load("visits").await, vec![part], vec![edge]).unwrap();
    let config = UnitConfig { volumes: vec![empty("/other", MIB), empty("/data", MIB)], ..config() };
    Unit::start(&node.runtime, assembly, config).await.unwrap()
}

#[tokio::test]
async fn a_service_keeps_its_state_in_a_volume_that_it_names() {
    let node = Node::new();
    for (sees, expect) in [(vec!["data"], "a: 4"), (vec!["other"], "a: 1"), (vec![], "a: 1")] {
        let unit = visits(&node, &sees).await;
        for n in 1..=3 {
            assert_eq!(ask(&unit, "GET", "/a").await.1, format!("a: {n}"));
        }
        assert!(text(&unit, get("/-/reset")).await.is_err(), "the service ends");
        until("it is there again", || part(&unit).state == PartState::Ready && part(&unit).restarts == 1).await;
        assert_eq!(ask(&unit, "GET", "/a").await.1, expect, "{sees:?}");
        // The room is taken once, and given back with the unit.
        assert_eq!(node.made(), 1);
        drop(unit);
        until("the volumes are removed", || node.made() == 0).await;
    }
}

/// Requests are served by instances that are made for them then, and the failure is told.
#[tokio::test]
async fn an_instance_that_fails_its_warm_up_later_is_not_kept() {
    let node = Node::new();
    let site = node.path("allowed");
    fs::write(site.join("index"), "moin").unwrap();
    let bytes = guest("files");
    let component = node.runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    let reuse = Reuse {
        warm_up: Some("/site/index".parse().unwrap()),
        requests: 1,
        idle: Duration::from_millis(200),
        ..Reuse::default()
    };
    let volumes = vec![volume("/site", VolumeContent::Host { path: site.clone(), read_only: true })];
    let unit =
        Unit::start(&node.runtime, alone(&node.runtime, component), UnitConfig { volumes, reuse, ..config() }).await;
    let unit = unit.unwrap();
    fs::remove_file(site.join("index")).unwrap();
    let failed = || unit.stats().tally.failures.get(&FailureKind::WarmUp).copied().unwrap_or_default();
    assert_eq!((unit.stats().instances_idle, failed()), (1, 0));
    assert_eq!(ask(&unit, "GET", "/site").await.0, 200, "the one that was warm, and its last request");
    until("another one is tried", || failed() >= 1).await;
    let first = Instant::now();
    until("others are tried", || failed() >= 2).await;
    assert!(first.elapsed() > Duration::from_millis(800), "not all the time: {:?}", first.elapsed());
    assert_eq!(unit.stats().instances_idle, 0);
    let why = unit.stats().tally.last_failure.unwrap().message;
    assert_eq!(why, "failed its warm-up: GET /site/index was answered with the status 404");
    assert_eq!(ask(&unit, "GET", "/site").await.0, 200);
}

/// What would be dropped after its warm-up is not made again and again.
#[tokio::test]
async fn a_warm_up_that_takes_nearly_all_memory_has_failed() {
    let node = Node::new();
    let site = node.path("allowed");
    fs::write(site.join("table"), vec![b'x'; 300_000]).unwrap();
    let bytes = guest("files");
    let component = node.runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    let start = async |limit: Option<u64>, path: &str| {
        let mut config = config();
        config.volumes = vec![volume("/site", VolumeContent::Host { path: site.clone(), read_only: true })];
        config.reuse.warm_up = Some(path.parse().unwrap());
        config.limits.memory_bytes = limit.unwrap_or(config.limits.memory_bytes);
        Unit::start(&node.runtime, alone(&node.runtime, component.clone()), config).await
    };
    let idle = start(None, "/site").await.unwrap().stats().tally.memory_peak;
    assert_eq!(start(None, "/site/table").await.unwrap().stats().instances_idle, 1);
    let limit = idle + 11 * 65_536;
    let error = start(Some(limit), "/site/table").await.unwrap_err().to_string();
    let expect = format!("of {limit} bytes of memory, which leaves too few: raise limits.memory");
    assert!(error.contains("failed its warm-up: GET /site/table took ") && error.contains(&expect), "{error}");
}

#[tokio::test]
async fn a_guest_without_volumes_sees_no_directory() {
    let unit = Node::new().start(vec![]).await;
    for path in ["/", "/data", "/etc/passwd", "."] {
        assert_ne!(ask(&unit, "GET", path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn files_of_the_spec_can_only_be_read() {
    let node = Node::new();
    let files = BTreeMap::from([("a.conf".to_owned(), "x = 1".to_owned()), ("b".to_owned(), String::new())]);
    let unit = node.start(vec![volume("/conf", VolumeContent::Files(files)), empty("/data", MIB)]).await;
    assert_eq!(ask(&unit, "GET", "/conf").await, (200, "a.conf\nb".into()));
    assert_eq!(ask(&unit, "GET", "/conf/a.conf").await, (200, "x = 1".into()));
    for (method, path) in [("POST", "/conf/a.conf?y"), ("POST", "/conf/new?y"), ("DELETE", "/conf/b")] {
        assert_eq!(ask(&unit, method, path).await.0, 507, "{method} {path}");
    }
    assert_eq!(ask(&unit, "GET", "/conf/a.conf").await, (200, "x = 1".into()));
}

#[tokio::test]
async fn host_paths_are_those_that_the_operator_allowed() {
    let node = Node::new();
    let (allowed, secret) = (node.path("allowed"), node.path("secret"));
    fs::create_dir_all(allowed.join("site")).unwrap();
    fs::create_dir_all(&secret).unwrap();
    fs::write(allowed.join("site/index"), "moin").unwrap();
    fs::write(secret.join("key"), "secret").unwrap();
    std::os::unix::fs::symlink(&secret, allowed.join("link")).unwrap();
    std::os::unix::fs::symlink(secret.join("key"), allowed.join("site/key")).unwrap();
    let host = |path: PathBuf, read_only| volume("/site", VolumeContent::Host { path, read_only });

    let reader = node.start(vec![host(allowed.join("site"), true)]).await;
    assert_eq!(ask(&reader, "GET", "/site/index").await, (200, "moin".into()));
    assert_eq!(ask(&reader, "POST", "/site/index?!").await.0, 507);
    // A link that leads out is followed by nobody.
    assert_eq!(ask(&reader, "GET", "/site/key").await.0, 507);
    let writer = node.start(vec![host(allowed.join("site"), false)]).await;
    assert_eq!(ask(&writer, "POST", "/site/index?!").await, (200, "5".into()));
    assert_eq!(fs::read_to_string(allowed.join("site/index")).unwrap(), "moin!");

    for path in [secret.clone(), node.path(""), allowed.join("link"), allowed.join("../secret"), "/etc".into()] {
        let refused = node.start_as("files", vec![host(path.clone(), true)]).await.unwrap_err();
        let is_not_allowed = matches!(&refused, StartError::Volume { error: VolumeError::NotAllowed { .. }, .. });
        assert!(is_not_allowed, "{}: {refused}", path.display());
    }
    let missing = node.start_as("files", vec![host(allowed.join("none"), true)]).await.unwrap_err();
    assert!(matches!(missing, StartError::Volume { error: VolumeError::Failed { .. }, .. }), "{missing}");
}

#[tokio::test]
async fn a_link_in_the_place_of_a_host_path_leads_nowhere() {
    let node = Node::new();
    let (allowed, secret) = (node.path("allowed"), node.path("secret"));
    for dir in [allowed.join("x"), allowed.join("other"), secret.clone()] {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("name"), dir.file_name().unwrap().as_encoded_bytes()).unwrap();
    }
    let host = |path: &Path| volume("/x", VolumeContent::Host { path: path.to_owned(), read_only: false });
    // Each request has an instance of its own.
    let bytes = guest("files");
    let component = node.runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    let reuse = Reuse { enabled: false, ..Reuse::default() };
    let config = UnitConfig { volumes: vec![host(&allowed.join("x"))], reuse, ..config() };
    let unit = Unit::start(&node.runtime, alone(&node.runtime, component), config).await.unwrap();
    // As a guest can that has the directory above.
    let swap = |target: &str| {
        let _ = fs::remove_file(allowed.join("x"));
        let _ = fs::rename(allowed.join("x"), allowed.join("moved"));
        std::os::unix::fs::symlink(target, allowed.join("x")).unwrap();
    };
    for target in ["../secret", "other"] {
        swap(target);
        assert_eq!(ask(&unit, "GET", "/x/name").await, (200, "x".into()));
        let late = node.start_as("files", vec![host(&allowed.join("x"))]).await.unwrap_err();
        assert!(matches!(late, StartError::Volume { error: VolumeError::NotAllowed { .. }, .. }), "{late}");
    }
    assert_eq!(fs::read_to_string(allowed.join("moved/name")).unwrap(), "x");
}

#[tokio::test]
async fn a_full_volume_refuses_and_nothing_else_suffers() {
    let node = Node::new();
    let unit = node.start(vec![empty("/data", 8 * MIB), empty("/other", MIB)]).await;
    let bystander = node.start(vec![empty("/data", MIB)]).await;
    let (written, why) = attack(&unit, "fill").await;
    assert!((7 * MIB..=8 * MIB).contains(&written) && why == "StorageFull", "{written} {why}");
    assert!(node.used(&node.path("volumes")) <= 9 * MIB);
    assert_eq!(ask(&unit, "POST", "/data/full?more").await.0, 507);
    // Its other volume and its neighbours have room.
    assert_eq!(ask(&unit, "POST", "/other/a?x").await, (200, "1".into()));
    assert_eq!(ask(&bystander, "POST", "/data/a?x").await, (200, "1".into()));
    // What is removed is room again.
    assert_eq!(ask(&unit, "DELETE", "/data/full").await.0, 200);
    until_ok(&unit, "/data/new?x").await;
    // Writing over what is there takes none.
    let (written, why) = attack(&unit, "rewrite").await;
    assert_eq!((written, why.as_str()), (64 * MIB, ""));
}

/// A volume that was found full is not measured again at once.
async fn until_ok(unit: &Unit, path: &str) {
    for _ in 0..500 {
        if ask(unit, "POST", path).await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is still refused");
}

#[tokio::test]
async fn files_that_are_removed_while_they_are_open_count() {
    let node = Node::new();
    let unit = node.start(vec![empty("/data", 8 * MIB)]).await;
    let (written, why) = attack(&unit, "orphan").await;
    assert!((6 * MIB..=8 * MIB).contains(&written) && why == "StorageFull", "{written} {why}");
    assert_eq!(ask(&unit, "GET", "/data").await, (200, String::new()));
    // They are gone with the request that had them open.
    until_ok(&unit, "/data/new?x").await;
}

#[tokio::test]
async fn neither_many_nor_deep_nor_sparse_files_get_around_it() {
    let node = Node::new();
    let unit = node.start(vec![empty("/data", 8 * MIB)]).await;
    let (status, sparse) = ask(&unit, "GET", "/-/sparse?/data").await;
    assert!(status == 200 && sparse.starts_with("Err(StorageFull) Err("), "{sparse}");
    let (made, why) = attack(&unit, "many").await;
    assert!((3000..=4096).contains(&made) && why == "StorageFull", "{made} {why}");
    drop(unit);
    let unit = node.start(vec![empty("/data", 8 * MIB)]).await;
    let (made, why) = attack(&unit, "deep").await;
    assert!((60..=200).contains(&made) && why == "StorageFull", "{made} {why}");
    drop(unit);
    until("even that is removed", || node.made() == 0).await;
}

#[tokio::test]
async fn no_link_leads_out_of_a_volume() {
    let node = Node::new();
    let unit = node.start(vec![empty("/data", MIB)]).await;
    let (status, found) = ask(&unit, "GET", "/-/link?/data").await;
    assert_eq!(status, 200, "{found}");
    assert!(!found.contains("Ok(1") && !found.contains("dots: Ok"), "{found}");
    let reads: Vec<&str> = found.split("; ").filter(|one| one.starts_with("up") || one.starts_with("root")).collect();
    assert!(reads.iter().all(|one| one.rsplit_once(' ').unwrap().1.starts_with("Err(")), "{found}");
}

#[tokio::test]
async fn a_node_gives_no_more_room_than_it_has() {
    let node = Node::new();
    let first = node.start(vec![empty("/data", 40 * MIB)]).await;
    let refused = node.start_as("files", vec![empty("/data", 40 * MIB)]).await.unwrap_err();
    assert!(matches!(refused, StartError::Volume { error: VolumeError::NoRoom { .. }, .. }), "{refused}");
    drop(first);
    until("the room is free again", || node.made() == 0).await;
    node.start(vec![empty("/data", 40 * MIB)]).await;
}

#[tokio::test]
async fn guests_of_both_versions_start_with_volumes() {
    let node = Node::new();
    for version in BOTH {
        let unit = node.start_as(&hello(version), vec![empty("/data", MIB)]).await.unwrap();
        assert_eq!(text(&unit, get("/quiet")).await.unwrap().0, 200);
    }
}

/// 0.3 writes over streams, which have a way of their own through the quota.
#[tokio::test]
async fn streams_of_0_3_write_to_volumes_within_their_bounds() {
    let node = Node::new();
    let unit = node.start_as("files03", vec![empty("/data", MIB), empty("/other", 16 * MIB)]).await.unwrap();
    for (method, path, expect) in [
        ("POST", "/data/log?abc", "3"),
        ("POST", "/data/log?def", "6"),
        ("PUT", "/data/log?x", "6"),
        ("GET", "/data/log", "xbcdef"),
    ] {
        assert_eq!(ask(&unit, method, path).await, (200, expect.into()), "{method} {path}");
    }
    let (written, why) = attack(&unit, "fill").await;
    assert_eq!(why, "ErrorCode::InsufficientSpace");
    assert!((MIB / 2..=MIB).contains(&written), "{written}");
    assert!(node.used(&node.path("volumes")) <= MIB + MIB / 4);
    // The other volume has a size of its own, and the instance goes on.
    assert_eq!(ask(&unit, "POST", "/other/log?abc").await, (200, "3".into()));
    assert_eq!(unit.stats().failures, 0);
}
