//! What this node says of its GPUs, and what of one a replica gets.

use lattice::gpu::{GpuGrant, Offer};
use lattice_runtime::{GpuQuota, Gpus};

/// What a replica may have by what it holds of an offer.
#[cfg(feature = "webgpu")]
pub(crate) fn quota(grant: Option<&GpuGrant>) -> GpuQuota {
    let default = GpuQuota::default();
    match grant {
        None => default,
        Some(GpuGrant { offer, memory, slots }) => {
            GpuQuota { adapter: Some(offer.to_string()), weight: *slots, memory_bytes: *memory, ..default }
        }
    }
}

#[cfg(not(feature = "webgpu"))]
pub(crate) fn quota(_: Option<&GpuGrant>) -> GpuQuota {
    GpuQuota::default()
}

#[cfg(not(feature = "webgpu"))]
pub(crate) fn offers(_: &Gpus) -> Vec<Offer> {
    Vec::new()
}

/// One for each adapter that guests are given.
#[cfg(feature = "webgpu")]
pub(crate) fn offers(gpus: &Gpus) -> Vec<Offer> {
    let losses: std::collections::BTreeMap<&str, u64> = gpus.losses().collect();
    gpus.adapters().filter_map(|adapter| of(adapter, losses.get(adapter.id.as_str()).copied().unwrap_or(0))).collect()
}

/// Replicas that may share one.
#[cfg(feature = "webgpu")]
const SLOTS: u32 = 16;

#[cfg(feature = "webgpu")]
fn of(adapter: &lattice_runtime::GpuAdapter, losses: u64) -> Option<Offer> {
    use lattice::gpu::{GpuClass, GpuSpeed, OfferMemory};
    use lattice_runtime::GpuClass as Class;
    Some(Offer {
        id: adapter.id.parse().ok()?,
        name: adapter.name.clone(),
        class: match adapter.class {
            Class::Discrete => GpuClass::Discrete,
            Class::Integrated => GpuClass::Integrated,
            Class::Virtual => GpuClass::Virtual,
            Class::Cpu => GpuClass::Cpu,
            Class::Other => GpuClass::Other,
        },
        backend: adapter.backend.clone(),
        driver: adapter.driver.clone(),
        pci: adapter.pci.clone(),
        memory: OfferMemory { total: adapter.memory_bytes, free: None },
        slots: SLOTS,
        features: adapter.features.clone(),
        limits: adapter.limits.clone(),
        quirks: adapter.loop_cap.map(|cap| format!("loop-cap-{cap}")).into_iter().collect(),
        // What is measured is not 0, which would say that it was not measured.
        speed: GpuSpeed { gemm_gflops: (adapter.gflops.round() as u32).max(1), ..GpuSpeed::default() },
        failing: None,
        losses,
    })
}
