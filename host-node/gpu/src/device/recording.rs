//! What a guest tells an encoder, kept until it finishes it: WebGPU shows no error of an encoder before that, so wgpu is told
//! all of it at once, on the device's thread. Recording takes no turn there and cannot block.

use crate::{
    account::Charge,
    device::Object,
    host::resources::{AllocatedBuffer, AllocatedTexture},
};
use wgpu::{Extent3d, IndexFormat, Origin3d, TexelCopyBufferLayout, TextureAspect};

/// Of what one command carries besides itself, which is counted as so many commands more.
const UNIT_BYTES: usize = 128;

pub(crate) type Buffer = Object<AllocatedBuffer>;

/// A place in a texture.
pub(crate) struct TextureAt {
    pub(crate) texture: Object<AllocatedTexture>,
    pub(crate) mip_level: u32,
    pub(crate) origin: Origin3d,
    pub(crate) aspect: TextureAspect,
}

pub(crate) struct BufferAt {
    pub(crate) buffer: Buffer,
    pub(crate) layout: TexelCopyBufferLayout,
}

pub(crate) struct Timestamps {
    pub(crate) set: Object<wgpu::QuerySet>,
    pub(crate) begin: Option<u32>,
    pub(crate) end: Option<u32>,
}

pub(crate) struct ColorAttachment {
    pub(crate) view: Object<wgpu::TextureView>,
    pub(crate) depth_slice: Option<u32>,
    pub(crate) resolve: Option<Object<wgpu::TextureView>>,
    pub(crate) ops: wgpu::Operations<wgpu::Color>,
}

pub(crate) struct DepthAttachment {
    pub(crate) view: Object<wgpu::TextureView>,
    pub(crate) depth: Option<wgpu::Operations<f32>>,
    pub(crate) stencil: Option<wgpu::Operations<u32>>,
}

pub(crate) struct RenderTargets {
    pub(crate) label: String,
    pub(crate) colors: Vec<Option<ColorAttachment>>,
    pub(crate) depth_stencil: Option<DepthAttachment>,
    pub(crate) occlusion: Option<Object<wgpu::QuerySet>>,
    pub(crate) timestamps: Option<Timestamps>,
}

/// Between passes.
pub(crate) enum Command {
    ComputePass { label: String, timestamps: Option<Timestamps>, steps: Vec<Step> },
    RenderPass { targets: Box<RenderTargets>, steps: Vec<Step> },
    CopyBuffer { from: Buffer, from_offset: u64, to: Buffer, to_offset: u64, size: Option<u64> },
    BufferToTexture { from: BufferAt, to: TextureAt, size: Extent3d },
    TextureToBuffer { from: TextureAt, to: BufferAt, size: Extent3d },
    CopyTexture { from: TextureAt, to: TextureAt, size: Extent3d },
    Clear { buffer: Buffer, offset: u64, size: Option<u64> },
    ResolveQueries { set: Object<wgpu::QuerySet>, first: u32, count: u32, to: Buffer, offset: u64 },
    Mark(Mark),
}

/// For debuggers.
pub(crate) enum Mark {
    Push(String),
    Pop,
    Insert(String),
}

/// Within a pass or a bundle.
pub(crate) enum Step {
    ComputePipeline(Object<wgpu::ComputePipeline>),
    Dispatch(u32, u32, u32),
    DispatchIndirect(Buffer, u64),
    BindGroup { index: u32, group: Option<Object<wgpu::BindGroup>>, offsets: Vec<u32> },
    Immediates { offset: u32, data: Vec<u8> },
    Mark(Mark),
    RenderPipeline(Object<wgpu::RenderPipeline>),
    IndexBuffer { buffer: Buffer, format: IndexFormat, offset: u64, size: Option<u64> },
    VertexBuffer { slot: u32, buffer: Option<Buffer>, offset: u64, size: Option<u64> },
    Draw { vertices: u32, instances: u32, first_vertex: u32, first_instance: u32 },
    DrawIndexed { indices: u32, instances: u32, first_index: u32, base_vertex: i32, first_instance: u32 },
    DrawIndirect(Buffer, u64),
    DrawIndexedIndirect(Buffer, u64),
    Viewport([f32; 6]),
    Scissor([u32; 4]),
    BlendConstant(wgpu::Color),
    StencilReference(u32),
    BeginOcclusion(u32),
    EndOcclusion,
    Bundles(Vec<Object<wgpu::RenderBundle>>),
}

impl Command {
    fn weight(&self) -> u64 {
        match self {
            Self::Mark(mark) => mark.weight(),
            Self::ComputePass { label, .. } => weight(label.len()),
            Self::RenderPass { targets, .. } => {
                weight(targets.label.len() + size_of_val(targets.colors.as_slice()) + size_of::<RenderTargets>())
            }
            _ => 1,
        }
    }
}

impl Mark {
    fn weight(&self) -> u64 {
        match self {
            Self::Push(text) | Self::Insert(text) => weight(text.len()),
            Self::Pop => 1,
        }
    }
}

impl Step {
    fn weight(&self) -> u64 {
        match self {
            Self::BindGroup { offsets, .. } => weight(size_of_val(offsets.as_slice())),
            Self::Immediates { data, .. } => weight(data.len()),
            Self::Bundles(bundles) => weight(size_of_val(bundles.as_slice())),
            Self::Mark(mark) => mark.weight(),
            _ => 1,
        }
    }
}

fn weight(bytes: usize) -> u64 {
    1 + (bytes / UNIT_BYTES) as u64
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Between passes.
    Open,
    /// In the pass of this number.
    Pass(u64),
    Finished,
}

/// A call that the standard says is an error at once, and not when the encoder is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) &'static str);

pub(crate) struct Recording {
    at: At,
    passes: u64,
    commands: Vec<Command>,
    charge: Option<Charge>,
    /// What makes the whole of it invalid.
    wrong: Option<String>,
}

/// All of a finished encoder.
pub(crate) struct Finished {
    pub(crate) commands: Vec<Command>,
    pub(crate) charge: Charge,
}

impl Recording {
    pub(crate) fn new(charge: Charge) -> Self {
        Self { at: At::Open, passes: 0, commands: Vec::new(), charge: Some(charge), wrong: None }
    }

    /// A bundle, which is like a pass without an encoder around it. Its number is 0.
    pub(crate) fn bundle(charge: Charge) -> Self {
        let mut recording = Self::new(charge);
        recording.at = At::Pass(0);
        recording.commands.push(Command::ComputePass { label: String::new(), timestamps: None, steps: Vec::new() });
        recording
    }

    pub(crate) fn wrong(&mut self, why: impl Into<String>) {
        self.wrong.get_or_insert_with(|| why.into());
    }

    fn pay(&mut self, weight: u64) -> bool {
        let paid = self.charge.as_mut().is_some_and(|charge| charge.grow(weight));
        if !paid {
            self.wrong("it has more commands than the quota allows");
        }
        paid && self.wrong.is_none()
    }

    /// Between passes.
    pub(crate) fn push(&mut self, command: Command) -> Result<(), Ended> {
        match self.at {
            At::Finished => return Err(Ended("the encoder is finished")),
            At::Pass(_) => self.wrong("a command was given to it while a pass was open"),
            At::Open => {
                if self.pay(command.weight()) {
                    self.commands.push(command);
                }
            }
        }
        Ok(())
    }

    /// The pass's number.
    pub(crate) fn begin(&mut self, pass: Command) -> Result<u64, Ended> {
        let at = self.at;
        self.push(pass)?;
        self.passes += 1;
        if at == At::Open {
            self.at = At::Pass(self.passes);
        }
        Ok(self.passes)
    }

    pub(crate) fn step(&mut self, pass: u64, step: Step) -> Result<(), Ended> {
        if self.at != At::Pass(pass) {
            return Err(Ended("the pass has ended"));
        }
        if self.pay(step.weight())
            && let Some(Command::ComputePass { steps, .. } | Command::RenderPass { steps, .. }) =
                self.commands.last_mut()
        {
            steps.push(step);
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, pass: u64) -> Result<(), Ended> {
        if self.at != At::Pass(pass) {
            return Err(Ended("the pass has ended"));
        }
        self.at = At::Open;
        Ok(())
    }

    /// Once. `Ok(Err(_))`: why it is invalid.
    pub(crate) fn finish(&mut self) -> Result<Result<Finished, String>, Ended> {
        let at = std::mem::replace(&mut self.at, At::Finished);
        let Some(charge) = self.charge.take().filter(|_| at != At::Finished) else {
            return Err(Ended("the encoder is finished"));
        };
        if matches!(at, At::Pass(number) if number > 0) {
            self.wrong("a pass is still open");
        }
        let commands = std::mem::take(&mut self.commands);
        Ok(match self.wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(Finished { commands, charge }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, Quota};
    use std::sync::Arc;

    fn recording(commands: u64) -> Recording {
        Recording::new(Account::new(Quota { commands, ..Quota::default() }, &Arc::default(), Arc::default()).commands())
    }

    fn pass() -> Command {
        Command::ComputePass { label: String::new(), timestamps: None, steps: Vec::new() }
    }

    #[test]
    fn an_encoder_is_locked_while_a_pass_is_open() {
        let mut recording = recording(100);
        let number = recording.begin(pass()).unwrap();
        recording.step(number, Step::Dispatch(1, 1, 1)).unwrap();
        recording.push(Command::Mark(Mark::Pop)).unwrap();
        recording.end(number).unwrap();
        assert!(recording.end(number).is_err(), "once");
        assert!(recording.step(number, Step::EndOcclusion).is_err());
        assert!(recording.finish().unwrap().is_err(), "the mark was given to it while the pass was open");
        assert!(recording.finish().is_err(), "once");
        assert!(recording.push(Command::Mark(Mark::Pop)).is_err());
    }

    #[test]
    fn a_pass_that_is_open_or_not_the_first_one_makes_it_invalid() {
        let mut open = recording(100);
        open.begin(pass()).unwrap();
        assert!(open.finish().unwrap().is_err_and(|why| why.contains("open")));
        let mut two = recording(100);
        let first = two.begin(pass()).unwrap();
        let second = two.begin(pass()).unwrap();
        assert!(two.step(second, Step::EndOcclusion).is_err(), "it never began");
        two.end(first).unwrap();
        assert!(two.finish().unwrap().is_err());
    }

    #[test]
    fn commands_are_counted() {
        let mut recording = recording(10);
        let number = recording.begin(pass()).unwrap();
        for _ in 0..1_000 {
            recording.step(number, Step::Dispatch(1, 1, 1)).unwrap();
        }
        assert!(matches!(recording.commands.first(), Some(Command::ComputePass { steps, .. }) if steps.len() == 9));
        recording.end(number).unwrap();
        assert!(recording.finish().unwrap().is_err_and(|why| why.contains("quota")));
        let data = Step::Immediates { offset: 0, data: vec![0; 10 * UNIT_BYTES] };
        assert_eq!(data.weight(), 11);
    }
}
