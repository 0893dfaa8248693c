//! Any calls in any order, with good arguments and bad ones, as a guest could make them: none traps, none costs the guest its
//! device, none waits without an end, and what was charged is given back when the guest has gone. Start at `calls.rs` for what is called.

mod calls;
mod record;
mod transfer;

use crate::{GpuCtx, GpuView, Gpus, HasGpu, Quota, Selector, Workspace, bindings::webgpu::*, host::resources as r};
use calls::{Call, call};
use proptest::{collection::vec, prelude::*};
use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};
use wasmtime::{
    Engine, Store,
    component::{Accessor, Resource, ResourceTable},
};

/// In which each call ends, on a driver that computes with a busy processor.
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than some sequences want, so that they are told.
const MEMORY_BYTES: u64 = 8 << 20;

struct State {
    ctx: GpuCtx,
    table: ResourceTable,
}

fn view(state: &mut State) -> GpuView<'_> {
    GpuView { ctx: &mut state.ctx, table: &mut state.table }
}

/// What handles are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Adapter,
    Device,
    Queue,
    Buffer,
    Texture,
    View,
    Sampler,
    QuerySet,
    Layout,
    PipelineLayout,
    Group,
    Module,
    Pipeline,
    Encoder,
    Pass,
    RenderPass,
    Commands,
    Error,
}

/// The handles that a guest has.
#[derive(Default)]
struct Handles(BTreeMap<Kind, Vec<u32>>);

impl Handles {
    fn put<T: 'static>(&mut self, kind: Kind, it: Resource<T>) {
        self.0.entry(kind).or_default().push(it.rep());
    }

    /// One of that kind, if there is any: the component model has no others.
    fn pick<T: 'static>(&self, kind: Kind, choice: u8) -> Option<Resource<T>> {
        let all = self.0.get(&kind)?;
        all.get(usize::from(choice) % all.len().max(1)).map(|rep| Resource::new_borrow(*rep))
    }

    fn take<T: 'static>(&mut self, kind: Kind, choice: u8) -> Option<Resource<T>> {
        let all = self.0.get_mut(&kind).filter(|all| !all.is_empty())?;
        Some(Resource::new_own(all.swap_remove(usize::from(choice) % all.len())))
    }
}

type Pending<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + 'a>>;

struct Guest<'a> {
    accessor: &'a Accessor<State, HasGpu>,
    handles: Handles,
    /// Calls of async functions that it waits for, while it makes others.
    pending: Vec<Pending<'a>>,
}

impl<'a> Guest<'a> {
    fn with<R>(&self, act: impl FnOnce(&mut GpuView<'_>) -> R) -> R {
        self.accessor.with(|mut access| act(&mut access.get()))
    }

    /// Goes on with what it waits for.
    fn glance(&mut self) -> wasmtime::Result<()> {
        let mut context = Context::from_waker(Waker::noop());
        let mut result = Ok(());
        self.pending.retain_mut(|pending| match pending.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(ended) => {
                if result.is_ok() {
                    result = ended;
                }
                false
            }
        });
        result
    }

    fn wait_for_all(&mut self) -> wasmtime::Result<()> {
        self.pending.drain(..).try_for_each(block_on)
    }

    /// A device, and what most calls want one of.
    fn begin(&mut self) -> wasmtime::Result<()> {
        let entry = self.with(|view| view.get_gpu())?;
        let adapter = block_on(<HasGpu as HostGpuWithStore<State>>::request_adapter(self.accessor, entry, None))?;
        self.handles.put(Kind::Adapter, adapter.expect("an adapter"));
        for what in [calls::What::Device, calls::What::Module, calls::What::Pipeline, calls::What::Layout] {
            call(self, &Call { what, choices: [0; 3], numbers: [0; 3] })?;
        }
        for _ in 0..2 {
            call(self, &Call { what: calls::What::Buffer, choices: [0; 3], numbers: [256; 3] })?;
        }
        Ok(())
    }

    fn play(&mut self, calls: &[Call]) -> wasmtime::Result<()> {
        self.begin()?;
        for one in calls {
            call(self, one)?;
            self.glance()?;
        }
        // It goes before it is told everything, or after.
        if calls.len().is_multiple_of(2) {
            self.wait_for_all()?;
        }
        Ok(())
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What a guest's thread does. An executor's own would not let this be called within it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, began) = (pin!(future), Instant::now());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "a call does not end");
        // One that waits further out may have been woken in place of this.
        thread::park_timeout(Duration::from_millis(20));
    }
}

fn play(engine: &Engine, workspace: &Arc<Workspace>, calls: &[Call]) -> wasmtime::Result<()> {
    let state = State { ctx: GpuCtx::new(Some(workspace.clone())), table: ResourceTable::new() };
    let mut store = Store::new(engine, state);
    let played = store.run_concurrent(async |accessor| {
        let accessor = accessor.with_getter::<HasGpu>(view);
        Guest { accessor: &accessor, handles: Handles::default(), pending: Vec::new() }.play(calls)
    });
    block_on(played)?
}

/// What of the quotas is taken.
fn taken(workspace: &Workspace) -> (u64, u64, u64) {
    let stats = workspace.stats();
    (stats.memory_bytes, stats.devices, workspace.account().commands_taken())
}

#[test]
fn any_calls_in_any_order_are_borne_and_everything_is_given_back() {
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return;
    }
    // For timers: what is called runs on this thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let gpus = runtime.block_on(Gpus::detect(Selector::Cpu)).unwrap_or_else(|error| {
        panic!(
            "{error}; install a driver: apt-get install mesa-vulkan-drivers libvulkan1, or set LATTICE_WITHOUT_GPU=1"
        )
    });
    let workspace = gpus.workspace(Quota { memory_bytes: MEMORY_BYTES, ..Quota::default() }).unwrap();
    let engine = Engine::default();
    let _entered = runtime.enter();
    proptest!(ProptestConfig::with_cases(80), |(calls in vec(calls::any_call(), 0..100))| {
        let played = play(&engine, &workspace, &calls);
        prop_assert!(played.is_ok(), "a trap: {:?}", played.unwrap_err());
        prop_assert_eq!(workspace.stats().losses, 0, "a fault of the driver or of wgpu, or a deadline");
        // Devices end on threads of their own.
        let began = Instant::now();
        while taken(&workspace) != (0, 0, 0) {
            prop_assert!(began.elapsed() < PATIENCE, "memory, devices and commands: {:?}", taken(&workspace));
            thread::sleep(Duration::from_millis(1));
        }
    });
    let stats = workspace.stats();
    eprintln!("{stats:?}");
    assert!(stats.submits > 20 && stats.bytes_down > 0 && stats.refused > 0, "the calls do something: {stats:?}");
}
