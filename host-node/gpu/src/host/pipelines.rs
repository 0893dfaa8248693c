//! What pipelines are made of, and the pipelines.

use crate::{
    bindings::webgpu::*,
    convert::records,
    device::{Fault, Gpu, Object},
    host::{
        GpuView, dropped, labels,
        resources::{self as r, Compiled, label},
    },
};
use std::time::Instant;
use wasmtime::component::Resource;

/// Attributes, targets and buffers of one pipeline; more than any device takes.
const PARTS_MAX: usize = 1_000;

/// A stage that can be programmed.
pub(super) struct Stage {
    module: Object<Compiled>,
    entry: Option<String>,
    constants: Vec<(String, f64)>,
}

/// The same on the device's thread.
struct Ready {
    module: wgpu::ShaderModule,
    entry: Option<String>,
    constants: Vec<(String, f64)>,
}

impl Stage {
    fn of(
        view: &mut GpuView<'_>,
        module: &Resource<r::ShaderModule>,
        entry: Option<String>,
        constants: Option<Resource<r::Constants>>,
    ) -> wasmtime::Result<Self> {
        let constants = constants.map(|constants| view.table.delete(constants)).transpose()?.unwrap_or_default();
        Ok(Self { module: view.table.get(module)?.object.clone(), entry, constants: constants.into_iter().collect() })
    }

    fn ready(self) -> Result<Ready, Fault> {
        let compiled = self.module.get("the shader module")?;
        let module = compiled.module.ok_or_else(|| Fault::validation("the shader module is invalid"))?;
        compiled.sizes.check(&self.constants).map_err(Fault::validation)?;
        Ok(Ready { module, entry: self.entry, constants: self.constants })
    }
}

/// Borrowed of a stage for wgpu.
fn constants(ready: &Ready) -> Vec<(&str, f64)> {
    ready.constants.iter().map(|(name, value)| (name.as_str(), *value)).collect()
}

fn options<'a>(constants: &'a [(&'a str, f64)]) -> wgpu::PipelineCompilationOptions<'a> {
    wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory: true }
}

fn layout_of(view: &GpuView<'_>, mode: &GpuLayoutMode) -> wasmtime::Result<Option<Object<wgpu::PipelineLayout>>> {
    match mode {
        GpuLayoutMode::Auto => Ok(None),
        GpuLayoutMode::Specific(layout) => Ok(Some(view.object(layout)?)),
    }
}

fn layout_there(layout: Option<Object<wgpu::PipelineLayout>>) -> Result<Option<wgpu::PipelineLayout>, Fault> {
    layout.map(|layout| layout.get("the pipeline layout")).transpose()
}

/// Counted as time of compilation.
fn timed<R>(gpu: &Gpu, build: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let built = build();
    gpu.shared.account.compiled(began.elapsed());
    built
}

pub(super) struct Compute {
    pub(super) label: String,
    layout: Option<Object<wgpu::PipelineLayout>>,
    stage: Stage,
}

impl Compute {
    pub(super) fn of(view: &mut GpuView<'_>, descriptor: GpuComputePipelineDescriptor) -> wasmtime::Result<Self> {
        let GpuProgrammableStage { module, entry_point, constants } = descriptor.compute;
        Ok(Self {
            label: label(descriptor.label),
            layout: layout_of(view, &descriptor.layout)?,
            stage: Stage::of(view, &module, entry_point, constants)?,
        })
    }

    pub(super) fn build(self, gpu: &Gpu) -> Result<wgpu::ComputePipeline, Fault> {
        let (layout, stage) = (layout_there(self.layout)?, self.stage.ready()?);
        let constants = constants(&stage);
        Ok(timed(gpu, || {
            gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&self.label),
                layout: layout.as_ref(),
                module: &stage.module,
                entry_point: stage.entry.as_deref(),
                compilation_options: options(&constants),
                cache: None,
            })
        }))
    }
}

pub(super) struct Render {
    pub(super) label: String,
    layout: Option<Object<wgpu::PipelineLayout>>,
    vertex: Stage,
    buffers: Vec<Option<records::VertexBuffer>>,
    primitive: wgpu::PrimitiveState,
    depth_stencil: Option<wgpu::DepthStencilState>,
    multisample: wgpu::MultisampleState,
    fragment: Option<(Stage, Vec<Option<wgpu::ColorTargetState>>)>,
}

impl Render {
    pub(super) fn of(view: &mut GpuView<'_>, descriptor: GpuRenderPipelineDescriptor) -> wasmtime::Result<Self> {
        let GpuVertexState { buffers, module, entry_point, constants } = descriptor.vertex;
        let vertex = Stage::of(view, &module, entry_point, constants)?;
        let fragment = descriptor.fragment.map(|fragment| {
            let GpuFragmentState { targets, module, entry_point, constants } = fragment;
            let targets = targets.into_iter().take(PARTS_MAX).map(|target| target.map(records::color_target));
            wasmtime::error::Ok((Stage::of(view, &module, entry_point, constants)?, targets.collect()))
        });
        let fragment = fragment.transpose()?;
        let buffers = buffers.unwrap_or_default().into_iter().take(PARTS_MAX);
        Ok(Self {
            label: label(descriptor.label),
            layout: layout_of(view, &descriptor.layout)?,
            vertex,
            buffers: buffers.map(|buffer| buffer.map(records::vertex_buffer)).collect(),
            primitive: records::primitive(descriptor.primitive),
            depth_stencil: descriptor.depth_stencil.map(records::depth_stencil),
            multisample: records::multisample(descriptor.multisample),
            fragment,
        })
    }

    pub(super) fn build(self, gpu: &Gpu) -> Result<wgpu::RenderPipeline, Fault> {
        let (layout, vertex) = (layout_there(self.layout)?, self.vertex.ready()?);
        let fragment = self.fragment.map(|(stage, targets)| Ok::<_, Fault>((stage.ready()?, targets))).transpose()?;
        let buffers: Vec<_> = self
            .buffers
            .iter()
            .map(|buffer| {
                buffer.as_ref().map(|buffer| wgpu::VertexBufferLayout {
                    array_stride: buffer.array_stride,
                    step_mode: buffer.step_mode,
                    attributes: &buffer.attributes,
                })
            })
            .collect();
        let vertex_constants = constants(&vertex);
        let fragment_constants = fragment.as_ref().map(|(stage, _)| constants(stage)).unwrap_or_default();
        let fragment = fragment.as_ref().map(|(stage, targets)| wgpu::FragmentState {
            module: &stage.module,
            entry_point: stage.entry.as_deref(),
            compilation_options: options(&fragment_constants),
            targets,
        });
        Ok(timed(gpu, || {
            gpu.device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
                label: Some(&self.label),
                layout: layout.as_ref(),
                vertex: wgpu::VertexState {
                    module: &vertex.module,
                    entry_point: vertex.entry.as_deref(),
                    compilation_options: options(&vertex_constants),
                    buffers: &buffers,
                },
                primitive: self.primitive,
                depth_stencil: self.depth_stencil,
                multisample: self.multisample,
                fragment,
                multiview_mask: None,
                cache: None,
            })
        }))
    }
}

macro_rules! pipeline {
    ($interface:ident $resource:ty) => {
        impl $interface for GpuView<'_> {
            labels!($resource);
            dropped!($resource);

            async fn get_bind_group_layout(
                &mut self,
                it: Resource<$resource>,
                index: u32,
            ) -> wasmtime::Result<Resource<r::BindGroupLayout>> {
                let pipeline = self.table.get(&it)?;
                let (object, lane) = (pipeline.object.clone(), pipeline.lane.clone());
                let (handle, made) = self.keep(&lane, String::new())?;
                lane.send(0, move |gpu| {
                    gpu.make(&made, || Ok(object.get("the pipeline")?.get_bind_group_layout(index)));
                })
                .await;
                Ok(handle)
            }
        }
    };
}

pipeline!(HostGpuComputePipeline r::ComputePipeline);
pipeline!(HostGpuRenderPipeline r::RenderPipeline);
