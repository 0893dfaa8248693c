//! Compute passes.

use crate::{
    bindings::GpuComputePassEncoder,
    convert::{Inexpressible, records},
    encoder::Fault,
    held::{BindGroup, ComputePipeline, held},
};
use std::rc::Rc;
use wgpu::{
    BufferAddress, DynamicOffset,
    custom::{self, DispatchBindGroup, DispatchBuffer, DispatchComputePipeline, DispatchQuerySet, DispatchTextureView},
    wgt,
};

/// None where it could not begin: the encoder is invalid then.
#[derive(Debug)]
pub(crate) struct ComputePass {
    gpu: Option<GpuComputePassEncoder>,
    fault: Rc<Fault>,
}

impl ComputePass {
    pub(crate) fn new(gpu: Option<GpuComputePassEncoder>, fault: Rc<Fault>) -> Self {
        Self { gpu, fault }
    }

    fn record(&self, command: impl FnOnce(&GpuComputePassEncoder) -> Result<(), Inexpressible>) {
        if let Some(gpu) = &self.gpu {
            self.fault.record(|| command(gpu));
        }
    }
}

impl custom::ComputePassInterface for ComputePass {
    fn set_pipeline(&mut self, pipeline: &DispatchComputePipeline) {
        self.record(|gpu| {
            gpu.set_pipeline(held(pipeline.as_custom::<ComputePipeline>())?);
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

    fn set_immediates(&mut self, offset: u32, data: &[u8]) {
        self.record(|gpu| {
            gpu.set_immediates(offset, data, None, None);
            Ok(())
        });
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

    fn begin_pipeline_statistics_query(&mut self, _: &DispatchQuerySet, _: u32) {
        self.fault.has_no("queries of pipeline statistics");
    }

    fn end_pipeline_statistics_query(&mut self) {
        self.fault.has_no("queries of pipeline statistics");
    }

    fn dispatch_workgroups(&mut self, x: u32, y: u32, z: u32) {
        self.record(|gpu| {
            gpu.dispatch_workgroups(x, Some(y), Some(z));
            Ok(())
        });
    }

    fn dispatch_workgroups_indirect(&mut self, buffer: &DispatchBuffer, offset: BufferAddress) {
        self.record(|gpu| {
            gpu.dispatch_workgroups_indirect(records::buffer(buffer)?, offset);
            Ok(())
        });
    }

    /// The host does it.
    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgt::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgt::TextureTransition<&'a DispatchTextureView>>,
    ) {
    }
}

impl Drop for ComputePass {
    fn drop(&mut self) {
        if let Some(gpu) = &self.gpu {
            gpu.end();
        }
    }
}
