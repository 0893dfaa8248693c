//! Reads what a component is from its types, without compiling it: cheap enough for admission to refuse a component
//! before anything is written. Function bodies are checked by the compiler later, all else is checked here.

use crate::{engine, linker, load::LoadError};
use std::sync::LazyLock;
use wasmtime::wasmparser::{
    Chunk, Encoding, Parser, Payload, ValidPayload, Validator, WasmFeatures,
    component_types::{ComponentAnyTypeId, ComponentEntityType},
    types::Types,
};
use wasmtime::{Engine, component::types::ComponentItem};

/// What a component asks for and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub kind: Kind,
    /// Names of what it imports, as written: `wasi:http/types@0.2.3`. In its own order.
    pub imports: Vec<String>,
    /// Names of what it exports.
    pub exports: Vec<String>,
    /// Imports that this node does not offer. Empty if the component can be linked here.
    pub missing: Vec<String>,
    /// It uses asynchronous functions, streams or futures, or imports WASI 0.3, so it runs on the engine that has them.
    pub needs_concurrency: bool,
}

impl Inspection {
    /// Whether it can be given messages, whatever else it does.
    pub fn handles_messages(&self) -> bool {
        self.exports.iter().any(|export| linker::split(export) == HANDLER)
    }

    /// Whether it can be given requests.
    pub fn answers_http(&self) -> bool {
        matches!(self.kind, Kind::Http02 | Kind::Http03)
    }

    /// The same, read from compiled code.
    pub(crate) fn of_code(code: &wasmtime::component::Component, needs_concurrency: bool) -> Self {
        let (ty, engine) = (code.component_type(), code.engine());
        let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
        let imports = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let is_a_plain_type = |item: &ComponentItem| matches!(item, ComponentItem::Type(_));
        let must_be_given = |item: &ComponentItem| match item {
            ComponentItem::ComponentInstance(instance) => {
                !instance.exports(engine).all(|(_, export)| is_a_plain_type(&export.ty))
            }
            item => !is_a_plain_type(item),
        };
        let missing = ty.imports(engine).filter(|(name, item)| !linker::is_offered(name) && must_be_given(&item.ty));
        let missing = missing.map(|(name, _)| name.to_owned()).collect();
        Self { kind: Kind::of(&exports), imports, exports, missing, needs_concurrency }
    }
}

const HANDLER: (&str, &str) = ("wasmcloud:messaging/handler", "0.2");

/// What can be done with a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Exports `wasi:http/incoming-handler@0.2`.
    Http02,
    /// Exports `wasi:http/handler@0.3`. One that exports both handlers is of this kind.
    Http03,
    /// Exports `wasmcloud:messaging/handler@0.2`, and neither of these.
    Messages,
    /// Exports `wasi:cli/run`: a program with a beginning and an end.
    Command,
    /// None of these; it may be a part of a composition.
    Other,
}

impl Kind {
    fn of(exports: &[String]) -> Self {
        let has = |interface, version| exports.iter().any(|export| linker::split(export) == (interface, version));
        if has("wasi:http/handler", "0.3") {
            Self::Http03
        } else if has("wasi:http/incoming-handler", "0.2") {
            Self::Http02
        } else if has(HANDLER.0, HANDLER.1) {
            Self::Messages
        } else if has("wasi:cli/run", "0.2") || has("wasi:cli/run", "0.3") {
            Self::Command
        } else {
            Self::Other
        }
    }
}

/// Read a component. Fails for what is not a component, and for one that is malformed or uses what no engine here has.
/// Missing imports are no failure: see [`Inspection::missing`].
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    let (Read { imports, exports, types }, needs_concurrency) = read_any(bytes)?;
    let needs_concurrency = needs_concurrency || imports.iter().any(|import| linker::needs_concurrency(import));
    let missing = imports.iter().filter(|name| !linker::is_offered(name) && must_be_given(&types, name)).cloned();
    Ok(Inspection { kind: Kind::of(&exports), missing: missing.collect(), imports, exports, needs_concurrency })
}

/// The structure of a component, and whether only the engine with concurrency takes it.
pub(crate) fn read_any(bytes: &[u8]) -> Result<(Read, bool), LoadError> {
    match bytes.get(..8) {
        Some([b'\0', b'a', b's', b'm', ..]) if Parser::is_component(bytes) => {}
        Some([b'\0', b'a', b's', b'm', ..]) if Parser::is_core_wasm(bytes) => return Err(LoadError::CoreModule),
        _ => return Err(LoadError::NotWasm),
    }
    let [plain, concurrent] = features()?;
    match read(bytes, plain) {
        Ok(read) => Ok((read, false)),
        Err(_) => Ok((read(bytes, concurrent)?, true)),
    }
}

/// What the two engines accept, asked of engines of the same configuration.
fn features() -> Result<[WasmFeatures; 2], LoadError> {
    static FEATURES: LazyLock<Result<[WasmFeatures; 2], String>> = LazyLock::new(|| {
        let of = |concurrency| match Engine::new(&engine::config(concurrency)) {
            Ok(engine) => Ok(engine.get_wasm_features()),
            Err(error) => Err(format!("{error:#}")),
        };
        Ok([of(false)?, of(true)?])
    });
    FEATURES.clone().map_err(LoadError::Compile)
}

pub(crate) struct Read {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    pub(crate) types: Types,
}

fn read(bytes: &[u8], features: WasmFeatures) -> Result<Read, LoadError> {
    let malformed = |error: wasmtime::wasmparser::BinaryReaderError| LoadError::Malformed(error.to_string());
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    let mut outer = Vec::new();
    let mut rest = bytes;
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    loop {
        let (payload, length) = match parser.parse(rest, true).map_err(malformed)? {
            Chunk::Parsed { payload, consumed } => (payload, consumed),
            Chunk::NeedMoreData(_) => return Err(LoadError::Malformed("it ends in the middle".into())),
        };
        rest = rest.get(length..).unwrap_or_default();
        let at_top = outer.is_empty();
        match &payload {
            Payload::Version { encoding: Encoding::Module, .. } if at_top => return Err(LoadError::CoreModule),
            Payload::ComponentImportSection(section) if at_top => {
                for import in section.clone() {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if at_top => {
                for export in section.clone() {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
        match validator.payload(&payload).map_err(malformed)? {
            ValidPayload::Ok | ValidPayload::Func(..) => {}
            ValidPayload::Parser(inner) => outer.push(std::mem::replace(&mut parser, inner)),
            ValidPayload::End(types) => match outer.pop() {
                Some(next) => parser = next,
                None => return Ok(Read { imports, exports, types }),
            },
        }
    }
}

/// An import of types alone is not asked of anybody.
fn must_be_given(types: &Types, import: &str) -> bool {
    let types = types.as_ref();
    let Some(item) = types.component_item_for_import(import) else { return true };
    let is_a_plain_type = |ty: &ComponentEntityType| match ty {
        ComponentEntityType::Type { created, .. } => !matches!(created, ComponentAnyTypeId::Resource(_)),
        _ => false,
    };
    match &item.ty {
        ComponentEntityType::Instance(id) => match types.get(*id) {
            Some(instance) => !instance.exports.values().all(|export| is_a_plain_type(&export.ty)),
            None => true,
        },
        ty => !is_a_plain_type(ty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component of no sections.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn what_is_not_a_component_is_told_apart() {
        assert!(matches!(inspect(b""), Err(LoadError::NotWasm)));
        assert!(matches!(inspect(b"#!/bin/sh\necho"), Err(LoadError::NotWasm)));
        assert!(matches!(inspect(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule)));
        assert!(matches!(inspect(b"\0asm\x0d\0\x01\0\xff"), Err(LoadError::Malformed(_))));
        assert_eq!(inspect(EMPTY).unwrap().kind, Kind::Other);
    }
}
