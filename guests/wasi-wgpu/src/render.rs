//! Render passes, into textures: there are no surfaces.

use crate::{
    bindings::GpuRenderPassEncoder,
    convert::{Inexpressible, enums, records},
    encoder::Fault,
    held::{BindGroup, RenderBundle, RenderPipeline, held},
};
use std::{ops::Range, rc::Rc};
use wgpu::{
    BufferAddress, BufferSize, DynamicOffset,
    custom::{self, DispatchBindGroup, DispatchBuffer, DispatchQuerySet, DispatchRenderBundle, DispatchRenderPipeline},
};

/// None where it could not begin: the encoder is invalid then.
#[derive(Debug)]
pub(crate) struct RenderPass {
    gpu: Option<GpuRenderPassEncoder>,
    fault: Rc<Fault>,
}

impl RenderPass {
    pub(crate) fn new(gpu: Option<GpuRenderPassEncoder>, fault: Rc<Fault>) -> Self {
        Self { gpu, fault }
    }

    fn record(&self, command: impl FnOnce(&GpuRenderPassEncoder) -> Result<(), Inexpressible>) {
        if let Some(gpu) = &self.gpu {
            self.fault.record(|| command(gpu));
        }
    }

    /// Several draws whose arguments of so many bytes follow each other.
    fn each(&self, first: BufferAddress, bytes: u64, count: u32, draw: impl Fn(&GpuRenderPassEncoder, BufferAddress)) {
        self.record(|gpu| {
            for at in 0..u64::from(count) {
                draw(gpu, first.saturating_add(at * bytes));
            }
            Ok(())
        });
    }
}

/// How many there are of a range, which may be none.
pub(crate) fn count(range: &Range<u32>) -> u32 {
    range.end.saturating_sub(range.start)
}

/// What a render pass and a bundle have in common: both have it in two interfaces of the same functions.
macro_rules! drawing {
    () => {
        fn set_pipeline(&mut self, pipeline: &DispatchRenderPipeline) {
            self.record(|gpu| {
                gpu.set_pipeline(held(pipeline.as_custom::<RenderPipeline>())?);
                Ok(())
            });
        }

        fn set_bind_group(&mut self, index: u32, group: Option<&DispatchBindGroup>, offsets: &[DynamicOffset]) {
            self.record(|gpu| {
                let group = group.map(|group| held(group.as_custom::<BindGroup>())).transpose()?;
                let set = gpu.set_bind_group(index, group, Some(offsets), None, None);
                set.map_err(|error| error.message)
            });
        }

        fn set_index_buffer(
            &mut self,
            buffer: &DispatchBuffer,
            format: wgpu::IndexFormat,
            offset: BufferAddress,
            size: Option<BufferSize>,
        ) {
            self.record(|gpu| {
                let (buffer, size) = (records::buffer(buffer)?, size.map(u64::from));
                gpu.set_index_buffer(buffer, enums::index_format(format), Some(offset), size);
                Ok(())
            });
        }

        fn set_vertex_buffer(
            &mut self,
            slot: u32,
            buffer: Option<&DispatchBuffer>,
            offset: BufferAddress,
            size: Option<BufferSize>,
        ) {
            self.record(|gpu| {
                let buffer = buffer.map(records::buffer).transpose()?;
                gpu.set_vertex_buffer(slot, buffer, Some(offset), size.map(u64::from));
                Ok(())
            });
        }

        fn set_immediates(&mut self, offset: u32, data: &[u8]) {
            self.record(|gpu| {
                gpu.set_immediates(offset, data, None, None);
                Ok(())
            });
        }

        fn draw(&mut self, vertices: Range<u32>, instances: Range<u32>) {
            self.record(|gpu| {
                let (vertex, instance) = (Some(vertices.start), Some(instances.start));
                gpu.draw(count(&vertices), Some(count(&instances)), vertex, instance);
                Ok(())
            });
        }

        fn draw_indexed(&mut self, indices: Range<u32>, base_vertex: i32, instances: Range<u32>) {
            self.record(|gpu| {
                let (index, instance) = (Some(indices.start), Some(instances.start));
                gpu.draw_indexed(count(&indices), Some(count(&instances)), index, Some(base_vertex), instance);
                Ok(())
            });
        }

        fn draw_indirect(&mut self, buffer: &DispatchBuffer, offset: BufferAddress) {
            self.record(|gpu| {
                gpu.draw_indirect(records::buffer(buffer)?, offset);
                Ok(())
            });
        }

        fn draw_indexed_indirect(&mut self, buffer: &DispatchBuffer, offset: BufferAddress) {
            self.record(|gpu| {
                gpu.draw_indexed_indirect(records::buffer(buffer)?, offset);
                Ok(())
            });
        }
    };
}
pub(crate) use drawing;

impl custom::RenderPassInterface for RenderPass {
    drawing!();

    fn set_blend_constant(&mut self, color: wgpu::Color) {
        self.record(|gpu| {
            gpu.set_blend_constant(records::color(color));
            Ok(())
        });
    }

    fn set_scissor_rect(&mut self, x: u32, y: u32, width: u32, height: u32) {
        self.record(|gpu| {
            gpu.set_scissor_rect(x, y, width, height);
            Ok(())
        });
    }

    fn set_viewport(&mut self, x: f32, y: f32, width: f32, height: f32, min_depth: f32, max_depth: f32) {
        self.record(|gpu| {
            gpu.set_viewport(x, y, width, height, min_depth, max_depth);
            Ok(())
        });
    }

    fn set_stencil_reference(&mut self, reference: u32) {
        self.record(|gpu| {
            gpu.set_stencil_reference(reference);
            Ok(())
        });
    }

    fn multi_draw_indirect(&mut self, buffer: &DispatchBuffer, offset: BufferAddress, count: u32) {
        match records::buffer(buffer) {
            Ok(buffer) => self.each(offset, 16, count, |gpu, at| gpu.draw_indirect(buffer, at)),
            Err(message) => self.fault.set(message),
        }
    }

    fn multi_draw_indexed_indirect(&mut self, buffer: &DispatchBuffer, offset: BufferAddress, count: u32) {
        match records::buffer(buffer) {
            Ok(buffer) => self.each(offset, 20, count, |gpu, at| gpu.draw_indexed_indirect(buffer, at)),
            Err(message) => self.fault.set(message),
        }
    }

    fn multi_draw_indirect_count(
        &mut self,
        _: &DispatchBuffer,
        _: BufferAddress,
        _: &DispatchBuffer,
        _: BufferAddress,
        _: u32,
    ) {
        self.fault.has_no("draws whose number is in a buffer");
    }

    fn multi_draw_indexed_indirect_count(
        &mut self,
        _: &DispatchBuffer,
        _: BufferAddress,
        _: &DispatchBuffer,
        _: BufferAddress,
        _: u32,
    ) {
        self.fault.has_no("draws whose number is in a buffer");
    }

    fn draw_mesh_tasks(&mut self, _: u32, _: u32, _: u32) {
        self.fault.has_no("mesh shaders");
    }

    fn draw_mesh_tasks_indirect(&mut self, _: &DispatchBuffer, _: BufferAddress) {
        self.fault.has_no("mesh shaders");
    }

    fn multi_draw_mesh_tasks_indirect(&mut self, _: &DispatchBuffer, _: BufferAddress, _: u32) {
        self.fault.has_no("mesh shaders");
    }

    fn multi_draw_mesh_tasks_indirect_count(
        &mut self,
        _: &DispatchBuffer,
        _: BufferAddress,
        _: &DispatchBuffer,
        _: BufferAddress,
        _: u32,
    ) {
        self.fault.has_no("mesh shaders");
    }

    fn insert_debug_marker(&mut self, label: &str) {
        self.record(|gpu| {
            gpu.insert_debug_marker(label);
            Ok(())
        });
    }

    fn push_debug_group(&mut self, label: &str) {
        self.record(|gpu| {
            gpu.push_debug_group(label);
            Ok(())
        });
    }

    fn pop_debug_group(&mut self) {
        self.record(|gpu| {
            gpu.pop_debug_group();
            Ok(())
        });
    }

    fn write_timestamp(&mut self, _: &DispatchQuerySet, _: u32) {
        self.fault.has_no("timestamps within passes");
    }

    fn begin_occlusion_query(&mut self, index: u32) {
        self.record(|gpu| {
            gpu.begin_occlusion_query(index);
            Ok(())
        });
    }

    fn end_occlusion_query(&mut self) {
        self.record(|gpu| {
            gpu.end_occlusion_query();
            Ok(())
        });
    }

    fn begin_pipeline_statistics_query(&mut self, _: &DispatchQuerySet, _: u32) {
        self.fault.has_no("queries of pipeline statistics");
    }

    fn end_pipeline_statistics_query(&mut self) {
        self.fault.has_no("queries of pipeline statistics");
    }

    fn execute_bundles(&mut self, bundles: &mut dyn Iterator<Item = &DispatchRenderBundle>) {
        self.record(|gpu| {
            let handles = bundles.map(|bundle| held(bundle.as_custom::<RenderBundle>()));
            gpu.execute_bundles(&handles.collect::<Result<Vec<_>, _>>()?);
            Ok(())
        });
    }
}

impl Drop for RenderPass {
    fn drop(&mut self) {
        if let Some(gpu) = &self.gpu {
            gpu.end();
        }
    }
}
