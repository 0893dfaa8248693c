//! The component that answers, in the runtime of a node: hello 0.2, whose instances are kept.

use lattice::{
    Fut,
    http::{CallError, Request, Response},
    id::{Digest, Generation, WorkloadName},
    trace::TraceContext,
};
use lattice_benches::processes::workspace;
use lattice_runtime::{Limits, LogSink, LogStream, Reuse, Runtime, RuntimeOptions, Unit, UnitConfig};
use std::sync::Arc;

pub(crate) struct Component {
    unit: Unit,
    _runtime: Runtime,
    _cache: tempfile::TempDir,
}

impl Component {
    /// Nothing where guests were not built.
    pub(crate) async fn start() -> Option<Self> {
        let Ok(bytes) = std::fs::read(workspace().join("target/guests/hello-http02.wasm")) else {
            println!("the component is left out: run `cargo xtask guests --rust-only`");
            return None;
        };
        let cache = tempfile::tempdir().expect("a directory for compiled code");
        let runtime = Runtime::new(RuntimeOptions::new(cache.path().join("code"))).expect("a runtime");
        let component = runtime.load(Digest::of(&bytes), bytes.into()).await.expect("a component");
        let assembly = runtime.assemble(component, Vec::new(), Vec::new()).expect("it needs nothing");
        let config = UnitConfig {
            workload: WorkloadName::new("bench").expect("a good name"),
            replica: 0,
            generation: Generation::FIRST,
            env: [].into(),
            config: [].into(),
            reuse: Reuse { requests: u32::MAX, ..Reuse::default() },
            limits: Limits::default(),
            grants: Default::default(),
            volumes: Vec::new(),
            by_function: false,
            secrets: Default::default(),
            account: None,
            logs: Arc::new(Silent),
        };
        let unit = Unit::start(&runtime, assembly, config).await.expect("the guest starts");
        Some(Self { unit, _runtime: runtime, _cache: cache })
    }

    pub(crate) fn call(&self, request: Request) -> Fut<'static, Result<Response, CallError>> {
        Box::pin(self.unit.call(request))
    }
}

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, _: &str) {}
}
