//! `wasi:webgpu` on real shaders: what a guest can do with a GPU, and what it can't do to others. On Mesa's lavapipe, a
//! driver that computes on the processor: `apt-get install mesa-vulkan-drivers libvulkan1`. Where it can't be had, the
//! variable `LATTICE_WITHOUT_GPU=1` skips these tests, and they say so.

use super::*;
use lattice_runtime::{GpuQuota, GpuSelector, GpuStats, Gpus, StartError};
use std::{sync::atomic::AtomicBool, time::Instant};
use tokio::{sync::OnceCell, task::JoinHandle};

/// Longest time in which a task of the node may not run: nodes tell others several times a second that they live.
const GAP_MAX: Duration = Duration::from_millis(100);

/// What the node has, or `None` where these tests are not wanted.
async fn runtime() -> Option<&'static Runtime> {
    static WITH_GPU: OnceCell<Runtime> = OnceCell::const_new();
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return None;
    }
    let make = async || {
        let gpus = Gpus::detect(GpuSelector::Cpu).await.unwrap_or_else(|error| {
            panic!(
                "{error}; install a driver: apt-get install mesa-vulkan-drivers libvulkan1, or set \
                 LATTICE_WITHOUT_GPU=1 to skip the tests of GPUs"
            )
        });
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-code");
        Runtime::new(RuntimeOptions { gpus, ..RuntimeOptions::new(cache) }).unwrap()
    };
    Some(WITH_GPU.get_or_init(make).await)
}

async fn start_gpu(runtime: &Runtime, quota: GpuQuota) -> Unit {
    start_guest(runtime, "gpu-double", quota).await
}

async fn start_guest(runtime: &Runtime, name: &str, quota: GpuQuota) -> Unit {
    let bytes = guest(name);
    let component = runtime.load(Digest::of(&bytes), bytes).await.unwrap();
    let mut config = config();
    config.limits.gpu = quota;
    // Of a debug build, beside a driver that takes all processors.
    config.limits.wall = Duration::from_secs(120);
    Unit::start(runtime, alone(runtime, component), config).await.unwrap()
}

/// The longest time in which a task that sleeps for 10 ms at a time did not run, beyond what a thread that does the same
/// did not run either: a machine with too much to do is nobody's fault.
struct Heartbeat {
    task: JoinHandle<()>,
    of_task: Arc<Mutex<Duration>>,
    of_thread: std::thread::JoinHandle<Duration>,
    end: Arc<AtomicBool>,
}

const BEAT: Duration = Duration::from_millis(10);

impl Heartbeat {
    fn start() -> Self {
        let (of_task, end) = (Arc::new(Mutex::new(Duration::ZERO)), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (of_task.clone(), end.clone());
        let task = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(BEAT).await;
                let mut seen = seen.lock().unwrap();
                *seen = last.elapsed().max(*seen);
                last = Instant::now();
            }
        });
        let of_thread = std::thread::spawn(move || {
            let (mut last, mut worst) = (Instant::now(), Duration::ZERO);
            while !ended.load(Relaxed) {
                std::thread::sleep(BEAT);
                worst = last.elapsed().max(worst);
                last = Instant::now();
            }
            worst
        });
        Self { task, of_task, of_thread, end }
    }

    fn assert(self) {
        self.task.abort();
        self.end.store(true, Relaxed);
        let (task, thread) = (*self.of_task.lock().unwrap(), self.of_thread.join().unwrap());
        assert!(task < thread + GAP_MAX, "a task did not run for {task:?}, a thread for {thread:?}");
    }
}

fn gpu(unit: &Unit) -> GpuStats {
    unit.stats().gpu.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_computes_on_the_gpu_and_is_metered() {
    let Some(runtime) = runtime().await else { return };
    let unit = start_gpu(runtime, GpuQuota::default()).await;
    assert_eq!(text(&unit, get("/1,2,3,4")).await.unwrap(), (200, "[2.0, 4.0, 6.0, 8.0]\n".into()));
    let (_, adapter) = text(&unit, get("/adapter")).await.unwrap();
    assert!(adapter.contains("fallback=true"), "{adapter}");
    let stats = gpu(&unit);
    assert_eq!((stats.bytes_up, stats.bytes_down, stats.submits, stats.losses), (16, 16, 2, 0));
    assert_eq!(stats.memory_peak_bytes, 32, "a buffer, and one to read it back");
    assert!(!stats.gpu_time.is_zero() && !stats.compile_time.is_zero(), "{stats:?}");
    until("everything is given back", || gpu(&unit).memory_bytes == 0 && gpu(&unit).devices == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gpu_can_do_works() {
    let Some(runtime) = runtime().await else { return };
    let unit = start_gpu(runtime, GpuQuota::default()).await;
    for (check, expected) in [
        ("add", "65536 sums"),
        ("matmul", "right"),
        ("f16", "[4.5]"),
        ("indirect", "[48]"),
        ("timestamp", "in order"),
        ("storage-texture", "64 by 4"),
        ("render", "magenta"),
        ("bundle", "magenta"),
        ("scopes", "true true true"),
        ("uncaptured", "true"),
        ("lost", "true"),
        ("map-write", "[0, 0, 1, 2] [1, 2]"),
        ("override", "[15.0]"),
        ("async-pipeline", "true true"),
    ] {
        let (status, answer) = text(&unit, get(&format!("/check/{check}"))).await.unwrap();
        assert_eq!((status, answer.trim()), (200, expected), "{check}");
    }
    assert_eq!(gpu(&unit).losses, 0);
}

/// Each is told, and nothing else happens: no trap, no panic, no lost device, no stalled task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_should_not_do_is_an_error_of_its_own() {
    let Some(runtime) = runtime().await else { return };
    let unit = start_gpu(runtime, GpuQuota::default()).await;
    let heartbeat = Heartbeat::start();
    for (probe, expected) in [
        ("labels", "mine 256; validation: none"),
        ("lost", "a future; validation: none"),
        ("typo-info", "1 message on line [1]"),
        ("typo", "validation: "),
        ("getters", "8 1 1 true; validation: none"),
        ("submit-twice", "submitted before"),
        ("end-twice", "the pass has ended"),
        ("finish-twice", "the encoder is finished"),
        ("open-pass", "a pass is still open"),
        ("read-unmapped", "refused: the buffer is not mapped"),
        ("map-storage", "refused: the buffer's usage does not have map-read"),
        ("map-twice", "true refused: the buffer is mapped"),
        ("map-beyond", "refused: the range is not in the buffer of 16 bytes"),
        ("write-offset", "refused: the range is not in the data"),
        ("write-past-end", "true; validation: "),
        ("set-too-much", "refused: 12 bytes are more than the range has allowed"),
        ("unknown-limit", "refused: there is no limit"),
        ("huge-limit", "refused: the limit max_bind_groups"),
        ("astc", "validation: "),
        ("huge-texture", "validation: "),
        ("empty-entry", "says not what is bound"),
        ("work-done", "done; validation: none"),
        ("parens", "brackets within brackets"),
        ("types", "validation: "),
        ("chain", "an expression of more than 4000 operators"),
        ("else-ifs", "more than 2000 `else if`s"),
        ("private", "variables of 400000 bytes for each invocation"),
        ("workgroup", "workgroup variables of 400000 bytes"),
        ("calls", "with all calls inlined"),
        ("terabyte", "validation: "),
        ("hoard", "memory: 134217728 bytes are more than is left of the quota"),
        ("out-of-bounds", "Ok(12); validation: none"),
        ("use-after-destroy", "validation: "),
        ("after-destroy", "refused: the device is lost, and all work done"),
        ("bundle-error", "validation: "),
        ("many-commands", "more commands than the quota allows"),
    ] {
        let (status, answer) = text(&unit, get(&format!("/probe/{probe}"))).await.unwrap();
        assert_eq!(status, 200, "{probe}: {answer}");
        assert!(answer.contains(expected), "{probe}: {answer}");
        if expected == "validation: " {
            assert!(!answer.contains("validation: none"), "{probe}: {answer}");
        }
    }
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.gpu.unwrap().losses), (0, 0), "nobody trapped and nothing was lost");
    heartbeat.assert();
    until("everything is given back", || gpu(&unit).memory_bytes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_without_end_costs_its_guest_the_device_and_others_nothing() {
    let Some(runtime) = runtime().await else { return };
    let quota = GpuQuota { submit_deadline: Duration::from_secs(2), ..GpuQuota::default() };
    let (hog, other) = (start_gpu(runtime, quota).await, start_gpu(runtime, GpuQuota::default()).await);
    text(&other, get("/1")).await.unwrap();
    let heartbeat = Heartbeat::start();
    let began = Instant::now();
    let burning = text(&hog, get("/probe/burn"));
    let beside = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        text(&other, get("/3,4")).await.unwrap()
    };
    let (burnt, answered) = tokio::join!(burning, beside);
    assert!(burnt.unwrap().1.contains("refused: the device is lost"), "it is told");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(answered, (200, "[6.0, 8.0]\n".into()));
    heartbeat.assert();
    assert_eq!((gpu(&hog).losses, gpu(&other).losses), (1, 0));
}

/// Submits of the same work, since some time.
struct Since<'a>(&'a Unit, u64);

impl<'a> Since<'a> {
    fn now(unit: &'a Unit) -> Self {
        Self(unit, gpu(unit).submits)
    }

    fn submits(&self) -> u64 {
        gpu(self.0).submits - self.1
    }
}

/// What one guest gets while another one floods the GPU from three devices. `weight` is the one's, and the other's is 1.
async fn beside_a_flood(runtime: &Runtime, weight: u32) -> (u64, u64) {
    let (one, flood) = tokio::join!(
        start_gpu(runtime, GpuQuota { weight, ..GpuQuota::default() }),
        start_gpu(runtime, GpuQuota::default())
    );
    let flooding = async { tokio::join!(flooded(&flood, 4_000), flooded(&flood, 4_000), flooded(&flood, 4_000)) };
    let measured = async {
        until("all of the flood's devices are at it", || gpu(&flood).devices == 3 && gpu(&flood).submits > 30).await;
        let (of_one, of_flood) = (Since::now(&one), Since::now(&flood));
        assert_eq!(text(&one, get("/flood/120")).await.unwrap(), (200, "120 submits\n".into()));
        (of_one.submits(), of_flood.submits())
    };
    // It goes on for minutes: its end is not waited for.
    tokio::select! {
        _ = flooding => panic!("the flood ended before the one that it is compared with"),
        submits = measured => submits,
    }
}

async fn flooded(unit: &Unit, times: u32) {
    let _ = text(unit, get(&format!("/flood/{times}"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_floods_the_gpu_leaves_others_their_part_of_its_time() {
    let Some(runtime) = runtime().await else { return };
    let (one, flood) = Box::pin(beside_a_flood(runtime, 1)).await;
    // Three devices of four would be three quarters. The first ones come while the guest compiles its shader.
    assert!((one / 3..one * 2).contains(&flood), "{one} submits, and {flood} of the flood");
    let (one, flood) = Box::pin(beside_a_flood(runtime, 4)).await;
    assert!(flood < one * 3 / 4, "{one} submits with four times the weight, and {flood} of the flood");
}

#[tokio::test]
async fn without_a_gpu_it_does_not_start_and_says_why() {
    let component = component("gpu-double").await;
    let refused = Unit::start(&RUNTIME, alone(&RUNTIME, component), config()).await.unwrap_err();
    assert!(matches!(refused, StartError::NoGpu { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("wasi:webgpu/webgpu@0.3.0-rc.2") && text.contains("--gpu"), "{text}");
    let nobody = Gpus::detect(GpuSelector::Named("no such card".into())).await;
    assert!(std::env::var_os("LATTICE_WITHOUT_GPU").is_some() || nobody.is_err());
}

/// Code that knows `wgpu` and nothing of components. Callbacks come by `poll` and by awaiting, errors reach who asked for
/// them, and what WebGPU does not have is an error as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_wgpu_code_works_in_a_component() {
    let Some(runtime) = runtime().await else { return };
    let unit = start_guest(runtime, "gpu-matmul", GpuQuota::default()).await;
    for (path, expected) in [
        ("/1", "1 by 1: right"),
        ("/100", "100 by 100: right"),
        ("/check/await", "[2, 4, 6] [2, 4, 6]"),
        ("/check/begun", "true 64"),
        ("/check/glance", "[8, 10] true"),
        ("/check/timeout", "Err(Timeout) false Ok(QueueEmpty) true"),
        ("/check/kept", "[0]"),
        ("/check/kept", "[2]"),
        ("/check/indirect", "[48]"),
        ("/check/timestamp", "in order"),
        ("/check/map-write", "[1, 2, 0, 0, 5, 0, 0, 0] [1, 2, 3, 4, 5, 0, 0, 0]"),
        ("/check/large", "5242880 true"),
        ("/check/storage-texture", "256 texels"),
        ("/check/render", "half of it"),
        ("/check/info", "line 2 at 49: nothing; validation"),
        ("/check/scopes", "validation none validation none none; WebGPU has no address mode that clamps to a border"),
        ("/check/uncaptured", "3 true"),
        ("/check/lost", "Some(Destroyed) Some(Destroyed) Some(false) true"),
        ("/check/absent", "validation validation validation [7]"),
        (
            "/check/refused",
            "true true the adapter has no EXPERIMENTAL_RAY_QUERY; the limit max_bind_groups of 1000 is beyond the \
             adapter's 8",
        ),
        ("/check/unmapped", "true true false Some(false) true none"),
    ] {
        let (status, answer) = text(&unit, get(path)).await.unwrap();
        assert_eq!((status, answer.trim()), (200, expected), "{path}");
    }
    // What the bench `gpu` compares.
    for what in ["submit", "round-trip", "upload", "readback"] {
        let (status, answer) = text(&unit, get(&format!("/speed/{what}/20"))).await.unwrap();
        assert!(status == 200 && answer.trim().parse::<u64>().is_ok_and(|took| took > 0), "{what}: {answer}");
    }
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.gpu.unwrap().losses), (0, 0), "nobody trapped and nothing was lost");
}
