//! Devices: what they make.

use crate::{
    bindings::webgpu::*,
    convert::{enums, features, formats, records},
    device::{Fault, Gpu, Lane, Object, recording::Recording},
    host::{
        GpuView, dropped, labels, pipelines,
        resources::{self as r, Allocated, MapState, Mapping, label},
        shader,
    },
};
use std::sync::{Arc, Mutex};
use wasmtime::component::Resource;

impl Gpu {
    /// Fills an object with what is made, or tells what is wrong.
    pub(crate) fn make<T: Send + 'static>(&self, object: &Object<T>, make: impl FnOnce() -> Result<T, Fault>) {
        let made = self.capturing(make).and_then(|made| made);
        match made {
            Ok(made) => object.set(made),
            Err(fault) => self.shared.report(fault),
        }
    }
}

fn lane_of(view: &GpuView<'_>, device: &Resource<r::Device>) -> wasmtime::Result<Lane> {
    Ok(view.table.get(device)?.lane.clone())
}

impl HostGpuDevice for GpuView<'_> {
    labels!(r::Device);
    dropped!(r::Device);

    fn features(&mut self, it: Resource<r::Device>) -> wasmtime::Result<Resource<r::Features>> {
        let names = features::names(self.table.get(&it)?.features);
        Ok(self.table.push(r::Features(names))?)
    }

    fn limits(&mut self, it: Resource<r::Device>) -> wasmtime::Result<Resource<r::Limits>> {
        let limits = self.table.get(&it)?.limits.clone();
        Ok(self.table.push(r::Limits(limits))?)
    }

    fn adapter_info(&mut self, it: Resource<r::Device>) -> wasmtime::Result<Resource<r::AdapterInfo>> {
        let opened = self.table.get(&it)?.opened.clone();
        Ok(self.table.push(r::AdapterInfo(opened))?)
    }

    fn queue(&mut self, it: Resource<r::Device>) -> wasmtime::Result<Resource<r::Queue>> {
        let device = self.table.get(&it)?;
        let queue = r::Queue { lane: device.lane.clone(), label: device.queue_label.clone() };
        Ok(self.table.push(queue)?)
    }

    async fn destroy(&mut self, it: Resource<r::Device>) -> wasmtime::Result<()> {
        lane_of(self, &it)?.destroy().await;
        Ok(())
    }

    async fn create_buffer(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuBufferDescriptor,
    ) -> wasmtime::Result<Resource<r::Buffer>> {
        let device = self.table.get(&it)?;
        let (lane, most) = (device.lane.clone(), device.limits.max_buffer_size);
        let GpuBufferDescriptor { size, usage, mapped_at_creation, label: text } = descriptor;
        let (object, text) = (lane.object(), label(text));
        let mapped_at_creation = mapped_at_creation.unwrap_or(false);
        let mut map = Mapping::default();
        if mapped_at_creation {
            map.set(MapState::Mapped { range: 0..size, write: true });
        }
        let buffer = r::Buffer {
            object: object.clone(),
            size,
            usage,
            map: Arc::new(Mutex::new(map)),
            label: text.clone(),
            lane: lane.clone(),
        };
        let handle = self.table.push(buffer)?;
        // What no device can have is another error than what this guest may not have, and wgpu tells it.
        let account = &lane.shared.account;
        let charge = account.memory(if size > most { 0 } else { size });
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let charge = charge.map_err(Fault::out_of_memory)?;
                let usage = enums::buffer_usage(usage);
                let descriptor = wgpu::BufferDescriptor { label: Some(&text), size, usage, mapped_at_creation };
                Ok(Allocated::new(gpu.device.create_buffer(&descriptor), charge))
            });
        })
        .await;
        Ok(handle)
    }

    async fn create_texture(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuTextureDescriptor,
    ) -> wasmtime::Result<Resource<r::Texture>> {
        let device = self.table.get(&it)?;
        let lane = device.lane.clone();
        let most = device
            .limits
            .max_texture_dimension_1d
            .max(device.limits.max_texture_dimension_2d)
            .max(device.limits.max_texture_dimension_3d);
        let facts = r::TextureFacts {
            size: records::extent(descriptor.size),
            mip_level_count: descriptor.mip_level_count.unwrap_or(1),
            sample_count: descriptor.sample_count.unwrap_or(1),
            dimension: descriptor.dimension.unwrap_or(GpuTextureDimension::D2),
            format: descriptor.format,
            usage: descriptor.usage,
            binding_view_dimension: descriptor.texture_binding_view_dimension,
        };
        let (object, text) = (lane.object(), label(descriptor.label));
        let texture =
            r::Texture { object: object.clone(), descriptor: facts.clone(), label: text.clone(), lane: lane.clone() };
        let handle = self.table.push(texture)?;
        let (size, format) = (facts.size, formats::texture(facts.format));
        let is_possible = size.width.max(size.height).max(size.depth_or_array_layers) <= most;
        let bytes = formats::texture_bytes(format, size, facts.mip_level_count, facts.sample_count);
        let charge = lane.shared.account.memory(if is_possible { bytes } else { 0 });
        let views = descriptor.view_formats.unwrap_or_default();
        let views: Vec<_> = views.into_iter().map(formats::texture).collect();
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let charge = charge.map_err(Fault::out_of_memory)?;
                let descriptor = wgpu::TextureDescriptor {
                    label: Some(text.as_str()),
                    size,
                    mip_level_count: facts.mip_level_count,
                    sample_count: facts.sample_count,
                    dimension: enums::dimension(facts.dimension),
                    format,
                    usage: enums::texture_usage(facts.usage),
                    view_formats: &views,
                };
                Ok(Allocated::new(gpu.device.create_texture(&descriptor), charge))
            });
        })
        .await;
        Ok(handle)
    }

    async fn create_sampler(
        &mut self,
        it: Resource<r::Device>,
        descriptor: Option<GpuSamplerDescriptor>,
    ) -> wasmtime::Result<Resource<r::Sampler>> {
        let lane = lane_of(self, &it)?;
        let records::Sampler { label, descriptor } = records::sampler(descriptor);
        let (handle, object) = self.keep(&lane, label.clone())?;
        lane.send(0, move |gpu| {
            let descriptor = wgpu::SamplerDescriptor { label: Some(&label), ..descriptor };
            gpu.make(&object, || Ok(gpu.device.create_sampler(&descriptor)));
        })
        .await;
        Ok(handle)
    }

    async fn create_bind_group_layout(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuBindGroupLayoutDescriptor,
    ) -> wasmtime::Result<Resource<r::BindGroupLayout>> {
        let lane = lane_of(self, &it)?;
        let text = label(descriptor.label);
        let (handle, object) = self.keep(&lane, text.clone())?;
        let entries: Result<Vec<_>, String> = descriptor.entries.into_iter().map(records::layout_entry).collect();
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let entries = &entries.map_err(Fault::validation)?;
                let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(&text), entries };
                Ok(gpu.device.create_bind_group_layout(&descriptor))
            });
        })
        .await;
        Ok(handle)
    }

    async fn create_pipeline_layout(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuPipelineLayoutDescriptor,
    ) -> wasmtime::Result<Resource<r::PipelineLayout>> {
        let lane = lane_of(self, &it)?;
        let text = label(descriptor.label);
        let (handle, object) = self.keep(&lane, text.clone())?;
        let layouts = descriptor.bind_group_layouts.iter();
        let layouts: Vec<Option<Object<wgpu::BindGroupLayout>>> = layouts
            .map(|layout| layout.as_ref().map(|layout| self.object(layout)).transpose())
            .collect::<Result<_, _>>()?;
        let immediate_size = descriptor.immediate_size.unwrap_or(0);
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let get =
                    |layout: Option<Object<_>>| layout.map(|layout| layout.get("the bind group layout")).transpose();
                let layouts: Vec<_> = layouts.into_iter().map(get).collect::<Result<_, _>>()?;
                let bind_group_layouts: Vec<_> = layouts.iter().map(Option::as_ref).collect();
                Ok(gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some(&text),
                    bind_group_layouts: &bind_group_layouts,
                    immediate_size,
                }))
            });
        })
        .await;
        Ok(handle)
    }

    async fn create_bind_group(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuBindGroupDescriptor,
    ) -> wasmtime::Result<Resource<r::BindGroup>> {
        let lane = lane_of(self, &it)?;
        let text = label(descriptor.label);
        let (handle, object) = self.keep(&lane, text.clone())?;
        let layout = self.object(&descriptor.layout)?;
        let entries = descriptor.entries.into_iter();
        let entries: Vec<_> =
            entries.map(|entry| Ok((entry.binding, self.bound(&entry.resource)?))).collect::<wasmtime::Result<_>>()?;
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let layout = layout.get("the bind group layout")?;
                let get = |(binding, bound): (u32, Bound)| Ok((binding, bound.get()?));
                let there: Vec<(u32, There)> = entries.into_iter().map(get).collect::<Result<_, Fault>>()?;
                let entries: Vec<_> = there
                    .iter()
                    .map(|(binding, there)| wgpu::BindGroupEntry { binding: *binding, resource: there.binding() })
                    .collect();
                Ok(gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&text),
                    layout: &layout,
                    entries: &entries,
                }))
            });
        })
        .await;
        Ok(handle)
    }

    async fn create_shader_module(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuShaderModuleDescriptor,
    ) -> wasmtime::Result<Resource<r::ShaderModule>> {
        let device = self.table.get(&it)?;
        let (lane, limits) = (device.lane.clone(), device.limits.clone());
        let (object, text) = (lane.object(), label(descriptor.label));
        let module = r::ShaderModule { object: object.clone(), label: text.clone(), lane: lane.clone() };
        let handle = self.table.push(module)?;
        let code = descriptor.code;
        lane.send(code.len(), move |gpu| object.set(shader::compile(gpu, &limits, &text, code))).await;
        Ok(handle)
    }

    async fn create_compute_pipeline(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuComputePipelineDescriptor,
    ) -> wasmtime::Result<Resource<r::ComputePipeline>> {
        let lane = lane_of(self, &it)?;
        let parts = pipelines::Compute::of(self, descriptor)?;
        let (handle, object) = self.keep(&lane, parts.label.clone())?;
        lane.send(0, move |gpu| gpu.make(&object, || parts.build(gpu))).await;
        Ok(handle)
    }

    async fn create_render_pipeline(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuRenderPipelineDescriptor,
    ) -> wasmtime::Result<Resource<r::RenderPipeline>> {
        let lane = lane_of(self, &it)?;
        let parts = pipelines::Render::of(self, descriptor)?;
        let (handle, object) = self.keep(&lane, parts.label.clone())?;
        lane.send(0, move |gpu| gpu.make(&object, || parts.build(gpu))).await;
        Ok(handle)
    }

    fn create_command_encoder(
        &mut self,
        it: Resource<r::Device>,
        descriptor: Option<GpuCommandEncoderDescriptor>,
    ) -> wasmtime::Result<Resource<r::CommandEncoder>> {
        let lane = lane_of(self, &it)?;
        let recording = Recording::new(lane.shared.account.commands());
        let label = label(descriptor.and_then(|descriptor| descriptor.label));
        Ok(self.table.push(r::CommandEncoder { recording: Arc::new(Mutex::new(recording)), label, lane })?)
    }

    fn create_render_bundle_encoder(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuRenderBundleEncoderDescriptor,
    ) -> wasmtime::Result<Resource<r::RenderBundleEncoder>> {
        let lane = lane_of(self, &it)?;
        let depth_stencil = descriptor.depth_stencil_format.map(|format| wgpu::RenderBundleDepthStencil {
            format: formats::texture(format),
            depth_read_only: descriptor.depth_read_only.unwrap_or(false),
            stencil_read_only: descriptor.stencil_read_only.unwrap_or(false),
        });
        let colors = descriptor.color_formats.into_iter().map(|format| format.map(formats::texture)).collect();
        let formats = r::BundleFormats { colors, depth_stencil, sample_count: descriptor.sample_count.unwrap_or(1) };
        let recording = Arc::new(Mutex::new(Recording::bundle(lane.shared.account.commands())));
        Ok(self.table.push(r::RenderBundleEncoder { recording, formats, label: label(descriptor.label), lane })?)
    }

    async fn create_query_set(
        &mut self,
        it: Resource<r::Device>,
        descriptor: GpuQuerySetDescriptor,
    ) -> wasmtime::Result<Result<Resource<r::QuerySet>, CreateQuerySetError>> {
        let device = self.table.get(&it)?;
        let lane = device.lane.clone();
        let GpuQuerySetDescriptor { type_: kind, count, label: text } = descriptor;
        let has_timestamps = device.features.contains(wgpu::Features::TIMESTAMP_QUERY);
        if kind == GpuQueryType::Timestamp && !has_timestamps {
            let message = "the device was requested without the feature timestamp-query".into();
            return Ok(Err(CreateQuerySetError { kind: CreateQuerySetErrorKind::TypeError, message }));
        }
        let (object, label) = (lane.object(), label(text));
        let set = r::QuerySet { object: object.clone(), kind, count, label: label.clone(), lane: lane.clone() };
        let handle = self.table.push(set)?;
        lane.send(0, move |gpu| {
            let descriptor =
                wgpu::QuerySetDescriptor { label: Some(label.as_str()), ty: enums::query_type(kind), count };
            gpu.make(&object, || Ok(gpu.device.create_query_set(&descriptor)));
        })
        .await;
        Ok(Ok(handle))
    }

    async fn push_error_scope(&mut self, it: Resource<r::Device>, filter: GpuErrorFilter) -> wasmtime::Result<()> {
        let lane = lane_of(self, &it)?;
        let filter = enums::error_filter(filter);
        lane.send(0, move |gpu| crate::lock(&gpu.shared.errors).push(filter)).await;
        Ok(())
    }
}

/// What an entry of a bind group names.
enum Bound {
    Buffer(Object<r::AllocatedBuffer>, u64, Option<u64>),
    Sampler(Object<wgpu::Sampler>),
    Texture(Object<r::AllocatedTexture>),
    View(Object<wgpu::TextureView>),
}

/// The same on the device's thread.
enum There {
    Buffer(wgpu::Buffer, u64, Option<wgpu::BufferSize>),
    Sampler(wgpu::Sampler),
    View(wgpu::TextureView),
}

impl GpuView<'_> {
    fn bound(&self, resource: &GpuBindingResource) -> wasmtime::Result<Bound> {
        Ok(match resource {
            GpuBindingResource::GpuBuffer(buffer) => Bound::Buffer(self.table.get(buffer)?.object.clone(), 0, None),
            GpuBindingResource::GpuBufferBinding(GpuBufferBinding { buffer, offset, size }) => {
                Bound::Buffer(self.table.get(buffer)?.object.clone(), offset.unwrap_or(0), *size)
            }
            GpuBindingResource::GpuSampler(sampler) => Bound::Sampler(self.object(sampler)?),
            GpuBindingResource::GpuTexture(texture) => Bound::Texture(self.table.get(texture)?.object.clone()),
            GpuBindingResource::GpuTextureView(view) => Bound::View(self.object(view)?),
        })
    }
}

impl Bound {
    fn get(self) -> Result<There, Fault> {
        Ok(match self {
            Self::Buffer(buffer, offset, size) => {
                let buffer = buffer.get("a bound buffer")?.it;
                let empty = || Fault::validation("a bound range is empty");
                let size = size.map(|size| wgpu::BufferSize::new(size).ok_or_else(empty)).transpose()?;
                There::Buffer(buffer, offset, size)
            }
            Self::Sampler(sampler) => There::Sampler(sampler.get("a bound sampler")?),
            Self::View(view) => There::View(view.get("a bound texture view")?),
            Self::Texture(texture) => {
                let texture = texture.get("a bound texture")?.it;
                There::View(texture.create_view(&wgpu::TextureViewDescriptor::default()))
            }
        })
    }
}

impl There {
    fn binding(&self) -> wgpu::BindingResource<'_> {
        match self {
            Self::Buffer(buffer, offset, size) => {
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: *offset, size: *size })
            }
            Self::Sampler(sampler) => wgpu::BindingResource::Sampler(sampler),
            Self::View(view) => wgpu::BindingResource::TextureView(view),
        }
    }
}
