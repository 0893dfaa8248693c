//! What may cross the border between two stores: values that can be copied, and nothing that stands for something else; to
//! and from a service also `stream<u8>` and futures of values, of which the host can copy what is in them (`ends.rs`).
//!
//! Hazard: a handle is an index into a table of its store. Passed on as it is, it names whatever the other store has at
//! that index; the engine does not notice. So functions that pass handles are refused before anything is linked: by
//! [`crossing`] when a workload is put, by [`check`] when it is assembled.

use super::{
    futures::{Carries, carries},
    shapes, spelling,
};
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
    /// A future of something that the host does not carry, though it carries others to and from services.
    FutureOfOther,
    /// A future that a service would read, and could not be told of that its writer has ended.
    FutureWithoutEnd,
    ErrorContext,
}

impl fmt::Display for Uncrossable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource => "a resource",
            Self::Stream => "a stream",
            Self::Future => "a future",
            Self::FutureOfOther => "a future of a type that is not carried to and from services",
            Self::FutureWithoutEnd => {
                "a future that has no error for the end of its writer (`future<result<…, string>>` has)"
            }
            Self::ErrorContext => "an error-context",
        })
    }
}

/// Whether calls of an interface (or a plain function) that this component exports or imports can cross between two
/// stores; with `to_service` the other one is a service's. Nothing is compiled. Asked of the importer it is exact: an
/// exporter may have further functions that nobody uses. `Ok(Err(…))` names the first function that cannot; an unknown name
/// has nothing that could not. Else the functions are named that pass lists of bytes one by one, a thousand times slower
/// than as a whole.
pub fn crossing(bytes: &[u8], name: &str, to_service: bool) -> Result<Result<Vec<String>, CannotCross>, LoadError> {
    let (read, _) = inspect::read_any(bytes)?;
    let types = read.types.as_ref();
    let item = types.component_item_for_import(name).or_else(|| types.component_item_for_export(name));
    let mut functions = Vec::new();
    match item.map(|item| &item.ty) {
        Some(ComponentEntityType::Func(id)) => functions.push((name, *id)),
        Some(ComponentEntityType::Instance(id)) => {
            for (name, item) in types.get(*id).into_iter().flat_map(|instance| &instance.exports) {
                match item.ty {
                    ComponentEntityType::Func(id) => functions.push((name.as_str(), id)),
                    ComponentEntityType::Type { created: ComponentAnyTypeId::Resource(_), .. } => {
                        return Ok(Err(CannotCross { item: name.clone(), what: Uncrossable::Resource }));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    let mut slow = Vec::new();
    for (name, id) in functions {
        if let Some(what) = uncrossable_in(types, id, to_service) {
            return Ok(Err(CannotCross { item: name.to_owned(), what }));
        }
        if passes_bytes_one_by_one(types, id) {
            slow.push(name.to_owned());
        }
    }
    Ok(Ok(slow))
}

fn passes_bytes_one_by_one(types: TypesRef<'_>, id: ComponentFuncTypeId) -> bool {
    let Some(function) = types.get(id) else { return false };
    let (params, results) = (function.params.iter().map(|(_, ty)| *ty), function.result.iter().copied());
    if !params.clone().chain(results.clone()).any(|ty| has_bytes(types, ty)) {
        return false;
    }
    let spelled = |ty| spelling::of_parsed(types, Some(ty));
    match (params.map(spelled).collect::<Option<Vec<_>>>(), results.map(spelled).collect::<Option<Vec<_>>>()) {
        (Some(params), Some(results)) => !shapes::is_typed(&params, &results),
        _ => true,
    }
}

/// Whether there is a list of bytes in it. What is in streams and futures is passed apart.
fn has_bytes(types: TypesRef<'_>, ty: ValType) -> bool {
    let ValType::Type(id) = ty else { return false };
    let inner = |ty: &ValType| has_bytes(types, *ty);
    match types.get(id) {
        Some(ComponentDefinedType::List { element, .. } | ComponentDefinedType::FixedLengthList { element, .. }) => {
            is_byte(types, *element) || inner(element)
        }
        Some(ComponentDefinedType::Map { key, value, .. }) => inner(key) || inner(value),
        Some(ComponentDefinedType::Record(record)) => record.fields.values().any(inner),
        Some(ComponentDefinedType::Variant(variant)) => {
            variant.cases.values().filter_map(|case| case.ty.as_ref()).any(inner)
        }
        Some(ComponentDefinedType::Tuple(tuple)) => tuple.types.iter().any(inner),
        Some(ComponentDefinedType::Option { ty, .. }) => inner(ty),
        Some(ComponentDefinedType::Result { ok, err, .. }) => [ok, err].into_iter().flatten().any(inner),
        _ => false,
    }
}

/// Which streams and futures may be at some place in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    None,
    /// Those that a service can be given.
    ToService,
    /// Those that it can answer with.
    FromService,
}

/// What there may be in parameters, and in results.
fn ends(to_service: bool) -> (Ends, Ends) {
    match to_service {
        true => (Ends::ToService, Ends::FromService),
        false => (Ends::None, Ends::None),
    }
}

/// Of a future, by the spelling of what it is of.
fn uncarried(spelling: Option<&str>, ends: Ends) -> Option<Uncrossable> {
    if ends == Ends::None {
        return Some(Uncrossable::Future);
    }
    match spelling.map_or(Carries::No, carries) {
        Carries::Yes => None,
        Carries::FromServices if ends == Ends::FromService => None,
        Carries::FromServices => Some(Uncrossable::FutureWithoutEnd),
        Carries::No => Some(Uncrossable::FutureOfOther),
    }
}

fn uncrossable_in(types: TypesRef<'_>, id: ComponentFuncTypeId, to_service: bool) -> Option<Uncrossable> {
    let function = types.get(id)?;
    let (given, answered) = ends(to_service);
    let params = function.params.iter().map(|(_, ty)| (*ty, given));
    let mut passed = params.chain(function.result.map(|ty| (ty, answered)));
    passed.find_map(|(ty, ends)| unvalidated(types, ty, ends))
}

/// The nesting of types is bounded by validation. Streams and futures are looked for in records, tuples, options and
/// results only.
fn unvalidated(types: TypesRef<'_>, ty: ValType, ends: Ends) -> Option<Uncrossable> {
    let id = match ty {
        ValType::Primitive(PrimitiveValType::ErrorContext) => return Some(Uncrossable::ErrorContext),
        ValType::Primitive(_) => return None,
        ValType::Type(id) => id,
    };
    let inner = |ty: &ValType| unvalidated(types, *ty, ends);
    let inner_alone = |ty: &ValType| unvalidated(types, *ty, Ends::None);
    match types.get(id)? {
        ComponentDefinedType::Primitive(PrimitiveValType::ErrorContext) => Some(Uncrossable::ErrorContext),
        ComponentDefinedType::Primitive(_) | ComponentDefinedType::Flags(_) | ComponentDefinedType::Enum(_) => None,
        ComponentDefinedType::Own(_) | ComponentDefinedType::Borrow(_) => Some(Uncrossable::Resource),
        ComponentDefinedType::Stream { ty: Some(ty), .. } if ends != Ends::None && is_byte(types, *ty) => None,
        ComponentDefinedType::Stream { .. } => Some(Uncrossable::Stream),
        ComponentDefinedType::Future { ty, .. } => uncarried(spelling::of_parsed(types, *ty).as_deref(), ends),
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
pub(crate) fn check(name: &str, function: &ComponentFunc, to_service: bool) -> Result<(), CannotCross> {
    let (given, answered) = ends(to_service);
    let params = function.params().map(|(_, ty)| (ty, given));
    let mut passed = params.chain(function.results().map(|ty| (ty, answered)));
    match passed.find_map(|(ty, ends)| uncrossable(&ty, ends)) {
        Some(what) => Err(CannotCross { item: name.to_owned(), what }),
        None => Ok(()),
    }
}

fn uncrossable(ty: &Type, ends: Ends) -> Option<Uncrossable> {
    let inner = |ty: Type| uncrossable(&ty, ends);
    let inner_alone = |ty: Type| uncrossable(&ty, Ends::None);
    match ty {
        Type::Own(_) | Type::Borrow(_) => Some(Uncrossable::Resource),
        Type::Stream(stream) if ends != Ends::None && matches!(stream.ty(), Some(Type::U8)) => None,
        Type::Stream(_) => Some(Uncrossable::Stream),
        Type::Future(future) => uncarried(spelling::of(future.ty().as_ref()).as_deref(), ends),
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
