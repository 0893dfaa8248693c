//! How types are spelled in WIT that are made of primitive ones, lists, options, results and tuples: what is looked up in the
//! lists of what is carried as Rust types ([`shapes`](super::shapes), [`futures`](super::futures)). Types that have names of
//! their own are not spelled.

use wasmtime::{
    component::types::Type,
    wasmparser::{
        component_types::{ComponentDefinedType, ComponentValType as ValType},
        types::TypesRef,
    },
};

/// Of a compiled type; empty for none.
pub(super) fn of(ty: Option<&Type>) -> Option<String> {
    let Some(ty) = ty else { return Some(String::new()) };
    Some(match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(list) => list_of(&of(Some(&list.ty()))?),
        Type::Option(option) => option_of(&of(Some(&option.ty()))?),
        Type::Result(result) => result_of(&of(result.ok().as_ref())?, &of(result.err().as_ref())?),
        Type::Tuple(tuple) => tuple_of(&tuple.types().map(|ty| of(Some(&ty))).collect::<Option<Vec<_>>>()?),
        _ => return None,
    })
}

/// The same of one that was only parsed.
pub(super) fn of_parsed(types: TypesRef<'_>, ty: Option<ValType>) -> Option<String> {
    let id = match ty {
        None => return Some(String::new()),
        Some(ValType::Primitive(primitive)) => return Some(primitive.to_string()),
        Some(ValType::Type(id)) => id,
    };
    let inner = |ty: Option<ValType>| of_parsed(types, ty);
    Some(match types.get(id)? {
        ComponentDefinedType::Primitive(primitive) => primitive.to_string(),
        ComponentDefinedType::List { element, .. } => list_of(&inner(Some(*element))?),
        ComponentDefinedType::Option { ty, .. } => option_of(&inner(Some(*ty))?),
        ComponentDefinedType::Result { ok, err, .. } => result_of(&inner(*ok)?, &inner(*err)?),
        ComponentDefinedType::Tuple(tuple) => {
            tuple_of(&tuple.types.iter().map(|ty| inner(Some(*ty))).collect::<Option<Vec<_>>>()?)
        }
        _ => return None,
    })
}

fn list_of(element: &str) -> String {
    format!("list<{element}>")
}

fn option_of(some: &str) -> String {
    format!("option<{some}>")
}

fn result_of(ok: &str, err: &str) -> String {
    match (ok, err) {
        ("", "") => "result".to_owned(),
        (ok, "") => format!("result<{ok}>"),
        ("", err) => format!("result<_, {err}>"),
        (ok, err) => format!("result<{ok}, {err}>"),
    }
}

fn tuple_of(types: &[String]) -> String {
    format!("tuple<{}>", types.join(", "))
}

/// A Rust type that stands for one of WIT.
pub(super) trait Spelled {
    fn spelling() -> String;
}

macro_rules! primitives {
    ($($ty:ty: $spelling:literal),*) => {
        $(impl Spelled for $ty {
            fn spelling() -> String {
                $spelling.to_owned()
            }
        })*
    };
}

primitives! {
    (): "", bool: "bool", u8: "u8", u32: "u32", u64: "u64", i32: "s32", i64: "s64", f64: "f64", String: "string"
}

impl<T: Spelled> Spelled for Vec<T> {
    fn spelling() -> String {
        list_of(&T::spelling())
    }
}

impl<T: Spelled> Spelled for Option<T> {
    fn spelling() -> String {
        option_of(&T::spelling())
    }
}

impl<T: Spelled, E: Spelled> Spelled for Result<T, E> {
    fn spelling() -> String {
        result_of(&T::spelling(), &E::spelling())
    }
}

impl<A: Spelled, B: Spelled> Spelled for (A, B) {
    fn spelling() -> String {
        tuple_of(&[A::spelling(), B::spelling()])
    }
}

/// Parameters or results.
pub(super) trait SpelledList {
    fn spellings() -> Vec<String>;
}

macro_rules! lists {
    ($(($($ty:ident),*)),*) => {
        $(impl<$($ty: Spelled),*> SpelledList for ($($ty,)*) {
            fn spellings() -> Vec<String> {
                vec![$($ty::spelling()),*]
            }
        })*
    };
}

lists! { (), (A), (A, B), (A, B, C) }
