//! How quickly small work and many bytes get to the GPU and back, as any program with `wgpu` would use it. Nothing here knows of
//! components: the bench `gpu` runs the same file natively, and compares.

use std::hint::black_box;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Of one upload, or one readback.
pub const BYTES: u64 = 1 << 20;
/// Submits and writes that are not waited for at a time. A node allows a guest as many.
const IN_FLIGHT: u64 = 16;

const SHADER: &str = "
@group(0) @binding(0) var<storage, read_write> a: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { a[id.x] += 1u; }";

/// A device, with everything that is measured made already.
pub struct Speed {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    large: wgpu::Buffer,
    back: wgpu::Buffer,
    bytes: Vec<u8>,
}

impl Speed {
    pub async fn open(adapter: &wgpu::Adapter) -> Result<Self, String> {
        let device = adapter.request_device(&wgpu::DeviceDescriptor::default()).await;
        let (device, queue) = device.map_err(|error| error.to_string())?;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(SHADER.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let buffer = |size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let small = buffer(256, wgpu::BufferUsages::STORAGE);
        let large = buffer(BYTES, wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST);
        let back = buffer(BYTES, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: small.as_entire_binding() }],
        });
        let bytes = (0..BYTES).map(|at| at as u8).collect();
        Ok(Self { device, queue, pipeline, group, large, back, bytes })
    }

    /// How long that takes, so many times: `submit` (a small dispatch, with [`IN_FLIGHT`] at a time), `round-trip` (the same, and each
    /// is waited for), `upload` and `readback`.
    pub fn time(&self, what: &str, times: u64) -> Result<Duration, String> {
        let began = Instant::now();
        for at in 1..=times {
            match what {
                "submit" | "round-trip" => self.submit(),
                "upload" => {
                    self.queue.write_buffer(&self.large, 0, &self.bytes);
                    self.queue.submit([]);
                }
                "readback" => self.read()?,
                _ => return Err(format!("{what:?} is none of submit, round-trip, upload, readback")),
            }
            let is_full = what == "round-trip" || at % IN_FLIGHT == 0 || at == times;
            if is_full && what != "readback" {
                self.wait()?;
            }
        }
        Ok(began.elapsed())
    }

    fn submit(&self) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        drop(pass);
        self.queue.submit([encoder.finish()]);
    }

    fn read(&self) -> Result<(), String> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&self.large, 0, &self.back, 0, BYTES);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = mpsc::channel();
        self.back.map_async(wgpu::MapMode::Read, .., move |mapped| {
            let _ = sender.send(mapped);
        });
        self.wait()?;
        receiver.try_recv().map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let view = self.back.get_mapped_range(..).map_err(|error| error.to_string())?;
        black_box(view.to_vec());
        drop(view);
        self.back.unmap();
        Ok(())
    }

    fn wait(&self) -> Result<(), String> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
        Ok(())
    }
}
