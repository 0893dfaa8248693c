//! Shader modules.

use crate::{
    bindings::{GpuCompilationMessage, GpuCompilationMessageType, GpuShaderModule},
    held::impl_held,
};
use std::{pin::Pin, rc::Rc};
use wgpu::{
    CompilationInfo, CompilationMessage, CompilationMessageType, SourceLocation,
    custom::{self, ShaderCompilationInfoFuture},
};

/// With its source, in which wgpu's positions are counted.
#[derive(Debug)]
pub(crate) struct ShaderModule(pub(crate) Option<Rc<GpuShaderModule>>, pub(crate) Rc<str>);

impl_held! { ShaderModule(Rc<GpuShaderModule>): "shader module"; }

/// How many bytes the first so many UTF-16 units of a text have: the standard counts the one, wgpu the other.
fn bytes(text: &str, units: u64) -> usize {
    let mut left = units;
    let before = |c: &char| {
        let is_before = left > 0;
        left = left.saturating_sub(c.len_utf16() as u64);
        is_before
    };
    text.chars().take_while(before).map(char::len_utf8).sum()
}

fn location(source: &str, from: &GpuCompilationMessage) -> Option<SourceLocation> {
    let line_number = u32::try_from(from.line_num()).ok().filter(|line| *line > 0)?;
    let offset = bytes(source, from.offset());
    let (before, after) = source.split_at_checked(offset)?;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Some(SourceLocation {
        line_number,
        line_position: u32::try_from(offset - line_start + 1).ok()?,
        offset: u32::try_from(offset).ok()?,
        length: u32::try_from(bytes(after, from.length())).ok()?,
    })
}

fn message(source: &str, from: &GpuCompilationMessage) -> CompilationMessage {
    let message_type = match from.type_() {
        GpuCompilationMessageType::Error => CompilationMessageType::Error,
        GpuCompilationMessageType::Warning => CompilationMessageType::Warning,
        GpuCompilationMessageType::Info => CompilationMessageType::Info,
    };
    CompilationMessage { message: from.message(), message_type, location: location(source, from) }
}

impl custom::ShaderModuleInterface for ShaderModule {
    fn get_compilation_info(&self) -> Pin<Box<dyn ShaderCompilationInfoFuture>> {
        let (module, source) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let Some(module) = module else {
                let message = "the module is not WGSL".to_owned();
                let message_type = CompilationMessageType::Error;
                return CompilationInfo {
                    messages: vec![CompilationMessage { message, message_type, location: None }],
                };
            };
            let info = module.get_compilation_info().await;
            CompilationInfo { messages: info.messages().iter().map(|from| message(&source, from)).collect() }
        })
    }
}
