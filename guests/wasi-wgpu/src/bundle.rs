//! Render bundles.

use crate::{
    bindings::{GpuRenderBundleDescriptor, GpuRenderBundleEncoder},
    convert::{Inexpressible, enums, records},
    encoder::Fault,
    held::{BindGroup, RenderBundle, RenderPipeline, held},
    render::{count, drawing},
    shared::Shared,
};
use std::{ops::Range, rc::Rc};
use wgpu::{
    BufferAddress, BufferSize, DynamicOffset,
    custom::{self, DispatchBindGroup, DispatchBuffer, DispatchRenderBundle, DispatchRenderPipeline},
};

/// None where it could not be made: the bundle is invalid then.
#[derive(Debug)]
pub(crate) struct RenderBundleEncoder {
    gpu: Option<GpuRenderBundleEncoder>,
    shared: Rc<Shared>,
    fault: Fault,
}

impl RenderBundleEncoder {
    pub(crate) fn new(gpu: Option<GpuRenderBundleEncoder>, shared: Rc<Shared>) -> Self {
        Self { gpu, shared, fault: Fault::default() }
    }

    fn record(&self, command: impl FnOnce(&GpuRenderBundleEncoder) -> Result<(), Inexpressible>) {
        if let Some(gpu) = &self.gpu {
            self.fault.record(|| command(gpu));
        }
    }
}

impl custom::RenderBundleEncoderInterface for RenderBundleEncoder {
    drawing!();

    fn finish(self, from: &wgpu::RenderBundleDescriptor<'_>) -> DispatchRenderBundle {
        let descriptor = GpuRenderBundleDescriptor { label: records::label(from.label) };
        let bundle = self.gpu.as_ref().and_then(|gpu| {
            self.shared.checked(|| match self.fault.take() {
                Some(message) => Err(message),
                None => Ok(gpu.finish(Some(&descriptor))),
            })
        });
        DispatchRenderBundle::custom(RenderBundle(bundle))
    }

    fn finish_boxed(self: Box<Self>, from: &wgpu::RenderBundleDescriptor<'_>) -> DispatchRenderBundle {
        (*self).finish(from)
    }
}
