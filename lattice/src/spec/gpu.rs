//! `gpu`: what a workload asks of a GPU, and how that is compared with what a node offers ([`Offer`]).
//!
//! A claim is held against one offer at a time: first by what does not change while the node runs ([`GpuClaim::lacks`]),
//! then by what other replicas leave of it ([`GpuClaim::short_of`]). Both answer with a [`GpuMiss`], which names the
//! predicate and has the figures.

use super::{SpecError, WorkloadSpec};
use crate::{
    gpu::{FEATURES, GpuClass, GpuGrant, GpuUse, LIMITS, Offer, limit_name},
    limits::{GPU_ALTERNATIVES_MAX, GPU_MEMORY_BYTES_MAX, GPU_MEMORY_BYTES_MIN, GPU_SLOTS_MAX},
    units::Bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What each replica asks of a GPU of its node. A replica runs only where all of it is there, and no node gives away more than
/// it has: what is claimed is also the most that the replica can use. Replicas of a workload with a claim stop before
/// they start with another template, whatever `rollout.max-surge` says: a GPU need not have room for both.
///
/// A workload with a component that imports `wasi:webgpu` and without this field gets `{memory: 256MiB, cpu: fallback}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct GpuSpec {
    /// Bytes of its memory: what the replica allocates beyond them fails with WebGPU's out-of-memory error. `1MiB` to
    /// `1024GiB`, default `256MiB`.
    #[serde(skip_serializing_if = "is_memory_default")]
    pub memory: Bytes,
    /// Its slots that a replica takes, of those by which the node shares it. 1 to 64, default 1.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 64))]
    pub slots: u32,
    /// All of its slots: no other replica is on it. Not together with `slots`. Default `false`.
    #[serde(skip_serializing_if = "super::is_default")]
    pub exclusive: bool,
    /// Names of WebGPU for what it must be able to do, such as `shader-f16` and `timestamp-query`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// The least that limits of WebGPU must be, by their names in kebab-case: `{max-buffer-size: 1073741824}`. Of those that
    /// begin with `min-`, the most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// What kind of device it may be: `discrete`, `integrated`, `virtual`, `other`. Default all of these. Processors that compute
    /// what a GPU would are another matter: see `cpu`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub class: BTreeSet<ClaimClass>,
    /// How fast it must be at least, by what the node measured.
    #[serde(skip_serializing_if = "super::is_default")]
    pub min_speed: MinSpeed,
    /// Whether a processor that computes what a GPU would is good enough where no GPU is left: `fallback`, or `never`. Of
    /// the claim all but `class` must hold for it. Default `never`.
    #[serde(skip_serializing_if = "super::is_default")]
    pub cpu: CpuUse,
    /// Claims in the order of preference, in place of the fields above but `cpu`: the first one that some GPU of a node fulfils
    /// counts, and a node that fulfils an earlier one is better. At most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub any: Vec<GpuClaim>,
}

/// One of several claims. Its fields are those of `gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct GpuClaim {
    /// Bytes of its memory. Default `256MiB`.
    #[serde(skip_serializing_if = "is_memory_default")]
    pub memory: Bytes,
    /// Its slots. Default 1.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 64))]
    pub slots: u32,
    /// All of its slots. Default `false`.
    #[serde(skip_serializing_if = "super::is_default")]
    pub exclusive: bool,
    /// What it must be able to do.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// The least that limits must be.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// What kind of device it may be.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub class: BTreeSet<ClaimClass>,
    /// How fast it must be at least.
    #[serde(skip_serializing_if = "super::is_default")]
    pub min_speed: MinSpeed,
}

/// Figures that the node measured when it started. What it did not measure fulfils none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MinSpeed {
    /// Of a product of matrices of 32-bit floats: 10⁹ operations per second. Default 0.
    #[serde(skip_serializing_if = "super::is_default")]
    pub gemm_gflops: u32,
    /// Of copies within its memory: 10⁶ bytes per second. Default 0.
    #[serde(skip_serializing_if = "super::is_default")]
    pub copy_mbps: u32,
}

/// A kind of GPU that may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimClass {
    /// A card with memory of its own.
    Discrete,
    /// Shares the memory of its machine.
    Integrated,
    /// Given to a virtual machine.
    Virtual,
    /// One whose driver does not say what it is.
    Other,
}

impl ClaimClass {
    fn class(self) -> GpuClass {
        match self {
            ClaimClass::Discrete => GpuClass::Discrete,
            ClaimClass::Integrated => GpuClass::Integrated,
            ClaimClass::Virtual => GpuClass::Virtual,
            ClaimClass::Other => GpuClass::Other,
        }
    }
}

/// Whether a processor may stand in for a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuUse {
    /// The replica waits for a GPU.
    #[default]
    Never,
    /// Where no GPU is left, a node that offers one computed by its processor takes the replica.
    Fallback,
}

const MEMORY_DEFAULT: Bytes = Bytes::mib(256);

fn is_memory_default(memory: &Bytes) -> bool {
    *memory == MEMORY_DEFAULT
}

fn is_one(slots: &u32) -> bool {
    *slots == 1
}

impl Default for GpuClaim {
    fn default() -> Self {
        Self {
            memory: MEMORY_DEFAULT,
            slots: 1,
            exclusive: false,
            features: BTreeSet::new(),
            limits: BTreeMap::new(),
            class: BTreeSet::new(),
            min_speed: MinSpeed::default(),
        }
    }
}

impl Default for GpuSpec {
    fn default() -> Self {
        let GpuClaim { memory, slots, exclusive, features, limits, class, min_speed } = GpuClaim::default();
        let (cpu, any) = (CpuUse::default(), Vec::new());
        Self { memory, slots, exclusive, features, limits, class, min_speed, cpu, any }
    }
}

/// What keeps a claim from an offer. Its text begins with the name of the predicate: `gpu-memory: free 1.2 GiB < 2 GiB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuMiss {
    /// It is a processor and none is wanted, or the other way round.
    Cpu,
    Class {
        class: GpuClass,
        wanted: BTreeSet<ClaimClass>,
    },
    Feature {
        name: String,
    },
    Limit {
        name: String,
        has: Option<u64>,
        wanted: u64,
    },
    Speed {
        what: &'static str,
        has: u32,
        wanted: u32,
    },
    Failing {
        why: String,
    },
    Memory {
        free: u64,
        total: u64,
        wanted: u64,
    },
    Slots {
        free: u32,
        total: u32,
        wanted: u32,
    },
}

impl GpuMiss {
    /// Its place in the order in which predicates are tried: the later, the closer it came.
    pub fn stage(&self) -> u8 {
        match self {
            GpuMiss::Cpu | GpuMiss::Class { .. } => 0,
            GpuMiss::Feature { .. } => 1,
            GpuMiss::Limit { .. } => 2,
            GpuMiss::Speed { .. } => 3,
            GpuMiss::Failing { .. } => 4,
            GpuMiss::Memory { .. } => 5,
            GpuMiss::Slots { .. } => 6,
        }
    }

    /// The name of the predicate, as `docs/gpu.md` explains it.
    pub fn rule(&self) -> &'static str {
        match self {
            GpuMiss::Cpu | GpuMiss::Class { .. } => "gpu-class",
            GpuMiss::Feature { .. } => "gpu-features",
            GpuMiss::Limit { .. } => "gpu-limits",
            GpuMiss::Speed { .. } => "gpu-speed",
            GpuMiss::Failing { .. } => "gpu-health",
            GpuMiss::Memory { .. } => "gpu-memory",
            GpuMiss::Slots { .. } => "gpu-slots",
        }
    }
}

impl fmt::Display for GpuMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule())?;
        match self {
            GpuMiss::Cpu => f.write_str("it is a cpu, and the claim has no `cpu: fallback`"),
            GpuMiss::Class { class, wanted } => {
                let wanted: Vec<&str> = wanted.iter().map(|class| class.class().as_str()).collect();
                write!(f, "{class} is none of {}", wanted.join(", "))
            }
            GpuMiss::Feature { name } => write!(f, "it lacks {name}"),
            GpuMiss::Limit { name, has: None, .. } => write!(f, "it does not tell its {name}"),
            GpuMiss::Limit { name, has: Some(has), wanted } => {
                write!(f, "{name} {has} {} {wanted}", if is_less_better(name) { '>' } else { '<' })
            }
            GpuMiss::Speed { what, has: 0, .. } => write!(f, "{what} was not measured"),
            GpuMiss::Speed { what, has, wanted } => write!(f, "{what} {has} < {wanted}"),
            GpuMiss::Failing { why } => f.write_str(why),
            GpuMiss::Memory { free, total, wanted } => {
                let (free, wanted, total) = (Size(*free), Size(*wanted), Size(*total));
                write!(f, "free {free} < {wanted} (of {total})")
            }
            GpuMiss::Slots { free, total, wanted } => write!(f, "free {free} < {wanted} (of {total})"),
        }
    }
}

/// Bytes in the largest unit of which there is one, rounded down to a tenth: what does not fit never looks as if it did.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let Some((unit, shift)) = units.into_iter().find(|(_, shift)| self.0 >> shift > 0) else {
            return write!(f, "{} B", self.0);
        };
        let (whole, rest) = (self.0 >> shift, self.0 & ((1 << shift) - 1));
        match (rest * 10) >> shift {
            0 => write!(f, "{whole} {unit}"),
            tenths => write!(f, "{whole}.{tenths} {unit}"),
        }
    }
}

fn is_less_better(limit: &str) -> bool {
    limit.starts_with("min-")
}

impl GpuSpec {
    /// What a workload has that uses WebGPU and does not say what of it: little, and of anything.
    pub fn of_an_import() -> Self {
        Self { cpu: CpuUse::Fallback, ..Self::default() }
    }

    /// The claims, best first.
    pub fn claims(&self) -> Vec<GpuClaim> {
        if !self.any.is_empty() {
            return self.any.clone();
        }
        let Self { memory, slots, exclusive, features, limits, class, min_speed, cpu: _, any: _ } = self.clone();
        vec![GpuClaim { memory, slots, exclusive, features, limits, class, min_speed }]
    }

    /// What may be compared with an offer, best first: each claim for GPUs, then each for processors where these are wanted.
    pub fn attempts(&self) -> Vec<(GpuClaim, bool)> {
        let claims = self.claims();
        let on_cpu = claims.iter().filter(|_| self.cpu == CpuUse::Fallback).map(|claim| (claim.clone(), true));
        let on_cpu: Vec<(GpuClaim, bool)> = on_cpu.collect();
        claims.into_iter().map(|claim| (claim, false)).chain(on_cpu).collect()
    }

    /// Whether what a replica holds is what one of the claims comes to on that offer.
    pub fn is_granted(&self, grant: &GpuGrant, offer: &Offer) -> bool {
        self.attempts().iter().any(|(claim, on_cpu)| {
            claim.lacks(offer, *on_cpu).is_none() && claim.on(offer) == *grant && grant.offer == offer.id
        })
    }
}

impl GpuClaim {
    /// What a replica with this claim holds of an offer.
    pub fn on(&self, offer: &Offer) -> GpuGrant {
        let slots = if self.exclusive { offer.slots } else { self.slots };
        GpuGrant { offer: offer.id.clone(), memory: self.memory.0, slots }
    }

    /// Why an offer can't fulfil it, whoever else is on it. `on_cpu` asks for a processor, and a GPU otherwise.
    pub fn lacks(&self, offer: &Offer, on_cpu: bool) -> Option<GpuMiss> {
        let Self { memory, slots, exclusive, features, limits, class, min_speed } = self;
        let is = offer.class;
        if (is == GpuClass::Cpu) != on_cpu {
            return Some(GpuMiss::Cpu);
        }
        if !on_cpu && !class.is_empty() && !class.iter().any(|wanted| wanted.class() == is) {
            return Some(GpuMiss::Class { class: is, wanted: class.clone() });
        }
        if let Some(name) = features.iter().find(|name| !offer.features.contains(*name)) {
            return Some(GpuMiss::Feature { name: name.clone() });
        }
        for (name, wanted) in limits {
            let has = offer.limits.get(name).copied();
            if !has.is_some_and(|has| if is_less_better(name) { has <= *wanted } else { has >= *wanted }) {
                return Some(GpuMiss::Limit { name: name.clone(), has, wanted: *wanted });
            }
        }
        let (has, wanted) = (offer.speed, min_speed);
        let speeds =
            [("gemm-gflops", has.gemm_gflops, wanted.gemm_gflops), ("copy-mbps", has.copy_mbps, wanted.copy_mbps)];
        if let Some((what, has, wanted)) = speeds.into_iter().find(|(_, has, wanted)| has < wanted) {
            return Some(GpuMiss::Speed { what, has, wanted });
        }
        if memory.0 > offer.memory.total {
            let total = offer.memory.total;
            return Some(GpuMiss::Memory { free: total, total, wanted: memory.0 });
        }
        let wanted = if *exclusive { 1 } else { *slots };
        (wanted > offer.slots).then_some(GpuMiss::Slots { free: offer.slots, total: offer.slots, wanted })
    }

    /// Why an offer can't take it beside what is taken, though it could if it were free and well.
    pub fn short_of(&self, offer: &Offer, taken: GpuUse) -> Option<GpuMiss> {
        if let Some(why) = &offer.failing {
            return Some(GpuMiss::Failing { why: why.clone() });
        }
        let grant = self.on(offer);
        let free = GpuUse {
            memory: offer.memory.total.saturating_sub(taken.memory),
            slots: offer.slots.saturating_sub(taken.slots),
        };
        if grant.memory > free.memory {
            let (total, wanted) = (offer.memory.total, grant.memory);
            return Some(GpuMiss::Memory { free: free.memory, total, wanted });
        }
        let (total, wanted) = (offer.slots, grant.slots);
        (wanted > free.slots).then_some(GpuMiss::Slots { free: free.slots, total, wanted })
    }

    fn check(&self, field: &str) -> Result<(), SpecError> {
        let Self { memory, slots, exclusive, features, limits, class: _, min_speed: _ } = self;
        let at = |name: &str| format!("{field}.{name}");
        if !(GPU_MEMORY_BYTES_MIN..=GPU_MEMORY_BYTES_MAX).contains(&memory.0) {
            let (least, most) = (Bytes(GPU_MEMORY_BYTES_MIN), Bytes(GPU_MEMORY_BYTES_MAX));
            return Err(SpecError::new(at("memory"), format!("{memory} is not from {least} to {most}")));
        }
        if !(1..=GPU_SLOTS_MAX).contains(slots) {
            return Err(SpecError::new(at("slots"), format!("{slots} is not between 1 and {GPU_SLOTS_MAX}")));
        }
        if *exclusive && *slots != 1 {
            return Err(SpecError::new(at("slots"), "has no meaning together with exclusive, which takes all of them")
                .hint("leave out slots, or exclusive"));
        }
        if let Some(name) = features.iter().find(|name| !FEATURES.contains(&name.as_str())) {
            return Err(SpecError::new(at("features"), format!("{name:?} is no feature of WebGPU"))
                .hint(format!("one of {}", FEATURES.join(", "))));
        }
        if let Some(name) = limits.keys().find(|name| !LIMITS.contains(&name.as_str())) {
            let error = SpecError::new(at("limits"), format!("{name:?} is no limit of WebGPU"));
            return Err(error.hint(match limit_name(name) {
                Some(known) => format!("write {known}"),
                None => format!("one of {}", LIMITS.join(", ")),
            }));
        }
        Ok(())
    }
}

/// What types cannot say.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let Some(gpu) = &spec.gpu else { return Ok(()) };
    if gpu.any.is_empty() {
        return gpu.claims().iter().try_for_each(|claim| claim.check("gpu"));
    }
    if gpu.any.len() > GPU_ALTERNATIVES_MAX {
        return Err(SpecError::new("gpu.any", format!("at most {GPU_ALTERNATIVES_MAX} claims are allowed")));
    }
    let own = GpuSpec { any: Vec::new(), cpu: CpuUse::default(), ..gpu.clone() };
    if own != GpuSpec::default() {
        return Err(SpecError::new("gpu.any", "can't be had together with other fields of gpu but `cpu`")
            .hint("write them into each of the claims: gpu: {any: [{memory: 8GiB}, {memory: 2GiB}], cpu: fallback}"));
    }
    (gpu.any.iter().enumerate()).try_for_each(|(i, claim)| claim.check(&format!("gpu.any[{i}]")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(gpu: &str) -> Result<GpuSpec, SpecError> {
        let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\ngpu: {gpu}\n");
        let spec = crate::spec::parse(text.as_bytes())?;
        assert_eq!(crate::spec::parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec, "{gpu}");
        Ok(spec.gpu.unwrap())
    }

    fn offer(more: serde_json::Value) -> Offer {
        let mut offer = json!({
            "id": "vk-0", "name": "A GPU", "class": "discrete", "backend": "vulkan",
            "memory": {"total": 4_u64 << 30}, "slots": 4, "features": ["shader-f16"],
            "limits": {"max-buffer-size": 1 << 28, "min-uniform-buffer-offset-alignment": 256},
            "speed": {"gemm-gflops": 1000}
        });
        offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(offer).unwrap()
    }

    #[test]
    fn claims_are_read_strictly() {
        assert_eq!(read("{}").unwrap(), GpuSpec::default());
        let full = "{memory: 2GiB, slots: 2, features: [shader-f16], limits: {max-buffer-size: 1024}, \
                    class: [discrete, integrated], min-speed: {gemm-gflops: 100}, cpu: fallback}";
        let full = read(full).unwrap();
        assert_eq!((full.memory, full.slots, full.cpu), (Bytes(2 << 30), 2, CpuUse::Fallback));
        let any = read("{any: [{memory: 8GiB, exclusive: true}, {}], cpu: fallback}").unwrap();
        let attempts: Vec<(u64, bool)> =
            any.attempts().iter().map(|(claim, cpu)| (claim.memory.0 >> 20, *cpu)).collect();
        assert_eq!(attempts, [(8192, false), (256, false), (8192, true), (256, true)]);
        for (bad, field) in [
            ("{memory: 1KiB}", "gpu.memory"),
            ("{memory: 2000GiB}", "gpu.memory"),
            ("{memory: 2GB}", "gpu.memory"),
            ("{slots: 0}", "gpu.slots"),
            ("{slots: 2, exclusive: true}", "gpu.slots"),
            ("{features: [f16]}", "gpu.features"),
            ("{limits: {maxBufferSize: 5}}", "gpu.limits"),
            ("{limits: {max-fun: 5}}", "gpu.limits"),
            ("{class: [cpu]}", "gpu.class[0]"),
            ("{class: [fast]}", "gpu.class[0]"),
            ("{cpu: always}", "gpu.cpu"),
            ("{min-speed: {tflops: 5}}", "gpu.min-speed.tflops"),
            ("{priority: 5}", "gpu.priority"),
            ("{memory: 1GiB, any: [{}]}", "gpu.any"),
            ("{any: [{}, {slots: 65}]}", "gpu.any[1].slots"),
            ("{any: [{cpu: fallback}]}", "gpu.any[0].cpu"),
            ("{any: [{}, {}, {}, {}, {}, {}, {}, {}, {}]}", "gpu.any"),
        ] {
            let error = read(bad).expect_err(bad);
            assert_eq!(error.field, field, "{error:?} for {bad}");
            assert!(error.hint.is_some(), "{bad}");
        }
        let hint = read("{limits: {maxBufferSize: 5}}").unwrap_err().hint.unwrap();
        assert!(hint.contains("max-buffer-size"), "{hint}");
    }

    fn check_lacks(claim: &str, more: serde_json::Value, expect: &str) {
        let claims = read(claim).unwrap().claims();
        let miss = claims[0].lacks(&offer(more), false);
        assert_eq!(miss.map(|miss| miss.to_string()).unwrap_or_default(), expect, "{claim}");
    }

    #[test]
    fn what_an_offer_lacks_is_named_with_its_figures() {
        check_lacks("{}", json!({}), "");
        check_lacks("{class: [discrete]}", json!({"class": "virtual"}), "gpu-class: virtual is none of discrete");
        check_lacks("{}", json!({"class": "cpu"}), "gpu-class: it is a cpu, and the claim has no `cpu: fallback`");
        check_lacks("{}", json!({"class": "other"}), "");
        check_lacks("{features: [shader-f16]}", json!({}), "");
        check_lacks("{features: [subgroups]}", json!({}), "gpu-features: it lacks subgroups");
        let limit = "{limits: {max-buffer-size: 300000000}}";
        check_lacks(limit, json!({}), "gpu-limits: max-buffer-size 268435456 < 300000000");
        check_lacks(limit, json!({"limits": {}}), "gpu-limits: it does not tell its max-buffer-size");
        let alignment = "{limits: {min-uniform-buffer-offset-alignment: 128}}";
        check_lacks(alignment, json!({}), "gpu-limits: min-uniform-buffer-offset-alignment 256 > 128");
        check_lacks("{limits: {min-uniform-buffer-offset-alignment: 256}}", json!({}), "");
        check_lacks("{min-speed: {gemm-gflops: 1001}}", json!({}), "gpu-speed: gemm-gflops 1000 < 1001");
        check_lacks("{min-speed: {copy-mbps: 1}}", json!({}), "gpu-speed: copy-mbps was not measured");
        check_lacks("{memory: 5GiB}", json!({}), "gpu-memory: free 4 GiB < 5 GiB (of 4 GiB)");
        check_lacks("{slots: 5}", json!({}), "gpu-slots: free 4 < 5 (of 4)");
        check_lacks("{exclusive: true}", json!({"slots": 0}), "gpu-slots: free 0 < 1 (of 0)");
    }

    #[test]
    fn what_is_taken_counts() {
        let short = |claim: &str, memory_mib: u64, slots: u32, more: serde_json::Value| {
            let taken = GpuUse { memory: memory_mib << 20, slots };
            let miss = read(claim).unwrap().claims()[0].short_of(&offer(more), taken);
            miss.map(|miss| miss.to_string()).unwrap_or_default()
        };
        assert_eq!(short("{memory: 2GiB}", 2048, 3, json!({})), "");
        assert_eq!(
            short("{memory: 2GiB}", 2868, 1, json!({})),
            "gpu-memory: free 1.1 GiB < 2 GiB (of 4 GiB)",
            "1228 MiB are not 1.2 GiB"
        );
        assert_eq!(short("{}", 0, 4, json!({})), "gpu-slots: free 0 < 1 (of 4)");
        assert_eq!(short("{exclusive: true}", 0, 0, json!({})), "");
        assert_eq!(short("{exclusive: true}", 0, 1, json!({})), "gpu-slots: free 3 < 4 (of 4)");
        assert_eq!(short("{}", 0, 0, json!({"failing": "3 devices were lost"})), "gpu-health: 3 devices were lost");
    }

    #[test]
    fn a_grant_is_what_a_claim_comes_to() {
        let spec = read("{any: [{memory: 1GiB, exclusive: true}, {memory: 512MiB}], cpu: fallback}").unwrap();
        let offer = offer(json!({}));
        let grant = |memory_mib: u64, slots| GpuGrant { offer: offer.id.clone(), memory: memory_mib << 20, slots };
        assert!(spec.is_granted(&grant(1024, 4), &offer));
        assert!(spec.is_granted(&grant(512, 1), &offer));
        assert!(!spec.is_granted(&grant(1024, 1), &offer));
        let cpu = Offer { class: GpuClass::Cpu, ..offer.clone() };
        assert!(spec.is_granted(&grant(512, 1), &cpu));
        assert!(!GpuSpec { cpu: CpuUse::Never, ..spec.clone() }.is_granted(&grant(512, 1), &cpu));
        assert!(!spec.is_granted(&grant(512, 1), &Offer { id: "vk-1".parse().unwrap(), ..offer }));
    }
}
