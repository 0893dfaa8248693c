//! What a component imports and exports, function by function, in a short form of WIT: for people who want to know what a
//! component is. Reads types only; decides nothing.

use crate::{
    inspect::{Read, read_any},
    load::LoadError,
};
use std::{collections::BTreeMap, fmt::Write};
use wasmtime::wasmparser::{
    component_types::{
        ComponentAnyTypeId, ComponentDefinedType, ComponentDefinedTypeId, ComponentEntityType, ComponentFuncTypeId,
        ComponentInstanceTypeId, ComponentItem, ComponentValType, ResourceId,
    },
    types::{Types, TypesRef},
};

/// Longest signature. A type that is nested in itself many times could be written out without end.
const SIGNATURE_BYTES_MAX: usize = 512;
/// Functions of one interface that are listed.
const FUNCTIONS_MAX: usize = 256;

/// Both sides of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures {
    pub imports: Vec<Interface>,
    pub exports: Vec<Interface>,
}

/// One import or export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// As written: `wasi:http/types@0.2.3`.
    pub name: String,
    /// `greet: func(name: string) -> string`, in the component's own order; the first 256 of them, each of at most 512
    /// bytes. Of a function that is not in an interface it is the only one. Empty for types.
    pub functions: Vec<String>,
}

/// Read the signatures of a component. Fails for what [`inspect`](crate::inspect) fails for.
pub fn signatures(bytes: &[u8]) -> Result<Signatures, LoadError> {
    let (Read { imports, exports, types }, _) = read_any(bytes)?;
    let describe = |name: &String, item: Option<&ComponentItem>| Interface {
        name: name.clone(),
        functions: item.map(|item| functions(&types, name, item)).unwrap_or_default(),
    };
    Ok(Signatures {
        imports: imports.iter().map(|name| describe(name, types.component_item_for_import(name))).collect(),
        exports: exports.iter().map(|name| describe(name, types.component_item_for_export(name))).collect(),
    })
}

fn functions(types: &Types, name: &str, item: &ComponentItem) -> Vec<String> {
    let types = types.as_ref();
    match item.ty {
        ComponentEntityType::Func(id) => vec![Scribe::new(types, Names::default()).function(name, id)],
        ComponentEntityType::Instance(id) => {
            let scribe = Scribe::new(types, Names::of(types, id));
            let Some(instance) = types.get(id) else { return Vec::new() };
            let functions = instance.exports.iter().filter_map(|(name, item)| match item.ty {
                ComponentEntityType::Func(id) => Some(scribe.function(name, id)),
                _ => None,
            });
            functions.take(FUNCTIONS_MAX).collect()
        }
        _ => Vec::new(),
    }
}

/// What an interface calls its types.
#[derive(Default)]
struct Names {
    types: BTreeMap<ComponentDefinedTypeId, String>,
    resources: BTreeMap<ResourceId, String>,
}

impl Names {
    fn of(types: TypesRef<'_>, instance: ComponentInstanceTypeId) -> Self {
        let mut names = Self::default();
        for (name, item) in types.get(instance).map(|instance| &instance.exports).into_iter().flatten() {
            let ComponentEntityType::Type { created, .. } = item.ty else { continue };
            match created {
                ComponentAnyTypeId::Defined(id) => drop(names.types.insert(id, name.clone())),
                ComponentAnyTypeId::Resource(id) => drop(names.resources.insert(id.resource(), name.clone())),
                _ => {}
            }
        }
        names
    }
}

/// Writes types as the interface names them.
struct Scribe<'a> {
    types: TypesRef<'a>,
    names: Names,
}

/// The text has reached its bound: what comes behind is left out.
struct Full;

impl<'a> Scribe<'a> {
    fn new(types: TypesRef<'a>, names: Names) -> Self {
        Self { types, names }
    }

    /// `[method]doc.len` is `doc.len: func(…)`, without the receiver.
    fn function(&self, name: &str, id: ComponentFuncTypeId) -> String {
        let (kind, shown) = match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((kind, rest)) => (kind, rest),
            None => ("", name),
        };
        let mut text = Bounded(format!("{}: ", lattice::limits::clip(shown, SIGNATURE_BYTES_MAX / 2)));
        if self.signature(&mut text, kind, id).is_err() {
            text.0.push('…');
        }
        text.0
    }

    fn signature(&self, text: &mut Bounded, kind: &str, id: ComponentFuncTypeId) -> Result<(), Full> {
        let Some(ty) = self.types.get(id) else { return Ok(()) };
        text.push(match (kind, ty.async_) {
            ("constructor", _) => "constructor(",
            ("static", true) => "static async func(",
            ("static", false) => "static func(",
            (_, true) => "async func(",
            (_, false) => "func(",
        })?;
        let receiver = usize::from(kind == "method");
        for (i, (name, ty)) in ty.params.iter().skip(receiver).enumerate() {
            text.push(if i > 0 { ", " } else { "" })?;
            text.push(name.as_str())?;
            text.push(": ")?;
            self.value(text, ty)?;
        }
        text.push(")")?;
        match &ty.result {
            Some(result) if kind != "constructor" => {
                text.push(" -> ")?;
                self.value(text, result)
            }
            _ => Ok(()),
        }
    }

    fn value(&self, text: &mut Bounded, ty: &ComponentValType) -> Result<(), Full> {
        match ty {
            ComponentValType::Primitive(primitive) => text.push(&primitive.to_string()),
            ComponentValType::Type(id) => match self.names.types.get(id) {
                Some(name) => text.push(name),
                None => self.types.get(*id).map_or(Ok(()), |ty| self.defined(text, ty)),
            },
        }
    }

    fn defined(&self, text: &mut Bounded, ty: &ComponentDefinedType) -> Result<(), Full> {
        use ComponentDefinedType as Ty;
        match ty {
            Ty::Primitive(primitive) => text.push(&primitive.to_string()),
            Ty::List { element, .. } => self.generic(text, "list", [Some(element)]),
            Ty::FixedLengthList { element, length, .. } => {
                text.push("list<")?;
                self.value(text, element)?;
                text.push(&format!(", {length}>"))
            }
            Ty::Map { key, value, .. } => self.generic(text, "map", [Some(key), Some(value)]),
            Ty::Tuple(tuple) => self.generic(text, "tuple", tuple.types.iter().map(Some)),
            Ty::Option { ty, .. } => self.generic(text, "option", [Some(ty)]),
            Ty::Result { ok, err, .. } => match (ok, err) {
                (None, None) => text.push("result"),
                (ok, None) => self.generic(text, "result", [ok.as_ref()]),
                (ok, err) => self.generic(text, "result", [ok.as_ref(), err.as_ref()]),
            },
            Ty::Future { ty: None, .. } => text.push("future"),
            Ty::Future { ty, .. } => self.generic(text, "future", [ty.as_ref()]),
            Ty::Stream { ty: None, .. } => text.push("stream"),
            Ty::Stream { ty, .. } => self.generic(text, "stream", [ty.as_ref()]),
            Ty::Own(id) => text.push(self.resource(id.resource())),
            Ty::Borrow(id) => text.push(&format!("borrow<{}>", self.resource(id.resource()))),
            // These have a name wherever they are used; without one their fields would say little more.
            Ty::Record(_) => text.push("record"),
            Ty::Variant(_) => text.push("variant"),
            Ty::Flags(_) => text.push("flags"),
            Ty::Enum(_) => text.push("enum"),
        }
    }

    fn generic<'t>(
        &self,
        text: &mut Bounded,
        name: &str,
        arguments: impl IntoIterator<Item = Option<&'t ComponentValType>>,
    ) -> Result<(), Full> {
        text.push(name)?;
        for (i, argument) in arguments.into_iter().enumerate() {
            text.push(if i > 0 { ", " } else { "<" })?;
            match argument {
                Some(ty) => self.value(text, ty)?,
                None => text.push("_")?,
            }
        }
        text.push(">")
    }

    fn resource(&self, id: ResourceId) -> &str {
        self.names.resources.get(&id).map_or("resource", String::as_str)
    }
}

struct Bounded(String);

impl Bounded {
    fn push(&mut self, part: &str) -> Result<(), Full> {
        if self.0.len() + part.len() > SIGNATURE_BYTES_MAX {
            return Err(Full);
        }
        self.0.write_str(part).map_err(|_| Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_read_like_wit() {
        let bytes = wat::parse_str(
            r#"(component
                (import "a:b/docs@1.0.0" (instance
                    (export "doc" (type $doc (sub resource)))
                    (type $err' (enum "gone" "full"))
                    (export "err" (type $err (eq $err')))
                    (export "[constructor]doc" (func (param "name" string) (result (own $doc))))
                    (export "[method]doc.len" (func (param "self" (borrow $doc)) (result u32)))
                    (export "[static]doc.merge" (func (param "a" (own $doc)) (param "b" (borrow $doc))
                        (result (result (own $doc) (error $err)))))
                    (export "read" (func async (param "at" (tuple u8 (option string))) (result (stream u8))))
                    (export "stop" (func (result (result (error $err)))))))
                (import "log" (func (param "line" string)))
                (import "t:t/types" (instance (type $r (record (field "a" u8))) (export "r" (type (eq $r))))))"#,
        );
        let Signatures { imports, exports } = signatures(&bytes.unwrap()).unwrap();
        let lines: Vec<&str> = imports.iter().flat_map(|item| &item.functions).map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                "doc: constructor(name: string)",
                "doc.len: func() -> u32",
                "doc.merge: static func(a: doc, b: borrow<doc>) -> result<doc, err>",
                "read: async func(at: tuple<u8, option<string>>) -> stream<u8>",
                "stop: func() -> result<_, err>",
                "log: func(line: string)",
            ]
        );
        assert_eq!((imports.len(), exports.len()), (3, 0));
    }

    #[test]
    fn a_type_that_unfolds_without_end_is_cut() {
        let mut text = String::from("(component (type $t0 (tuple u8 u8))");
        for i in 1..14 {
            text += &format!("(type $t{i} (tuple $t{0} $t{0}))", i - 1);
        }
        text += r#"(import "f" (func (param "x" $t13))))"#;
        let bytes = wat::parse_str(text).unwrap();
        let mut plain = signatures(&bytes).unwrap();
        let line = plain.imports.pop().unwrap().functions.pop().unwrap();
        assert!(line.starts_with("f: func(x: tuple<tuple<") && line.ends_with('…') && line.len() < 600, "{line}");
    }
}
