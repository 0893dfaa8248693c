//! Starting what the tests need, and asking it. Every process started here ends with the test, however the test ends.

pub mod api;
pub mod clog;
pub mod cluster;
pub mod http;
pub mod load;
pub mod otlp;
pub mod peer;
pub mod process;
pub mod server;
pub mod wire;

pub use api::Api;
pub use cluster::{Lattice, Node, SharedLattice, shared};
pub use peer::Peer;
pub use server::Server;

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// Longest wait for something that normally takes a second, or ten where JavaScript is compiled: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folder of a component that `cargo xtask guests` built.
pub fn guest(name: &str) -> PathBuf {
    let folder = std::env::var_os("LATTICE_GUESTS").map_or_else(|| workspace().join("target/guests"), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run `cargo xtask guests`", path.display());
    path
}

/// Try until it succeeds, at growing intervals. Panics with the last reason when the time is up.
pub async fn eventually<T, E: Display>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(why) if begin.elapsed() > limit => panic!("{what}: not within {} s: {why}", limit.as_secs()),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}

/// A port of the loopback interface that nobody has. Below the range from which the system takes the ports of outgoing
/// connections, so that none of those gets it before the one that it is for; a process may have it again after a restart.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    const FIRST: u16 = 18_000;
    const COUNT: u16 = 14_000;
    // Another run of these tests at the same time begins elsewhere.
    let offset = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let port = FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TAKEN.lock().unwrap().insert(port) {
            return port;
        }
    }
    panic!("no free port");
}
