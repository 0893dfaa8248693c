//! What a component imports and exports, read with full validation of its types: nothing else looks at its bytes before.

use lattice::spec::FunctionName;
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{
    Chunk, ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload, PrimitiveValType, ValidPayload,
    Validator, WasmFeatures,
    component_types::{ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentValType},
    types::Types,
};

/// Names that can be wired: instances and functions. Types and the like are no business of composition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surface {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    /// Those of `imports` that are nothing but types of plain values: there is nothing in them to call.
    pub(crate) types_only: BTreeSet<String>,
    /// What is to be called of the instances among `imports`.
    pub(crate) functions: BTreeMap<String, Vec<String>>,
}

/// Read the outermost component of `bytes`. Function bodies are left to the compiler. `Err` says what is wrong with it.
pub(crate) fn read(bytes: &[u8]) -> Result<Surface, String> {
    read_with_types(bytes).map(|(surface, _)| surface)
}

fn read_with_types(bytes: &[u8]) -> Result<(Surface, Types), String> {
    if !Parser::is_component(bytes) {
        return Err("it has not the first bytes of one".into());
    }
    // The encoder does not know functions of exact type.
    let mut validator = Validator::new_with_features(WasmFeatures::all().difference(WasmFeatures::CUSTOM_DESCRIPTORS));
    let mut parser = Parser::new(0);
    let mut outer = Vec::new();
    let mut rest = bytes;
    let mut surface = Surface::default();
    let malformed = |error: wasmparser::BinaryReaderError| error.to_string();
    loop {
        let (payload, length) = match parser.parse(rest, true).map_err(malformed)? {
            Chunk::Parsed { payload, consumed } => (payload, consumed),
            Chunk::NeedMoreData(_) => return Err("it ends in the middle".into()),
        };
        rest = rest.get(length..).unwrap_or_default();
        let at_top = outer.is_empty();
        match &payload {
            Payload::Version { encoding: Encoding::Module, .. } if at_top => return Err("it is a core module".into()),
            Payload::ComponentImportSection(section) if at_top => {
                for import in section.clone() {
                    let import = import.map_err(malformed)?;
                    if matches!(import.ty, ComponentTypeRef::Instance(_) | ComponentTypeRef::Func(_)) {
                        surface.imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if at_top => {
                for export in section.clone() {
                    let export = export.map_err(malformed)?;
                    if matches!(export.kind, ComponentExternalKind::Instance | ComponentExternalKind::Func) {
                        surface.exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
        match validator.payload(&payload).map_err(malformed)? {
            ValidPayload::Ok | ValidPayload::Func(..) => {}
            ValidPayload::Parser(inner) => outer.push(std::mem::replace(&mut parser, inner)),
            ValidPayload::End(types) => match outer.pop() {
                Some(next) => parser = next,
                None if rest.is_empty() => {
                    let types_only = surface.imports.iter().filter(|import| is_types_only(&types, import));
                    surface.types_only = types_only.cloned().collect();
                    let functions = surface.imports.iter().map(|import| (import.clone(), functions(&types, import)));
                    surface.functions = functions.collect();
                    return Ok((surface, types));
                }
                None => return Err("there are bytes behind its end".into()),
            },
        }
    }
}

/// Whether a component exports a function that says how it does: without parameters, and with a `bool` or a `result` of
/// nothing but perhaps a `string` for the error.
pub(crate) fn can_be_asked(bytes: &[u8], function: &FunctionName) -> Result<bool, String> {
    let (surface, types) = read_with_types(bytes)?;
    let types = types.as_ref();
    let Ok(interface) = function.interface(surface.exports.iter().map(String::as_str)) else { return Ok(false) };
    let found = match interface {
        None => types.component_item_for_export(function.name()).map(|item| item.ty),
        Some(interface) => match types.component_item_for_export(interface).map(|item| item.ty) {
            Some(ComponentEntityType::Instance(id)) => {
                types.get(id).and_then(|instance| instance.exports.get(function.name())).map(|item| item.ty)
            }
            _ => None,
        },
    };
    let Some(ComponentEntityType::Func(id)) = found else { return Ok(false) };
    let Some(ty) = types.get(id).filter(|ty| ty.params.is_empty()) else { return Ok(false) };
    Ok(match ty.result {
        Some(ComponentValType::Primitive(ty)) => ty == PrimitiveValType::Bool,
        Some(ComponentValType::Type(id)) => match types.get(id) {
            Some(ComponentDefinedType::Primitive(ty)) => *ty == PrimitiveValType::Bool,
            Some(ComponentDefinedType::Result { ok: None, err, .. }) => match err {
                None | Some(ComponentValType::Primitive(PrimitiveValType::String)) => true,
                Some(ComponentValType::Type(id)) => {
                    matches!(types.get(*id), Some(ComponentDefinedType::Primitive(PrimitiveValType::String)))
                }
                Some(_) => false,
            },
            _ => false,
        },
        None => false,
    })
}

fn functions(types: &Types, import: &str) -> Vec<String> {
    let types = types.as_ref();
    let Some(ComponentEntityType::Instance(id)) = types.component_item_for_import(import).map(|item| item.ty) else {
        return Vec::new();
    };
    let exports = types.get(id).into_iter().flat_map(|instance| &instance.exports);
    let functions = exports.filter(|(_, export)| matches!(export.ty, ComponentEntityType::Func(_)));
    functions.map(|(name, _)| name.clone()).collect()
}

fn is_types_only(types: &Types, import: &str) -> bool {
    let types = types.as_ref();
    let is_plain = |ty: &ComponentEntityType| match ty {
        ComponentEntityType::Type { created, .. } => !matches!(created, ComponentAnyTypeId::Resource(_)),
        _ => false,
    };
    match types.component_item_for_import(import).map(|item| item.ty) {
        Some(ComponentEntityType::Instance(id)) => {
            types.get(id).is_some_and(|instance| instance.exports.values().all(|export| is_plain(&export.ty)))
        }
        _ => false,
    }
}
