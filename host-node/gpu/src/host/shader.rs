//! Shader modules: looked at, parsed, looked at again, and only then given to wgpu.

use crate::{
    bindings::webgpu::*,
    device::{Fault, Gpu},
    guard::{self, Sizes},
    host::{
        GpuView, HasGpu, dropped, labels,
        resources::{self as r, Compiled, Message},
    },
};
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};
use wasmtime::component::{Accessor, Resource};

/// A place in a source, in bytes.
#[derive(Default, Clone, Copy)]
struct Place {
    line: u32,
    column: u32,
    offset: u32,
    length: u32,
}

/// Positions in the standard's units.
fn message(source: &str, text: String, kind: GpuCompilationMessageType, at: Option<Place>) -> Message {
    let Some(at) = at else { return Message { text, kind, line: 0, position: 0, offset: 0, length: 0 } };
    let (offset, length, column) = (at.offset as usize, at.length as usize, at.column.saturating_sub(1) as usize);
    let units = |from: usize, bytes: usize| {
        let part = source.get(from..from.saturating_add(bytes));
        part.map_or(bytes as u64, |part| part.encode_utf16().count() as u64)
    };
    Message {
        text,
        kind,
        line: u64::from(at.line),
        position: 1 + units(offset.saturating_sub(column), column),
        offset: units(0, offset),
        length: units(offset, length),
    }
}

fn invalid(gpu: &Gpu, source: &str, text: String, at: Option<Place>) -> Compiled {
    let fault = Fault::validation(text);
    let message = message(source, fault.message.clone(), GpuCompilationMessageType::Error, at);
    gpu.shared.report(fault);
    Compiled { module: None, sizes: Arc::default(), messages: Arc::new(vec![message]) }
}

/// On the device's thread.
pub(super) fn compile(gpu: &Gpu, limits: &wgpu::Limits, label: &str, source: String) -> Compiled {
    let began = Instant::now();
    let compiled = judge(gpu, limits, label, source);
    gpu.shared.account.compiled(began.elapsed());
    compiled
}

fn judge(gpu: &Gpu, limits: &wgpu::Limits, label: &str, source: String) -> Compiled {
    if let Err(refused) = guard::check_source(&source) {
        return invalid(gpu, &source, refused.to_string(), None);
    }
    // wgpu parses it again and says what is wrong: here only what can be parsed is of interest.
    let sizes = match wgpu::naga::front::wgsl::parse_str(&source) {
        Ok(module) => match guard::check_module(&module, limits.max_compute_workgroup_storage_size) {
            Ok(sizes) => Arc::new(sizes),
            Err(refused) => return invalid(gpu, &source, refused.to_string(), None),
        },
        Err(_) => Arc::<Sizes>::default(),
    };
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(source.as_str().into()) };
    let mut module = None;
    let made = gpu.capturing(|| module = Some(gpu.device.create_shader_module(descriptor)));
    let messages = module.as_ref().map(|module| messages(&source, module)).unwrap_or_default();
    if let Err(fault) = made {
        gpu.shared.report(fault);
        return Compiled { module: None, sizes, messages: Arc::new(messages) };
    }
    Compiled { module, sizes, messages: Arc::new(messages) }
}

fn messages(source: &str, module: &wgpu::ShaderModule) -> Vec<Message> {
    // Known when the module is: its future is ready.
    let info = std::pin::pin!(module.get_compilation_info()).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(info) = info else { return Vec::new() };
    let messages = info.messages.into_iter().map(|from| {
        let kind = match from.message_type {
            wgpu::CompilationMessageType::Error => GpuCompilationMessageType::Error,
            wgpu::CompilationMessageType::Warning => GpuCompilationMessageType::Warning,
            wgpu::CompilationMessageType::Info => GpuCompilationMessageType::Info,
        };
        let at = from.location.map(|at| Place {
            line: at.line_number,
            column: at.line_position,
            offset: at.offset,
            length: at.length,
        });
        message(source, Fault::validation(from.message).message, kind, at)
    });
    messages.collect()
}

impl HostGpuShaderModule for GpuView<'_> {
    labels!(r::ShaderModule);
    dropped!(r::ShaderModule);
}

impl<T: Send + 'static> HostGpuShaderModuleWithStore<T> for HasGpu {
    async fn get_compilation_info(
        accessor: &Accessor<T, Self>,
        it: Resource<r::ShaderModule>,
    ) -> wasmtime::Result<Resource<r::CompilationInfo>> {
        let (object, lane) = accessor.with(|mut access| {
            let view = access.get();
            let module = view.table.get(&it)?;
            wasmtime::error::Ok((module.object.clone(), module.lane.clone()))
        })?;
        let messages = lane.ask(0, move |_| object.get("the module").map(|compiled| compiled.messages)).await;
        let messages = messages.and_then(Result::ok).unwrap_or_default();
        accessor.with(|mut access| Ok(access.get().table.push(r::CompilationInfo(messages))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_in_utf16() {
        let source = "// ä😀\nfn ö x";
        let offset = source.find('x').unwrap();
        let line_start = source.find("fn").unwrap();
        let at = Place {
            line: 2,
            column: u32::try_from(offset - line_start).unwrap() + 1,
            offset: u32::try_from(offset).unwrap(),
            length: 1,
        };
        let message = message(source, String::new(), GpuCompilationMessageType::Error, Some(at));
        assert_eq!((message.line, message.position, message.offset, message.length), (2, 6, 12, 1));
    }
}
