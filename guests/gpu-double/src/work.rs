//! The steps of every use of a GPU.

pub use crate::bindings::wasi::webgpu::webgpu::*;

pub struct Work {
    pub device: GpuDevice,
    pub queue: GpuQueue,
}

pub async fn adapter() -> Result<GpuAdapter, String> {
    get_gpu().request_adapter(None).await.ok_or_else(|| "there is no GPU here".to_owned())
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).filter_map(|word| Some(f32::from_le_bytes(word.try_into().ok()?))).collect()
}

pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?))).collect()
}

pub fn entry(binding: u32, buffer: &GpuBuffer) -> GpuBindGroupEntry<'_> {
    GpuBindGroupEntry { binding, resource: GpuBindingResource::GpuBuffer(buffer) }
}

impl Work {
    pub async fn open() -> Result<Self, String> {
        Self::open_with(Vec::new()).await
    }

    pub async fn open_with(features: Vec<GpuFeatureName>) -> Result<Self, String> {
        let descriptor = GpuDeviceDescriptor {
            required_features: Some(features),
            required_limits: None,
            default_queue: None,
            label: Some("work".into()),
        };
        let device = adapter().await?.request_device(Some(descriptor)).await;
        let device = device.map_err(|error| format!("no device: {}", error.message))?;
        let queue = device.queue();
        Ok(Self { device, queue })
    }

    pub fn buffer(&self, size: u64, usage: GpuBufferUsage) -> GpuBuffer {
        self.device.create_buffer(&GpuBufferDescriptor { size, usage, mapped_at_creation: None, label: None })
    }

    pub fn texture(&self, width: u32, height: u32, format: GpuTextureFormat, usage: GpuTextureUsage) -> GpuTexture {
        self.device.create_texture(&GpuTextureDescriptor {
            size: GpuExtent3D { width, height: Some(height), depth_or_array_layers: None },
            mip_level_count: None,
            sample_count: None,
            dimension: None,
            format,
            usage,
            view_formats: None,
            texture_binding_view_dimension: None,
            label: Some("picture".into()),
        })
    }

    pub fn storage(&self, bytes: &[u8]) -> Result<GpuBuffer, String> {
        let usage = GpuBufferUsage::STORAGE | GpuBufferUsage::COPY_SRC | GpuBufferUsage::COPY_DST;
        let buffer = self.buffer(bytes.len() as u64, usage);
        let written = self.queue.write_buffer_with_copy(&buffer, 0, bytes, None, None);
        written.map_err(|error| error.message)?;
        Ok(buffer)
    }

    pub fn module(&self, code: &str) -> GpuShaderModule {
        self.device.create_shader_module(&GpuShaderModuleDescriptor {
            code: code.to_owned(),
            compilation_hints: None,
            label: None,
        })
    }

    pub fn pipeline(&self, code: &str) -> GpuComputePipeline {
        let module = self.module(code);
        self.device.create_compute_pipeline(GpuComputePipelineDescriptor {
            compute: GpuProgrammableStage { module: &module, entry_point: None, constants: None },
            layout: GpuLayoutMode::Auto,
            label: None,
        })
    }

    pub fn group(&self, pipeline: &GpuComputePipeline, entries: Vec<GpuBindGroupEntry<'_>>) -> GpuBindGroup {
        let layout = pipeline.get_bind_group_layout(0);
        self.device.create_bind_group(&GpuBindGroupDescriptor { layout: &layout, entries, label: None })
    }

    pub fn encoder(&self) -> GpuCommandEncoder {
        self.device.create_command_encoder(None)
    }

    pub fn submit(&self, encoder: &GpuCommandEncoder) {
        let commands = encoder.finish(None);
        self.queue.submit(&[&commands]);
    }

    /// The bytes of a buffer that may be copied from.
    pub async fn read(&self, buffer: &GpuBuffer) -> Result<Vec<u8>, String> {
        let size = buffer.size();
        let back = self.buffer(size, GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST);
        let encoder = self.encoder();
        encoder.copy_buffer_to_buffer(buffer, None, &back, None, None);
        self.submit(&encoder);
        back.map_async(GpuMapMode::READ, None, None).await.map_err(|error| error.message)?;
        let bytes = back.get_mapped_range_get_with_copy(None, None).map_err(|error| error.message)?;
        back.unmap().map_err(|error| error.message)?;
        Ok(bytes)
    }

    /// One dispatch of a shader with one buffer.
    pub async fn compute(&self, code: &str, bytes: &[u8], groups: (u32, u32, u32)) -> Result<Vec<u8>, String> {
        self.device.push_error_scope(GpuErrorFilter::Validation);
        let buffer = self.storage(bytes)?;
        let pipeline = self.pipeline(code);
        let group = self.group(&pipeline, vec![entry(0, &buffer)]);
        let encoder = self.encoder();
        let pass = encoder.begin_compute_pass(None);
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| error.message)?;
        pass.dispatch_workgroups(groups.0, Some(groups.1), Some(groups.2));
        pass.end();
        self.submit(&encoder);
        match self.device.pop_error_scope().await {
            Ok(None) => self.read(&buffer).await,
            Ok(Some(error)) => Err(error.message()),
            Err(error) => Err(error.message),
        }
    }
}
