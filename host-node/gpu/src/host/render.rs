//! Render passes and bundles: they record, too. Without a screen they draw into textures.

use crate::{
    bindings::webgpu::*,
    convert::{enums, records},
    device::{
        Fault,
        recording::{ColorAttachment, DepthAttachment, Ended, RenderTargets, Step, Timestamps},
        replay_bundle,
    },
    host::{
        GpuView, dropped,
        encoder::{passed, recorded},
        labels,
        resources::{self as r, label},
    },
    lock,
};
use wasmtime::component::Resource;

impl GpuView<'_> {
    pub(super) fn targets(&self, descriptor: GpuRenderPassDescriptor) -> wasmtime::Result<RenderTargets> {
        let color = |attachment: Option<GpuRenderPassColorAttachment>| {
            let Some(from) = attachment else { return Ok(None) };
            let clear = from.clear_value.map_or(wgpu::Color::TRANSPARENT, records::color);
            let load = match from.load_op {
                GpuLoadOp::Load => wgpu::LoadOp::Load,
                GpuLoadOp::Clear => wgpu::LoadOp::Clear(clear),
            };
            Ok(Some(ColorAttachment {
                view: self.object(&from.view)?,
                depth_slice: from.depth_slice,
                resolve: from.resolve_target.map(|view| self.object(&view)).transpose()?,
                ops: wgpu::Operations { load, store: enums::store_op(from.store_op) },
            }))
        };
        let depth = |from: GpuRenderPassDepthStencilAttachment| {
            // What is only read has no operations.
            let is_read = |read_only: Option<bool>| read_only == Some(true);
            let depth = records::operations(from.depth_load_op, from.depth_clear_value, from.depth_store_op);
            let stencil = records::operations(from.stencil_load_op, from.stencil_clear_value, from.stencil_store_op);
            wasmtime::error::Ok(DepthAttachment {
                view: self.object(&from.view)?,
                depth: depth.filter(|_| !is_read(from.depth_read_only)),
                stencil: stencil.filter(|_| !is_read(from.stencil_read_only)),
            })
        };
        let timestamps = descriptor.timestamp_writes.map(|writes| {
            let set = self.query_set(&writes.query_set)?;
            let (begin, end) = (writes.beginning_of_pass_write_index, writes.end_of_pass_write_index);
            wasmtime::error::Ok(Timestamps { set, begin, end })
        });
        Ok(RenderTargets {
            label: label(descriptor.label),
            colors: descriptor.color_attachments.into_iter().map(color).collect::<wasmtime::Result<_>>()?,
            depth_stencil: descriptor.depth_stencil_attachment.map(depth).transpose()?,
            occlusion: descriptor.occlusion_query_set.map(|set| self.query_set(&set)).transpose()?,
            timestamps: timestamps.transpose()?,
        })
    }
}

/// What render passes and bundles have in common.
macro_rules! drawing {
    ($resource:ty) => {
        fn set_pipeline(
            &mut self,
            it: Resource<$resource>,
            pipeline: Resource<r::RenderPipeline>,
        ) -> wasmtime::Result<()> {
            let pipeline = self.object(&pipeline)?;
            self.step(&it, Step::RenderPipeline(pipeline))
        }

        fn set_index_buffer(
            &mut self,
            it: Resource<$resource>,
            buffer: Resource<r::Buffer>,
            format: GpuIndexFormat,
            offset: Option<u64>,
            size: Option<u64>,
        ) -> wasmtime::Result<()> {
            let (buffer, format) = (self.buffer(&buffer)?, enums::index_format(format));
            self.step(&it, Step::IndexBuffer { buffer, format, offset: offset.unwrap_or(0), size })
        }

        fn set_vertex_buffer(
            &mut self,
            it: Resource<$resource>,
            slot: u32,
            buffer: Option<Resource<r::Buffer>>,
            offset: Option<u64>,
            size: Option<u64>,
        ) -> wasmtime::Result<()> {
            let buffer = buffer.map(|buffer| self.buffer(&buffer)).transpose()?;
            self.step(&it, Step::VertexBuffer { slot, buffer, offset: offset.unwrap_or(0), size })
        }

        fn draw(
            &mut self,
            it: Resource<$resource>,
            vertices: u32,
            instances: Option<u32>,
            first_vertex: Option<u32>,
            first_instance: Option<u32>,
        ) -> wasmtime::Result<()> {
            let step = Step::Draw {
                vertices,
                instances: instances.unwrap_or(1),
                first_vertex: first_vertex.unwrap_or(0),
                first_instance: first_instance.unwrap_or(0),
            };
            self.step(&it, step)
        }

        fn draw_indexed(
            &mut self,
            it: Resource<$resource>,
            indices: u32,
            instances: Option<u32>,
            first_index: Option<u32>,
            base_vertex: Option<i32>,
            first_instance: Option<u32>,
        ) -> wasmtime::Result<()> {
            let step = Step::DrawIndexed {
                indices,
                instances: instances.unwrap_or(1),
                first_index: first_index.unwrap_or(0),
                base_vertex: base_vertex.unwrap_or(0),
                first_instance: first_instance.unwrap_or(0),
            };
            self.step(&it, step)
        }

        fn draw_indirect(
            &mut self,
            it: Resource<$resource>,
            buffer: Resource<r::Buffer>,
            offset: u64,
        ) -> wasmtime::Result<()> {
            let buffer = self.buffer(&buffer)?;
            self.step(&it, Step::DrawIndirect(buffer, offset))
        }

        fn draw_indexed_indirect(
            &mut self,
            it: Resource<$resource>,
            buffer: Resource<r::Buffer>,
            offset: u64,
        ) -> wasmtime::Result<()> {
            let buffer = self.buffer(&buffer)?;
            self.step(&it, Step::DrawIndexedIndirect(buffer, offset))
        }
    };
}

impl HostGpuRenderPassEncoder for GpuView<'_> {
    recorded!(r::RenderPass);
    passed!(r::RenderPass);
    drawing!(r::RenderPass);
    dropped!(r::RenderPass);

    fn set_viewport(
        &mut self,
        it: Resource<r::RenderPass>,
        x: f32,
        y: f32,
        width: f32,
        height: f32,
        min_depth: f32,
        max_depth: f32,
    ) -> wasmtime::Result<()> {
        self.step(&it, Step::Viewport([x, y, width, height, min_depth, max_depth]))
    }

    fn set_scissor_rect(
        &mut self,
        it: Resource<r::RenderPass>,
        x: u32,
        y: u32,
        width: u32,
        height: u32,
    ) -> wasmtime::Result<()> {
        self.step(&it, Step::Scissor([x, y, width, height]))
    }

    fn set_blend_constant(&mut self, it: Resource<r::RenderPass>, color: GpuColor) -> wasmtime::Result<()> {
        self.step(&it, Step::BlendConstant(records::color(color)))
    }

    fn set_stencil_reference(&mut self, it: Resource<r::RenderPass>, reference: u32) -> wasmtime::Result<()> {
        self.step(&it, Step::StencilReference(reference))
    }

    fn begin_occlusion_query(&mut self, it: Resource<r::RenderPass>, index: u32) -> wasmtime::Result<()> {
        self.step(&it, Step::BeginOcclusion(index))
    }

    fn end_occlusion_query(&mut self, it: Resource<r::RenderPass>) -> wasmtime::Result<()> {
        self.step(&it, Step::EndOcclusion)
    }

    fn execute_bundles(
        &mut self,
        it: Resource<r::RenderPass>,
        bundles: Vec<Resource<r::RenderBundle>>,
    ) -> wasmtime::Result<()> {
        let bundles = bundles.iter().map(|bundle| self.object(bundle)).collect::<wasmtime::Result<_>>()?;
        self.step(&it, Step::Bundles(bundles))
    }
}

impl HostGpuRenderBundleEncoder for GpuView<'_> {
    recorded!(r::RenderBundleEncoder);
    drawing!(r::RenderBundleEncoder);
    labels!(r::RenderBundleEncoder);
    dropped!(r::RenderBundleEncoder);

    async fn finish(
        &mut self,
        it: Resource<r::RenderBundleEncoder>,
        descriptor: Option<GpuRenderBundleDescriptor>,
    ) -> wasmtime::Result<Resource<r::RenderBundle>> {
        let encoder = self.table.get(&it)?;
        let (lane, recording, formats) = (encoder.lane.clone(), encoder.recording.clone(), encoder.formats.clone());
        let text = label(descriptor.and_then(|descriptor| descriptor.label));
        let (handle, object) = self.keep(&lane, text.clone())?;
        let finished = lock(&recording).finish();
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let finished = finished.map_err(|Ended(why)| Fault::validation(why))?;
                replay_bundle(gpu, &text, &formats, finished.map_err(Fault::validation)?)
            });
        })
        .await;
        Ok(handle)
    }
}
