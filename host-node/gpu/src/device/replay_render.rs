//! The same of render passes and bundles.

use crate::{
    device::{
        Fault, Gpu, Object,
        recording::{Command, Finished, Mark, RenderTargets, Step},
        thread::text,
    },
    host::resources::{AllocatedBuffer, BundleFormats},
};
use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};
use wgpu::{BufferSlice, CommandEncoder, RenderBundleEncoder, RenderPass};

pub(crate) fn pass(encoder: &mut CommandEncoder, targets: &RenderTargets, steps: Vec<Step>) -> Result<(), Fault> {
    let get = |view: &Object<wgpu::TextureView>| view.get("the attachment");
    let mut colors = Vec::with_capacity(targets.colors.len());
    for color in &targets.colors {
        colors.push(match color {
            Some(color) => Some((color, get(&color.view)?, color.resolve.as_ref().map(get).transpose()?)),
            None => None,
        });
    }
    let colors: Vec<_> = colors
        .iter()
        .map(|color| {
            color.as_ref().map(|(color, view, resolve)| wgpu::RenderPassColorAttachment {
                view,
                depth_slice: color.depth_slice,
                resolve_target: resolve.as_ref(),
                ops: color.ops,
            })
        })
        .collect();
    let depth = targets.depth_stencil.as_ref().map(|depth| Ok::<_, Fault>((get(&depth.view)?, depth))).transpose()?;
    let depth_stencil_attachment = depth.as_ref().map(|(view, depth)| wgpu::RenderPassDepthStencilAttachment {
        view,
        depth_ops: depth.depth,
        stencil_ops: depth.stencil,
    });
    let occlusion = targets.occlusion.as_ref().map(|set| set.get("the query set")).transpose()?;
    let timestamps = targets.timestamps.as_ref().map(|at| Ok::<_, Fault>((at.get()?, at))).transpose()?;
    let timestamp_writes = timestamps.as_ref().map(|(query_set, at)| wgpu::RenderPassTimestampWrites {
        query_set,
        beginning_of_pass_write_index: at.begin,
        end_of_pass_write_index: at.end,
    });
    let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
        label: Some(&targets.label),
        color_attachments: &colors,
        depth_stencil_attachment,
        timestamp_writes,
        occlusion_query_set: occlusion.as_ref(),
        multiview_mask: None,
    });
    steps.into_iter().try_for_each(|step| render(&mut pass, step))
}

/// wgpu panics where a slice is not in its buffer, or is empty.
fn slice(buffer: &AllocatedBuffer, offset: u64, size: Option<u64>) -> Result<Option<BufferSlice<'_>>, Fault> {
    let whole = buffer.it.size();
    let end = match size {
        Some(size) => offset.checked_add(size),
        None => Some(whole.max(offset)),
    };
    match end {
        Some(end) if end <= whole => Ok((offset < end).then(|| buffer.it.slice(offset..end))),
        _ => Err(Fault::validation(format!("the range at {offset} is outside of the buffer of {whole} bytes"))),
    }
}

fn range(first: u32, count: u32) -> Result<Range<u32>, Fault> {
    let end = first.checked_add(count).ok_or_else(|| Fault::validation("the range to draw is too large"))?;
    Ok(first..end)
}

fn render(pass: &mut RenderPass<'_>, step: Step) -> Result<(), Fault> {
    match step {
        Step::RenderPipeline(pipeline) => pass.set_pipeline(&pipeline.get("the pipeline")?),
        Step::BindGroup { index, group, offsets } => {
            let group = group.map(|group| group.get("the bind group")).transpose()?;
            pass.set_bind_group(index, group.as_ref(), &offsets);
        }
        Step::Immediates { offset, data } => pass.set_immediates(offset, &data),
        Step::Mark(Mark::Push(text)) => pass.push_debug_group(&text),
        Step::Mark(Mark::Pop) => pass.pop_debug_group(),
        Step::Mark(Mark::Insert(text)) => pass.insert_debug_marker(&text),
        Step::IndexBuffer { buffer, format, offset, size } => {
            let buffer = buffer.get("the index buffer")?;
            let slice = slice(&buffer, offset, size)?;
            pass.set_index_buffer(slice.ok_or_else(|| Fault::validation("the index buffer is empty"))?, format);
        }
        Step::VertexBuffer { slot, buffer, offset, size } => {
            let buffer = buffer.map(|buffer| buffer.get("the vertex buffer")).transpose()?;
            let slice = buffer.as_ref().map(|buffer| slice(buffer, offset, size)).transpose()?.flatten();
            pass.set_vertex_buffer(slot, slice);
        }
        Step::Draw { vertices, instances, first_vertex, first_instance } => {
            pass.draw(range(first_vertex, vertices)?, range(first_instance, instances)?);
        }
        Step::DrawIndexed { indices, instances, first_index, base_vertex, first_instance } => {
            pass.draw_indexed(range(first_index, indices)?, base_vertex, range(first_instance, instances)?);
        }
        Step::DrawIndirect(buffer, offset) => pass.draw_indirect(&buffer.get("the indirect buffer")?.it, offset),
        Step::DrawIndexedIndirect(buffer, offset) => {
            pass.draw_indexed_indirect(&buffer.get("the indirect buffer")?.it, offset);
        }
        Step::Viewport([x, y, width, height, min, max]) => pass.set_viewport(x, y, width, height, min, max),
        Step::Scissor([x, y, width, height]) => pass.set_scissor_rect(x, y, width, height),
        Step::BlendConstant(color) => pass.set_blend_constant(color),
        Step::StencilReference(reference) => pass.set_stencil_reference(reference),
        Step::BeginOcclusion(index) => pass.begin_occlusion_query(index),
        Step::EndOcclusion => pass.end_occlusion_query(),
        Step::Bundles(bundles) => {
            let bundles: Vec<_> = bundles.iter().map(|bundle| bundle.get("the bundle")).collect::<Result<_, _>>()?;
            pass.execute_bundles(&bundles);
        }
        Step::ComputePipeline(_) | Step::Dispatch(..) | Step::DispatchIndirect(..) => {
            return Err(Fault::validation("a render pass has no such command"));
        }
    }
    Ok(())
}

/// What a bundle's encoder borrows until it is finished.
enum Held {
    Pipeline(wgpu::RenderPipeline),
    Group(u32, Option<wgpu::BindGroup>, Vec<u32>),
    Index(AllocatedBuffer, wgpu::IndexFormat, u64, Option<u64>),
    Vertex(u32, Option<AllocatedBuffer>, u64, Option<u64>),
    Indirect(AllocatedBuffer, u64, bool),
    Draw(Range<u32>, Range<u32>),
    DrawIndexed(Range<u32>, i32, Range<u32>),
    Immediates(u32, Vec<u8>),
}

fn hold(step: Step) -> Result<Option<Held>, Fault> {
    Ok(Some(match step {
        Step::RenderPipeline(pipeline) => Held::Pipeline(pipeline.get("the pipeline")?),
        Step::BindGroup { index, group, offsets } => {
            Held::Group(index, group.map(|group| group.get("the bind group")).transpose()?, offsets)
        }
        Step::IndexBuffer { buffer, format, offset, size } => {
            Held::Index(buffer.get("the index buffer")?, format, offset, size)
        }
        Step::VertexBuffer { slot, buffer, offset, size } => {
            Held::Vertex(slot, buffer.map(|buffer| buffer.get("the vertex buffer")).transpose()?, offset, size)
        }
        Step::DrawIndirect(buffer, offset) => Held::Indirect(buffer.get("the indirect buffer")?, offset, false),
        Step::DrawIndexedIndirect(buffer, offset) => Held::Indirect(buffer.get("the indirect buffer")?, offset, true),
        Step::Draw { vertices, instances, first_vertex, first_instance } => {
            Held::Draw(range(first_vertex, vertices)?, range(first_instance, instances)?)
        }
        Step::DrawIndexed { indices, instances, first_index, base_vertex, first_instance } => {
            Held::DrawIndexed(range(first_index, indices)?, base_vertex, range(first_instance, instances)?)
        }
        Step::Immediates { offset, data } => Held::Immediates(offset, data),
        // wgpu's bundles have no place for them.
        Step::Mark(_) => return Ok(None),
        _ => return Err(Fault::validation("a bundle has no such command")),
    }))
}

/// wgpu panics where a bundle is not valid, after it has let go of everything: that is the error.
pub(crate) fn bundle(
    gpu: &Gpu,
    label: &str,
    formats: &BundleFormats,
    finished: Finished,
) -> Result<wgpu::RenderBundle, Fault> {
    let Finished { commands, charge } = finished;
    let steps = commands.into_iter().flat_map(|command| match command {
        Command::ComputePass { steps, .. } => steps,
        _ => Vec::new(),
    });
    let held: Vec<Held> = steps.filter_map(|step| hold(step).transpose()).collect::<Result<_, _>>()?;
    let finish = || -> Result<wgpu::RenderBundle, Fault> {
        let mut encoder = gpu.device.create_render_bundle_encoder(&wgpu::RenderBundleEncoderDescriptor {
            label: Some(label),
            color_formats: &formats.colors,
            depth_stencil: formats.depth_stencil,
            sample_count: formats.sample_count,
            multiview: None,
        });
        held.iter().try_for_each(|step| tell(&mut encoder, step))?;
        Ok(encoder.finish(&wgpu::RenderBundleDescriptor { label: Some(label) }))
    };
    let finished = gpu.capturing(|| catch_unwind(AssertUnwindSafe(finish)));
    drop(charge);
    match finished? {
        Ok(finished) => finished,
        Err(panic) => Err(Fault::validation(text(&*panic))),
    }
}

fn tell<'a>(encoder: &mut RenderBundleEncoder<'a>, step: &'a Held) -> Result<(), Fault> {
    match step {
        Held::Pipeline(pipeline) => encoder.set_pipeline(pipeline),
        Held::Group(index, group, offsets) => encoder.set_bind_group(*index, group.as_ref(), offsets),
        Held::Index(buffer, format, offset, size) => {
            let slice = slice(buffer, *offset, *size)?;
            encoder.set_index_buffer(slice.ok_or_else(|| Fault::validation("the index buffer is empty"))?, *format);
        }
        Held::Vertex(slot, buffer, offset, size) => {
            let slice = buffer.as_ref().map(|buffer| slice(buffer, *offset, *size)).transpose()?.flatten();
            encoder.set_vertex_buffer(*slot, slice);
        }
        Held::Indirect(buffer, offset, false) => encoder.draw_indirect(&buffer.it, *offset),
        Held::Indirect(buffer, offset, true) => encoder.draw_indexed_indirect(&buffer.it, *offset),
        Held::Draw(vertices, instances) => encoder.draw(vertices.clone(), instances.clone()),
        Held::DrawIndexed(indices, base, instances) => {
            encoder.draw_indexed(indices.clone(), *base, instances.clone());
        }
        Held::Immediates(offset, data) => encoder.set_immediates(*offset, data),
    }
    Ok(())
}
