//! Tells wgpu what was recorded, on the device's thread. wgpu panics where a range is outside of a buffer, so ranges are
//! looked at first; everything else it judges itself.

use crate::{
    account::Charge,
    device::{
        Fault, Gpu,
        recording::{BufferAt, Command, Finished, Mark, Step, TextureAt, Timestamps},
        replay_render,
    },
    host::resources::{AllocatedBuffer, AllocatedTexture, Recorded},
};
use wgpu::{CommandEncoder, ComputePass};

/// Makes a command buffer.
pub(crate) fn encode(gpu: &Gpu, label: &str, finished: Finished) -> Result<Recorded, Fault> {
    let Finished { commands, charge } = finished;
    let charge: Charge = charge;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
    for command in commands {
        replay(&mut encoder, command)?;
    }
    let buffer = gpu.capturing(|| encoder.finish())?;
    Ok(Recorded { buffer, _charge: charge })
}

fn replay(encoder: &mut CommandEncoder, command: Command) -> Result<(), Fault> {
    match command {
        Command::ComputePass { label, timestamps, steps } => {
            let timestamps = timestamps.map(|at| Ok::<_, Fault>((at.set.get("the query set")?, at))).transpose()?;
            let timestamp_writes = timestamps.as_ref().map(|(query_set, at)| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: at.begin,
                end_of_pass_write_index: at.end,
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some(&label), timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            steps.into_iter().try_for_each(|step| compute(&mut pass, step))?;
        }
        Command::RenderPass { targets, steps } => replay_render::pass(encoder, &targets, steps)?,
        Command::CopyBuffer { from, from_offset, to, to_offset, size } => {
            let (from, to) = (from.get("the source")?.it, to.get("the destination")?.it);
            encoder.copy_buffer_to_buffer(&from, from_offset, &to, to_offset, size);
        }
        Command::BufferToTexture { from, to, size } => {
            let (buffer, texture) = (from.get()?, to.get()?);
            encoder.copy_buffer_to_texture(from.info(&buffer), to.info(&texture), size);
        }
        Command::TextureToBuffer { from, to, size } => {
            let (texture, buffer) = (from.get()?, to.get()?);
            encoder.copy_texture_to_buffer(from.info(&texture), to.info(&buffer), size);
        }
        Command::CopyTexture { from, to, size } => {
            let (source, target) = (from.get()?, to.get()?);
            encoder.copy_texture_to_texture(from.info(&source), to.info(&target), size);
        }
        Command::Clear { buffer, offset, size } => {
            encoder.clear_buffer(&buffer.get("the buffer")?.it, offset, size);
        }
        Command::ResolveQueries { set, first, count, to, offset } => {
            let end = first.checked_add(count).ok_or_else(|| Fault::validation("the range of queries is too large"))?;
            encoder.resolve_query_set(&set.get("the query set")?, first..end, &to.get("the destination")?.it, offset);
        }
        Command::Mark(Mark::Push(text)) => encoder.push_debug_group(&text),
        Command::Mark(Mark::Pop) => encoder.pop_debug_group(),
        Command::Mark(Mark::Insert(text)) => encoder.insert_debug_marker(&text),
    }
    Ok(())
}

fn compute(pass: &mut ComputePass<'_>, step: Step) -> Result<(), Fault> {
    match step {
        Step::ComputePipeline(pipeline) => pass.set_pipeline(&pipeline.get("the pipeline")?),
        Step::Dispatch(x, y, z) => pass.dispatch_workgroups(x, y, z),
        Step::DispatchIndirect(buffer, offset) => {
            pass.dispatch_workgroups_indirect(&buffer.get("the indirect buffer")?.it, offset);
        }
        Step::BindGroup { index, group, offsets } => {
            let group = group.map(|group| group.get("the bind group")).transpose()?;
            pass.set_bind_group(index, group.as_ref(), &offsets);
        }
        Step::Immediates { offset, data } => pass.set_immediates(offset, &data),
        Step::Mark(Mark::Push(text)) => pass.push_debug_group(&text),
        Step::Mark(Mark::Pop) => pass.pop_debug_group(),
        Step::Mark(Mark::Insert(text)) => pass.insert_debug_marker(&text),
        _ => return Err(Fault::validation("a compute pass has no such command")),
    }
    Ok(())
}

impl TextureAt {
    pub(crate) fn get(&self) -> Result<AllocatedTexture, Fault> {
        self.texture.get("the texture")
    }

    pub(crate) fn info<'a>(&self, texture: &'a AllocatedTexture) -> wgpu::TexelCopyTextureInfo<'a> {
        let Self { mip_level, origin, aspect, .. } = *self;
        wgpu::TexelCopyTextureInfo { texture: &texture.it, mip_level, origin, aspect }
    }
}

impl BufferAt {
    fn get(&self) -> Result<AllocatedBuffer, Fault> {
        self.buffer.get("the buffer")
    }

    fn info<'a>(&self, buffer: &'a AllocatedBuffer) -> wgpu::TexelCopyBufferInfo<'a> {
        wgpu::TexelCopyBufferInfo { buffer: &buffer.it, layout: self.layout }
    }
}

impl Timestamps {
    pub(crate) fn get(&self) -> Result<wgpu::QuerySet, Fault> {
        self.set.get("the query set")
    }
}
