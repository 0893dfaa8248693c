//! The executor that computes with a GPU. Nothing but inputs, outputs and what is used for the first time crosses to and from it:
//! the device, its pipelines and the weights of the last program stay between requests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use onnx_engine::wgsl::{self, Dispatch, Shader};
use onnx_engine::{Error, Executor, Program, Tensor};

use crate::bindings::wasi::webgpu::webgpu::*;

/// Bytes of a buffer that a shader may see, without asking for more.
const BUFFER_BYTES_MAX: u64 = 128 << 20;
/// Bytes of one write to, or one read of, a buffer.
const TRANSFER_BYTES: usize = 16 << 20;
/// Where parts of a buffer may begin.
const ALIGNMENT: usize = 256;

pub struct Gpu;

/// What stays between requests.
struct Session {
    device: GpuDevice,
    queue: GpuQueue,
    pipelines: BTreeMap<Shader, GpuComputePipeline>,
    /// By where they are in memory, which they keep.
    weights: BTreeMap<*const Tensor, (Rc<Tensor>, Rc<GpuBuffer>)>,
}

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

impl Executor for Gpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        let kept = SESSION.with_borrow_mut(Option::take);
        let mut session = match kept {
            Some(session) => session,
            None => Session::open().await.map_err(Error::Executor)?,
        };
        // After an error the device may be lost: the next request begins with another one.
        let outputs = session.run(program, inputs).await?;
        SESSION.with_borrow_mut(|place| *place = Some(session));
        Ok(outputs)
    }
}

impl Session {
    async fn open() -> Result<Self, String> {
        let adapter = get_gpu().request_adapter(None).await.ok_or("there is no GPU here")?;
        let device = adapter.request_device(None).await.map_err(|error| format!("no device: {}", error.message))?;
        let queue = device.queue();
        Ok(Self { device, queue, pipelines: BTreeMap::new(), weights: BTreeMap::new() })
    }

    /// Errors of the device come to light at the end, out of memory before those that follow from it.
    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        self.device.push_error_scope(GpuErrorFilter::Validation);
        self.device.push_error_scope(GpuErrorFilter::OutOfMemory);
        let computed = self.compute(program, inputs).await;
        let scopes = [self.device.pop_error_scope().await, self.device.pop_error_scope().await];
        for scope in scopes {
            match scope {
                Ok(None) => {}
                Ok(Some(error)) => return Err(Error::Executor(format!("the GPU: {}", error.message()))),
                Err(error) => return Err(Error::Executor(format!("the GPU: {}", error.message))),
            }
        }
        computed
    }

    async fn compute(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        let of_device = |error: String| Error::Executor(format!("the GPU: {error}"));
        let mut dispatches: Vec<Dispatch> = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            let at = |fault| Error::Node {
                node: format!("step of node {}", step.node),
                operator: step.kernel.name().to_owned(),
                fault,
            };
            dispatches.push(wgsl::dispatch(program, step).map_err(at)?);
        }
        let mut buffers = self.buffers(program)?;
        for (slot, values) in program.inputs.iter().zip(inputs) {
            let buffer = self.buffer(values.len())?;
            self.write(&buffer, &bytes(values)).map_err(of_device)?;
            buffers.insert(*slot, Rc::new(buffer));
        }
        let parameters = self.parameters(&dispatches).map_err(of_device)?;
        let encoder = self.device.create_command_encoder(None);
        let pass = encoder.begin_compute_pass(None);
        let mut free: BTreeMap<u64, Vec<Rc<GpuBuffer>>> = BTreeMap::new();
        let mut begin = 0;
        for (step, dispatch) in program.steps.iter().zip(&dispatches) {
            if !buffers.contains_key(&step.output) {
                let length = program.slots.get(step.output).map_or(0, |slot| slot.length);
                let reused = free.get_mut(&size(length)).and_then(Vec::pop);
                let buffer = reused.map_or_else(|| self.buffer(length).map(Rc::new), Ok)?;
                buffers.insert(step.output, buffer);
            }
            let pipeline = self.pipeline(dispatch.shader);
            let layout = pipeline.get_bind_group_layout(0);
            let range = GpuBufferBinding {
                buffer: &parameters,
                offset: Some(begin),
                size: Some(dispatch.parameters.len() as u64 * 4),
            };
            let mut entries =
                vec![GpuBindGroupEntry { binding: 0, resource: GpuBindingResource::GpuBufferBinding(range) }];
            for (binding, slot) in (1..).zip([&step.output].into_iter().chain(&dispatch.inputs)) {
                let buffer =
                    buffers.get(slot).ok_or_else(|| of_device("a step reads what no step has written".into()))?;
                entries.push(GpuBindGroupEntry { binding, resource: GpuBindingResource::GpuBuffer(buffer) });
            }
            let descriptor = GpuBindGroupDescriptor { layout: &layout, entries, label: None };
            let group = self.device.create_bind_group(&descriptor);
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, Some(&group), None, None, None).map_err(|error| of_device(error.message))?;
            let [x, y] = dispatch.groups;
            pass.dispatch_workgroups(x, Some(y), None);
            begin += stride(dispatch) as u64;
            for slot in &step.frees {
                if let Some(buffer) = buffers.remove(slot) {
                    free.entry(buffer.size()).or_default().push(buffer);
                }
            }
        }
        pass.end();
        self.submit(&encoder);
        let mut outputs = Vec::new();
        for slot in program.output_slots() {
            let length = program.slots.get(slot).map_or(0, |slot| slot.length);
            outputs.push(match buffers.get(&slot) {
                Some(buffer) => self.read(buffer, length).await.map_err(of_device)?,
                None => Vec::new(),
            });
        }
        Ok(outputs)
    }

    /// Those of constants, by their slots: of the last program, or written now.
    fn buffers(&mut self, program: &Program) -> Result<BTreeMap<usize, Rc<GpuBuffer>>, Error> {
        let mut kept = BTreeMap::new();
        let mut buffers = BTreeMap::new();
        for (slot, tensor) in
            program.slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.constant.as_ref()?)))
        {
            let values = tensor.as_floats().unwrap_or_default();
            if values.is_empty() {
                continue;
            }
            let buffer = match self.weights.get(&Rc::as_ptr(tensor)) {
                Some((_, buffer)) => buffer.clone(),
                None => {
                    let buffer = self.buffer(values.len())?;
                    self.write(&buffer, &bytes(values)).map_err(Error::Executor)?;
                    Rc::new(buffer)
                }
            };
            kept.insert(Rc::as_ptr(tensor), (tensor.clone(), buffer.clone()));
            buffers.insert(slot, buffer);
        }
        self.weights = kept;
        Ok(buffers)
    }

    /// Of all dispatches, one after the other.
    fn parameters(&self, dispatches: &[Dispatch]) -> Result<GpuBuffer, String> {
        let mut all = Vec::new();
        for dispatch in dispatches {
            let begin = all.len();
            all.extend(dispatch.parameters.iter().flat_map(|parameter| parameter.to_le_bytes()));
            all.resize(begin + stride(dispatch), 0);
        }
        all.resize(all.len().max(ALIGNMENT), 0);
        let buffer = self.create(all.len() as u64, GpuBufferUsage::STORAGE | GpuBufferUsage::COPY_DST);
        self.write(&buffer, &all)?;
        Ok(buffer)
    }

    fn pipeline(&mut self, shader: Shader) -> &GpuComputePipeline {
        self.pipelines.entry(shader).or_insert_with(|| {
            let code = shader.source();
            let label = Some(format!("{shader:?}"));
            let descriptor = GpuShaderModuleDescriptor { code, compilation_hints: None, label: label.clone() };
            let module = self.device.create_shader_module(&descriptor);
            self.device.create_compute_pipeline(GpuComputePipelineDescriptor {
                compute: GpuProgrammableStage { module: &module, entry_point: None, constants: None },
                layout: GpuLayoutMode::Auto,
                label,
            })
        })
    }

    fn create(&self, size: u64, usage: GpuBufferUsage) -> GpuBuffer {
        self.device.create_buffer(&GpuBufferDescriptor { size, usage, mapped_at_creation: None, label: None })
    }

    /// Of a number of floats.
    fn buffer(&self, length: usize) -> Result<GpuBuffer, Error> {
        let size = size(length);
        if size > BUFFER_BYTES_MAX {
            let what = format!("a tensor of {size} bytes on the GPU, of at most {BUFFER_BYTES_MAX}");
            return Err(Error::Executor(what));
        }
        Ok(self.create(size, GpuBufferUsage::STORAGE | GpuBufferUsage::COPY_SRC | GpuBufferUsage::COPY_DST))
    }

    fn write(&self, buffer: &GpuBuffer, bytes: &[u8]) -> Result<(), String> {
        for (part, chunk) in bytes.chunks(TRANSFER_BYTES).enumerate() {
            let at = (part * TRANSFER_BYTES) as u64;
            let written = self.queue.write_buffer_with_copy(buffer, at, chunk, None, None);
            written.map_err(|error| error.message)?;
        }
        Ok(())
    }

    fn submit(&self, encoder: &GpuCommandEncoder) {
        let commands = encoder.finish(None);
        self.queue.submit(&[&commands]);
    }

    async fn read(&self, buffer: &GpuBuffer, length: usize) -> Result<Vec<f32>, String> {
        let size = buffer.size();
        let back = self.create(size, GpuBufferUsage::MAP_READ | GpuBufferUsage::COPY_DST);
        let encoder = self.device.create_command_encoder(None);
        encoder.copy_buffer_to_buffer(buffer, None, &back, None, None);
        self.submit(&encoder);
        back.map_async(GpuMapMode::READ, None, None).await.map_err(|error| error.message)?;
        let mut values = Vec::with_capacity(length);
        for begin in (0..size).step_by(TRANSFER_BYTES) {
            let part = (size - begin).min(TRANSFER_BYTES as u64);
            let bytes = back.get_mapped_range_get_with_copy(Some(begin), Some(part)).map_err(|error| error.message)?;
            values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        back.unmap().map_err(|error| error.message)?;
        values.truncate(length);
        Ok(values)
    }
}

/// Bytes of a buffer for so many floats. No buffer is empty.
fn size(length: usize) -> u64 {
    length.max(1) as u64 * 4
}

/// Bytes that the parameters of a dispatch take, up to where the next ones may begin.
fn stride(dispatch: &Dispatch) -> usize {
    (dispatch.parameters.len() * 4).next_multiple_of(ALIGNMENT)
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
