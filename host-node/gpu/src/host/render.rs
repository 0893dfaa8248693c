//! Render passes and bundles: they record, too. Without a screen they draw into textures.

use crate::{
    bindings::webgpu::*,
    convert::{enums, records},
    device::{
        Fault,
        recording::{ColorAttachment, DepthAttachment, Ended, Mark, RenderTargets, Step, Timestamps},
        replay_bundle,
    },
    host::{
        GpuView, at_once, dropped,
        encoder::{BAD_IMMEDIATES, immediates, mark},
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

    fn pass_step(&self, pass: &Resource<r::RenderPass>, step: Step) -> wasmtime::Result<()> {
        self.table.get(pass)?.0.step(step);
        Ok(())
    }

    fn bundle_step(&self, bundle: &Resource<r::RenderBundleEncoder>, step: Step) -> wasmtime::Result<()> {
        let bundle = self.table.get(bundle)?;
        at_once(&bundle.lane, lock(&bundle.recording).step(0, step));
        Ok(())
    }

    fn pass_wrong(&self, pass: &Resource<r::RenderPass>) -> wasmtime::Result<()> {
        self.table.get(pass)?.0.wrong(BAD_IMMEDIATES);
        Ok(())
    }

    fn bundle_wrong(&self, bundle: &Resource<r::RenderBundleEncoder>) -> wasmtime::Result<()> {
        lock(&self.table.get(bundle)?.recording).wrong(BAD_IMMEDIATES);
        Ok(())
    }
}

/// What passes and bundles have in common.
macro_rules! drawing {
    ($resource:ty, $step:ident, $wrong:ident) => {
        fn push_debug_group(&mut self, it: Resource<$resource>, text: String) -> wasmtime::Result<()> {
            self.$step(&it, Step::Mark(Mark::Push(mark(text))))
        }

        fn pop_debug_group(&mut self, it: Resource<$resource>) -> wasmtime::Result<()> {
            self.$step(&it, Step::Mark(Mark::Pop))
        }

        fn insert_debug_marker(&mut self, it: Resource<$resource>, text: String) -> wasmtime::Result<()> {
            self.$step(&it, Step::Mark(Mark::Insert(mark(text))))
        }

        fn set_bind_group(
            &mut self,
            it: Resource<$resource>,
            index: u32,
            group: Option<Resource<r::BindGroup>>,
            offsets: Option<Vec<u32>>,
            start: Option<u64>,
            length: Option<u32>,
        ) -> wasmtime::Result<Result<(), SetBindGroupError>> {
            match self.group_step(index, group, offsets, start, length)? {
                Ok(step) => Ok(Ok(self.$step(&it, step)?)),
                Err(error) => Ok(Err(error)),
            }
        }

        fn set_immediates(
            &mut self,
            it: Resource<$resource>,
            offset: u32,
            data: Vec<u8>,
            start: Option<u64>,
            size: Option<u64>,
        ) -> wasmtime::Result<()> {
            match immediates(offset, &data, start, size) {
                Some(step) => self.$step(&it, step),
                None => self.$wrong(&it),
            }
        }

        fn set_pipeline(
            &mut self,
            it: Resource<$resource>,
            pipeline: Resource<r::RenderPipeline>,
        ) -> wasmtime::Result<()> {
            let pipeline = self.object(&pipeline)?;
            self.$step(&it, Step::RenderPipeline(pipeline))
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
            self.$step(&it, Step::IndexBuffer { buffer, format, offset: offset.unwrap_or(0), size })
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
            self.$step(&it, Step::VertexBuffer { slot, buffer, offset: offset.unwrap_or(0), size })
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
            self.$step(&it, step)
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
            self.$step(&it, step)
        }

        fn draw_indirect(
            &mut self,
            it: Resource<$resource>,
            buffer: Resource<r::Buffer>,
            offset: u64,
        ) -> wasmtime::Result<()> {
            let buffer = self.buffer(&buffer)?;
            self.$step(&it, Step::DrawIndirect(buffer, offset))
        }

        fn draw_indexed_indirect(
            &mut self,
            it: Resource<$resource>,
            buffer: Resource<r::Buffer>,
            offset: u64,
        ) -> wasmtime::Result<()> {
            let buffer = self.buffer(&buffer)?;
            self.$step(&it, Step::DrawIndexedIndirect(buffer, offset))
        }
    };
}

impl HostGpuRenderPassEncoder for GpuView<'_> {
    drawing!(r::RenderPass, pass_step, pass_wrong);
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
        self.pass_step(&it, Step::Viewport([x, y, width, height, min_depth, max_depth]))
    }

    fn set_scissor_rect(
        &mut self,
        it: Resource<r::RenderPass>,
        x: u32,
        y: u32,
        width: u32,
        height: u32,
    ) -> wasmtime::Result<()> {
        self.pass_step(&it, Step::Scissor([x, y, width, height]))
    }

    fn set_blend_constant(&mut self, it: Resource<r::RenderPass>, color: GpuColor) -> wasmtime::Result<()> {
        self.pass_step(&it, Step::BlendConstant(records::color(color)))
    }

    fn set_stencil_reference(&mut self, it: Resource<r::RenderPass>, reference: u32) -> wasmtime::Result<()> {
        self.pass_step(&it, Step::StencilReference(reference))
    }

    fn begin_occlusion_query(&mut self, it: Resource<r::RenderPass>, index: u32) -> wasmtime::Result<()> {
        self.pass_step(&it, Step::BeginOcclusion(index))
    }

    fn end_occlusion_query(&mut self, it: Resource<r::RenderPass>) -> wasmtime::Result<()> {
        self.pass_step(&it, Step::EndOcclusion)
    }

    fn execute_bundles(
        &mut self,
        it: Resource<r::RenderPass>,
        bundles: Vec<Resource<r::RenderBundle>>,
    ) -> wasmtime::Result<()> {
        let bundles = bundles.iter().map(|bundle| self.object(bundle)).collect::<wasmtime::Result<_>>()?;
        self.pass_step(&it, Step::Bundles(bundles))
    }

    fn end(&mut self, it: Resource<r::RenderPass>) -> wasmtime::Result<()> {
        self.table.get(&it)?.0.end();
        Ok(())
    }

    fn label(&mut self, it: Resource<r::RenderPass>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.0.label.clone())
    }

    fn set_label(&mut self, it: Resource<r::RenderPass>, text: String) -> wasmtime::Result<()> {
        self.table.get_mut(&it)?.0.label = label(Some(text));
        Ok(())
    }
}

impl HostGpuRenderBundleEncoder for GpuView<'_> {
    drawing!(r::RenderBundleEncoder, bundle_step, bundle_wrong);
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
