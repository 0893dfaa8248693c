//! `wasi:webgpu`, where this is built with it (feature `webgpu`). Everything of it that the rest of the crate knows is here.

#[cfg(feature = "webgpu")]
mod with {
    use crate::host::Host;
    use lattice_gpu::GpuView;
    pub use lattice_gpu::Quota as GpuQuota;
    pub use lattice_gpu::{
        Adapter as GpuAdapter, Class as GpuClass, GpuStats, Gpus, GpusError, Selector as GpuSelector,
    };
    pub(crate) use lattice_gpu::{GpuCtx, Workspace};
    use std::sync::Arc;
    use wasmtime::component::Linker;

    pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
        lattice_gpu::add_to_linker(linker, |host: &mut Host| {
            let (table, ctx) = host.table_and_gpu();
            GpuView { ctx, table }
        })
    }

    /// What the instances of one unit have of the node's GPUs.
    pub(crate) fn workspace(gpus: &Arc<Gpus>, quota: &GpuQuota) -> Option<Arc<Workspace>> {
        gpus.workspace(quota.clone())
    }
}

#[cfg(not(feature = "webgpu"))]
mod with {
    use crate::host::Host;
    use std::{fmt, str::FromStr, sync::Arc, time::Duration};
    use wasmtime::component::Linker;

    /// None: this is built without.
    #[derive(Debug)]
    pub struct Gpus;

    /// Nothing can be selected.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct GpuSelector;

    /// As where there are GPUs.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct GpuStats {
        pub memory_bytes: u64,
        pub memory_peak_bytes: u64,
        pub devices: u64,
        pub gpu_time: Duration,
        pub submits: u64,
        pub bytes_up: u64,
        pub bytes_down: u64,
        pub compile_time: Duration,
        pub losses: u64,
        pub refused: u64,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct GpuQuota {}

    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    pub enum GpusError {}

    #[derive(Debug)]
    pub(crate) enum Workspace {}

    impl FromStr for GpuSelector {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, Self::Err> {
            match text {
                "off" | "auto" => Ok(Self),
                _ => Err("this program is built without GPUs: write off".into()),
            }
        }
    }

    impl fmt::Display for GpuSelector {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("auto")
        }
    }

    impl GpuSelector {
        pub fn is_off(&self) -> bool {
            true
        }

        pub fn is_auto(&self) -> bool {
            true
        }
    }

    impl Gpus {
        pub fn none() -> Arc<Self> {
            Arc::new(Self)
        }

        pub async fn detect(_: GpuSelector) -> Result<Arc<Self>, GpusError> {
            Ok(Self::none())
        }

        pub fn is_empty(&self) -> bool {
            true
        }

        pub async fn watch(&self, _: Duration) {
            std::future::pending().await
        }
    }

    impl Workspace {
        pub(crate) fn stats(&self) -> GpuStats {
            match *self {}
        }
    }

    pub(crate) fn add_to_linker(_: &mut Linker<Host>) -> wasmtime::Result<()> {
        Ok(())
    }

    pub(crate) fn workspace(_: &Arc<Gpus>, _: &GpuQuota) -> Option<Arc<Workspace>> {
        None
    }
}

pub use with::*;

/// Whether an import is a use of GPUs.
pub(crate) fn is_gpu(import: &str) -> bool {
    import.starts_with("wasi:webgpu/")
}
