//! What else wgpu does: each answers what came of it, or what went wrong.

use crate::{mistakes, pictures};
use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    task::{Poll, Waker},
    time::Duration,
};

pub async fn run(name: &str) -> Result<String, String> {
    match name {
        "await" => awaited().await,
        "begun" => begun().await,
        "glance" => glance().await,
        "timeout" => timeout().await,
        "kept" => kept().await,
        "indirect" => indirect().await,
        "timestamp" => timestamp().await,
        "map-write" => map_write().await,
        "large" => large().await,
        "storage-texture" => pictures::storage_texture().await,
        "render" => pictures::render().await,
        "info" => mistakes::info().await,
        "scopes" => mistakes::scopes().await,
        "uncaptured" => mistakes::uncaptured().await,
        "lost" => mistakes::lost().await,
        "absent" => mistakes::absent().await,
        "refused" => mistakes::refused().await,
        "unmapped" => mistakes::unmapped().await,
        _ => Err(format!("there is no check {name}")),
    }
}

pub struct Work {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
}

impl Work {
    pub async fn open(features: wgpu::Features) -> Result<Self, String> {
        let adapter = wasi_wgpu::instance().request_adapter(&Default::default()).await;
        let adapter = adapter.map_err(|error| error.to_string())?;
        let wanted = wgpu::DeviceDescriptor { required_features: features, ..Default::default() };
        let (device, queue) = adapter.request_device(&wanted).await.map_err(|error| error.to_string())?;
        Ok(Self { device, queue })
    }

    pub fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    pub fn storage(&self, words: &[u32]) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.buffer(words.len() as u64 * 4, usage);
        self.queue.write_buffer(&buffer, 0, &bytes(words));
        buffer
    }

    pub fn pipeline(&self, code: &str) -> wgpu::ComputePipeline {
        let source = wgpu::ShaderSource::Wgsl(code.into());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        })
    }

    pub fn group(&self, pipeline: &wgpu::ComputePipeline, resource: wgpu::BindingResource<'_>) -> wgpu::BindGroup {
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource }],
        })
    }

    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&Default::default())
    }

    /// A submit of a shader with one buffer.
    pub fn compute(&self, code: &str, buffer: &wgpu::Buffer, groups: u32) {
        let pipeline = self.pipeline(code);
        let group = self.group(&pipeline, buffer.as_entire_binding());
        let mut encoder = self.encoder();
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
        drop(pass);
        self.queue.submit([encoder.finish()]);
    }

    /// A copy of a buffer that can be mapped, on its way.
    pub fn copy(&self, buffer: &wgpu::Buffer) -> wgpu::Buffer {
        let back = self.buffer(buffer.size(), wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(buffer, 0, &back, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        back
    }

    /// The words of a buffer, without a call of `poll`.
    pub async fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u32>, String> {
        let back = self.copy(buffer);
        mapping(&back, wgpu::MapMode::Read).done().await?;
        words_of(&back)
    }
}

pub fn words_of(mapped: &wgpu::Buffer) -> Result<Vec<u32>, String> {
    let view = mapped.get_mapped_range(..).map_err(|error| error.to_string())?;
    Ok(view.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What a callback says, for who awaits it.
pub struct Said<T>(Arc<Mutex<Words<T>>>);

type Words<T> = (Option<T>, Option<Waker>);

fn lock<T>(said: &Mutex<Words<T>>) -> MutexGuard<'_, Words<T>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Said<T> {
    pub fn new() -> (Self, impl Fn(T) + Send) {
        let said = Arc::new(Mutex::new((None, None)));
        let say = said.clone();
        let tell = move |value| {
            let waker = {
                let mut said = lock(&say);
                said.0 = Some(value);
                said.1.take()
            };
            waker.into_iter().for_each(Waker::wake);
        };
        (Self(said), tell)
    }

    pub fn now(&self) -> Option<T> {
        lock(&self.0).0.take()
    }

    pub async fn later(&self) -> T {
        poll_fn(|context| match self.now() {
            Some(value) => Poll::Ready(value),
            None => {
                lock(&self.0).1 = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Said<Result<(), wgpu::BufferAsyncError>> {
    pub async fn done(&self) -> Result<(), String> {
        self.later().await.map_err(|error| error.to_string())
    }
}

pub fn mapping(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Said<Result<(), wgpu::BufferAsyncError>> {
    let (said, tell) = Said::new();
    buffer.map_async(mode, .., tell);
    said
}

const DOUBLE: &str = "
    @group(0) @binding(0) var<storage, read_write> a: array<u32>;
    @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3u) { a[id.x] *= 2u; }";
const COUNT: &str = "
    @group(0) @binding(0) var<storage, read_write> a: array<atomic<u32>>;
    @compute @workgroup_size(8) fn main() { atomicAdd(&a[0], 1u); }";
/// Work that a processor needs a part of a second for.
const BURN: &str = "
    @group(0) @binding(0) var<storage, read_write> a: array<u32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        var x = id.x;
        for (var i = 0u; i < 60000u; i++) { x = x * 1664525u + 1013904223u; }
        a[id.x % 64u] = x;
    }";

async fn awaited() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.storage(&[1, 2, 3]);
    work.compute(DOUBLE, &buffer, 3);
    let (done, tell) = Said::new();
    work.queue.on_submitted_work_done(move || tell(()));
    done.later().await;
    // Several at a time.
    let copies = [work.copy(&buffer), work.copy(&buffer)];
    let [one, other] = copies.each_ref().map(|copy| mapping(copy, wgpu::MapMode::Read));
    other.done().await?;
    one.done().await?;
    Ok(format!("{:?} {:?}", words_of(&copies[0])?, work.read(&buffer).await?))
}

/// A mapping that a task has begun is ended by `poll`.
async fn begun() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.storage(&[0; 64]);
    work.compute(BURN, &buffer, 64);
    let copy = work.copy(&buffer);
    let mapped = mapping(&copy, wgpu::MapMode::Read);
    wasip3::clocks::monotonic_clock::wait_for(1_000_000).await;
    let was_done = mapped.now().is_some();
    work.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
    let is_done = mapped.now().is_some() || was_done;
    Ok(format!("{is_done} {}", words_of(&copy)?.len()))
}

/// `PollType::Poll` until it is done, as a program with an event loop does it.
async fn glance() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.storage(&[4, 5]);
    work.compute(DOUBLE, &buffer, 2);
    let copy = work.copy(&buffer);
    let (sender, receiver) = mpsc::channel();
    copy.map_async(wgpu::MapMode::Read, .., move |mapped| {
        let _ = sender.send(mapped);
    });
    loop {
        let status = work.device.poll(wgpu::PollType::Poll).map_err(|error| error.to_string())?;
        if let Ok(mapped) = receiver.try_recv() {
            mapped.map_err(|error| error.to_string())?;
            return Ok(format!("{:?} {}", words_of(&copy)?, status.is_queue_empty()));
        }
    }
}

async fn timeout() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.storage(&[0; 64]);
    work.compute(BURN, &buffer, 256);
    let copy = work.copy(&buffer);
    let mapped = mapping(&copy, wgpu::MapMode::Read);
    let wait = |timeout| work.device.poll(wgpu::PollType::Wait { submission_index: None, timeout });
    let (early, was_called) = (wait(Some(Duration::from_millis(2))), mapped.now().is_some());
    let late = wait(Some(Duration::from_secs(60)));
    let is_called = mapped.now().is_some();
    Ok(format!("{early:?} {was_called} {late:?} {is_called}"))
}

/// A device that outlives the request that made it.
async fn kept() -> Result<String, String> {
    thread_local! {
        static KEPT: RefCell<Option<(Rc<Work>, u32)>> = const { RefCell::new(None) };
    }
    let (work, times) = match KEPT.take() {
        Some(kept) => kept,
        None => (Rc::new(Work::open(wgpu::Features::empty()).await?), 0),
    };
    let buffer = work.storage(&[times]);
    work.compute(DOUBLE, &buffer, 1);
    let read = work.read(&buffer).await?;
    KEPT.set(Some((work, times + 1)));
    Ok(format!("{read:?}"))
}

async fn indirect() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.storage(&[0]);
    let arguments = work.buffer(12, wgpu::BufferUsages::INDIRECT | wgpu::BufferUsages::COPY_DST);
    let staged = work.queue.write_buffer_with(&arguments, 0, wgpu::BufferSize::new(12).ok_or("no size")?);
    staged.ok_or("it can't be written")?.copy_from_slice(&bytes(&[3, 2, 1]));
    let pipeline = work.pipeline(COUNT);
    let group = work.group(&pipeline, buffer.as_entire_binding());
    let mut encoder = work.encoder();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups_indirect(&arguments, 0);
    drop(pass);
    work.queue.submit([encoder.finish()]);
    Ok(format!("{:?}", work.read(&buffer).await?))
}

async fn timestamp() -> Result<String, String> {
    let work = Work::open(wgpu::Features::TIMESTAMP_QUERY).await?;
    let set = work.device.create_query_set(&wgpu::QuerySetDescriptor {
        label: None,
        ty: wgpu::QueryType::Timestamp,
        count: 2,
    });
    let buffer = work.storage(&[0; 64]);
    let times = work.buffer(16, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
    let pipeline = work.pipeline(BURN);
    let group = work.group(&pipeline, buffer.as_entire_binding());
    let mut encoder = work.encoder();
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: None,
        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
            query_set: &set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        }),
    });
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(4, 1, 1);
    drop(pass);
    encoder.resolve_query_set(&set, 0..2, &times, 0);
    work.queue.submit([encoder.finish()]);
    let words = work.read(&times).await?;
    let [begin, high, end, above] = words.as_slice() else { return Err(format!("{words:?}")) };
    let [begin, end] = [(begin, high), (end, above)].map(|(low, high)| u64::from(*high) << 32 | u64::from(*low));
    let took = end.checked_sub(begin).map(|ticks| ticks as f32 * work.queue.get_timestamp_period());
    Ok(if took.is_some_and(|took| took > 0.0) { "in order".into() } else { format!("{begin} {end}") })
}

/// What is written to a mapped buffer, and what is not.
async fn map_write() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 32,
        usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    let write = |at: u64, words: &[u32]| {
        let view = buffer.get_mapped_range_mut(at..at + words.len() as u64 * 4);
        view.map(|mut view| view.copy_from_slice(&bytes(words))).map_err(|error| error.to_string())
    };
    write(0, &[1, 2])?;
    write(16, &[5])?;
    buffer.unmap();
    let first = work.read(&buffer_copy(&work, &buffer)).await?;
    let again = mapping(&buffer, wgpu::MapMode::Write);
    work.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
    again.now().ok_or("no callback")?.map_err(|error| error.to_string())?;
    write(8, &[3, 4])?;
    buffer.unmap();
    Ok(format!("{first:?} {:?}", work.read(&buffer_copy(&work, &buffer)).await?))
}

fn buffer_copy(work: &Work, buffer: &wgpu::Buffer) -> wgpu::Buffer {
    let copy = work.buffer(buffer.size(), wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST);
    let mut encoder = work.encoder();
    encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
    work.queue.submit([encoder.finish()]);
    copy
}

/// More than goes in one call of the interface.
async fn large() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let words: Vec<u32> = (0..5 << 20).collect();
    let buffer = work.storage(&words);
    Ok(format!("{} {}", words.len(), work.read(&buffer).await? == words))
}
