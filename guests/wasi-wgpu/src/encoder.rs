//! Command encoders, and what they share with passes: a command that can't be said to the host makes the encoder invalid,
//! as one does that the host has something against. The error comes when the encoder is finished.

use crate::{
    bindings::GpuCommandEncoder,
    compute::ComputePass,
    convert::{Inexpressible, records},
    held::{CommandBuffer, QuerySet, held},
    render::RenderPass,
    shared::Shared,
};
use std::{cell::RefCell, rc::Rc};
use wgpu::{
    BufferAddress,
    custom::{
        self, DispatchBuffer, DispatchCommandBuffer, DispatchComputePass, DispatchQuerySet, DispatchRenderPass,
        DispatchTexture,
    },
    wgt,
};

/// What of an encoder and its passes could not be recorded: the first of it.
#[derive(Debug, Default)]
pub(crate) struct Fault(RefCell<Option<String>>);

impl Fault {
    pub(crate) fn record<T>(&self, command: impl FnOnce() -> Result<T, Inexpressible>) -> Option<T> {
        command().map_err(|message| self.set(message)).ok()
    }

    pub(crate) fn set(&self, message: String) {
        self.0.borrow_mut().get_or_insert(message);
    }

    pub(crate) fn has_no(&self, what: &str) {
        self.set(format!("WebGPU has no {what}"));
    }

    pub(crate) fn take(&self) -> Option<String> {
        self.0.take()
    }
}

#[derive(Debug)]
pub(crate) struct CommandEncoder {
    gpu: GpuCommandEncoder,
    shared: Rc<Shared>,
    fault: Rc<Fault>,
}

impl CommandEncoder {
    pub(crate) fn new(gpu: GpuCommandEncoder, shared: Rc<Shared>) -> Self {
        Self { gpu, shared, fault: Rc::default() }
    }
}

impl custom::CommandEncoderInterface for CommandEncoder {
    fn copy_buffer_to_buffer(
        &self,
        source: &DispatchBuffer,
        source_offset: BufferAddress,
        destination: &DispatchBuffer,
        destination_offset: BufferAddress,
        size: Option<BufferAddress>,
    ) {
        self.fault.record(|| {
            let (from, to) = (records::buffer(source)?, records::buffer(destination)?);
            self.gpu.copy_buffer_to_buffer(from, Some(source_offset), to, Some(destination_offset), size);
            Ok(())
        });
    }

    fn copy_buffer_to_texture(
        &self,
        source: wgpu::TexelCopyBufferInfo<'_>,
        destination: wgpu::TexelCopyTextureInfo<'_>,
        size: wgpu::Extent3d,
    ) {
        self.fault.record(|| {
            let (from, to) = (records::texel_buffer(&source)?, records::texel_texture(&destination)?);
            self.gpu.copy_buffer_to_texture(&from, &to, records::extent(size));
            Ok(())
        });
    }

    fn copy_texture_to_buffer(
        &self,
        source: wgpu::TexelCopyTextureInfo<'_>,
        destination: wgpu::TexelCopyBufferInfo<'_>,
        size: wgpu::Extent3d,
    ) {
        self.fault.record(|| {
            let (from, to) = (records::texel_texture(&source)?, records::texel_buffer(&destination)?);
            self.gpu.copy_texture_to_buffer(&from, &to, records::extent(size));
            Ok(())
        });
    }

    fn copy_texture_to_texture(
        &self,
        source: wgpu::TexelCopyTextureInfo<'_>,
        destination: wgpu::TexelCopyTextureInfo<'_>,
        size: wgpu::Extent3d,
    ) {
        self.fault.record(|| {
            let (from, to) = (records::texel_texture(&source)?, records::texel_texture(&destination)?);
            self.gpu.copy_texture_to_texture(&from, &to, records::extent(size));
            Ok(())
        });
    }

    fn begin_compute_pass(&self, from: &wgpu::ComputePassDescriptor<'_>) -> DispatchComputePass {
        let pass = self.fault.record(|| Ok(self.gpu.begin_compute_pass(Some(&records::compute_pass(from)?))));
        DispatchComputePass::custom(ComputePass::new(pass, self.fault.clone()))
    }

    fn begin_render_pass(&self, from: &wgpu::RenderPassDescriptor<'_>) -> DispatchRenderPass {
        let pass = self.fault.record(|| Ok(self.gpu.begin_render_pass(&records::render_pass(from)?)));
        DispatchRenderPass::custom(RenderPass::new(pass, self.fault.clone()))
    }

    fn finish(&mut self) -> DispatchCommandBuffer {
        let buffer = self.shared.checked(|| match self.fault.take() {
            Some(message) => Err(message),
            None => Ok(self.gpu.finish(None)),
        });
        DispatchCommandBuffer::custom(CommandBuffer(buffer))
    }

    fn clear_texture(&self, _: &DispatchTexture, _: &wgpu::ImageSubresourceRange) {
        self.fault.has_no("command that clears a texture");
    }

    fn clear_buffer(&self, buffer: &DispatchBuffer, offset: BufferAddress, size: Option<BufferAddress>) {
        self.fault.record(|| {
            self.gpu.clear_buffer(records::buffer(buffer)?, Some(offset), size);
            Ok(())
        });
    }

    fn insert_debug_marker(&self, label: &str) {
        self.gpu.insert_debug_marker(label);
    }

    fn push_debug_group(&self, label: &str) {
        self.gpu.push_debug_group(label);
    }

    fn pop_debug_group(&self) {
        self.gpu.pop_debug_group();
    }

    fn write_timestamp(&self, _: &DispatchQuerySet, _: u32) {
        self.fault.has_no("timestamps between passes");
    }

    fn resolve_query_set(
        &self,
        set: &DispatchQuerySet,
        first: u32,
        count: u32,
        destination: &DispatchBuffer,
        offset: BufferAddress,
    ) {
        self.fault.record(|| {
            let (set, to) = (held(set.as_custom::<QuerySet>())?, records::buffer(destination)?);
            self.gpu.resolve_query_set(set, first, count, to, offset);
            Ok(())
        });
    }

    fn mark_acceleration_structures_built<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::Blas>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        self.fault.has_no("ray tracing");
    }

    fn build_acceleration_structures<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::BlasBuildEntry<'a>>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        self.fault.has_no("ray tracing");
    }

    /// The host does it.
    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgt::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgt::TextureTransition<&'a DispatchTexture>>,
    ) {
    }
}
