//! Which GPUs this machine has, and which of them guests are given. Only those that compute what they are told: each one
//! passes a self-test first, and again and again while the node runs.

use crate::{
    account::Quota,
    convert::{features, limits},
    device::watchdog::Watchdog,
    health::{Health, Turned},
    lock,
    selftest::{self, Findings},
    turns::Turns,
    workspace::Workspace,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};
use thiserror::Error;

/// How long drivers may take to say what there is, self-tests included.
const DETECTION_MAX: Duration = Duration::from_secs(60);
const STACK_BYTES: usize = 64 << 20;
/// How long a test may take while guests use the adapter: longer than one submit of theirs.
const TEST_MAX: Duration = Duration::from_secs(60);
/// How often it is asked whether a test is due.
const LOOK: Duration = Duration::from_secs(1);

/// What the node's operator gives to guests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selector {
    /// Nothing.
    Off,
    /// All real GPUs.
    #[default]
    Auto,
    /// Drivers that compute on the CPU, such as Mesa's lavapipe.
    Cpu,
    /// Adapters with this in their name or driver, or with this PCI address; those on the CPU, too.
    Named(String),
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Err("expected off, auto, cpu, or a part of an adapter's name or its PCI address".into()),
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            name => Ok(Self::Named(name.to_owned())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Named(name) => name,
        })
    }
}

impl Selector {
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// Whether it is fine with it that there is none.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    fn takes(&self, adapter: &Adapter) -> bool {
        match self {
            Self::Off => false,
            Self::Auto => adapter.class != Class::Cpu,
            Self::Cpu => adapter.class == Class::Cpu,
            Self::Named(name) => {
                let has = |text: &str| text.to_lowercase().contains(&name.to_lowercase());
                has(&adapter.name) || has(&adapter.driver) || adapter.pci.as_ref().is_some_and(|pci| pci == name)
            }
        }
    }
}

/// What kind of thing computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// With memory of its own.
    Discrete,
    /// With the machine's memory.
    Integrated,
    /// Of a virtual machine.
    Virtual,
    /// The processor, behind a driver.
    Cpu,
    /// The driver doesn't say.
    Other,
}

/// A GPU that guests can be given.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The same after a restart, as long as the machine is: `vulkan-0000-65-00-0`, or with its name where there is
    /// no PCI. Lower case letters, digits and hyphens.
    pub id: String,
    pub name: String,
    pub class: Class,
    /// `vulkan`, `metal`, `dx12`.
    pub backend: String,
    /// Its driver and the driver's version.
    pub driver: String,
    /// PCI's number of the maker.
    pub vendor: u32,
    /// The maker's number of the model.
    pub device: u32,
    /// Its address: `0000:65:00.0`.
    pub pci: Option<String>,
    /// WebGPU's names.
    pub features: BTreeSet<String>,
    /// WebGPU's names with hyphens, and values.
    pub limits: BTreeMap<String, u64>,
    /// Bytes of memory, where the system tells; else the largest buffer, so at least so much.
    pub memory_bytes: u64,
    /// The least and the largest subgroup.
    pub subgroup: (u32, u32),
    /// What the self-test found when the node started, if it passed.
    pub findings: Option<Findings>,
}

impl Adapter {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let pci = Some(info.device_pci_bus_id.clone()).filter(|pci| !pci.is_empty());
        let backend = info.backend.to_string();
        let at = pci.clone().unwrap_or_else(|| info.name.clone());
        Self {
            id: id(&format!("{backend}-{at}")),
            class: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => Class::Discrete,
                wgpu::DeviceType::IntegratedGpu => Class::Integrated,
                wgpu::DeviceType::VirtualGpu => Class::Virtual,
                wgpu::DeviceType::Cpu => Class::Cpu,
                wgpu::DeviceType::Other => Class::Other,
            },
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            vendor: info.vendor,
            device: info.device,
            memory_bytes: pci.as_deref().and_then(memory).unwrap_or(limits.max_buffer_size),
            features: features::names(adapter.features()).into_iter().map(str::to_owned).collect(),
            limits: limits::all(&limits),
            subgroup: (info.subgroup_min_size, info.subgroup_max_size),
            name: info.name,
            backend,
            pci,
            findings: None,
        }
    }

    /// The maker's name, as WebGPU has it: lower case, and nothing for those that are not known here.
    pub fn vendor_name(&self) -> &'static str {
        match self.vendor {
            0x1002 => "amd",
            0x10de => "nvidia",
            0x8086 => "intel",
            0x106b => "apple",
            0x13b5 => "arm",
            0x5143 => "qualcomm",
            0x1414 => "microsoft",
            0x10005 => "mesa",
            _ => "",
        }
    }
}

fn id(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut id = words.collect::<Vec<_>>().join("-").to_lowercase();
    id.truncate(60);
    id
}

/// What the kernel says of a card's memory: drivers that have it in a file are few.
fn memory(pci: &str) -> Option<u64> {
    let is_address = pci.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
    let file = format!("/sys/bus/pci/devices/{pci}/mem_info_vram_total");
    is_address.then(|| std::fs::read_to_string(file).ok()?.trim().parse().ok())?
}

/// An adapter, in an instance of wgpu of its own.
pub(crate) struct Opened {
    /// Taken at the end only. Behind a trait, since wgpu's types are so deep that whoever holds this would have to raise the
    /// compiler's limit of recursion.
    own: Option<Box<dyn Own>>,
    described: Adapter,
    pub(crate) info: wgpu::AdapterInfo,
    pub(crate) features: wgpu::Features,
    pub(crate) limits: wgpu::Limits,
}

trait Own: Send + Sync {
    fn adapter(&self) -> wgpu::Adapter;
}

impl Own for (wgpu::Adapter, wgpu::Instance) {
    fn adapter(&self) -> wgpu::Adapter {
        self.0.clone()
    }
}

impl Opened {
    pub(crate) fn adapter_info(&self) -> &Adapter {
        &self.described
    }

    pub(crate) fn adapter(&self) -> Option<wgpu::Adapter> {
        self.own.as_ref().map(|own| own.adapter())
    }
}

/// Drivers are unloaded with their instance, which may take its time.
impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            let _ = thread::Builder::new().name("gpu-close".into()).spawn(move || drop(own));
        }
    }
}

/// wgpu's own futures are ready at once where a driver is asked directly.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> Result<T, String> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => Ok(ready),
        Poll::Pending => Err("the driver did not answer".into()),
    }
}

pub(crate) fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // Not what builds for debugging turn on; but indirect calls are a guest's, and must be looked at. Its labels are no
    // driver's business.
    descriptor.flags = wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL | wgpu::InstanceFlags::DISCARD_HAL_LABELS;
    wgpu::Instance::new(descriptor)
}

fn adapters(instance: &wgpu::Instance) -> Result<Vec<(wgpu::Adapter, Adapter)>, String> {
    let adapters = now(instance.enumerate_adapters(wgpu::Backends::all()))?;
    let mut seen = BTreeSet::new();
    let described = adapters.into_iter().map(|adapter| {
        let described = Adapter::of(&adapter);
        (adapter, described)
    });
    // One card may be there once for each driver that knows it.
    let once = |(_, adapter): &(_, Adapter)| seen.insert(adapter.pci.clone().unwrap_or_else(|| adapter.id.clone()));
    Ok(described.filter(once).collect())
}

/// On a thread that may block: opens that adapter again, for one workload.
pub(crate) fn open(wanted: &Adapter) -> Result<Opened, String> {
    let instance = instance();
    let found = adapters(&instance)?.into_iter().find(|(_, adapter)| adapter.id == wanted.id);
    let (adapter, _) = found.ok_or_else(|| format!("the adapter {} is not there any more", wanted.name))?;
    Ok(Opened {
        described: wanted.clone(),
        info: adapter.get_info(),
        features: adapter.features(),
        limits: adapter.limits(),
        own: Some(Box::new((adapter, instance))),
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GpusError {
    #[error("no thread to look for GPUs: {0}")]
    Thread(String),
    #[error("the GPU drivers did not answer within {DETECTION_MAX:?}")]
    Slow,
    #[error("a GPU driver failed: {0}")]
    Failed(String),
    #[error("no GPU adapter matches `{selector}`; there is {there}")]
    NoSuch { selector: String, there: String },
}

/// The GPUs of a node that guests are given.
pub struct Gpus {
    adapters: Vec<Given>,
    pub(crate) watchdog: Watchdog,
}

pub(crate) struct Given {
    pub(crate) adapter: Adapter,
    /// Of how many workspaces it is.
    pub(crate) workspaces: Arc<AtomicUsize>,
    /// Devices that a fault or a deadline ended.
    pub(crate) losses: Arc<AtomicU64>,
    /// Of its workspaces.
    pub(crate) turns: Arc<Turns>,
    health: Mutex<Health>,
    /// A test of it is under way, maybe without an end.
    tests: Arc<AtomicBool>,
}

impl Gpus {
    /// None at all.
    pub fn none() -> Arc<Self> {
        Self::of(Vec::new())
    }

    fn of(adapters: Vec<(Adapter, Health)>) -> Arc<Self> {
        let given = adapters.into_iter().map(|(adapter, health)| Given {
            adapter,
            workspaces: Arc::default(),
            losses: Arc::default(),
            turns: Arc::default(),
            health: Mutex::new(health),
            tests: Arc::default(),
        });
        Arc::new(Self { adapters: given.collect(), watchdog: Watchdog::default() })
    }

    /// Look for them. With `auto` none may be found; what is asked for by name must be there. Adapters that fail the
    /// self-test are there and failing, and the log says so.
    pub async fn detect(selector: Selector) -> Result<Arc<Self>, GpusError> {
        if selector.is_off() {
            return Ok(Self::none());
        }
        let (sender, found) = tokio::sync::oneshot::channel();
        let looked_for = selector.clone();
        let look = move || {
            let found = std::panic::catch_unwind(|| look(&looked_for));
            let found = found.unwrap_or_else(|panic| Err(crate::device::thread::text(&*panic)));
            let _ = sender.send(found);
        };
        let thread = thread::Builder::new().name("gpu-detect".into()).stack_size(STACK_BYTES);
        thread.spawn(look).map_err(|error| GpusError::Thread(error.to_string()))?;
        let found = tokio::time::timeout(DETECTION_MAX, found).await.map_err(|_| GpusError::Slow)?;
        let (taken, there) = found.unwrap_or_else(|_| Err("it ended".into())).map_err(GpusError::Failed)?;
        if taken.is_empty() && selector != Selector::Auto {
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(GpusError::NoSuch { selector: selector.to_string(), there });
        }
        Ok(Self::of(taken))
    }

    pub fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.adapters.iter().map(|given| &given.adapter)
    }

    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// Devices on each adapter that a fault or a deadline ended, by the adapter's id.
    pub fn losses(&self) -> impl Iterator<Item = (&str, u64)> {
        self.adapters.iter().map(|given| (given.adapter.id.as_str(), given.losses.load(Relaxed)))
    }

    /// The adapters that do not do what they should, by their ids, and why.
    pub fn failing(&self) -> impl Iterator<Item = (&str, String)> {
        let why = |given: &Given| lock(&given.health).why().map(str::to_owned);
        self.adapters.iter().filter_map(move |given| Some((given.adapter.id.as_str(), why(given)?)))
    }

    /// Test each adapter again and again, `every` so often, and sooner where devices are lost. Never ends.
    pub async fn watch(&self, every: Duration) {
        let since = Instant::now();
        if self.is_empty() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(LOOK.min(every)).await;
            for given in &self.adapters {
                let losses = given.losses.load(Relaxed);
                if !lock(&given.health).is_due(since.elapsed(), losses, every) {
                    continue;
                }
                let result = given.test().await;
                let name = &given.adapter.name;
                match lock(&given.health).tested(result, since.elapsed(), losses) {
                    Some(Turned::Failing(why)) => tracing::warn!(adapter = name, why, "a GPU fails its self-test"),
                    Some(Turned::Well) => tracing::info!(adapter = name, "a GPU passes its self-test again"),
                    None => {}
                }
            }
        }
    }

    /// What one replica has: where it does not matter of which, of one that does not fail. `None` where there is no such
    /// adapter.
    pub fn workspace(self: &Arc<Self>, quota: Quota) -> Option<Arc<Workspace>> {
        let is_meant = |given: &&Given| quota.adapter.as_ref().is_none_or(|id| given.adapter.id == *id);
        let cost = |given: &&Given| (lock(&given.health).why().is_some(), given.workspaces.load(Relaxed));
        let given = self.adapters.iter().filter(is_meant).min_by_key(cost)?;
        Some(Workspace::new(self.clone(), given, quota))
    }
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.adapters().map(|adapter| &adapter.name)).finish()
    }
}

impl Given {
    /// Whether it computes what it is told, by a device of its own, which it opens anew.
    async fn test(&self) -> Result<(), String> {
        if self.tests.swap(true, Relaxed) {
            return Err("a self-test does not end".into());
        }
        let (adapter, tests) = (self.adapter.clone(), self.tests.clone());
        let (sender, tested) = tokio::sync::oneshot::channel();
        let test = move || {
            let test = || selftest::check(&open(&adapter)?.adapter().ok_or("the adapter is closed")?);
            let result = std::panic::catch_unwind(test);
            tests.store(false, Relaxed);
            let _ = sender.send(result.unwrap_or_else(|panic| Err(crate::device::thread::text(&*panic))));
        };
        let thread = thread::Builder::new().name("gpu-test".into()).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(test) {
            self.tests.store(false, Relaxed);
            return Err(format!("no thread for the self-test: {error}"));
        }
        match tokio::time::timeout(TEST_MAX, tested).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the self-test failed".into()),
            Err(_) => Err(format!("the self-test did not end within {TEST_MAX:?}")),
        }
    }
}

type Looked = (Vec<(Adapter, Health)>, Vec<String>);

/// Those that are taken, and the names of all.
fn look(selector: &Selector) -> Result<Looked, String> {
    let instance = instance();
    let (mut taken, mut there) = (Vec::new(), Vec::new());
    for (adapter, mut described) in adapters(&instance)? {
        there.push(described.name.clone());
        if !selector.takes(&described) {
            continue;
        }
        match selftest::run(&adapter) {
            Ok(findings) => {
                described.findings = Some(findings);
                taken.push((described, Health::default()));
            }
            Err(error) => {
                tracing::warn!(adapter = described.name, error, "a GPU fails its self-test");
                taken.push((described, Health::failing(error)));
            }
        }
    }
    Ok((taken, there))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, class: Class) -> Adapter {
        Adapter {
            id: format!("vulkan-{name}"),
            name: name.into(),
            class,
            backend: "vulkan".into(),
            driver: "driver 1.0".into(),
            vendor: 0x10de,
            device: 1,
            pci: (class == Class::Discrete).then(|| "0000:65:00.0".into()),
            features: BTreeSet::new(),
            limits: BTreeMap::new(),
            memory_bytes: 1,
            subgroup: (32, 32),
            findings: None,
        }
    }

    #[test]
    fn the_processor_is_taken_only_by_who_asks_for_it() {
        let (real, cpu) = (adapter("NVIDIA H200", Class::Discrete), adapter("llvmpipe (LLVM 15)", Class::Cpu));
        for (selector, takes_real, takes_cpu) in [
            ("off", false, false),
            ("auto", true, false),
            ("cpu", false, true),
            ("h200", true, false),
            ("llvmpipe", false, true),
            ("0000:65:00.0", true, false),
            ("driver 1", true, true),
        ] {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.to_string(), selector);
            assert_eq!((parsed.takes(&real), parsed.takes(&cpu)), (takes_real, takes_cpu), "{selector}");
        }
        assert!("".parse::<Selector>().is_err());
    }

    #[tokio::test]
    async fn workspaces_are_spread() {
        let well = |name: &str| (adapter(name, Class::Discrete), Health::default());
        let gpus = Gpus::of(vec![well("a"), well("b")]);
        let names = |of: &[Arc<Workspace>]| of.iter().map(|one| one.adapter().name.clone()).collect::<Vec<_>>();
        let mut all: Vec<_> = (0..4).filter_map(|_| gpus.workspace(Quota::default())).collect();
        assert_eq!(names(&all), ["a", "b", "a", "b"]);
        all.remove(1);
        all.push(gpus.workspace(Quota::default()).unwrap());
        assert_eq!(names(&all), ["a", "a", "b", "b"]);
        let one = |id: &str| gpus.workspace(Quota { adapter: Some(id.into()), ..Quota::default() });
        assert_eq!(one("vulkan-b").unwrap().adapter().name, "b");
        assert!(one("vulkan-c").is_none());
        assert!(Gpus::none().workspace(Quota::default()).is_none());
        // One that fails is for those who hold something of it already.
        let failing = (adapter("c", Class::Discrete), Health::failing("it adds wrongly".into()));
        let gpus = Gpus::of(vec![failing, well("d")]);
        let all: Vec<_> = (0..3).filter_map(|_| gpus.workspace(Quota::default())).collect();
        assert_eq!(names(&all), ["d", "d", "d"]);
        assert!(gpus.workspace(Quota { adapter: Some("vulkan-c".into()), ..Quota::default() }).is_some());
        assert_eq!(gpus.failing().collect::<Vec<_>>(), [("vulkan-c", "it adds wrongly".to_owned())]);
    }
}
