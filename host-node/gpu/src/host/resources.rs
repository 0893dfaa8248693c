//! What is behind a guest's handles.

#![expect(unreachable_pub, reason = "the generated bindings pass them on as theirs")]

use crate::{
    account::Charge,
    device::{Fault, Lane, Lost, Object, recording::Recording},
    inventory::Opened,
    workspace::Workspace,
};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
};

/// Of one label, one name of an entry point, one text for a debugger.
const LABEL_BYTES_MAX: usize = 256;

/// What is kept of a label.
pub(crate) fn label(text: Option<String>) -> String {
    let mut text = text.unwrap_or_default();
    text.truncate(text.floor_char_boundary(LABEL_BYTES_MAX));
    text
}

/// `gpu`: all of them are the same.
pub struct Entry;

pub struct Adapter {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) opened: Arc<Opened>,
}

pub struct AdapterInfo(pub(crate) Arc<Opened>);

pub struct Features(pub(crate) Vec<&'static str>);

pub struct Limits(pub(crate) wgpu::Limits);

pub struct LanguageFeatures;

pub struct Device {
    pub(crate) lane: Lane,
    pub(crate) opened: Arc<Opened>,
    pub(crate) features: wgpu::Features,
    pub(crate) limits: wgpu::Limits,
    pub(crate) label: String,
    pub(crate) queue_label: Arc<Mutex<String>>,
}

pub struct Queue {
    pub(crate) lane: Lane,
    pub(crate) label: Arc<Mutex<String>>,
}

/// An object of wgpu with a label, of which nothing else is known here.
pub struct Kept<T: Send + 'static> {
    pub(crate) object: Object<T>,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

pub type BindGroup = Kept<wgpu::BindGroup>;
pub type BindGroupLayout = Kept<wgpu::BindGroupLayout>;
pub type CommandBuffer = Kept<Recorded>;
pub type ComputePipeline = Kept<wgpu::ComputePipeline>;
pub type PipelineLayout = Kept<wgpu::PipelineLayout>;
pub type RenderBundle = Kept<wgpu::RenderBundle>;
pub type RenderPipeline = Kept<wgpu::RenderPipeline>;
pub type Sampler = Kept<wgpu::Sampler>;
pub type TextureView = Kept<wgpu::TextureView>;

/// A command buffer, and what its commands are charged with until it is submitted.
pub struct Recorded {
    pub(crate) buffer: wgpu::CommandBuffer,
    pub(crate) _charge: Charge,
}

/// A buffer or texture, and what it is charged with until it is freed.
#[derive(Clone)]
pub struct Allocated<T: Clone> {
    pub(crate) it: T,
    pub(crate) charge: Arc<Mutex<Option<Charge>>>,
}

pub(crate) type AllocatedBuffer = Allocated<wgpu::Buffer>;
pub(crate) type AllocatedTexture = Allocated<wgpu::Texture>;

pub struct Buffer {
    pub(crate) object: Object<AllocatedBuffer>,
    pub(crate) size: u64,
    pub(crate) usage: crate::bindings::webgpu::GpuBufferUsage,
    pub(crate) map: Arc<Mutex<Mapping>>,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

/// Whether a buffer's bytes can be read and written from here. Counted, because what the GPU answers to one mapping may come
/// when the guest is at its next one.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    pub(crate) state: MapState,
    pub(crate) turn: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum MapState {
    #[default]
    Unmapped,
    Pending,
    Mapped {
        range: Range<u64>,
        write: bool,
    },
}

impl Mapping {
    /// Another turn: what is under way counts no more.
    pub(crate) fn set(&mut self, state: MapState) -> u64 {
        self.turn += 1;
        self.state = state;
        self.turn
    }
}

pub struct Texture {
    pub(crate) object: Object<AllocatedTexture>,
    pub(crate) descriptor: TextureFacts,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

/// What a guest said that a texture is.
#[derive(Clone)]
pub(crate) struct TextureFacts {
    pub(crate) size: wgpu::Extent3d,
    pub(crate) mip_level_count: u32,
    pub(crate) sample_count: u32,
    pub(crate) dimension: crate::bindings::webgpu::GpuTextureDimension,
    pub(crate) format: crate::bindings::webgpu::GpuTextureFormat,
    pub(crate) usage: crate::bindings::webgpu::GpuTextureUsage,
    pub(crate) binding_view_dimension: Option<crate::bindings::webgpu::GpuTextureViewDimension>,
}

pub struct QuerySet {
    pub(crate) object: Object<wgpu::QuerySet>,
    pub(crate) kind: crate::bindings::webgpu::GpuQueryType,
    pub(crate) count: u32,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

pub struct ShaderModule {
    pub(crate) object: Object<Compiled>,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

/// A shader module, which may be invalid and then says why.
#[derive(Clone)]
pub struct Compiled {
    /// `None`: it is not given to any driver.
    pub(crate) module: Option<wgpu::ShaderModule>,
    /// For arrays in workgroup memory whose size is known with a pipeline's constants.
    pub(crate) sizes: Arc<crate::guard::Sizes>,
    pub(crate) messages: Arc<Vec<Message>>,
}

/// Of a compiler, as WebGPU has it: positions in UTF-16 code units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) kind: crate::bindings::webgpu::GpuCompilationMessageType,
    pub(crate) line: u64,
    pub(crate) position: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

pub struct CompilationInfo(pub(crate) Arc<Vec<Message>>);

pub struct CompilationMessage(pub(crate) Message);

pub struct CommandEncoder {
    pub(crate) recording: Arc<Mutex<Recording>>,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

/// A pass of either kind: a part of its encoder's recording.
pub struct Pass {
    pub(crate) recording: Arc<Mutex<Recording>>,
    /// Which of its encoder's passes it is.
    pub(crate) number: u64,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

pub struct ComputePass(pub(crate) Pass);
pub struct RenderPass(pub(crate) Pass);

pub struct RenderBundleEncoder {
    pub(crate) recording: Arc<Mutex<Recording>>,
    pub(crate) formats: BundleFormats,
    pub(crate) label: String,
    pub(crate) lane: Lane,
}

#[derive(Debug, Clone)]
pub(crate) struct BundleFormats {
    pub(crate) colors: Vec<Option<wgpu::TextureFormat>>,
    pub(crate) depth_stencil: Option<wgpu::RenderBundleDepthStencil>,
    pub(crate) sample_count: u32,
}

pub struct Error(pub(crate) Fault);
pub struct UncapturedErrorEvent(pub(crate) Fault);
pub struct LostInfo(pub(crate) Lost);

/// No function makes one: there is no screen.
pub struct CanvasContext;

pub type Constants = BTreeMap<String, f64>;
pub type RequiredLimits = BTreeMap<String, Option<u64>>;

impl<T: Clone> Allocated<T> {
    pub(crate) fn new(it: T, charge: Charge) -> Self {
        Self { it, charge: Arc::new(Mutex::new(Some(charge))) }
    }
}
