//! What goes to the GPU and comes back, and the end of things.

use super::{
    Guest, Kind, State, block_on,
    calls::{Call, Made, What, extent, one_of, option, small},
    r,
    record::texture_at,
};
use crate::{HasGpu, bindings::webgpu::*};
use wasmtime::component::Resource;

/// Of what is written at once.
const WRITTEN_MAX: u64 = 8_192;

pub(super) fn transfer(guest: &mut Guest<'_>, call: &Call) -> Made {
    let (Call { what, choices: [a, b, c], numbers: [x, y, z] }, accessor) = (call.clone(), guest.accessor);
    let queue = || guest.handles.pick::<r::Queue>(Kind::Queue, a);
    let buffer = |choice| guest.handles.pick::<r::Buffer>(Kind::Buffer, choice);
    // Words of at most 4, since indirect dispatches may read them.
    let data = |length: u64| -> Vec<u8> {
        (0..length.min(WRITTEN_MAX)).map(|at| if at % 4 == 0 { b % 5 } else { 0 }).collect()
    };
    Some(match what {
        What::Submit => {
            let queue = queue()?;
            let commands: Vec<_> = [b, c].iter().filter_map(|at| guest.handles.pick(Kind::Commands, *at)).collect();
            guest.with(|view| block_on(HostGpuQueue::submit(view, queue, commands)))
        }
        What::WriteBuffer => {
            let (queue, buffer, data) = (queue()?, buffer(c)?, data(y));
            let (start, size) = ((a % 4 == 0).then_some(z), (a % 8 == 0).then_some(x));
            let written = guest
                .with(|view| block_on(HostGpuQueue::write_buffer_with_copy(view, queue, buffer, x, data, start, size)));
            written.map(drop)
        }
        What::WriteTexture => {
            let (bytes_per_row, rows_per_image) = (option(z).map(small), (a % 2 == 0).then(|| small(x)));
            let layout = GpuTexelCopyBufferLayout { offset: option(x), bytes_per_row, rows_per_image };
            let (queue, at, data, size) = (queue()?, texture_at(guest, c, x)?, data(y), extent(z, x));
            guest.with(|view| block_on(HostGpuQueue::write_texture_with_copy(view, queue, at, data, layout, size)))
        }
        What::Map => {
            let mode = one_of(&[GpuMapMode::READ, GpuMapMode::WRITE, GpuMapMode::all()], b);
            let (x, y) = if c % 2 == 0 { (None, None) } else { (option(x), option(y)) };
            let mapped = <HasGpu as HostGpuBufferWithStore<State>>::map_async(accessor, buffer(a)?, mode, x, y);
            guest.pending.push(Box::pin(async move { mapped.await.map(drop) }));
            Ok(())
        }
        What::Unmap => {
            let buffer = buffer(a)?;
            guest.with(|view| block_on(HostGpuBuffer::unmap(view, buffer))).map(drop)
        }
        What::Read => {
            let (buffer, x, y) = (buffer(a)?, option(x), option(y));
            guest.with(|view| block_on(HostGpuBuffer::get_mapped_range_get_with_copy(view, buffer, x, y))).map(drop)
        }
        What::Set => {
            let (buffer, data, y, z) = (buffer(a)?, data(x), option(y), option(z));
            let set =
                guest.with(|view| block_on(HostGpuBuffer::get_mapped_range_set_with_copy(view, buffer, data, y, z)));
            set.map(drop)
        }
        What::Back => back(guest, call)?,
        What::WorkDone => {
            let done = <HasGpu as HostGpuQueueWithStore<State>>::on_submitted_work_done(accessor, queue()?);
            guest.pending.push(Box::pin(done));
            Ok(())
        }
        What::Destroy => match b % 3 {
            0 => {
                let buffer = buffer(a)?;
                guest.with(|view| block_on(HostGpuBuffer::destroy(view, buffer)))
            }
            1 => {
                let texture = guest.handles.pick(Kind::Texture, a)?;
                guest.with(|view| block_on(HostGpuTexture::destroy(view, texture)))
            }
            _ => {
                let set = guest.handles.pick(Kind::QuerySet, a)?;
                guest.with(|view| block_on(HostGpuQuerySet::destroy(view, set)))
            }
        },
        What::Label => {
            let buffer = buffer(a)?;
            guest.with(|view| HostGpuBuffer::set_label(view, buffer, "ä".repeat(usize::from(b) * 2)))
        }
        What::Drop => dropped(guest, a, b)?,
        _ => return None,
    })
}

/// The first two buffers are good, if they are still there; and so is the first queue.
fn back(guest: &mut Guest<'_>, call: &Call) -> Made {
    let device = guest.handles.pick::<r::Device>(Kind::Device, 0)?;
    let queue = guest.handles.pick::<r::Queue>(Kind::Queue, 0)?;
    let of_encoder = Resource::new_borrow(device.rep());
    let from = guest.handles.pick::<r::Buffer>(Kind::Buffer, call.choices[0] % 2)?;
    let usage = GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST;
    let descriptor = GpuBufferDescriptor { size: 64, usage, mapped_at_creation: None, label: None };
    let made = guest.with(|view| {
        let again = || Resource::<r::Queue>::new_borrow(queue.rep());
        let written = Resource::<r::Buffer>::new_borrow(from.rep());
        // An error is one of the arguments, and these are good; what is wrong with the buffer comes by another way.
        let _ = block_on(HostGpuQueue::write_buffer_with_copy(view, again(), written, 0, vec![0; 64], None, None))?;
        let to = block_on(HostGpuDevice::create_buffer(view, device, descriptor))?;
        let encoder = HostGpuDevice::create_command_encoder(view, of_encoder, None)?;
        let it = || Resource::new_borrow(encoder.rep());
        let target = Resource::new_borrow(to.rep());
        HostGpuCommandEncoder::copy_buffer_to_buffer(view, it(), from, None, target, None, Some(64))?;
        let commands = block_on(HostGpuCommandEncoder::finish(view, it(), None))?;
        block_on(HostGpuQueue::submit(view, again(), vec![Resource::new_borrow(commands.rep())]))?;
        wasmtime::error::Ok((to, encoder, commands))
    });
    Some(made.and_then(|(to, encoder, commands)| {
        let borrowed = || Resource::<r::Buffer>::new_borrow(to.rep());
        use HostGpuBufferWithStore as Maps;
        let (accessor, mode) = (guest.accessor, GpuMapMode::READ);
        let mapped = <HasGpu as Maps<State>>::map_async(accessor, borrowed(), mode, None, None);
        // It is told that it can't where the device or the buffer is gone.
        let is_mapped = block_on(mapped)?.is_ok();
        let read =
            guest.with(|view| block_on(HostGpuBuffer::get_mapped_range_get_with_copy(view, borrowed(), None, None)));
        assert_eq!(read?.is_ok(), is_mapped);
        guest.handles.put(Kind::Buffer, to);
        guest.handles.put(Kind::Encoder, encoder);
        guest.handles.put(Kind::Commands, commands);
        Ok(())
    }))
}

/// A handle of some kind goes.
fn dropped(guest: &mut Guest<'_>, choice: u8, kind: u8) -> Made {
    macro_rules! dropped {
        ($($at:literal $interface:ident $kind:ident;)*) => {
            match kind % 17 {
                $($at => {
                    let it = guest.handles.take(Kind::$kind, choice)?;
                    guest.with(|view| $interface::drop(view, it))
                })*
                _ => return None,
            }
        };
    }
    Some(dropped! {
        0 HostGpuDevice Device;
        1 HostGpuQueue Queue;
        2 HostGpuBuffer Buffer;
        3 HostGpuTexture Texture;
        4 HostGpuTextureView View;
        5 HostGpuSampler Sampler;
        6 HostGpuQuerySet QuerySet;
        7 HostGpuBindGroupLayout Layout;
        8 HostGpuPipelineLayout PipelineLayout;
        9 HostGpuBindGroup Group;
        10 HostGpuShaderModule Module;
        11 HostGpuComputePipeline Pipeline;
        12 HostGpuCommandEncoder Encoder;
        13 HostGpuComputePassEncoder Pass;
        14 HostGpuRenderPassEncoder RenderPass;
        15 HostGpuCommandBuffer Commands;
        16 HostGpuError Error;
    })
}
