//! What is asked. Each case is one request, repeated, to one guest of `guests/`.

/// One request and who answers it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// File name in `target/guests`, without its ending.
    pub(crate) guest: &'static str,
    pub(crate) is_http03: bool,
    pub(crate) path: &'static str,
    /// Bytes of the request's body; with any it is a POST, else a GET.
    pub(crate) body_bytes: usize,
    /// Milliseconds before the answer. The plain server sleeps as well.
    pub(crate) sleep_ms: u64,
}

const HELLO: &str = "GET, answered with some 50 bytes";
const ECHO_1K: &str = "POST of 1 KiB, copied chunk by chunk into the answer";
const ECHO_64K: &str = "POST of 64 KiB, copied chunk by chunk into the answer";
const SLEEP: &str = "GET, answered after 10 ms in which the guest waits";

#[rustfmt::skip]
pub(crate) const CASES: [Case; 8] = [
    Case { name: "hello-0.2", what: HELLO, guest: "hello-http02", is_http03: false, path: "/quiet", body_bytes: 0, sleep_ms: 0 },
    Case { name: "hello-0.3", what: HELLO, guest: "hello-http03", is_http03: true, path: "/quiet", body_bytes: 0, sleep_ms: 0 },
    Case { name: "echo-1k-0.2", what: ECHO_1K, guest: "echo02", is_http03: false, path: "/", body_bytes: 1 << 10, sleep_ms: 0 },
    Case { name: "echo-1k-0.3", what: ECHO_1K, guest: "echo", is_http03: true, path: "/", body_bytes: 1 << 10, sleep_ms: 0 },
    Case { name: "echo-64k-0.2", what: ECHO_64K, guest: "echo02", is_http03: false, path: "/", body_bytes: 64 << 10, sleep_ms: 0 },
    Case { name: "echo-64k-0.3", what: ECHO_64K, guest: "echo", is_http03: true, path: "/", body_bytes: 64 << 10, sleep_ms: 0 },
    Case { name: "sleep-0.2", what: SLEEP, guest: "faults", is_http03: false, path: "/sleep/10", body_bytes: 0, sleep_ms: 10 },
    Case { name: "sleep-0.3", what: SLEEP, guest: "faults03", is_http03: true, path: "/sleep/10", body_bytes: 0, sleep_ms: 10 },
];

impl Case {
    pub(crate) fn wasm(&self) -> std::path::PathBuf {
        let wasm = lattice_benches::processes::workspace().join("target/guests").join(format!("{}.wasm", self.guest));
        assert!(wasm.exists(), "{} is missing: run `cargo xtask guests --rust-only`", wasm.display());
        wasm
    }

    /// The host of the workload on a node.
    pub(crate) fn host(&self, is_fresh: bool) -> String {
        format!("{}{}.test", self.guest, if is_fresh { "-fresh" } else { "" })
    }
}
