//! The device: it makes everything else.

use crate::{
    absent::Absent,
    bindings::{GpuBufferDescriptor, GpuCommandEncoderDescriptor, GpuShaderModuleDescriptor},
    buffer::{Buffer, Mapping},
    bundle::RenderBundleEncoder,
    convert::{Inexpressible, enums, records},
    encoder::CommandEncoder,
    held::{BindGroup, BindGroupLayout, ComputePipeline, PipelineLayout, QuerySet, RenderPipeline, Sampler},
    shader::ShaderModule,
    shared::{GLANCE, Shared},
    texture::Texture,
};
use std::{pin::Pin, rc::Rc, sync::Arc};
use wgpu::{PollError, PollStatus, custom};

#[derive(Debug)]
pub(crate) struct Device(pub(crate) Rc<Shared>);

impl Device {
    fn shader(&self, label: wgpu::Label<'_>, code: Result<String, Inexpressible>) -> custom::DispatchShaderModule {
        let mut source = Rc::from("");
        let module = self.0.checked(|| {
            let code = code?;
            source = Rc::from(code.as_str());
            let descriptor = GpuShaderModuleDescriptor { code, compilation_hints: None, label: records::label(label) };
            Ok(Rc::new(self.0.gpu.create_shader_module(&descriptor)))
        });
        custom::DispatchShaderModule::custom(ShaderModule(module, source))
    }

    fn has_no(&self, what: &str) {
        self.0.errors.report(format!("WebGPU has no {what}"));
    }
}

macro_rules! creates {
    ($($function:ident($descriptor:ty) -> $dispatch:ident($held:ident): $record:ident $($by_value:ident)?;)*) => {$(
        fn $function(&self, from: &$descriptor) -> custom::$dispatch {
            let made = self.0.checked(|| Ok(creates!(@ self $function $record from $($by_value)?)));
            custom::$dispatch::custom($held(made))
        }
    )*};
    (@ $self:ident $function:ident $record:ident $from:ident) => {
        $self.0.gpu.$function(&records::$record($from)?)
    };
    (@ $self:ident $function:ident $record:ident $from:ident by_value) => {
        $self.0.gpu.$function(records::$record($from)?)
    };
}

impl custom::DeviceInterface for Device {
    creates! {
        create_bind_group_layout(wgpu::BindGroupLayoutDescriptor<'_>)
            -> DispatchBindGroupLayout(BindGroupLayout): bind_group_layout;
        create_bind_group(wgpu::BindGroupDescriptor<'_>) -> DispatchBindGroup(BindGroup): bind_group;
        create_pipeline_layout(wgpu::PipelineLayoutDescriptor<'_>)
            -> DispatchPipelineLayout(PipelineLayout): pipeline_layout;
        create_render_pipeline(wgpu::RenderPipelineDescriptor<'_>)
            -> DispatchRenderPipeline(RenderPipeline): render_pipeline by_value;
        create_compute_pipeline(wgpu::ComputePipelineDescriptor<'_>)
            -> DispatchComputePipeline(ComputePipeline): compute_pipeline by_value;
    }

    fn features(&self) -> wgpu::Features {
        self.0.features
    }

    fn limits(&self) -> wgpu::Limits {
        self.0.limits.clone()
    }

    fn adapter_info(&self) -> wgpu::AdapterInfo {
        self.0.info.clone()
    }

    /// The host checks bounds whatever is asked for.
    fn create_shader_module(
        &self,
        from: wgpu::ShaderModuleDescriptor<'_>,
        _: wgpu::ShaderRuntimeChecks,
    ) -> custom::DispatchShaderModule {
        let code = match from.source {
            wgpu::ShaderSource::Wgsl(code) => Ok(code.into_owned()),
            _ => Err("a shader's source must be WGSL".into()),
        };
        self.shader(from.label, code)
    }

    unsafe fn create_shader_module_passthrough(
        &self,
        from: &wgpu::ShaderModuleDescriptorPassthrough<'_>,
    ) -> custom::DispatchShaderModule {
        let code = from.wgsl.as_ref().map(|code| code.clone().into_owned());
        self.shader(from.label, code.ok_or_else(|| "a shader's source must be WGSL".into()))
    }

    fn create_mesh_pipeline(&self, _: &wgpu::MeshPipelineDescriptor<'_>) -> custom::DispatchRenderPipeline {
        self.has_no("mesh shaders");
        custom::DispatchRenderPipeline::custom(RenderPipeline(None))
    }

    unsafe fn create_pipeline_cache(&self, _: &wgpu::PipelineCacheDescriptor<'_>) -> custom::DispatchPipelineCache {
        self.has_no("caches of pipelines");
        custom::DispatchPipelineCache::custom(Absent)
    }

    fn create_buffer(&self, from: &wgpu::BufferDescriptor<'_>) -> custom::DispatchBuffer {
        let mapping = Mapping::at_creation(from.mapped_at_creation);
        if self.0.makes_unmapped.get() {
            return custom::DispatchBuffer::custom(Buffer(None, self.0.clone(), mapping));
        }
        let buffer = self.0.checked(|| {
            let descriptor = GpuBufferDescriptor {
                size: from.size,
                usage: enums::buffer_usage(from.usage)?,
                mapped_at_creation: Some(from.mapped_at_creation),
                label: records::label(from.label),
            };
            Ok(Rc::new(self.0.gpu.create_buffer(&descriptor)))
        });
        custom::DispatchBuffer::custom(Buffer(buffer, self.0.clone(), mapping))
    }

    fn create_texture(&self, from: &wgpu::TextureDescriptor<'_>) -> custom::DispatchTexture {
        let texture = self.0.checked(|| Ok(self.0.gpu.create_texture(&records::texture(from)?)));
        custom::DispatchTexture::custom(Texture(texture, self.0.clone()))
    }

    fn create_external_texture(
        &self,
        _: &wgpu::ExternalTextureDescriptor<'_>,
        _: &[&wgpu::TextureView],
    ) -> custom::DispatchExternalTexture {
        self.0.errors.report("there are no external textures here".into());
        custom::DispatchExternalTexture::custom(Absent)
    }

    fn create_blas(
        &self,
        _: &wgpu::CreateBlasDescriptor<'_>,
        _: wgpu::BlasGeometrySizeDescriptors,
    ) -> (Option<u64>, custom::DispatchBlas) {
        self.has_no("ray tracing");
        (None, custom::DispatchBlas::custom(Absent))
    }

    fn create_tlas(&self, _: &wgpu::CreateTlasDescriptor<'_>) -> custom::DispatchTlas {
        self.has_no("ray tracing");
        custom::DispatchTlas::custom(Absent)
    }

    fn create_sampler(&self, from: &wgpu::SamplerDescriptor<'_>) -> custom::DispatchSampler {
        let sampler = self.0.checked(|| Ok(self.0.gpu.create_sampler(Some(&records::sampler(from)?))));
        custom::DispatchSampler::custom(Sampler(sampler))
    }

    fn create_query_set(&self, from: &wgpu::QuerySetDescriptor<'_>) -> custom::DispatchQuerySet {
        let set = self.0.checked(|| {
            let made = self.0.gpu.create_query_set(&records::query_set(from)?);
            made.map_err(|error| error.message)
        });
        custom::DispatchQuerySet::custom(QuerySet(set))
    }

    fn create_command_encoder(&self, from: &wgpu::CommandEncoderDescriptor<'_>) -> custom::DispatchCommandEncoder {
        let descriptor = GpuCommandEncoderDescriptor { label: records::label(from.label) };
        let encoder = self.0.gpu.create_command_encoder(Some(&descriptor));
        custom::DispatchCommandEncoder::custom(CommandEncoder::new(encoder, self.0.clone()))
    }

    fn create_render_bundle_encoder(
        &self,
        from: &wgpu::RenderBundleEncoderDescriptor<'_>,
    ) -> custom::DispatchRenderBundleEncoder {
        let encoder = self.0.checked(|| Ok(self.0.gpu.create_render_bundle_encoder(&records::bundle_encoder(from)?)));
        custom::DispatchRenderBundleEncoder::custom(RenderBundleEncoder::new(encoder, self.0.clone()))
    }

    fn set_device_lost_callback(&self, callback: custom::BoxDeviceLostCallback) {
        self.0.errors.on_lost(callback);
    }

    fn on_uncaptured_error(&self, handler: Arc<dyn wgpu::UncapturedErrorHandler>) {
        self.0.errors.handle(handler);
    }

    fn push_error_scope(&self, filter: wgpu::ErrorFilter) -> u32 {
        self.0.errors.push(&self.0.gpu, filter)
    }

    fn pop_error_scope(&self, index: u32) -> Pin<Box<dyn custom::PopErrorScopeFuture>> {
        Box::pin(std::future::ready(self.0.errors.pop(&self.0.gpu, index)))
    }

    unsafe fn start_graphics_debugger_capture(&self) {}

    unsafe fn stop_graphics_debugger_capture(&self) {}

    /// A wait is for all that was submitted, and takes the callbacks of mappings with it.
    fn poll(&self, kind: wgpu::wgt::PollType<u64>) -> Result<PollStatus, PollError> {
        let had = self.0.submits();
        match kind {
            wgpu::wgt::PollType::Wait { submission_index: Some(index), .. } if index > had => {
                Err(PollError::WrongSubmissionIndex(index, had))
            }
            wgpu::wgt::PollType::Wait { timeout, .. } => match self.0.poll(timeout) {
                true if self.0.submits() > had => Ok(PollStatus::WaitSucceeded),
                true => Ok(PollStatus::QueueEmpty),
                false => Err(PollError::Timeout),
            },
            wgpu::wgt::PollType::Poll => match self.0.poll(Some(GLANCE)) {
                true => Ok(PollStatus::QueueEmpty),
                false => Ok(PollStatus::Poll),
            },
        }
    }

    fn get_internal_counters(&self) -> wgpu::InternalCounters {
        wgpu::InternalCounters::default()
    }

    fn generate_allocator_report(&self) -> Option<wgpu::AllocatorReport> {
        None
    }

    fn destroy(&self) {
        self.0.gpu.destroy();
    }
}
