//! Command encoders and compute passes: they record, see `device/recording.rs`.

use crate::{
    bindings::webgpu::*,
    convert::{enums, records},
    device::{
        Fault, Object,
        recording::{BufferAt, Command, Ended, Mark, Step, TextureAt, Timestamps},
        replay,
    },
    host::{
        GpuView, at_once, dropped, labels,
        resources::{self as r, Pass, label},
    },
    lock,
};
use wasmtime::component::Resource;

/// Of one call. wgpu's limit on them is far below.
const IMMEDIATES_BYTES_MAX: usize = 4 << 10;
const OFFSETS_MAX: usize = 1_000;

impl GpuView<'_> {
    fn push(&self, encoder: &Resource<r::CommandEncoder>, command: Command) -> wasmtime::Result<()> {
        let encoder = self.table.get(encoder)?;
        at_once(&encoder.lane, lock(&encoder.recording).push(command));
        Ok(())
    }

    /// Begins a pass, which is ended at once where the encoder has ended.
    pub(super) fn pass(
        &mut self,
        encoder: &Resource<r::CommandEncoder>,
        label: String,
        command: Command,
    ) -> wasmtime::Result<Pass> {
        let encoder = self.table.get(encoder)?;
        let number = match lock(&encoder.recording).begin(command) {
            Ok(number) => number,
            Err(Ended(why)) => {
                encoder.lane.report(Fault::validation(why));
                u64::MAX
            }
        };
        Ok(Pass { recording: encoder.recording.clone(), number, label, lane: encoder.lane.clone() })
    }

    pub(super) fn buffer(&self, it: &Resource<r::Buffer>) -> wasmtime::Result<Object<r::AllocatedBuffer>> {
        Ok(self.table.get(it)?.object.clone())
    }

    fn buffer_at(&self, at: &GpuTexelCopyBufferInfo) -> wasmtime::Result<BufferAt> {
        let layout = records::copy_layout(at.offset, at.bytes_per_row, at.rows_per_image);
        Ok(BufferAt { buffer: self.buffer(&at.buffer)?, layout })
    }

    pub(super) fn texture_at(&self, at: GpuTexelCopyTextureInfo) -> wasmtime::Result<TextureAt> {
        Ok(TextureAt {
            texture: self.table.get(&at.texture)?.object.clone(),
            mip_level: at.mip_level.unwrap_or(0),
            origin: records::origin(at.origin),
            aspect: at.aspect.map_or(wgpu::TextureAspect::All, enums::aspect),
        })
    }

    pub(super) fn query_set(&self, it: &Resource<r::QuerySet>) -> wasmtime::Result<Object<wgpu::QuerySet>> {
        Ok(self.table.get(it)?.object.clone())
    }

    pub(super) fn group_step(
        &self,
        index: u32,
        group: Option<Resource<r::BindGroup>>,
        offsets: Option<Vec<u32>>,
        start: Option<u64>,
        length: Option<u32>,
    ) -> wasmtime::Result<Result<Step, SetBindGroupError>> {
        let group = group.map(|group| self.object(&group)).transpose()?;
        let offsets = offsets.unwrap_or_default();
        let start = usize::try_from(start.unwrap_or(0)).unwrap_or(usize::MAX);
        let end = match length {
            Some(length) => start.checked_add(length as usize),
            None => Some(offsets.len().max(start)),
        };
        let part = end.and_then(|end| offsets.get(start..end)).filter(|part| part.len() <= OFFSETS_MAX);
        Ok(match part {
            Some(part) => Ok(Step::BindGroup { index, group, offsets: part.to_vec() }),
            None => Err(SetBindGroupError {
                kind: SetBindGroupErrorKind::RangeError,
                message: format!("the range is not in the {} dynamic offsets", offsets.len()),
            }),
        })
    }
}

/// The part of the data that a guest means. Outside of it is an error of the encoder, since the function has no result.
pub(super) fn immediates(offset: u32, data: &[u8], start: Option<u64>, size: Option<u64>) -> Option<Step> {
    let start = usize::try_from(start.unwrap_or(0)).ok()?;
    let end = match size {
        Some(size) => start.checked_add(usize::try_from(size).ok()?)?,
        None => data.len().max(start),
    };
    let data = data.get(start..end).filter(|data| data.len() <= IMMEDIATES_BYTES_MAX)?;
    Some(Step::Immediates { offset, data: data.to_vec() })
}

pub(super) const BAD_IMMEDIATES: &str = "the range of the immediate data is not in it, or is too large";

pub(super) fn mark(text: String) -> String {
    label(Some(text))
}

impl HostGpuCommandEncoder for GpuView<'_> {
    labels!(r::CommandEncoder);
    dropped!(r::CommandEncoder);

    fn begin_render_pass(
        &mut self,
        it: Resource<r::CommandEncoder>,
        descriptor: GpuRenderPassDescriptor,
    ) -> wasmtime::Result<Resource<r::RenderPass>> {
        let targets = self.targets(descriptor)?;
        let label = targets.label.clone();
        let pass = self.pass(&it, label, Command::RenderPass { targets: Box::new(targets), steps: Vec::new() })?;
        Ok(self.table.push(r::RenderPass(pass))?)
    }

    fn begin_compute_pass(
        &mut self,
        it: Resource<r::CommandEncoder>,
        descriptor: Option<GpuComputePassDescriptor>,
    ) -> wasmtime::Result<Resource<r::ComputePass>> {
        let (text, timestamps) = match descriptor {
            Some(GpuComputePassDescriptor { timestamp_writes, label }) => (label, timestamp_writes),
            None => (None, None),
        };
        let timestamps = timestamps.map(|writes| {
            let set = self.query_set(&writes.query_set)?;
            let (begin, end) = (writes.beginning_of_pass_write_index, writes.end_of_pass_write_index);
            wasmtime::error::Ok(Timestamps { set, begin, end })
        });
        let (label, timestamps) = (label(text), timestamps.transpose()?);
        let command = Command::ComputePass { label: label.clone(), timestamps, steps: Vec::new() };
        let pass = self.pass(&it, label, command)?;
        Ok(self.table.push(r::ComputePass(pass))?)
    }

    fn copy_buffer_to_buffer(
        &mut self,
        it: Resource<r::CommandEncoder>,
        source: Resource<r::Buffer>,
        source_offset: Option<u64>,
        destination: Resource<r::Buffer>,
        destination_offset: Option<u64>,
        size: Option<u64>,
    ) -> wasmtime::Result<()> {
        let (from, to) = (self.buffer(&source)?, self.buffer(&destination)?);
        let (from_offset, to_offset) = (source_offset.unwrap_or(0), destination_offset.unwrap_or(0));
        self.push(&it, Command::CopyBuffer { from, from_offset, to, to_offset, size })
    }

    fn copy_buffer_to_texture(
        &mut self,
        it: Resource<r::CommandEncoder>,
        source: GpuTexelCopyBufferInfo,
        destination: GpuTexelCopyTextureInfo,
        size: GpuExtent3D,
    ) -> wasmtime::Result<()> {
        let (from, to) = (self.buffer_at(&source)?, self.texture_at(destination)?);
        self.push(&it, Command::BufferToTexture { from, to, size: records::extent(size) })
    }

    fn copy_texture_to_buffer(
        &mut self,
        it: Resource<r::CommandEncoder>,
        source: GpuTexelCopyTextureInfo,
        destination: GpuTexelCopyBufferInfo,
        size: GpuExtent3D,
    ) -> wasmtime::Result<()> {
        let (from, to) = (self.texture_at(source)?, self.buffer_at(&destination)?);
        self.push(&it, Command::TextureToBuffer { from, to, size: records::extent(size) })
    }

    fn copy_texture_to_texture(
        &mut self,
        it: Resource<r::CommandEncoder>,
        source: GpuTexelCopyTextureInfo,
        destination: GpuTexelCopyTextureInfo,
        size: GpuExtent3D,
    ) -> wasmtime::Result<()> {
        let (from, to) = (self.texture_at(source)?, self.texture_at(destination)?);
        self.push(&it, Command::CopyTexture { from, to, size: records::extent(size) })
    }

    fn clear_buffer(
        &mut self,
        it: Resource<r::CommandEncoder>,
        buffer: Resource<r::Buffer>,
        offset: Option<u64>,
        size: Option<u64>,
    ) -> wasmtime::Result<()> {
        let buffer = self.buffer(&buffer)?;
        self.push(&it, Command::Clear { buffer, offset: offset.unwrap_or(0), size })
    }

    fn resolve_query_set(
        &mut self,
        it: Resource<r::CommandEncoder>,
        query_set: Resource<r::QuerySet>,
        first: u32,
        count: u32,
        destination: Resource<r::Buffer>,
        offset: u64,
    ) -> wasmtime::Result<()> {
        let (set, to) = (self.query_set(&query_set)?, self.buffer(&destination)?);
        self.push(&it, Command::ResolveQueries { set, first, count, to, offset })
    }

    async fn finish(
        &mut self,
        it: Resource<r::CommandEncoder>,
        descriptor: Option<GpuCommandBufferDescriptor>,
    ) -> wasmtime::Result<Resource<r::CommandBuffer>> {
        let encoder = self.table.get(&it)?;
        let (lane, recording) = (encoder.lane.clone(), encoder.recording.clone());
        let encoder_label = encoder.label.clone();
        let text = label(descriptor.and_then(|descriptor| descriptor.label));
        let (handle, object) = self.keep(&lane, text)?;
        let finished = lock(&recording).finish();
        lane.send(0, move |gpu| {
            gpu.make(&object, || {
                let finished = finished.map_err(|Ended(why)| Fault::validation(why))?;
                replay::encode(gpu, &encoder_label, finished.map_err(Fault::validation)?)
            });
        })
        .await;
        Ok(handle)
    }

    fn push_debug_group(&mut self, it: Resource<r::CommandEncoder>, text: String) -> wasmtime::Result<()> {
        self.push(&it, Command::Mark(Mark::Push(mark(text))))
    }

    fn pop_debug_group(&mut self, it: Resource<r::CommandEncoder>) -> wasmtime::Result<()> {
        self.push(&it, Command::Mark(Mark::Pop))
    }

    fn insert_debug_marker(&mut self, it: Resource<r::CommandEncoder>, text: String) -> wasmtime::Result<()> {
        self.push(&it, Command::Mark(Mark::Insert(mark(text))))
    }
}

impl Pass {
    pub(super) fn step(&self, step: Step) {
        at_once(&self.lane, lock(&self.recording).step(self.number, step));
    }

    pub(super) fn end(&self) {
        at_once(&self.lane, lock(&self.recording).end(self.number));
    }

    pub(super) fn wrong(&self, why: &str) {
        lock(&self.recording).wrong(why);
    }
}

/// What steps are recorded of.
pub(super) trait Recorded {
    fn step(&self, step: Step);
    /// Something is wrong that no step says: what is recorded is invalid.
    fn wrong(&self, why: &str);
}

impl Recorded for r::ComputePass {
    fn step(&self, step: Step) {
        self.0.step(step);
    }

    fn wrong(&self, why: &str) {
        self.0.wrong(why);
    }
}

impl Recorded for r::RenderPass {
    fn step(&self, step: Step) {
        self.0.step(step);
    }

    fn wrong(&self, why: &str) {
        self.0.wrong(why);
    }
}

impl Recorded for r::RenderBundleEncoder {
    fn step(&self, step: Step) {
        at_once(&self.lane, lock(&self.recording).step(0, step));
    }

    fn wrong(&self, why: &str) {
        lock(&self.recording).wrong(why);
    }
}

impl GpuView<'_> {
    pub(super) fn step<R: Recorded + 'static>(&self, it: &Resource<R>, step: Step) -> wasmtime::Result<()> {
        self.table.get(it)?.step(step);
        Ok(())
    }

    pub(super) fn wrong<R: Recorded + 'static>(&self, it: &Resource<R>) -> wasmtime::Result<()> {
        self.table.get(it)?.wrong(BAD_IMMEDIATES);
        Ok(())
    }
}

/// What passes of both kinds and bundles have in common.
macro_rules! recorded {
    ($resource:ty) => {
        fn push_debug_group(&mut self, it: Resource<$resource>, text: String) -> wasmtime::Result<()> {
            self.step(&it, Step::Mark($crate::device::recording::Mark::Push($crate::host::encoder::mark(text))))
        }

        fn pop_debug_group(&mut self, it: Resource<$resource>) -> wasmtime::Result<()> {
            self.step(&it, Step::Mark($crate::device::recording::Mark::Pop))
        }

        fn insert_debug_marker(&mut self, it: Resource<$resource>, text: String) -> wasmtime::Result<()> {
            self.step(&it, Step::Mark($crate::device::recording::Mark::Insert($crate::host::encoder::mark(text))))
        }

        fn set_bind_group(
            &mut self,
            it: Resource<$resource>,
            index: u32,
            group: Option<Resource<r::BindGroup>>,
            offsets: Option<Vec<u32>>,
            start: Option<u64>,
            length: Option<u32>,
        ) -> wasmtime::Result<Result<(), SetBindGroupError>> {
            match self.group_step(index, group, offsets, start, length)? {
                Ok(step) => Ok(Ok(self.step(&it, step)?)),
                Err(error) => Ok(Err(error)),
            }
        }

        fn set_immediates(
            &mut self,
            it: Resource<$resource>,
            offset: u32,
            data: Vec<u8>,
            start: Option<u64>,
            size: Option<u64>,
        ) -> wasmtime::Result<()> {
            match $crate::host::encoder::immediates(offset, &data, start, size) {
                Some(step) => self.step(&it, step),
                None => self.wrong(&it),
            }
        }
    };
}
pub(super) use recorded;

/// What passes of both kinds have in common.
macro_rules! passed {
    ($resource:ty) => {
        fn end(&mut self, it: Resource<$resource>) -> wasmtime::Result<()> {
            self.table.get(&it)?.0.end();
            Ok(())
        }

        fn label(&mut self, it: Resource<$resource>) -> wasmtime::Result<String> {
            Ok(self.table.get(&it)?.0.label.clone())
        }

        fn set_label(&mut self, it: Resource<$resource>, text: String) -> wasmtime::Result<()> {
            self.table.get_mut(&it)?.0.label = $crate::host::resources::label(Some(text));
            Ok(())
        }
    };
}
pub(super) use passed;

impl HostGpuComputePassEncoder for GpuView<'_> {
    recorded!(r::ComputePass);
    passed!(r::ComputePass);
    dropped!(r::ComputePass);

    fn set_pipeline(
        &mut self,
        it: Resource<r::ComputePass>,
        pipeline: Resource<r::ComputePipeline>,
    ) -> wasmtime::Result<()> {
        let pipeline = self.object(&pipeline)?;
        self.step(&it, Step::ComputePipeline(pipeline))
    }

    fn dispatch_workgroups(
        &mut self,
        it: Resource<r::ComputePass>,
        x: u32,
        y: Option<u32>,
        z: Option<u32>,
    ) -> wasmtime::Result<()> {
        self.step(&it, Step::Dispatch(x, y.unwrap_or(1), z.unwrap_or(1)))
    }

    fn dispatch_workgroups_indirect(
        &mut self,
        it: Resource<r::ComputePass>,
        buffer: Resource<r::Buffer>,
        offset: u64,
    ) -> wasmtime::Result<()> {
        let buffer = self.buffer(&buffer)?;
        self.step(&it, Step::DispatchIndirect(buffer, offset))
    }
}
