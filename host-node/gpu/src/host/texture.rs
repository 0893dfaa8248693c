//! Textures and query sets.

use crate::{
    bindings::webgpu::*,
    convert::records,
    device::Fault,
    host::{GpuView, dropped, labels, resources as r},
    lock,
};
use wasmtime::component::Resource;

impl HostGpuTexture for GpuView<'_> {
    labels!(r::Texture);
    dropped!(r::Texture);

    async fn create_view(
        &mut self,
        it: Resource<r::Texture>,
        descriptor: Option<GpuTextureViewDescriptor>,
    ) -> wasmtime::Result<Resource<r::TextureView>> {
        let texture = self.table.get(&it)?;
        let (object, lane) = (texture.object.clone(), texture.lane.clone());
        let view = records::view(descriptor);
        let label = view.as_ref().map(|view| view.label.clone()).unwrap_or_default();
        let (handle, made) = self.keep(&lane, label)?;
        lane.send(0, move |gpu| {
            gpu.make(&made, || {
                let view = view.map_err(Fault::validation)?;
                let descriptor = wgpu::TextureViewDescriptor { label: Some(&view.label), ..view.descriptor };
                Ok(object.get("the texture")?.it.create_view(&descriptor))
            });
        })
        .await;
        Ok(handle)
    }

    async fn destroy(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<()> {
        let texture = self.table.get(&it)?;
        let (object, lane) = (texture.object.clone(), texture.lane.clone());
        lane.send(0, move |_| {
            if let Ok(texture) = object.get("the texture") {
                texture.it.destroy();
                drop(lock(&texture.charge).take());
            }
        })
        .await;
        Ok(())
    }

    fn width(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.descriptor.size.width)
    }

    fn height(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.descriptor.size.height)
    }

    fn depth_or_array_layers(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.descriptor.size.depth_or_array_layers)
    }

    fn mip_level_count(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.descriptor.mip_level_count)
    }

    fn sample_count(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.descriptor.sample_count)
    }

    fn dimension(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<GpuTextureDimension> {
        Ok(self.table.get(&it)?.descriptor.dimension)
    }

    fn format(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<GpuTextureFormat> {
        Ok(self.table.get(&it)?.descriptor.format)
    }

    fn usage(&mut self, it: Resource<r::Texture>) -> wasmtime::Result<GpuTextureUsage> {
        Ok(self.table.get(&it)?.descriptor.usage)
    }

    fn texture_binding_view_dimension(
        &mut self,
        it: Resource<r::Texture>,
    ) -> wasmtime::Result<Option<GpuTextureViewDimension>> {
        Ok(self.table.get(&it)?.descriptor.binding_view_dimension)
    }
}

impl HostGpuQuerySet for GpuView<'_> {
    labels!(r::QuerySet);
    dropped!(r::QuerySet);

    /// What was recorded with it before is not valid any more. Its memory goes with the last of those.
    async fn destroy(&mut self, it: Resource<r::QuerySet>) -> wasmtime::Result<()> {
        let set = self.table.get(&it)?;
        let (object, lane) = (set.object.clone(), set.lane.clone());
        lane.send(0, move |_| drop(object.take())).await;
        Ok(())
    }

    fn type_(&mut self, it: Resource<r::QuerySet>) -> wasmtime::Result<GpuQueryType> {
        Ok(self.table.get(&it)?.kind)
    }

    fn count(&mut self, it: Resource<r::QuerySet>) -> wasmtime::Result<u32> {
        Ok(self.table.get(&it)?.count)
    }
}
