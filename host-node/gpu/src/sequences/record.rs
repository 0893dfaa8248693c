//! What encoders and passes are told.

use super::{
    Guest, Kind, block_on,
    calls::{Call, Made, What, extent, option, small},
    r,
};
use crate::bindings::webgpu::*;
use wasmtime::component::Resource;

/// Workgroups of a dispatch that is valid: sequences are to be quick.
const WORKGROUPS_MAX: u64 = 70_000;

pub(super) fn record(guest: &mut Guest<'_>, call: &Call) -> Made {
    let Call { what, choices: [a, b, c], numbers: [x, y, z] } = call.clone();
    let encoder = || guest.handles.pick::<r::CommandEncoder>(Kind::Encoder, a);
    let pass = || guest.handles.pick::<r::ComputePass>(Kind::Pass, a);
    let buffer = |choice| guest.handles.pick::<r::Buffer>(Kind::Buffer, choice);
    Some(match what {
        What::Pass => {
            let set = guest.handles.pick(Kind::QuerySet, b).filter(|_| b % 3 == 0);
            let timestamp_writes = set.map(|query_set| GpuComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: option(x).map(small),
                end_of_pass_write_index: option(y).map(small),
            });
            let (encoder, descriptor) = (encoder()?, GpuComputePassDescriptor { timestamp_writes, label: None });
            let made = guest.with(|view| HostGpuCommandEncoder::begin_compute_pass(view, encoder, Some(descriptor)));
            made.map(|it| guest.handles.put(Kind::Pass, it))
        }
        What::RenderPass => {
            let attachment = GpuRenderPassColorAttachment {
                view: guest.handles.pick(Kind::View, b)?,
                depth_slice: (x == 0).then(|| small(y)),
                resolve_target: guest.handles.pick(Kind::View, c).filter(|_| c % 4 == 0),
                clear_value: Some(GpuColor { r: f64::NAN, g: -1.0, b: f64::MAX, a: 0.5 }),
                load_op: GpuLoadOp::Clear,
                store_op: GpuStoreOp::Store,
            };
            let descriptor = GpuRenderPassDescriptor {
                color_attachments: vec![None, Some(attachment)].into_iter().skip(usize::from(b % 2)).collect(),
                depth_stencil_attachment: None,
                occlusion_query_set: guest.handles.pick(Kind::QuerySet, c),
                timestamp_writes: None,
                max_draw_count: option(z),
                label: None,
            };
            let encoder = encoder()?;
            let made = guest.with(|view| HostGpuCommandEncoder::begin_render_pass(view, encoder, descriptor));
            made.map(|it| guest.handles.put(Kind::RenderPass, it))
        }
        What::SetPipeline => {
            let (pass, pipeline) = (pass()?, guest.handles.pick(Kind::Pipeline, b)?);
            guest.with(|view| HostGpuComputePassEncoder::set_pipeline(view, pass, pipeline))
        }
        What::SetGroup => {
            let (pass, group) = (pass()?, guest.handles.pick(Kind::Group, b).filter(|_| b < 240));
            let index = if c % 4 == 0 { small(x) } else { 0 };
            let offsets = (c % 3 == 0).then(|| vec![small(y), small(z)]);
            let (start, length) = ((c % 9 == 0).then_some(x), (c % 27 == 0).then(|| small(y)));
            let set = guest.with(|view| {
                HostGpuComputePassEncoder::set_bind_group(view, pass, index, group, offsets, start, length)
            });
            set.map(drop)
        }
        What::Dispatch => {
            let is_valid = [x, y, z].iter().all(|count| *count <= 65_535);
            let is_long = x.saturating_mul(y).saturating_mul(z) > WORKGROUPS_MAX;
            let (y, z) = if is_valid && is_long { (1, 1) } else { (y, z) };
            let (pass, x, y, z) = (pass()?, small(x), option(y).map(small), option(z).map(small));
            guest.with(|view| HostGpuComputePassEncoder::dispatch_workgroups(view, pass, x, y, z))
        }
        What::Indirect => {
            let (pass, buffer) = (pass()?, buffer(b)?);
            guest.with(|view| HostGpuComputePassEncoder::dispatch_workgroups_indirect(view, pass, buffer, x))
        }
        What::EndPass => {
            let pass = pass()?;
            guest.with(|view| HostGpuComputePassEncoder::end(view, pass))
        }
        What::EndRenderPass => {
            let pass = guest.handles.pick(Kind::RenderPass, a)?;
            guest.with(|view| HostGpuRenderPassEncoder::end(view, pass))
        }
        What::CopyBuffer => {
            let (encoder, from, to) = (encoder()?, buffer(b)?, buffer(c)?);
            let (x, y, z) = (option(x), option(y), option(z));
            guest.with(|view| HostGpuCommandEncoder::copy_buffer_to_buffer(view, encoder, from, x, to, y, z))
        }
        What::ToTexture | What::FromTexture => {
            let buffer = GpuTexelCopyBufferInfo {
                buffer: buffer(b)?,
                offset: option(x),
                bytes_per_row: option(y).map(small),
                rows_per_image: (a % 2 == 0).then(|| small(z)),
            };
            let texture = texture_at(guest, c, z)?;
            let (encoder, size) = (encoder()?, extent(z, x));
            match what {
                What::ToTexture => guest
                    .with(|view| HostGpuCommandEncoder::copy_buffer_to_texture(view, encoder, buffer, texture, size)),
                _ => guest
                    .with(|view| HostGpuCommandEncoder::copy_texture_to_buffer(view, encoder, texture, buffer, size)),
            }
        }
        What::Clear => {
            let (encoder, buffer) = (encoder()?, buffer(b)?);
            guest.with(|view| HostGpuCommandEncoder::clear_buffer(view, encoder, buffer, option(x), option(y)))
        }
        What::Resolve => {
            let (encoder, set, to) = (encoder()?, guest.handles.pick(Kind::QuerySet, b)?, buffer(c)?);
            let (first, count) = (small(x), small(y));
            guest.with(|view| HostGpuCommandEncoder::resolve_query_set(view, encoder, set, first, count, to, z))
        }
        What::Mark => {
            let encoder = encoder()?;
            let text = "a".repeat(usize::from(c));
            guest.with(|view| match b % 3 {
                0 => HostGpuCommandEncoder::push_debug_group(view, encoder, text),
                1 => HostGpuCommandEncoder::pop_debug_group(view, encoder),
                _ => HostGpuCommandEncoder::insert_debug_marker(view, encoder, text),
            })
        }
        What::Finish => {
            let encoder = encoder()?;
            let made = guest.with(|view| block_on(HostGpuCommandEncoder::finish(view, encoder, None)));
            made.map(|it| guest.handles.put(Kind::Commands, it))
        }
        What::Compute => compute(guest, call)?,
        _ => return None,
    })
}

pub(super) fn texture_at(guest: &Guest<'_>, choice: u8, number: u64) -> Option<GpuTexelCopyTextureInfo> {
    let origin = GpuOrigin3D { x: Some(small(number)), y: None, z: None };
    Some(GpuTexelCopyTextureInfo {
        texture: guest.handles.pick(Kind::Texture, choice)?,
        mip_level: choice.is_multiple_of(3).then_some(u32::from(choice)),
        origin: choice.is_multiple_of(5).then_some(origin),
        aspect: choice.is_multiple_of(7).then_some(GpuTextureAspect::DepthOnly),
    })
}

/// The first pipeline is good, and so are the first two buffers, if they are still there.
fn compute(guest: &mut Guest<'_>, call: &Call) -> Made {
    let [a, b, _] = call.choices;
    let device = guest.handles.pick::<r::Device>(Kind::Device, 0)?;
    let of_group = Resource::<r::Device>::new_borrow(device.rep());
    let pipeline = guest.handles.pick::<r::ComputePipeline>(Kind::Pipeline, 0)?;
    let layout = guest.handles.pick(Kind::Layout, 0)?;
    let (buffer, to) = (guest.handles.pick::<r::Buffer>(Kind::Buffer, a)?, guest.handles.pick(Kind::Buffer, b)?);
    let from = Resource::<r::Buffer>::new_borrow(buffer.rep());
    let made = guest.with(|view| {
        let entries = vec![GpuBindGroupEntry { binding: 0, resource: GpuBindingResource::GpuBuffer(buffer) }];
        let descriptor = GpuBindGroupDescriptor { layout, entries, label: None };
        let group = block_on(HostGpuDevice::create_bind_group(view, of_group, descriptor))?;
        let encoder = HostGpuDevice::create_command_encoder(view, device, None)?;
        let it = || Resource::new_borrow(encoder.rep());
        let pass = HostGpuCommandEncoder::begin_compute_pass(view, it(), None)?;
        let within = || Resource::new_borrow(pass.rep());
        HostGpuComputePassEncoder::set_pipeline(view, within(), pipeline)?;
        let bound = Some(Resource::new_borrow(group.rep()));
        // An error here is one of ranges, and there are none.
        let _ = HostGpuComputePassEncoder::set_bind_group(view, within(), 0, bound, None, None, None)?;
        HostGpuComputePassEncoder::dispatch_workgroups(view, within(), 4, None, None)?;
        HostGpuComputePassEncoder::end(view, within())?;
        HostGpuCommandEncoder::copy_buffer_to_buffer(view, it(), from, None, to, None, Some(16))?;
        let commands = block_on(HostGpuCommandEncoder::finish(view, it(), None))?;
        wasmtime::error::Ok((group, encoder, pass, commands))
    });
    Some(made.map(|(group, encoder, pass, commands)| {
        guest.handles.put(Kind::Group, group);
        guest.handles.put(Kind::Encoder, encoder);
        guest.handles.put(Kind::Pass, pass);
        guest.handles.put(Kind::Commands, commands);
    }))
}
