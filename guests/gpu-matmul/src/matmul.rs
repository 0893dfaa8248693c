//! A product of matrices as any program with `wgpu` computes it. Nothing here knows of components: the same file runs
//! natively in the tests of `host-node/gpu`.

use std::sync::mpsc;
use wgpu::util::DeviceExt;

const SHADER: &str = "
struct Size { n: u32 }
@group(0) @binding(0) var<uniform> size: Size;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> product: array<f32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= size.n || id.y >= size.n { return; }
    var sum = 0.0;
    for (var k = 0u; k < size.n; k++) { sum += a[id.y * size.n + k] * b[k * size.n + id.x]; }
    product[id.y * size.n + id.x] = sum;
}";

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// `a` times `b`, both of `n` rows and columns, row by row.
pub async fn on_gpu(instance: &wgpu::Instance, n: u32, a: &[f32], b: &[f32]) -> Result<Vec<f32>, String> {
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    let adapter = adapter.map_err(|error| error.to_string())?;
    let device = adapter.request_device(&wgpu::DeviceDescriptor::default()).await;
    let (device, queue) = device.map_err(|error| error.to_string())?;

    let input = |label, contents: &[u8], usage| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some(label), contents, usage })
    };
    let size = input("size", &n.to_le_bytes(), wgpu::BufferUsages::UNIFORM);
    let (a, b) = (bytes(a), bytes(b));
    let length = a.len() as u64;
    let a = input("a", &a, wgpu::BufferUsages::STORAGE);
    let b = input("b", &b, wgpu::BufferUsages::STORAGE);
    let output = |label, usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: length,
            usage,
            mapped_at_creation: false,
        })
    };
    let product = output("product", wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let back = output("back", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);

    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("matmul"),
        source: wgpu::ShaderSource::Wgsl(SHADER.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("matmul"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let entry = |binding, buffer: &wgpu::Buffer| (binding, buffer.clone());
    let bound = [entry(0, &size), entry(1, &a), entry(2, &b), entry(3, &product)];
    let entries: Vec<_> = bound
        .iter()
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
        .collect();
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(n.div_ceil(8), n.div_ceil(8), 1);
    }
    encoder.copy_buffer_to_buffer(&product, 0, &back, 0, length);
    queue.submit([encoder.finish()]);

    let (sender, receiver) = mpsc::channel();
    back.map_async(wgpu::MapMode::Read, .., move |mapped| {
        let _ = sender.send(mapped);
    });
    device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
    receiver.try_recv().map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let view = back.get_mapped_range(..).map_err(|error| error.to_string())?;
    Ok(numbers(&view))
}

/// The same on the processor.
pub fn on_cpu(n: u32, a: &[f32], b: &[f32]) -> Vec<f32> {
    let n = n as usize;
    let columns: Vec<Vec<f32>> = (0..n).map(|column| b.iter().skip(column).step_by(n).copied().collect()).collect();
    let dot = |row: &[f32], column: &[f32]| row.iter().zip(column).map(|(a, b)| a * b).sum();
    a.chunks(n).flat_map(|row| columns.iter().map(move |column| dot(row, column))).collect()
}

/// Small whole numbers, whose sums are exact however they are added up.
pub fn example(n: u32, seed: u32) -> Vec<f32> {
    (0..n * n).map(|at| (at.wrapping_mul(7).wrapping_add(seed) % 11) as f32 - 5.0).collect()
}
