//! The calls that a guest may make, and what they are made with: handles of the right kind, as the component model has it, and numbers
//! that are good, at their ends, or nonsense. A call that wants a handle of which there is none is left out.

use super::{Guest, Kind, State, block_on, r, record::record, transfer::transfer};
use crate::{HasGpu, bindings::webgpu::*};
use proptest::{prelude::*, sample::select};
use wasmtime::component::Resource;

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Device,
    Buffer,
    Texture,
    View,
    Sampler,
    QuerySet,
    NewLayout,
    Layout,
    PipelineLayout,
    Module,
    Pipeline,
    Group,
    Encoder,
    Pass,
    RenderPass,
    SetPipeline,
    SetGroup,
    Dispatch,
    Indirect,
    EndPass,
    EndRenderPass,
    CopyBuffer,
    ToTexture,
    FromTexture,
    Clear,
    Resolve,
    Mark,
    Finish,
    Submit,
    /// Several calls that are right together: a shader that is run, and whose result is copied.
    Compute,
    /// The same: bytes that are written, copied, and read back.
    Back,
    WriteBuffer,
    WriteTexture,
    Map,
    Unmap,
    Read,
    Set,
    WorkDone,
    PushScope,
    PopScope,
    Destroy,
    DestroyDevice,
    Label,
    Drop,
}

/// How often each is made: more often what others need.
const WHAT: &[(usize, What)] = &[
    (1, What::Device),
    (3, What::Buffer),
    (2, What::Texture),
    (2, What::View),
    (1, What::Sampler),
    (1, What::QuerySet),
    (1, What::NewLayout),
    (2, What::Layout),
    (1, What::PipelineLayout),
    (1, What::Module),
    (1, What::Pipeline),
    (3, What::Group),
    (3, What::Encoder),
    (2, What::Pass),
    (1, What::RenderPass),
    (2, What::SetPipeline),
    (2, What::SetGroup),
    (2, What::Dispatch),
    (1, What::Indirect),
    (2, What::EndPass),
    (1, What::EndRenderPass),
    (2, What::CopyBuffer),
    (1, What::ToTexture),
    (1, What::FromTexture),
    (1, What::Clear),
    (1, What::Resolve),
    (1, What::Mark),
    (2, What::Finish),
    (3, What::Submit),
    (3, What::Compute),
    (2, What::Back),
    (2, What::WriteBuffer),
    (1, What::WriteTexture),
    (3, What::Map),
    (2, What::Unmap),
    (1, What::Read),
    (1, What::Set),
    (1, What::WorkDone),
    (1, What::PushScope),
    (1, What::PopScope),
    (2, What::Destroy),
    (1, What::DestroyDevice),
    (1, What::Label),
    (3, What::Drop),
];

const NUMBERS: &[u64] =
    &[0, 0, 1, 2, 3, 4, 4, 8, 16, 16, 64, 256, 256, ABSENT, 4_096, 65_535, 65_536, 1 << 20, 1 << 24, 1 << 32, u64::MAX];
/// Stands for an argument that is left out.
const ABSENT: u64 = 1_000;

const CODES: &[&str] = &[
    // Never more than 4, since indirect dispatches may read it.
    "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
    @compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3u) { a[id.x] = (a[id.x] * 2u + 1u) % 5u; }",
    "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
    @group(0) @binding(1) var<storage, read> b: array<u32>;
    @compute @workgroup_size(1) fn main() { a[0] = b[arrayLength(&b) - 1u] % 5u; }",
    "override N: u32; var<workgroup> w: array<u32, N>;
    @compute @workgroup_size(1) fn main() { w[0] = 1u; }",
    "@compute @workgroup_size(1) fn main() { let a = nothing; }",
    "",
];

fn buffers() -> [GpuBufferUsage; 9] {
    type Usage = GpuBufferUsage;
    [
        Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        Usage::MAP_READ | Usage::COPY_DST,
        Usage::MAP_WRITE | Usage::COPY_SRC,
        Usage::INDIRECT | Usage::STORAGE | Usage::COPY_DST,
        Usage::QUERY_RESOLVE | Usage::COPY_SRC,
        Usage::UNIFORM | Usage::COPY_DST,
        Usage::MAP_READ | Usage::STORAGE,
        Usage::empty(),
        Usage::all(),
    ]
}

fn textures() -> [GpuTextureUsage; 4] {
    type Usage = GpuTextureUsage;
    [
        Usage::COPY_SRC | Usage::COPY_DST | Usage::RENDER_ATTACHMENT,
        Usage::TEXTURE_BINDING | Usage::COPY_DST,
        Usage::empty(),
        Usage::all(),
    ]
}

const FORMATS: [GpuTextureFormat; 5] = [
    GpuTextureFormat::Rgba8unorm,
    GpuTextureFormat::R32uint,
    GpuTextureFormat::Depth24plus,
    GpuTextureFormat::Bc1RgbaUnorm,
    GpuTextureFormat::Rgba32float,
];

/// A call, the handles that it chooses and the numbers that it is made with, as far as it has any.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) what: What,
    pub(super) choices: [u8; 3],
    pub(super) numbers: [u64; 3],
}

pub(super) fn any_call() -> impl Strategy<Value = Call> {
    let number = || select(NUMBERS);
    let what: Vec<What> = WHAT.iter().flat_map(|(times, what)| std::iter::repeat_n(*what, *times)).collect();
    let parts = (select(what), any::<[u8; 3]>(), [number(), number(), number()]);
    parts.prop_map(|(what, choices, numbers)| Call { what, choices, numbers })
}

pub(super) fn option(number: u64) -> Option<u64> {
    (number != ABSENT).then_some(number)
}

pub(super) fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn one_of<T: Copy>(all: &[T], choice: u8) -> T {
    all[usize::from(choice) % all.len()]
}

pub(super) fn extent(x: u64, y: u64) -> GpuExtent3D {
    GpuExtent3D { width: small(x), height: option(y).map(small), depth_or_array_layers: None }
}

/// Makes a call. An error is a trap.
pub(super) fn call(guest: &mut Guest<'_>, call: &Call) -> wasmtime::Result<()> {
    // A call that lacks a handle is none.
    match create(guest, call).or_else(|| record(guest, call)).or_else(|| transfer(guest, call)) {
        Some(made) => made,
        None => Ok(()),
    }
}

pub(super) type Made = Option<wasmtime::Result<()>>;

/// What makes something of a device.
fn create(guest: &mut Guest<'_>, call: &Call) -> Made {
    let (Call { what, choices: [a, b, c], numbers: [x, y, z] }, accessor) = (call.clone(), guest.accessor);
    let device = || guest.handles.pick::<r::Device>(Kind::Device, a);
    Some(match what {
        What::Device => {
            let adapter = guest.handles.pick(Kind::Adapter, 0)?;
            let features = vec![one_of(&[GpuFeatureName::TimestampQuery, GpuFeatureName::TextureCompressionAstc], b)];
            let wanted = GpuDeviceDescriptor {
                required_features: Some(features),
                required_limits: None,
                default_queue: None,
                label: None,
            };
            let asked = <HasGpu as HostGpuAdapterWithStore<State>>::request_device(accessor, adapter, Some(wanted));
            block_on(asked).and_then(|device| {
                let Ok(device) = device else { return Ok(()) };
                let queue = guest.with(|view| HostGpuDevice::queue(view, Resource::new_borrow(device.rep())))?;
                guest.handles.put(Kind::Queue, queue);
                guest.handles.put(Kind::Device, device);
                Ok(())
            })
        }
        What::Buffer => {
            let (device, usage) = (device()?, one_of(&buffers(), b));
            let descriptor = GpuBufferDescriptor { size: x, usage, mapped_at_creation: Some(c % 4 == 1), label: None };
            let made = guest.with(|view| block_on(HostGpuDevice::create_buffer(view, device, descriptor)));
            made.map(|it| guest.handles.put(Kind::Buffer, it))
        }
        What::Texture => {
            let descriptor = GpuTextureDescriptor {
                size: extent(x, y),
                mip_level_count: option(z).map(small),
                sample_count: one_of(&[None, None, Some(4), Some(3)], c),
                dimension: one_of(&[None, Some(GpuTextureDimension::D2), Some(GpuTextureDimension::D3)], b),
                format: one_of(&FORMATS, c),
                usage: one_of(&textures(), b),
                view_formats: None,
                texture_binding_view_dimension: None,
                label: None,
            };
            let device = device()?;
            let made = guest.with(|view| block_on(HostGpuDevice::create_texture(view, device, descriptor)));
            made.map(|it| guest.handles.put(Kind::Texture, it))
        }
        What::View => {
            let descriptor = GpuTextureViewDescriptor {
                format: (c % 4 == 0).then(|| one_of(&FORMATS, b)),
                dimension: None,
                usage: None,
                aspect: None,
                base_mip_level: option(x).map(small),
                mip_level_count: option(y).map(small),
                base_array_layer: option(z).map(small),
                array_layer_count: None,
                swizzle: None,
                label: None,
            };
            let (texture, descriptor) = (guest.handles.pick(Kind::Texture, a)?, (b % 2 == 0).then_some(descriptor));
            let made = guest.with(|view| block_on(HostGpuTexture::create_view(view, texture, descriptor)));
            made.map(|it| guest.handles.put(Kind::View, it))
        }
        What::Sampler => {
            let device = device()?;
            let made = guest.with(|view| block_on(HostGpuDevice::create_sampler(view, device, None)));
            made.map(|it| guest.handles.put(Kind::Sampler, it))
        }
        What::QuerySet => {
            let type_ = one_of(&[GpuQueryType::Occlusion, GpuQueryType::Timestamp], b);
            let (device, descriptor) = (device()?, GpuQuerySetDescriptor { type_, count: small(x), label: None });
            let made = guest.with(|view| block_on(HostGpuDevice::create_query_set(view, device, descriptor)));
            made.map(|made| made.into_iter().for_each(|it| guest.handles.put(Kind::QuerySet, it)))
        }
        What::NewLayout => {
            use GpuBufferBindingType::{ReadOnlyStorage, Storage, Uniform};
            let entry = |binding: u8| {
                let buffer = GpuBufferBindingLayout {
                    type_: one_of(
                        &[None, Some(Storage), Some(ReadOnlyStorage), Some(Uniform)],
                        b.wrapping_add(binding),
                    ),
                    has_dynamic_offset: Some(c % 2 == 0),
                    min_binding_size: option(y),
                };
                GpuBindGroupLayoutEntry {
                    binding: u32::from(binding).wrapping_add(small(z) / 2),
                    visibility: one_of(&[GpuShaderStage::COMPUTE, GpuShaderStage::empty(), GpuShaderStage::all()], b),
                    buffer: (x != 3).then_some(buffer),
                    sampler: None,
                    texture: None,
                    storage_texture: None,
                }
            };
            let descriptor = GpuBindGroupLayoutDescriptor { entries: (0..c % 4).map(entry).collect(), label: None };
            let device = device()?;
            let made = guest.with(|view| block_on(HostGpuDevice::create_bind_group_layout(view, device, descriptor)));
            made.map(|it| guest.handles.put(Kind::Layout, it))
        }
        What::Layout => {
            let pipeline = guest.handles.pick(Kind::Pipeline, a)?;
            let index = if b % 4 == 0 { 0 } else { small(x) };
            let made =
                guest.with(|view| block_on(HostGpuComputePipeline::get_bind_group_layout(view, pipeline, index)));
            made.map(|it| guest.handles.put(Kind::Layout, it))
        }
        What::PipelineLayout => {
            let bind_group_layouts = vec![guest.handles.pick(Kind::Layout, b), guest.handles.pick(Kind::Layout, c)];
            let immediate_size = (x == 4).then(|| small(y));
            let descriptor = GpuPipelineLayoutDescriptor { bind_group_layouts, immediate_size, label: None };
            let device = device()?;
            let made = guest.with(|view| block_on(HostGpuDevice::create_pipeline_layout(view, device, descriptor)));
            made.map(|it| guest.handles.put(Kind::PipelineLayout, it))
        }
        What::Module => {
            let code = one_of(CODES, b).to_owned();
            let descriptor = GpuShaderModuleDescriptor { code, compilation_hints: None, label: None };
            let device = device()?;
            let made = guest.with(|view| block_on(HostGpuDevice::create_shader_module(view, device, descriptor)));
            made.map(|it| guest.handles.put(Kind::Module, it))
        }
        What::Pipeline => {
            let entry_point = one_of(&[None, None, Some("main"), Some("absent")], c).map(str::to_owned);
            let module = guest.handles.pick(Kind::Module, b)?;
            let layout = guest.handles.pick(Kind::PipelineLayout, c).filter(|_| c % 3 == 2);
            let descriptor = GpuComputePipelineDescriptor {
                compute: GpuProgrammableStage { module, entry_point, constants: None },
                layout: layout.map_or(GpuLayoutMode::Auto, GpuLayoutMode::Specific),
                label: None,
            };
            let device = device()?;
            if x % 2 == 1 {
                use HostGpuDeviceWithStore as Asks;
                let asked = <HasGpu as Asks<State>>::create_compute_pipeline_async(accessor, device, descriptor);
                block_on(asked).map(|made| made.into_iter().for_each(|it| guest.handles.put(Kind::Pipeline, it)))
            } else {
                let made =
                    guest.with(|view| block_on(HostGpuDevice::create_compute_pipeline(view, device, descriptor)));
                made.map(|it| guest.handles.put(Kind::Pipeline, it))
            }
        }
        What::Group => {
            let entry = |binding: u8| {
                let (choice, handles) = (c.wrapping_add(binding), &guest.handles);
                let resource = match b.wrapping_add(binding) % 8 {
                    0..4 => GpuBindingResource::GpuBuffer(handles.pick(Kind::Buffer, choice)?),
                    4 | 5 => GpuBindingResource::GpuBufferBinding(GpuBufferBinding {
                        buffer: handles.pick(Kind::Buffer, choice)?,
                        offset: option(y),
                        size: option(z),
                    }),
                    6 => GpuBindingResource::GpuSampler(handles.pick(Kind::Sampler, choice)?),
                    _ => GpuBindingResource::GpuTextureView(handles.pick(Kind::View, choice)?),
                };
                Some(GpuBindGroupEntry { binding: u32::from(binding), resource })
            };
            let entries = (0..1 + c % 2).filter_map(entry).collect();
            let layout = guest.handles.pick(Kind::Layout, b)?;
            let (device, descriptor) = (device()?, GpuBindGroupDescriptor { layout, entries, label: None });
            let made = guest.with(|view| block_on(HostGpuDevice::create_bind_group(view, device, descriptor)));
            made.map(|it| guest.handles.put(Kind::Group, it))
        }
        What::Encoder => {
            let device = device()?;
            let made = guest.with(|view| HostGpuDevice::create_command_encoder(view, device, None));
            made.map(|it| guest.handles.put(Kind::Encoder, it))
        }
        What::PushScope => {
            use GpuErrorFilter::{Internal, OutOfMemory, Validation};
            let (device, filter) = (device()?, one_of(&[Validation, OutOfMemory, Internal], b));
            guest.with(|view| block_on(HostGpuDevice::push_error_scope(view, device, filter)))
        }
        What::PopScope => {
            let device = device()?;
            let popped = block_on(<HasGpu as HostGpuDeviceWithStore<State>>::pop_error_scope(accessor, device));
            popped.map(|popped| {
                popped.into_iter().flatten().for_each(|it| guest.handles.put(Kind::Error, it));
            })
        }
        // Seldom: nothing works afterwards.
        What::DestroyDevice => {
            let device = device().filter(|_| b < 64)?;
            guest.with(|view| block_on(HostGpuDevice::destroy(view, device)))
        }
        _ => return None,
    })
}
