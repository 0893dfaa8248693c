//! The queue: submits, and bytes on their way to the GPU.

use crate::{
    bindings::webgpu::*,
    convert::records,
    device::Fault,
    host::{GpuView, HasGpu, dropped, resources as r},
    lock,
};
use wasmtime::component::{Accessor, Resource};

fn write_error<T>(message: &str) -> Result<T, WriteBufferError> {
    Err(WriteBufferError { kind: WriteBufferErrorKind::OperationError, message: message.to_owned() })
}

impl HostGpuQueue for GpuView<'_> {
    /// Waits while as many submits are under way as a device may have, and until it is the replica's turn at the GPU.
    async fn submit(
        &mut self,
        it: Resource<r::Queue>,
        command_buffers: Vec<Resource<r::CommandBuffer>>,
    ) -> wasmtime::Result<()> {
        let lane = self.table.get(&it)?.lane.clone();
        let buffers = command_buffers.iter().map(|buffer| self.object(buffer));
        let buffers: Vec<_> = buffers.collect::<wasmtime::Result<_>>()?;
        let place = lane.shared.submits.clone().acquire_owned();
        let wait = async {
            let place = place.await.ok();
            // A turn begins when what is submitted is ready: the GPU does not wait for a compiler while others want it.
            if lane.shared.account.seat.is_contended() {
                lane.ask(0, |_| ()).await;
            }
            (place, lane.shared.account.seat.turn().await)
        };
        let (place, turn) = tokio::select! {
            both = wait => both,
            _ = lane.shared.until_lost() => return Ok(()),
        };
        lane.send(0, move |gpu| {
            let mut taken = Vec::with_capacity(buffers.len());
            for buffer in &buffers {
                match buffer.take() {
                    Some(recorded) => taken.push(recorded),
                    None => {
                        let message = "a command buffer is invalid, or was submitted before";
                        return gpu.shared.report(Fault::validation(message));
                    }
                }
            }
            gpu.shared.begin_submit(Some(turn));
            gpu.staged.set(0);
            let submitted = gpu.capturing(|| gpu.queue.submit(taken.into_iter().map(|recorded| recorded.buffer)));
            if let Err(fault) = submitted {
                gpu.shared.report(fault);
            }
            let shared = gpu.shared.clone();
            gpu.queue.on_submitted_work_done(move || {
                shared.end_submit();
                drop(place);
            });
        })
        .await;
        Ok(())
    }

    async fn write_buffer_with_copy(
        &mut self,
        it: Resource<r::Queue>,
        buffer: Resource<r::Buffer>,
        buffer_offset: u64,
        mut data: Vec<u8>,
        data_offset: Option<u64>,
        size: Option<u64>,
    ) -> wasmtime::Result<Result<(), WriteBufferError>> {
        let lane = self.table.get(&it)?.lane.clone();
        let object = self.buffer(&buffer)?;
        let start = usize::try_from(data_offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let end = match size {
            Some(size) => start.checked_add(usize::try_from(size).unwrap_or(usize::MAX)),
            None => Some(data.len().max(start)),
        };
        let Some(end) = end.filter(|end| *end <= data.len()) else {
            return Ok(write_error("the range is not in the data"));
        };
        if !(end - start).is_multiple_of(4) {
            return Ok(write_error("the size must be a multiple of 4"));
        }
        data.truncate(end);
        let bytes = data.len();
        lane.send(bytes, move |gpu| match object.get("the buffer") {
            Err(fault) => gpu.shared.report(fault),
            Ok(buffer) => {
                let data = data.get(start..).unwrap_or_default();
                gpu.queue.write_buffer(&buffer.it, buffer_offset, data);
                gpu.stage(data.len());
            }
        })
        .await;
        Ok(Ok(()))
    }

    async fn write_texture_with_copy(
        &mut self,
        it: Resource<r::Queue>,
        destination: GpuTexelCopyTextureInfo,
        data: Vec<u8>,
        layout: GpuTexelCopyBufferLayout,
        size: GpuExtent3D,
    ) -> wasmtime::Result<()> {
        let lane = self.table.get(&it)?.lane.clone();
        let at = self.texture_at(destination)?;
        let layout = records::copy_layout(layout.offset, layout.bytes_per_row, layout.rows_per_image);
        let size = records::extent(size);
        let bytes = data.len();
        lane.send(bytes, move |gpu| match at.get() {
            Err(fault) => gpu.shared.report(fault),
            Ok(texture) => {
                gpu.queue.write_texture(at.info(&texture), &data, layout, size);
                gpu.stage(bytes);
            }
        })
        .await;
        Ok(())
    }

    fn label(&mut self, it: Resource<r::Queue>) -> wasmtime::Result<String> {
        Ok(lock(&self.table.get(&it)?.label).clone())
    }

    fn set_label(&mut self, it: Resource<r::Queue>, text: String) -> wasmtime::Result<()> {
        *lock(&self.table.get(&it)?.label) = r::label(Some(text));
        Ok(())
    }

    dropped!(r::Queue);
}

impl<T: Send + 'static> HostGpuQueueWithStore<T> for HasGpu {
    /// Of a lost device all work is done.
    async fn on_submitted_work_done(accessor: &Accessor<T, Self>, it: Resource<r::Queue>) -> wasmtime::Result<()> {
        let lane = accessor.with(|mut access| {
            let view = access.get();
            wasmtime::error::Ok(view.table.get(&it)?.lane.clone())
        })?;
        lane.ask_later(0, |gpu, done| {
            let shared = gpu.shared.clone();
            // Asked for again and again while this is under way, as mappings are.
            shared.begin_map();
            gpu.queue.on_submitted_work_done(move || {
                shared.end_map();
                let _ = done.send(());
            });
        })
        .await;
        Ok(())
    }
}
