//! What nodes offer of their GPUs, and what replicas hold of it. A node says in its session what it has ([`Offer`]); the
//! claimer of a slot writes into its record what the replica may use ([`GpuGrant`]), so what is taken of an offer follows from
//! the records alone. What a workload asks for is in [`crate::spec::gpu`].
//!
//! Nothing here knows a GPU library: who finds devices and computes on them is the host of a node
//! ([`crate::host::Host::gpus`]).

use crate::{
    id::GpuId,
    limits::{
        GPU_FEATURES_MAX, GPU_LIMITS_MAX, GPU_NAME_BYTES_MAX, GPU_QUIRKS_MAX, GPU_TEXT_BYTES_MAX, GPUS_MAX, clip,
        one_line,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One GPU of a node that passed the node's self-test, as other nodes and people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Offer {
    /// Unique on its node, and the same after a restart: `vk-0000-01-00-0`.
    pub id: GpuId,
    /// As the driver calls it.
    pub name: String,
    pub class: GpuClass,
    /// `vulkan`, `metal`, `dx12`, `gl`.
    pub backend: String,
    /// Name and version of the driver.
    #[serde(default)]
    pub driver: String,
    /// Address on the PCI bus, `0000:01:00.0`, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    pub memory: OfferMemory,
    /// Replicas that may share it, if each takes one slot.
    pub slots: u32,
    /// Names of WebGPU: `shader-f16`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// Limits of WebGPU by their names in kebab-case: `max-buffer-size`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// What was found to be unlike the standard: `loop-cap-65535`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub quirks: BTreeSet<String>,
    #[serde(default)]
    pub speed: GpuSpeed,
    /// Why no new replica comes to it, in a sentence: devices were lost again and again, or a self-test failed. None while it
    /// is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// Devices on it that were lost since the node started.
    #[serde(default)]
    pub losses: u64,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct OfferMemory {
    /// What all replicas on it may claim together.
    pub total: u64,
    /// What the driver said was free when it was last asked, whoever uses the rest; none where it does not say. For people:
    /// what replicas may still claim is `total` without what they hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
}

/// Measured by the node when it starts; 0 is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct GpuSpeed {
    /// Of a product of matrices of 32-bit floats: 10⁹ operations per second.
    pub gemm_gflops: u32,
    /// Of copies within its memory: 10⁶ bytes per second.
    pub copy_mbps: u32,
    /// From the submit of an empty dispatch to its end, in microseconds.
    pub dispatch_us: u32,
}

/// What kind of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GpuClass {
    /// A card with memory of its own.
    Discrete,
    /// Shares the memory of its machine.
    Integrated,
    /// Given to a virtual machine.
    Virtual,
    /// No GPU: the processor computes what one would.
    Cpu,
    /// The driver does not say, or a node of a later version says what this one does not know.
    #[serde(other)]
    Other,
}

impl GpuClass {
    pub fn as_str(self) -> &'static str {
        match self {
            GpuClass::Discrete => "discrete",
            GpuClass::Integrated => "integrated",
            GpuClass::Virtual => "virtual",
            GpuClass::Cpu => "cpu",
            GpuClass::Other => "other",
        }
    }
}

impl fmt::Display for GpuClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a replica may use of one offer of its node. The node enforces it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GpuGrant {
    pub offer: GpuId,
    /// Bytes.
    pub memory: u64,
    /// Of the offer's. All of them where the replica asked to be alone.
    pub slots: u32,
}

/// What replicas hold of one offer together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuUse {
    pub memory: u64,
    pub slots: u32,
}

impl GpuUse {
    pub fn plus(self, grant: &GpuGrant) -> Self {
        Self { memory: self.memory.saturating_add(grant.memory), slots: self.slots.saturating_add(grant.slots) }
    }

    pub fn minus(self, grant: &GpuGrant) -> Self {
        Self { memory: self.memory.saturating_sub(grant.memory), slots: self.slots.saturating_sub(grant.slots) }
    }

    /// Whether an offer has as much.
    pub fn fits(&self, offer: &Offer) -> bool {
        self.memory <= offer.memory.total && self.slots <= offer.slots
    }
}

impl Offer {
    /// Within the bounds, whoever sent it: lists are cut, and texts can't move a terminal's cursor.
    pub fn bounded(self) -> Self {
        let text = |text: String, max: usize| match text.len() <= max && !text.contains(char::is_control) {
            true => text,
            false => one_line(&text, max),
        };
        let named = |name: &String| name.len() <= GPU_NAME_BYTES_MAX && !name.contains(char::is_control);
        Self {
            name: text(self.name, GPU_TEXT_BYTES_MAX),
            backend: text(self.backend, GPU_NAME_BYTES_MAX),
            driver: text(self.driver, GPU_TEXT_BYTES_MAX),
            pci: self.pci.map(|pci| text(pci, GPU_NAME_BYTES_MAX)),
            features: self.features.into_iter().filter(named).take(GPU_FEATURES_MAX).collect(),
            limits: self.limits.into_iter().filter(|(name, _)| named(name)).take(GPU_LIMITS_MAX).collect(),
            quirks: self.quirks.into_iter().filter(named).take(GPU_QUIRKS_MAX).collect(),
            failing: self.failing.map(|why| text(why, GPU_TEXT_BYTES_MAX)),
            ..self
        }
    }

    /// Whether a plan comes to the same with either: what changes all the time, and is for people, does not count.
    pub fn plans_like(&self, other: &Self) -> bool {
        let Self { id, name: _, class, backend: _, driver: _, pci: _, memory, slots, .. } = self;
        (id, class, memory.total, slots) == (&other.id, &other.class, other.memory.total, &other.slots)
            && self.features == other.features
            && self.limits == other.limits
            && self.speed == other.speed
            && self.failing.is_some() == other.failing.is_some()
    }
}

/// What a node says of its GPUs, within the bounds: as many as a node may have, each id once.
pub fn bounded(offers: impl IntoIterator<Item = Offer>) -> Vec<Offer> {
    let mut ids = BTreeSet::new();
    offers.into_iter().filter(|offer| ids.insert(offer.id.clone())).take(GPUS_MAX).map(Offer::bounded).collect()
}

/// Reads [`bounded`] offers.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Offer>, D::Error> {
    Vec::<Offer>::deserialize(deserializer).map(bounded)
}

/// Names that WebGPU has for what a device may be able to do.
pub const FEATURES: [&str; 22] = [
    "bgra8unorm-storage",
    "clip-distances",
    "core-features-and-limits",
    "depth-clip-control",
    "depth32float-stencil8",
    "dual-source-blending",
    "float32-blendable",
    "float32-filterable",
    "indirect-first-instance",
    "primitive-index",
    "rg11b10ufloat-renderable",
    "shader-f16",
    "subgroups",
    "texture-component-swizzle",
    "texture-compression-astc",
    "texture-compression-astc-sliced-3d",
    "texture-compression-bc",
    "texture-compression-bc-sliced-3d",
    "texture-compression-etc2",
    "texture-formats-tier1",
    "texture-formats-tier2",
    "timestamp-query",
];

/// Names that WebGPU has for limits, in kebab-case. Of those that begin with `min-` less is better.
pub const LIMITS: [&str; 32] = [
    "max-bind-groups",
    "max-bind-groups-plus-vertex-buffers",
    "max-bindings-per-bind-group",
    "max-buffer-size",
    "max-color-attachment-bytes-per-sample",
    "max-color-attachments",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
    "max-compute-workgroup-size-y",
    "max-compute-workgroup-size-z",
    "max-compute-workgroup-storage-size",
    "max-compute-workgroups-per-dimension",
    "max-dynamic-storage-buffers-per-pipeline-layout",
    "max-dynamic-uniform-buffers-per-pipeline-layout",
    "max-immediate-size",
    "max-inter-stage-shader-variables",
    "max-sampled-textures-per-shader-stage",
    "max-samplers-per-shader-stage",
    "max-storage-buffer-binding-size",
    "max-storage-buffers-per-shader-stage",
    "max-storage-textures-per-shader-stage",
    "max-texture-array-layers",
    "max-texture-dimension-1d",
    "max-texture-dimension-2d",
    "max-texture-dimension-3d",
    "max-uniform-buffer-binding-size",
    "max-uniform-buffers-per-shader-stage",
    "max-vertex-attributes",
    "max-vertex-buffer-array-stride",
    "max-vertex-buffers",
    "min-storage-buffer-offset-alignment",
    "min-uniform-buffer-offset-alignment",
];

/// The name in [`LIMITS`] of a limit that is written in another way: `maxTextureDimension2D`, `max_texture_dimension_2d`.
pub fn limit_name(written: &str) -> Option<&'static str> {
    let plain = |name: &str| -> String {
        clip(name, GPU_NAME_BYTES_MAX)
            .chars()
            .filter(|c| !matches!(c, '-' | '_'))
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let written = plain(written);
    LIMITS.into_iter().find(|name| plain(name) == written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(id: &str) -> Offer {
        serde_json::from_value(serde_json::json!({
            "id": id, "class": "discrete", "backend": "vulkan", "name": "A GPU",
            "memory": {"total": 1 << 30}, "slots": 4
        }))
        .unwrap()
    }

    #[test]
    fn what_a_later_version_says_more_is_passed_over() {
        let text = r#"{"id": "vk-0", "name": "x", "class": "quantum", "backend": "vulkan", "memory": {"total": 5, "used": 1},
            "slots": 1, "speed": {"gemm-gflops": 7, "of-tomorrow": 1}, "topology": {}}"#;
        let offer: Offer = serde_json::from_str(text).unwrap();
        assert_eq!((offer.class, offer.speed.gemm_gflops, offer.memory.free), (GpuClass::Other, 7, None));
        assert!(offer.failing.is_none() && offer.features.is_empty());
        for bad in ["{}", r#"{"id": "A b", "name": "", "class": "cpu", "backend": "", "memory": {}, "slots": 1}"#] {
            assert!(serde_json::from_str::<Offer>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_list_and_text_has_a_bound() {
        let many = |prefix: &str| (0..1000).map(|i| format!("{prefix}{i}")).collect::<BTreeSet<String>>();
        let large = Offer {
            name: "n\u{1b}[2J".repeat(1000),
            features: many("f"),
            quirks: many("q"),
            limits: many("l").into_iter().map(|name| (name, 1)).chain([("x".repeat(1000), 2)]).collect(),
            failing: Some("why\n".repeat(1000)),
            ..offer("vk-0")
        };
        let many: Vec<Offer> =
            (0..1000).map(|i| Offer { id: GpuId::new(format!("vk-{i}")).unwrap(), ..large.clone() }).collect();
        let text = serde_json::to_vec(&many).unwrap();
        let read = deserialize(&mut serde_json::Deserializer::from_slice(&text)).unwrap();
        assert_eq!(read.len(), GPUS_MAX);
        let first = &read[0];
        assert_eq!((first.features.len(), first.limits.len()), (GPU_FEATURES_MAX, GPU_LIMITS_MAX));
        assert_eq!(first.quirks.len(), GPU_QUIRKS_MAX);
        assert!(first.name.len() <= GPU_TEXT_BYTES_MAX && !first.name.contains(char::is_control));
        assert!(!first.failing.as_ref().unwrap().contains(char::is_control));
        assert_eq!(bounded(read.clone()), read, "once bounded, it stays as it is");
        assert_eq!(bounded([offer("vk-0"), offer("vk-0"), offer("vk-1")]).len(), 2);
    }

    #[test]
    fn limits_are_known_by_all_their_names() {
        for written in ["max-texture-dimension-2d", "maxTextureDimension2D", "max_texture_dimension_2d"] {
            assert_eq!(limit_name(written), Some("max-texture-dimension-2d"), "{written}");
        }
        assert_eq!(limit_name("max-fun"), None);
        assert!(LIMITS.is_sorted() && FEATURES.is_sorted());
    }

    #[test]
    fn what_is_for_people_does_not_change_a_plan() {
        let one = offer("vk-0");
        let memory = OfferMemory { free: Some(3), ..one.memory };
        assert!(one.plans_like(&Offer { memory, losses: 2, name: "other".into(), ..one.clone() }));
        assert!(!one.plans_like(&Offer { slots: 3, ..one.clone() }));
        assert!(!one.plans_like(&Offer { failing: Some("lost".into()), ..one.clone() }));
    }
}
