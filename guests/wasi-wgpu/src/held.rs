//! Objects of the host behind wgpu's. Where one could not even be asked for, there is none, and using it is an error.

use crate::{bindings::*, convert::Inexpressible};
use wgpu::custom;

/// A kind of object, and its handle.
pub(crate) trait Held {
    type Handle;
    const WHAT: &str;

    fn handle(&self) -> Option<&Self::Handle>;
}

/// The handle of what wgpu passes; `it` is none where the object is of another backend.
pub(crate) fn held<T: Held>(it: Option<&T>) -> Result<&T::Handle, Inexpressible> {
    it.and_then(T::handle).ok_or_else(|| format!("the {} is invalid", T::WHAT))
}

macro_rules! held {
    ($($name:ident($handle:ty): $what:literal;)*) => {$(
        impl $crate::held::Held for $name {
            type Handle = $handle;
            const WHAT: &str = $what;

            fn handle(&self) -> Option<&$handle> {
                self.0.as_ref()
            }
        }
    )*};
}
pub(crate) use held as impl_held;

macro_rules! plain {
    ($($name:ident($handle:ident): $interface:ident, $what:literal;)*) => {$(
        #[derive(Debug)]
        pub(crate) struct $name(pub(crate) Option<$handle>);

        impl custom::$interface for $name {}

        impl_held! { $name($handle): $what; }
    )*};
}

plain! {
    BindGroup(GpuBindGroup): BindGroupInterface, "bind group";
    BindGroupLayout(GpuBindGroupLayout): BindGroupLayoutInterface, "bind group layout";
    CommandBuffer(GpuCommandBuffer): CommandBufferInterface, "command buffer";
    PipelineLayout(GpuPipelineLayout): PipelineLayoutInterface, "pipeline layout";
    RenderBundle(GpuRenderBundle): RenderBundleInterface, "render bundle";
    Sampler(GpuSampler): SamplerInterface, "sampler";
    TextureView(GpuTextureView): TextureViewInterface, "texture view";
}

#[derive(Debug)]
pub(crate) struct QuerySet(pub(crate) Option<GpuQuerySet>);
#[derive(Debug)]
pub(crate) struct ComputePipeline(pub(crate) Option<GpuComputePipeline>);
#[derive(Debug)]
pub(crate) struct RenderPipeline(pub(crate) Option<GpuRenderPipeline>);

impl_held! {
    QuerySet(GpuQuerySet): "query set";
    ComputePipeline(GpuComputePipeline): "compute pipeline";
    RenderPipeline(GpuRenderPipeline): "render pipeline";
}

impl custom::QuerySetInterface for QuerySet {
    fn destroy(&self) {
        if let Some(handle) = &self.0 {
            handle.destroy();
        }
    }
}

macro_rules! layouts {
    ($($pipeline:ident: $interface:ident;)*) => {$(
        impl custom::$interface for $pipeline {
            fn get_bind_group_layout(&self, index: u32) -> custom::DispatchBindGroupLayout {
                let layout = self.0.as_ref().map(|pipeline| pipeline.get_bind_group_layout(index));
                custom::DispatchBindGroupLayout::custom(BindGroupLayout(layout))
            }
        }
    )*};
}

layouts! {
    ComputePipeline: ComputePipelineInterface;
    RenderPipeline: RenderPipelineInterface;
}
