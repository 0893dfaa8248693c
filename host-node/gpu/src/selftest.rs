//! What an adapter must compute rightly before guests are given it, and what is measured on the way. Blocks; to be run on a
//! thread of its own.

use crate::{inventory::now, lock};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// What an adapter is found to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Findings {
    /// Iterations after which it silently ends a shader's loops. `None`: as many as the shader says.
    pub loop_cap: Option<u64>,
    /// Of a plain multiplication of matrices, in 10^9 operations a second.
    pub gflops: f64,
    /// Bytes a second of copies within its memory, each of which is read and written.
    pub copied_per_second: f64,
    /// From a submit with one small dispatch until it is known to be done.
    pub dispatch: Duration,
}

/// For what it is given to compute: longer than a guest's submit may take.
const WAIT_MAX: Duration = Duration::from_secs(40);
/// Elements of the vectors.
const VECTOR: usize = 1 << 16;
/// Rows of the matrices whose product is compared.
const MATRIX: u32 = 64;
/// Rows of those that the speed is measured with: the larger ones where the smaller ones take less than `QUICK`.
const SPEED: [u32; 3] = [128, 512, 2_048];
const QUICK: Duration = Duration::from_millis(4);
/// Bytes that are copied to see how fast that is, and how often in one submit: more where that is quick.
const COPIED: u64 = 32 << 20;
const COPIES: [u32; 3] = [1, 8, 64];
/// Dispatches of which the median is taken.
const DISPATCHES: u32 = 7;
/// More iterations than any bound that is known of a driver.
const LOOPS: u32 = 100_000;

const ADD: &str = "
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
    c[id.x] = a[id.x] + b[id.x];
}";

const MULTIPLY: &str = "
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(8, 8) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let n = groups.x * 8u;
    var sum = 0.0;
    for (var k = 0u; k < n; k++) { sum += a[id.y * n + k] * b[k * n + id.x]; }
    c[id.y * n + id.x] = sum;
}";

const LOOP: &str = "
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read_write> c: array<u32>;
@compute @workgroup_size(1) fn main() {
    var x = b[0];
    for (var i = 0u; i < a[0]; i++) { x += 1u; }
    c[0] = x;
}";

/// Whether it computes rightly, and what it is like.
pub(crate) fn run(adapter: &wgpu::Adapter) -> Result<Findings, String> {
    let bench = passed(adapter)?;
    Ok(Findings {
        loop_cap: bench.loop_cap()?,
        gflops: bench.speed()?,
        copied_per_second: bench.copies()?,
        dispatch: bench.dispatches()?,
    })
}

/// Whether it computes rightly.
pub(crate) fn check(adapter: &wgpu::Adapter) -> Result<(), String> {
    passed(adapter).map(drop)
}

fn passed(adapter: &wgpu::Adapter) -> Result<Bench, String> {
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: wgpu::Limits::default().or_worse_values_from(&adapter.limits()),
        ..Default::default()
    };
    let (device, queue) = now(adapter.request_device(&descriptor))?.map_err(|error| error.to_string())?;
    let errors = Arc::new(Mutex::new(None));
    let first = errors.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        lock(&first).get_or_insert(error.to_string());
    }));
    let bench = Bench { device, queue, errors };
    bench.adds()?;
    bench.multiplies()?;
    Ok(bench)
}

struct Bench {
    device: wgpu::Device,
    queue: wgpu::Queue,
    errors: Arc<Mutex<Option<String>>>,
}

fn bytes<const N: usize>(words: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    words.flatten().collect()
}

fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    bytes(values.map(f32::to_le_bytes))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).filter_map(|chunk| chunk.try_into().ok())
}

/// Small whole numbers, whose sums of products a float holds exactly.
fn value(at: usize) -> f32 {
    ((at * 7 + at / 13) % 11) as f32 - 5.0
}

impl Bench {
    fn adds(&self) -> Result<(), String> {
        let (a, b) = (floats((0..VECTOR).map(value)), floats((0..VECTOR).map(|at| at as f32)));
        let groups = u32::try_from(VECTOR / 64).unwrap_or(1);
        let (c, _) = self.compute(ADD, [&a, &b], a.len(), (groups, 1), 1)?;
        let expected = (0..VECTOR).map(|at| value(at) + at as f32);
        if words(&c).map(f32::from_le_bytes).eq(expected) {
            return Ok(());
        }
        Err("it adds vectors wrongly".into())
    }

    fn multiplies(&self) -> Result<(), String> {
        let n = MATRIX as usize;
        let a = floats((0..n * n).map(value));
        let b = floats((0..n * n).map(|at| value(at + 3)));
        let (c, _) = self.compute(MULTIPLY, [&a, &b], a.len(), (MATRIX / 8, MATRIX / 8), 1)?;
        let cell = |at: usize| {
            let (row, column) = (at / n, at % n);
            (0..n).map(|k| value(row * n + k) * value(k * n + column + 3)).sum::<f32>()
        };
        if words(&c).map(f32::from_le_bytes).eq((0..n * n).map(cell)) {
            return Ok(());
        }
        Err("it multiplies matrices wrongly".into())
    }

    fn loop_cap(&self) -> Result<Option<u64>, String> {
        let (c, _) = self.compute(LOOP, [&LOOPS.to_le_bytes(), &0_u32.to_le_bytes()], 4, (1, 1), 1)?;
        let done = words(&c).map(u32::from_le_bytes).next().unwrap_or(0);
        Ok((done != LOOPS).then_some(u64::from(done)))
    }

    fn speed(&self) -> Result<f64, String> {
        let mut gflops = 0.0;
        for rows in SPEED {
            let matrix = vec![0; rows as usize * rows as usize * 4];
            let (_, took) = self.compute(MULTIPLY, [&matrix, &matrix], matrix.len(), (rows / 8, rows / 8), 2)?;
            gflops = 2.0 * f64::from(rows).powi(3) / took.as_secs_f64().max(1e-9) / 1e9;
            if took > QUICK {
                break;
            }
        }
        Ok(gflops)
    }

    fn copies(&self) -> Result<f64, String> {
        let size = COPIED.min(self.device.limits().max_buffer_size);
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let [from, to] = [0, 1].map(|_| self.device.create_buffer(&descriptor));
        let mut speed = 0.0;
        for times in COPIES {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for _ in 0..times {
                encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size);
            }
            let took = self.submit(encoder)?;
            speed = f64::from(times) * size as f64 / took.as_secs_f64().max(1e-9);
            if took > QUICK {
                break;
            }
        }
        Ok(speed)
    }

    fn dispatches(&self) -> Result<Duration, String> {
        let mut all = Vec::new();
        for _ in 0..DISPATCHES {
            let (_, took) = self.compute(ADD, [&[0; 256], &[0; 256]], 256, (1, 1), 2)?;
            all.push(took);
        }
        all.sort_unstable();
        Ok(all.get(all.len() / 2).copied().unwrap_or_default())
    }

    /// How long that takes.
    fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<Duration, String> {
        let began = Instant::now();
        self.queue.submit([encoder.finish()]);
        self.wait()?;
        Ok(began.elapsed())
    }

    /// The output of the last of so many runs, and how long that took.
    fn compute(
        &self,
        source: &str,
        inputs: [&[u8]; 2],
        output: usize,
        groups: (u32, u32),
        runs: u32,
    ) -> Result<(Vec<u8>, Duration), String> {
        let device = &self.device;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let buffer = |size: usize, usage| {
            let size = size as u64;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        use wgpu::BufferUsages as Usage;
        let [a, b] = inputs.map(|input| {
            let buffer = buffer(input.len(), Usage::STORAGE | Usage::COPY_DST);
            self.queue.write_buffer(&buffer, 0, input);
            buffer
        });
        let c = buffer(output, Usage::STORAGE | Usage::COPY_SRC);
        let back = buffer(output, Usage::MAP_READ | Usage::COPY_DST);
        let entry = |binding: u32, buffer: &wgpu::Buffer| (binding, buffer.clone());
        let bound = [entry(0, &a), entry(1, &b), entry(2, &c)];
        let entries: Vec<_> = bound
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        let mut took = Duration::ZERO;
        for _ in 0..runs {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(groups.0, groups.1, 1);
            }
            encoder.copy_buffer_to_buffer(&c, 0, &back, 0, output as u64);
            took = self.submit(encoder)?;
        }
        let mapped = Arc::new(Mutex::new(false));
        let is_mapped = mapped.clone();
        back.map_async(wgpu::MapMode::Read, .., move |result| *lock(&is_mapped) = result.is_ok());
        self.wait()?;
        if !*lock(&mapped) {
            return Err("a buffer could not be mapped".into());
        }
        let view = back.get_mapped_range(..).map_err(|error| error.to_string())?;
        Ok((view.to_vec(), took))
    }

    fn wait(&self) -> Result<(), String> {
        let wait = wgpu::PollType::Wait { submission_index: None, timeout: Some(WAIT_MAX) };
        self.device.poll(wait).map_err(|error| error.to_string())?;
        match lock(&self.errors).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
