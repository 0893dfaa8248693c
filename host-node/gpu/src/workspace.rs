//! What one replica has of a GPU: an instance of wgpu of its own, as drivers keep apart only those, and its devices within
//! its quota.

use crate::{
    account::{Account, GpuStats, Quota},
    device::{Lane, Shared, thread},
    inventory::{Adapter, Class, Given, Gpus, Opened, now, open},
};
use std::{
    fmt,
    panic::catch_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::Builder,
    time::Duration,
};
use tokio::sync::{OnceCell, oneshot};

/// How long a driver may take to open an adapter.
const OPENING_MAX: Duration = Duration::from_secs(30);

pub struct Workspace {
    gpus: Arc<Gpus>,
    adapter: Adapter,
    account: Arc<Account>,
    opened: OnceCell<Arc<Opened>>,
    /// Of this adapter.
    workspaces: Arc<AtomicUsize>,
}

impl Workspace {
    pub(crate) fn new(gpus: Arc<Gpus>, given: &Given, quota: Quota) -> Arc<Self> {
        given.workspaces.fetch_add(1, Relaxed);
        let (adapter, workspaces) = (given.adapter.clone(), given.workspaces.clone());
        let account = Account::new(quota, &given.turns, given.losses.clone());
        Arc::new(Self { gpus, adapter, account, opened: OnceCell::new(), workspaces })
    }

    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub fn stats(&self) -> GpuStats {
        self.account.stats()
    }

    pub(crate) fn class(&self) -> Class {
        self.adapter.class
    }

    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The adapter, opened by the first one who asks. A failure is not kept: the next one tries again.
    pub(crate) async fn opened(&self) -> Result<Arc<Opened>, String> {
        let opening = async || {
            let (sender, opened) = oneshot::channel();
            let adapter = self.adapter.clone();
            let on_thread = move || {
                let opened = catch_unwind(|| open(&adapter)).unwrap_or_else(|panic| Err(thread::text(&*panic)));
                let _ = sender.send(opened.map(Arc::new));
            };
            let spawned = Builder::new().name("gpu-open".into()).spawn(on_thread);
            spawned.map_err(|error| format!("no thread to open the adapter: {error}"))?;
            match tokio::time::timeout(OPENING_MAX, opened).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(_)) => Err("the driver failed to open the adapter".to_owned()),
                Err(_) => Err(format!("the driver did not open the adapter within {OPENING_MAX:?}")),
            }
        };
        let opened = self.opened.get_or_try_init(opening).await;
        opened.cloned().inspect_err(|error| tracing::warn!(adapter = self.adapter.name, error, "no GPU for a guest"))
    }

    /// A device on a thread of its own, watched.
    pub(crate) async fn device(
        &self,
        shared: Arc<Shared>,
        opened: Arc<Opened>,
        required_features: wgpu::Features,
        required_limits: wgpu::Limits,
        label: String,
    ) -> Result<Lane, String> {
        let charge = self.account.device()?;
        self.gpus.watchdog.watch(&shared).map_err(|error| format!("no thread to watch the device: {error}"))?;
        let open = move || {
            let adapter = opened.adapter().ok_or("the adapter is closed")?;
            let descriptor = wgpu::DeviceDescriptor {
                label: Some(label.as_str()),
                required_features,
                required_limits,
                experimental_features: wgpu::ExperimentalFeatures::disabled(),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                trace: wgpu::Trace::Off,
            };
            now(adapter.request_device(&descriptor))?.map_err(|error| error.to_string())
        };
        thread::open(shared, charge, open).await
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.workspaces.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workspace({})", self.adapter.name)
    }
}
