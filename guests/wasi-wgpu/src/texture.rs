//! Textures.

use crate::{
    bindings::GpuTexture,
    convert::records,
    held::{Held, TextureView, held, impl_held},
    shared::Shared,
};
use std::rc::Rc;
use wgpu::custom::{self, DispatchTextureView};

#[derive(Debug)]
pub(crate) struct Texture(pub(crate) Option<GpuTexture>, pub(crate) Rc<Shared>);

impl_held! { Texture(GpuTexture): "texture"; }

impl custom::TextureInterface for Texture {
    fn create_view(&self, from: &wgpu::TextureViewDescriptor<'_>) -> DispatchTextureView {
        let view = self.1.checked(|| Ok(held(Some(self))?.create_view(Some(&records::view(from)?))));
        DispatchTextureView::custom(TextureView(view))
    }

    fn destroy(&self) {
        if let Some(texture) = self.handle() {
            texture.destroy();
        }
    }
}
