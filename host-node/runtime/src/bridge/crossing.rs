//! What may cross the border between two stores: values that can be copied, and nothing that stands for something else; to
//! and from a service also `stream<u8>`, of which the host can copy what is in it (`streams.rs`).
//!
//! Hazard: a handle is an index into a table of its store. Passed on as it is, it names whatever the other store has at
//! that index; the engine does not notice. So functions that pass handles are refused before anything is linked: by
//! [`crossing`] when a workload is put, by [`check`] when it is assembled.

use crate::{inspect, load::LoadError};
use std::fmt;
use wasmtime::{
    component::types::{ComponentFunc, Type},
    wasmparser::{
        PrimitiveValType,
        component_types::{
            ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentFuncTypeId,
            ComponentValType as ValType,
        },
        types::TypesRef,
    },
};

/// A function that the host cannot link between two components.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{item} passes {what}, which cannot leave the store that it was made in")]
pub struct CannotCross {
    /// The function, or the resource that the interface defines.
    pub item: String,
    pub what: Uncrossable,
}

/// What stands for something that is in one store only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uncrossable {
    /// `own<…>` or `borrow<…>` of a resource, the host's or a component's.
    Resource,
    Stream,
    Future,
    ErrorContext,
}

impl fmt::Display for Uncrossable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource => "a resource",
            Self::Stream => "a stream",
            Self::Future => "a future",
            Self::ErrorContext => "an error-context",
        })
    }
}

/// Whether calls of an interface (or a plain function) that this component exports or imports can cross between two
/// stores; with `streams` the other one is a service's. Nothing is compiled. Asked of the importer it is exact: an exporter may have further functions that nobody
/// uses. `Ok(Err(…))` names the first function that cannot; an unknown name has nothing that could not.
pub fn crossing(bytes: &[u8], name: &str, streams: bool) -> Result<Result<(), CannotCross>, LoadError> {
    let (read, _) = inspect::read_any(bytes)?;
    let types = read.types.as_ref();
    let item = types.component_item_for_import(name).or_else(|| types.component_item_for_export(name));
    let found = match item.map(|item| &item.ty) {
        Some(ComponentEntityType::Func(id)) => uncrossable_in(types, *id, streams).map(|what| (name, what)),
        Some(ComponentEntityType::Instance(id)) => types.get(*id).and_then(|instance| {
            instance.exports.iter().find_map(|(name, item)| match item.ty {
                ComponentEntityType::Func(id) => uncrossable_in(types, id, streams).map(|what| (name.as_str(), what)),
                ComponentEntityType::Type { created: ComponentAnyTypeId::Resource(_), .. } => {
                    Some((name.as_str(), Uncrossable::Resource))
                }
                _ => None,
            })
        }),
        _ => None,
    };
    Ok(match found {
        Some((item, what)) => Err(CannotCross { item: item.to_owned(), what }),
        None => Ok(()),
    })
}

fn uncrossable_in(types: TypesRef<'_>, id: ComponentFuncTypeId, streams: bool) -> Option<Uncrossable> {
    let function = types.get(id)?;
    let mut passed = function.params.iter().map(|(_, ty)| *ty).chain(function.result);
    passed.find_map(|ty| unvalidated(types, ty, streams))
}

/// The nesting of types is bounded by validation. Streams are looked for in records, tuples, options and results only.
fn unvalidated(types: TypesRef<'_>, ty: ValType, streams: bool) -> Option<Uncrossable> {
    let id = match ty {
        ValType::Primitive(PrimitiveValType::ErrorContext) => return Some(Uncrossable::ErrorContext),
        ValType::Primitive(_) => return None,
        ValType::Type(id) => id,
    };
    let inner = |ty: &ValType| unvalidated(types, *ty, streams);
    let inner_alone = |ty: &ValType| unvalidated(types, *ty, false);
    match types.get(id)? {
        ComponentDefinedType::Primitive(PrimitiveValType::ErrorContext) => Some(Uncrossable::ErrorContext),
        ComponentDefinedType::Primitive(_) | ComponentDefinedType::Flags(_) | ComponentDefinedType::Enum(_) => None,
        ComponentDefinedType::Own(_) | ComponentDefinedType::Borrow(_) => Some(Uncrossable::Resource),
        ComponentDefinedType::Stream { ty: Some(ty), .. } if streams && is_byte(types, *ty) => None,
        ComponentDefinedType::Stream { .. } => Some(Uncrossable::Stream),
        ComponentDefinedType::Future { .. } => Some(Uncrossable::Future),
        ComponentDefinedType::Record(record) => record.fields.values().find_map(inner),
        ComponentDefinedType::Variant(variant) => {
            variant.cases.values().filter_map(|case| case.ty.as_ref()).find_map(inner_alone)
        }
        ComponentDefinedType::Tuple(tuple) => tuple.types.iter().find_map(inner),
        ComponentDefinedType::List { element, .. } | ComponentDefinedType::FixedLengthList { element, .. } => {
            inner_alone(element)
        }
        ComponentDefinedType::Map { key, value, .. } => inner_alone(key).or_else(|| inner_alone(value)),
        ComponentDefinedType::Option { ty, .. } => inner(ty),
        ComponentDefinedType::Result { ok, err, .. } => [ok, err].into_iter().flatten().find_map(inner),
    }
}

fn is_byte(types: TypesRef<'_>, ty: ValType) -> bool {
    match ty {
        ValType::Primitive(primitive) => primitive == PrimitiveValType::U8,
        ValType::Type(id) => {
            matches!(types.get(id), Some(ComponentDefinedType::Primitive(primitive)) if *primitive == PrimitiveValType::U8)
        }
    }
}

/// The same of a compiled function.
pub(crate) fn check(name: &str, function: &ComponentFunc, streams: bool) -> Result<(), CannotCross> {
    let mut passed = function.params().map(|(_, ty)| ty).chain(function.results());
    match passed.find_map(|ty| uncrossable(&ty, streams)) {
        Some(what) => Err(CannotCross { item: name.to_owned(), what }),
        None => Ok(()),
    }
}

fn uncrossable(ty: &Type, streams: bool) -> Option<Uncrossable> {
    let inner = |ty: Type| uncrossable(&ty, streams);
    let inner_alone = |ty: Type| uncrossable(&ty, false);
    match ty {
        Type::Own(_) | Type::Borrow(_) => Some(Uncrossable::Resource),
        Type::Stream(stream) if streams && matches!(stream.ty(), Some(Type::U8)) => None,
        Type::Stream(_) => Some(Uncrossable::Stream),
        Type::Future(_) => Some(Uncrossable::Future),
        Type::ErrorContext => Some(Uncrossable::ErrorContext),
        Type::List(list) => inner_alone(list.ty()),
        Type::FixedLengthList(list) => inner_alone(list.ty()),
        Type::Map(map) => inner_alone(map.key()).or_else(|| inner_alone(map.value())),
        Type::Record(record) => record.fields().find_map(|field| inner(field.ty)),
        Type::Tuple(tuple) => tuple.types().find_map(inner),
        Type::Variant(variant) => variant.cases().filter_map(|case| case.ty).find_map(inner_alone),
        Type::Option(option) => inner(option.ty()),
        Type::Result(result) => [result.ok(), result.err()].into_iter().flatten().find_map(inner),
        Type::Bool
        | Type::S8
        | Type::U8
        | Type::S16
        | Type::U16
        | Type::S32
        | Type::U32
        | Type::S64
        | Type::U64
        | Type::Float32
        | Type::Float64
        | Type::Char
        | Type::String
        | Type::Enum(_)
        | Type::Flags(_) => None,
    }
}
