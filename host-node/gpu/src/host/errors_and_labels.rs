//! Resources of which there is little to know: those that only have a label, errors, messages, and the canvas that there is
//! not.

use crate::{
    bindings::webgpu::{self, *},
    device::FaultKind,
    host::{GpuView, dropped, labels, resources as r},
};
use wasmtime::{bail, component::Resource};

macro_rules! only_labels {
    ($($interface:ident $resource:ty;)*) => {
        $(impl $interface for GpuView<'_> {
            labels!($resource);
            dropped!($resource);
        })*
    };
}

only_labels! {
    HostGpuBindGroup r::BindGroup;
    HostGpuBindGroupLayout r::BindGroupLayout;
    HostGpuCommandBuffer r::CommandBuffer;
    HostGpuPipelineLayout r::PipelineLayout;
    HostGpuRenderBundle r::RenderBundle;
    HostGpuSampler r::Sampler;
    HostGpuTextureView r::TextureView;
}

impl HostGpuError for GpuView<'_> {
    fn message(&mut self, it: Resource<r::Error>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.0.message.clone())
    }

    fn kind(&mut self, it: Resource<r::Error>) -> wasmtime::Result<GpuErrorKind> {
        Ok(match self.table.get(&it)?.0.kind {
            FaultKind::Validation => GpuErrorKind::ValidationError,
            FaultKind::OutOfMemory => GpuErrorKind::OutOfMemoryError,
            FaultKind::Internal => GpuErrorKind::InternalError,
        })
    }

    dropped!(r::Error);
}

impl HostGpuUncapturedErrorEvent for GpuView<'_> {
    fn error(&mut self, it: Resource<r::UncapturedErrorEvent>) -> wasmtime::Result<Resource<r::Error>> {
        let fault = self.table.get(&it)?.0.clone();
        Ok(self.table.push(r::Error(fault))?)
    }

    dropped!(r::UncapturedErrorEvent);
}

impl HostGpuDeviceLostInfo for GpuView<'_> {
    fn reason(&mut self, it: Resource<r::LostInfo>) -> wasmtime::Result<GpuDeviceLostReason> {
        let destroyed = self.table.get(&it)?.0.destroyed;
        Ok(if destroyed { GpuDeviceLostReason::Destroyed } else { GpuDeviceLostReason::Unknown })
    }

    fn message(&mut self, it: Resource<r::LostInfo>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.0.message.clone())
    }

    dropped!(r::LostInfo);
}

impl HostGpuCompilationInfo for GpuView<'_> {
    fn messages(&mut self, it: Resource<r::CompilationInfo>) -> wasmtime::Result<Vec<Resource<r::CompilationMessage>>> {
        let messages = self.table.get(&it)?.0.clone();
        messages.iter().map(|message| Ok(self.table.push(r::CompilationMessage(message.clone()))?)).collect()
    }

    dropped!(r::CompilationInfo);
}

impl HostGpuCompilationMessage for GpuView<'_> {
    fn message(&mut self, it: Resource<r::CompilationMessage>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.0.text.clone())
    }

    fn type_(&mut self, it: Resource<r::CompilationMessage>) -> wasmtime::Result<GpuCompilationMessageType> {
        Ok(self.table.get(&it)?.0.kind)
    }

    fn line_num(&mut self, it: Resource<r::CompilationMessage>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&it)?.0.line)
    }

    fn line_pos(&mut self, it: Resource<r::CompilationMessage>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&it)?.0.position)
    }

    fn offset(&mut self, it: Resource<r::CompilationMessage>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&it)?.0.offset)
    }

    fn length(&mut self, it: Resource<r::CompilationMessage>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&it)?.0.length)
    }

    dropped!(r::CompilationMessage);
}

/// No function hands one out, so no guest can come here: a handle that is none traps before.
const NO_SCREEN: &str = "there is no screen, so there is no canvas";

impl HostGpuCanvasContext for GpuView<'_> {
    fn configure(&mut self, _: Resource<r::CanvasContext>, _: webgpu::GpuCanvasConfiguration) -> wasmtime::Result<()> {
        bail!("{NO_SCREEN}")
    }

    fn unconfigure(&mut self, _: Resource<r::CanvasContext>) -> wasmtime::Result<()> {
        bail!("{NO_SCREEN}")
    }

    fn get_configuration(
        &mut self,
        _: Resource<r::CanvasContext>,
    ) -> wasmtime::Result<Option<webgpu::GpuCanvasConfigurationOwned>> {
        bail!("{NO_SCREEN}")
    }

    fn get_current_texture(&mut self, _: Resource<r::CanvasContext>) -> wasmtime::Result<Resource<r::Texture>> {
        bail!("{NO_SCREEN}")
    }

    dropped!(r::CanvasContext);
}
