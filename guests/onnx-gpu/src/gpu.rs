//! The executor that computes with a GPU, in ordinary `wgpu`: the dispatches of [`onnx_engine::wgsl`], recorded and submitted. Nothing
//! here knows of components; the same file runs natively in the tests of `host-node/gpu`.
//!
//! Nothing but inputs, outputs and what is used for the first time crosses to and from the GPU: the device, its pipelines and
//! the weights of the last program stay as long as a [`Gpu`] does. Start at its `run`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use onnx_engine::wgsl::{self, Dispatch, Shader};
use onnx_engine::{Error, Executor, Program, Tensor};

/// Bytes of a tensor at most, where the adapter has as much: what the engine allows.
const TENSOR_BYTES_MAX: u64 = onnx_engine::limits::ELEMENTS_MAX as u64 * 4;
/// Floats that are written to a buffer at once.
const WRITE_FLOATS: usize = 4 << 20;
/// Where the parameters of a dispatch may begin in their buffer, in words: 256 bytes, which every adapter allows.
const ALIGNMENT: usize = 64;
/// Multiplications of a submit, or those of one step where these are more. Others who share the GPU wait for no more, and
/// one submit ends before its deadline on slow drivers too. Tests have small models, and several submits as well.
const SUBMIT_MULTIPLICATIONS: u64 = if cfg!(test) { 1 << 16 } else { 1 << 31 };

pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: BTreeMap<Shader, Pipeline>,
    /// Of the last program, by where they are in memory, which they keep.
    weights: BTreeMap<*const Tensor, (Rc<Tensor>, wgpu::Buffer)>,
    is_processor: bool,
}

#[derive(Clone)]
struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

impl Executor for Gpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    /// After an error the device may be lost: open another one.
    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let computed = self.compute(program, inputs).await;
        // What is out of memory comes before what follows from it.
        let (memory, validation) = (memory.pop().await, validation.pop().await);
        match memory.or(validation) {
            Some(error) => Err(failed(error)),
            None => computed,
        }
    }
}

fn failed(why: impl Display) -> Error {
    Error::Executor(format!("the GPU: {why}"))
}

/// What of a program is at the GPU while it is computed.
struct Held {
    /// Of slots that have values.
    buffers: BTreeMap<usize, wgpu::Buffer>,
    /// Of slots that nothing looks at any more, by their sizes.
    free: BTreeMap<u64, Vec<wgpu::Buffer>>,
}

impl Gpu {
    pub async fn open(adapter: &wgpu::Adapter) -> Result<Self, String> {
        let there = adapter.limits();
        let mut limits = wgpu::Limits::default();
        // A tensor may take more than every adapter has.
        let most = |default: u64, there: u64| there.min(TENSOR_BYTES_MAX).max(default);
        limits.max_storage_buffer_binding_size =
            most(limits.max_storage_buffer_binding_size, there.max_storage_buffer_binding_size);
        limits.max_buffer_size = most(limits.max_buffer_size, there.max_buffer_size);
        let wanted = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
        let (device, queue) = adapter.request_device(&wanted).await.map_err(|error| error.to_string())?;
        let is_processor = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
        Ok(Self { device, queue, pipelines: BTreeMap::new(), weights: BTreeMap::new(), is_processor })
    }

    /// Whether its driver computes with the processor what a GPU would.
    pub fn is_processor(&self) -> bool {
        self.is_processor
    }

    async fn compute(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        program.check(inputs)?;
        let dispatches = dispatches(program)?;
        let mut held = Held { buffers: self.constants(program)?, free: BTreeMap::new() };
        for (slot, values) in program.inputs.iter().zip(inputs) {
            let buffer = self.buffer(values.len())?;
            self.write(&buffer, values);
            held.buffers.insert(*slot, buffer);
        }
        let parameters = self.parameters(&dispatches);

        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut begin = 0;
        for (number, steps) in submits(program).into_iter().enumerate() {
            if number > 0 {
                let full = std::mem::replace(&mut encoder, self.device.create_command_encoder(&Default::default()));
                self.queue.submit([full.finish()]);
            }
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (step, dispatch) in program.steps.iter().zip(&dispatches).take(steps.end).skip(steps.start) {
                let words = wgpu::BufferBinding {
                    buffer: &parameters,
                    offset: begin * 4,
                    size: wgpu::BufferSize::new(dispatch.parameters.len() as u64 * 4),
                };
                begin += room_of(dispatch) as u64;
                let slots: Vec<usize> = [step.output].into_iter().chain(dispatch.inputs.iter().copied()).collect();
                for slot in &slots {
                    // What has no elements need not have been written.
                    let is_due = *slot == step.output || length(program, *slot) == 0;
                    if is_due && !held.buffers.contains_key(slot) {
                        let buffer = self.room(program, *slot, &mut held)?;
                        held.buffers.insert(*slot, buffer);
                    }
                }
                let buffers: Option<Vec<&wgpu::Buffer>> = slots.iter().map(|slot| held.buffers.get(slot)).collect();
                let buffers = buffers.ok_or_else(|| failed("a step reads what no step has written"))?;
                self.record(&mut pass, dispatch, words, &buffers);
                for slot in &step.frees {
                    if let Some(buffer) = held.buffers.remove(slot) {
                        held.free.entry(buffer.size()).or_default().push(buffer);
                    }
                }
            }
        }

        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let mut copies = Vec::new();
        for slot in program.output_slots() {
            let length = length(program, slot);
            let Some(buffer) = held.buffers.get(&slot).filter(|_| length > 0) else {
                copies.push((None, length));
                continue;
            };
            let copy = self.create(buffer.size(), usage);
            encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
            copies.push((Some(copy), length));
        }
        self.queue.submit([encoder.finish()]);
        let mut outputs = Vec::new();
        for (copy, length) in copies {
            outputs.push(match copy {
                Some(copy) => self.read(&copy, length).await.map_err(failed)?,
                None if length == 0 => Vec::new(),
                None => return Err(failed("an output that no step has written")),
            });
        }
        Ok(outputs)
    }

    fn record(
        &mut self,
        pass: &mut wgpu::ComputePass<'_>,
        dispatch: &Dispatch,
        parameters: wgpu::BufferBinding<'_>,
        buffers: &[&wgpu::Buffer],
    ) {
        let [x, y] = dispatch.groups;
        if x == 0 || y == 0 {
            return;
        }
        let Pipeline { pipeline, layout } = self.pipeline(dispatch.shader);
        let parameters = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(parameters) };
        let bound = (1..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
        let entries: Vec<_> = [parameters].into_iter().chain(bound).collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
        let group = self.device.create_bind_group(&descriptor);
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }

    /// Constants by their slots: there since the last program, or written now.
    fn constants(&mut self, program: &Program) -> Result<BTreeMap<usize, wgpu::Buffer>, Error> {
        let (mut kept, mut buffers) = (BTreeMap::new(), BTreeMap::new());
        for (at, slot) in program.slots.iter().enumerate() {
            let Some(tensor) = &slot.constant else { continue };
            let buffer = match self.weights.get(&Rc::as_ptr(tensor)) {
                Some((_, buffer)) => buffer.clone(),
                None => {
                    let values = tensor.as_floats().unwrap_or_default();
                    let buffer = self.buffer(values.len())?;
                    self.write(&buffer, values);
                    buffer
                }
            };
            kept.insert(Rc::as_ptr(tensor), (tensor.clone(), buffer.clone()));
            buffers.insert(at, buffer);
        }
        self.weights = kept;
        Ok(buffers)
    }

    /// Of all dispatches, one after the other.
    fn parameters(&self, dispatches: &[Dispatch]) -> wgpu::Buffer {
        let words: usize = dispatches.iter().map(room_of).sum();
        let mut all = Vec::with_capacity(words.max(1) * 4);
        for dispatch in dispatches {
            let end = all.len() + room_of(dispatch) * 4;
            all.extend(dispatch.parameters.iter().flat_map(|parameter| parameter.to_le_bytes()));
            all.resize(end, 0);
        }
        let size = all.len().max(4) as u64;
        let buffer = self.create(size, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST);
        self.queue.write_buffer(&buffer, 0, &all);
        buffer
    }

    fn pipeline(&mut self, shader: Shader) -> Pipeline {
        let make = || {
            let label = format!("{shader:?}");
            let source = wgpu::ShaderSource::Wgsl(shader.source().into());
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&label), source };
            let module = self.device.create_shader_module(descriptor);
            let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: Default::default(),
                cache: None,
            });
            let layout = pipeline.get_bind_group_layout(0);
            Pipeline { pipeline, layout }
        };
        self.pipelines.entry(shader).or_insert_with(make).clone()
    }

    /// For a slot's values: a buffer that nothing needs any more, or another one.
    fn room(&self, program: &Program, slot: usize, held: &mut Held) -> Result<wgpu::Buffer, Error> {
        let length = length(program, slot);
        let reused = held.free.get_mut(&size(length)).and_then(Vec::pop);
        reused.map_or_else(|| self.buffer(length), Ok)
    }

    /// Of a number of floats.
    fn buffer(&self, length: usize) -> Result<wgpu::Buffer, Error> {
        let (size, limits) = (size(length), self.device.limits());
        let most = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        if size > most {
            return Err(failed(format!("a tensor of {size} bytes, of at most {most}")));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        Ok(self.create(size, usage))
    }

    fn create(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn write(&self, buffer: &wgpu::Buffer, values: &[f32]) {
        for (part, values) in values.chunks(WRITE_FLOATS).enumerate() {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.queue.write_buffer(buffer, (part * WRITE_FLOATS * 4) as u64, &bytes);
        }
    }

    async fn read(&self, copy: &wgpu::Buffer, length: usize) -> Result<Vec<f32>, String> {
        self.mapped(copy).await?;
        let view = copy.get_mapped_range(..).map_err(|error| error.to_string())?;
        Ok(view.as_chunks::<4>().0.iter().take(length).map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Maps a buffer to be read.
    async fn mapped(&self, buffer: &wgpu::Buffer) -> Result<(), String> {
        let said = Arc::new(Mutex::new(Said::default()));
        let say = said.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let waker = {
                let mut said = lock(&say);
                said.result = Some(result);
                said.waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        });
        // In a component a callback comes while it is awaited, and nobody else waits for it.
        #[cfg(not(target_family = "wasm"))]
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
        let result = poll_fn(|context| {
            let mut said = lock(&said);
            match said.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    said.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        result.await.map_err(|error| error.to_string())
    }
}

/// What a callback says, and who waits for it.
#[derive(Default)]
struct Said {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dispatches(program: &Program) -> Result<Vec<Dispatch>, Error> {
    let dispatch = |step: &onnx_engine::program::Step| {
        wgsl::dispatch(program, step).map_err(|fault| Error::Node {
            node: format!("the node {}", step.node),
            operator: step.kernel.name().to_owned(),
            fault,
        })
    };
    program.steps.iter().map(dispatch).collect()
}

/// Which steps go into one submit. The last one takes the copies of the outputs as well.
fn submits(program: &Program) -> Vec<Range<usize>> {
    let (mut submits, mut first, mut recorded) = (Vec::new(), 0, 0_u64);
    for (at, step) in program.steps.iter().enumerate() {
        let multiplications = step.kernel.multiplications();
        if at > first && recorded.saturating_add(multiplications) > SUBMIT_MULTIPLICATIONS {
            submits.push(first..at);
            (first, recorded) = (at, 0);
        }
        recorded = recorded.saturating_add(multiplications);
    }
    submits.push(first..program.steps.len());
    submits
}

fn length(program: &Program, slot: usize) -> usize {
    program.slots.get(slot).map_or(0, |slot| slot.length)
}

/// Bytes of a buffer for so many floats. No buffer is empty.
fn size(length: usize) -> u64 {
    length.max(1) as u64 * 4
}

/// Words that the parameters of a dispatch take, up to where the next ones may begin.
fn room_of(dispatch: &Dispatch) -> usize {
    dispatch.parameters.len().next_multiple_of(ALIGNMENT)
}
