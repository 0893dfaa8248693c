//! The queue.

use crate::{
    convert::records,
    held::{CommandBuffer, held},
    shared::Shared,
};
use std::rc::Rc;
use wgpu::{
    BufferAddress, BufferSize, WriteOnly,
    custom::{
        self, BoxSubmittedWorkDoneCallback, DispatchBlas, DispatchBuffer, DispatchCommandBuffer,
        DispatchQueueWriteBuffer, DispatchSurfaceOutputDetail,
    },
};

/// Of one call to the host: more bytes go in several. A multiple of four, as writes must be.
const WRITE_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(crate) struct Queue(pub(crate) Rc<Shared>);

impl custom::QueueInterface for Queue {
    fn write_buffer(&self, buffer: &DispatchBuffer, offset: BufferAddress, data: &[u8]) {
        let shared = &self.0;
        shared.checked(|| {
            let buffer = records::buffer(buffer)?;
            // An empty write is one as well: the host may have something against it.
            let (first, rest) = data.split_at(data.len().min(WRITE_BYTES_MAX));
            let mut at = offset;
            for piece in std::iter::once(first).chain(rest.chunks(WRITE_BYTES_MAX)) {
                let written = shared.queue.write_buffer_with_copy(buffer, at, piece, None, None);
                written.map_err(|error| error.message)?;
                at = at.saturating_add(piece.len() as u64);
            }
            Ok(())
        });
    }

    fn create_staging_buffer(&self, size: BufferSize) -> Option<DispatchQueueWriteBuffer> {
        let size = usize::try_from(size.get()).ok()?;
        Some(DispatchQueueWriteBuffer::custom(Staging(vec![0; size])))
    }

    /// The host looks at the write itself.
    fn validate_write_buffer(&self, buffer: &DispatchBuffer, _: BufferAddress, _: BufferSize) -> Option<()> {
        self.0.checked(|| records::buffer(buffer).map(|_| ()))
    }

    fn write_staging_buffer(&self, buffer: &DispatchBuffer, offset: BufferAddress, staging: &DispatchQueueWriteBuffer) {
        if let Some(Staging(data)) = staging.as_custom() {
            self.write_buffer(buffer, offset, data);
        }
    }

    fn write_texture(
        &self,
        texture: wgpu::TexelCopyTextureInfo<'_>,
        data: &[u8],
        layout: wgpu::TexelCopyBufferLayout,
        size: wgpu::Extent3d,
    ) {
        self.0.checked(|| {
            let (destination, layout) = (records::texel_texture(&texture)?, records::texel_layout(layout));
            self.0.queue.write_texture_with_copy(&destination, data, layout, records::extent(size));
            Ok(())
        });
    }

    /// Nothing is submitted where one of the command buffers is invalid.
    fn submit(&self, command_buffers: &mut dyn Iterator<Item = DispatchCommandBuffer>) -> u64 {
        let all: Vec<_> = command_buffers.collect();
        self.0.checked(|| {
            let handles = all.iter().map(|buffer| held(buffer.as_custom::<CommandBuffer>()));
            self.0.queue.submit(&handles.collect::<Result<Vec<_>, _>>()?);
            Ok(())
        });
        self.0.submitted()
    }

    /// The standard has nanoseconds.
    fn get_timestamp_period(&self) -> f32 {
        1.0
    }

    fn on_submitted_work_done(&self, callback: BoxSubmittedWorkDoneCallback) {
        let shared = self.0.clone();
        self.0.begin(async move {
            shared.queue.on_submitted_work_done().await;
            callback();
        });
    }

    fn compact_blas(&self, _: &DispatchBlas) -> (Option<u64>, DispatchBlas) {
        self.0.errors.report("WebGPU has no ray tracing".into());
        (None, DispatchBlas::custom(crate::absent::Absent))
    }

    /// There are no surfaces.
    fn present(&self, _: &DispatchSurfaceOutputDetail) {}
}

/// Bytes that are on their way to a buffer.
#[derive(Debug)]
struct Staging(Vec<u8>);

impl custom::QueueWriteBufferInterface for Staging {
    fn len(&self) -> usize {
        self.0.len()
    }

    unsafe fn write_slice(&mut self) -> WriteOnly<'_, [u8]> {
        WriteOnly::from_mut(&mut self.0)
    }
}
