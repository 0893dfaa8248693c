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
    use std::collections::BTreeMap;
    let losses: BTreeMap<&str, u64> = gpus.losses().collect();
    let failing: BTreeMap<&str, String> = gpus.failing().collect();
    let offer = |adapter: &lattice_runtime::GpuAdapter| {
        let id = adapter.id.as_str();
        of(adapter, losses.get(id).copied().unwrap_or(0), failing.get(id).cloned())
    };
    gpus.adapters().filter_map(offer).collect()
}

/// Replicas that may share one.
#[cfg(feature = "webgpu")]
const SLOTS: u32 = 16;

#[cfg(feature = "webgpu")]
fn of(adapter: &lattice_runtime::GpuAdapter, losses: u64, failing: Option<String>) -> Option<Offer> {
    use lattice::gpu::{GpuClass, GpuSpeed, OfferMemory};
    use lattice_runtime::GpuClass as Class;
    let findings = adapter.findings;
    let loop_cap = findings.and_then(|findings| findings.loop_cap);
    // What is measured is not 0, which would say that it was not measured.
    let figure = |value: f64| (value.round() as u32).max(1);
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
        quirks: loop_cap.map(|cap| format!("loop-cap-{cap}")).into_iter().collect(),
        speed: findings.map_or_else(GpuSpeed::default, |findings| GpuSpeed {
            gemm_gflops: figure(findings.gflops),
            copy_mbps: figure(findings.copied_per_second / 1e6),
            dispatch_us: figure(findings.dispatch.as_secs_f64() * 1e6),
        }),
        failing,
        losses,
    })
}
