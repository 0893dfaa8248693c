//! What goes wrong, and who is told.

use crate::checks::{Said, Work, mapping};
use std::sync::{Arc, Mutex};

/// A buffer that no device makes.
fn bad_buffer(work: &Work) -> wgpu::Buffer {
    work.buffer(16, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE)
}

fn kind(error: Option<wgpu::Error>) -> &'static str {
    match error {
        None => "none",
        Some(wgpu::Error::Validation { .. }) => "validation",
        Some(wgpu::Error::OutOfMemory { .. }) => "memory",
        Some(wgpu::Error::Internal { .. }) => "internal",
    }
}

/// Where in a shader something is wrong.
pub async fn info() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let scope = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let code = "// ä\n@compute @workgroup_size(1) fn main() { let x = nothing; }";
    let source = wgpu::ShaderSource::Wgsl(code.into());
    let module = work.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let messages = module.get_compilation_info().await.messages;
    let at = messages.iter().find_map(|message| message.location).ok_or("no place is given")?;
    let text = code.get(at.offset as usize..(at.offset + at.length) as usize).unwrap_or_default();
    Ok(format!("line {} at {}: {text}; {}", at.line_number, at.line_position, kind(scope.pop().await)))
}

/// Scopes within each other, with errors of the host and of this side.
pub async fn scopes() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let outer = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = work.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    bad_buffer(&work);
    let inner = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    // WebGPU has no such sampler, so that the host is never asked.
    let border = wgpu::AddressMode::ClampToBorder;
    let _ = work.device.create_sampler(&wgpu::SamplerDescriptor { address_mode_u: border, ..Default::default() });
    let inner = inner.pop().await;
    let text = inner.as_ref().map(ToString::to_string).unwrap_or_default();
    drop(work.device.push_error_scope(wgpu::ErrorFilter::Validation));
    let (memory, outer) = (memory.pop().await, outer.pop().await);
    let abandoned = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let within = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    bad_buffer(&work);
    let (abandoned, within) = (abandoned.pop().await, within.pop().await);
    let kinds = [inner, memory, outer, abandoned, within].map(kind);
    Ok(format!("{}; {text}", kinds.join(" ")))
}

pub async fn uncaptured() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    work.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        if let Ok(mut heard) = hear.lock() {
            heard.push(kind(Some(error)));
        }
    }));
    bad_buffer(&work);
    bad_buffer(&work);
    let told = || heard.lock().map(|heard| heard.len()).unwrap_or_default();
    let polled = work.device.poll(wgpu::PollType::Poll).map_err(|error| error.to_string())?;
    bad_buffer(&work);
    // The host tells of what comes before an answer before it, and of nothing at once.
    work.read(&work.storage(&[1])).await?;
    Ok(format!("{} {}", told(), polled.is_queue_empty()))
}

pub async fn lost() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let (said, tell) = Said::new();
    let buffer = work.buffer(16, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    work.device.set_device_lost_callback(move |reason, _message| tell(reason));
    work.device.destroy();
    let mapped = mapping(&buffer, wgpu::MapMode::Read);
    let waited = work.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
    let reason = said.now();
    let (late, tell) = Said::new();
    work.device.set_device_lost_callback(move |reason, _message| tell(reason));
    let mapped = mapped.now().map(|mapped| mapped.is_ok());
    Ok(format!("{reason:?} {:?} {mapped:?} {}", late.now(), waited.is_queue_empty()))
}

/// What wgpu has and WebGPU does not.
pub async fn absent() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let mut told = Vec::new();
    let scope = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let _ = work.device.create_tlas(&wgpu::CreateTlasDescriptor {
        label: None,
        max_instances: 1,
        flags: wgpu::AccelerationStructureFlags::PREFER_FAST_TRACE,
        update_mode: wgpu::AccelerationStructureUpdateMode::Build,
    });
    told.push(kind(scope.pop().await));
    // A command that there is not makes its encoder invalid, and nothing of it is submitted.
    let scope = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let buffer = work.storage(&[7]);
    let queries = work.device.create_query_set(&wgpu::QuerySetDescriptor {
        label: None,
        ty: wgpu::QueryType::Occlusion,
        count: 1,
    });
    let mut encoder = work.encoder();
    encoder.clear_buffer(&buffer, 0, None);
    encoder.write_timestamp(&queries, 0);
    let commands = encoder.finish();
    told.push(kind(scope.pop().await));
    let scope = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    work.queue.submit([commands]);
    told.push(kind(scope.pop().await));
    Ok(format!("{} {:?}", told.join(" "), work.read(&buffer).await?))
}

struct NoWindow;

impl wgpu::rwh::HasWindowHandle for NoWindow {
    fn window_handle(&self) -> Result<wgpu::rwh::WindowHandle<'_>, wgpu::rwh::HandleError> {
        let handle = wgpu::rwh::WebWindowHandle::new(1);
        // SAFETY: it is the number of an element, and nothing that could be invalid.
        Ok(unsafe { wgpu::rwh::WindowHandle::borrow_raw(handle.into()) })
    }
}

impl wgpu::rwh::HasDisplayHandle for NoWindow {
    fn display_handle(&self) -> Result<wgpu::rwh::DisplayHandle<'_>, wgpu::rwh::HandleError> {
        Ok(wgpu::rwh::DisplayHandle::web())
    }
}

/// Surfaces, features and limits that there are not.
pub async fn refused() -> Result<String, String> {
    let instance = wasi_wgpu::instance();
    let surface = instance.create_surface(NoWindow).is_err();
    let adapter = instance.request_adapter(&Default::default()).await.map_err(|error| error.to_string())?;
    let required_features = wgpu::Features::EXPERIMENTAL_RAY_QUERY;
    let wanted = wgpu::DeviceDescriptor { required_features, ..Default::default() };
    let feature = adapter.request_device(&wanted).await.map(|_| ()).map_err(|error| error.to_string());
    let required_limits = wgpu::Limits { max_bind_groups: 1_000, ..Default::default() };
    let wanted = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    let limit = adapter.request_device(&wanted).await.map(|_| ()).map_err(|error| error.to_string());
    let wanted = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    let (device, _queue) = adapter.request_device(&wanted).await.map_err(|error| error.to_string())?;
    let same = device.limits() == adapter.limits();
    Ok(format!("{surface} {same} {}; {}", feature.err().unwrap_or_default(), limit.err().unwrap_or_default()))
}

/// Mappings that fail.
pub async fn unmapped() -> Result<String, String> {
    let work = Work::open(wgpu::Features::empty()).await?;
    let buffer = work.buffer(16, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let never = buffer.get_mapped_range(..).is_err();
    let wrong = mapping(&work.storage(&[0; 4]), wgpu::MapMode::Read).done().await.is_ok();
    // wgpu thinks that it is mapped from here on; the host knows better.
    let early = mapping(&buffer, wgpu::MapMode::Read);
    let unready = buffer.get_mapped_range(..).is_err();
    buffer.unmap();
    let scope = work.device.push_error_scope(wgpu::ErrorFilter::Validation);
    work.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
    let early = early.now().map(|mapped| mapped.is_ok());
    let again = mapping(&buffer, wgpu::MapMode::Read).done().await.is_ok();
    Ok(format!("{never} {unready} {wrong} {early:?} {again} {}", kind(scope.pop().await)))
}
