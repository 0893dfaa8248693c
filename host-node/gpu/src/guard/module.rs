//! Looks at a parsed shader for what makes a driver's compiler take forever: large variables in each invocation, and calls
//! that are much code when they are inlined. And for workgroup memory, which wgpu does not judge on every driver.

use super::{GLOBALS_MAX, INLINED_MAX, PRIVATE_BYTES_MAX, Refused};
use wgpu::naga::{
    AddressSpace, ArraySize, Block, Expression, Function, Handle, Literal, Module, Override, Statement, Type, TypeInner,
};

/// Workgroup memory of a module's entry points, of which a part may be known only with the constants of a pipeline.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    entries: Vec<Entry>,
    limit: u32,
}

#[derive(Debug)]
struct Entry {
    name: String,
    bytes: u64,
    arrays: Vec<Pending>,
}

/// An array of so many elements as an override says.
#[derive(Debug, Clone, PartialEq)]
struct Pending {
    element: u64,
    /// What a pipeline calls the override, if it can: its name or its number.
    key: Option<String>,
    default: Option<f64>,
}

impl Sizes {
    /// Whether the workgroup memory fits with these constants.
    pub(crate) fn check(&self, constants: &[(String, f64)]) -> Result<(), String> {
        for entry in &self.entries {
            let mut bytes = entry.bytes;
            for array in &entry.arrays {
                let given = array
                    .key
                    .as_ref()
                    .and_then(|key| constants.iter().find(|(name, _)| name == key).map(|(_, value)| *value));
                let Some(count) = given.or(array.default) else {
                    let name = array.key.clone().unwrap_or_else(|| "of an expression".into());
                    return Err(Refused::Unsized { name }.to_string());
                };
                // What is no count is refused by naga.
                bytes = bytes.saturating_add(array.element.saturating_mul(count as u64));
            }
            if bytes > u64::from(self.limit) {
                let refused = Refused::Workgroup { entry: entry.name.clone(), bytes, limit: self.limit };
                return Err(refused.to_string());
            }
        }
        Ok(())
    }
}

/// What a function is when all that it calls is in its place.
#[derive(Clone, Default)]
struct Whole {
    size: u64,
    locals: u64,
    /// The globals that it uses, one bit each.
    globals: Vec<u64>,
}

/// Judges a module that naga parsed and nobody validated yet. Takes time in its size.
pub(crate) fn check_module(module: &Module, workgroup_limit: u32) -> Result<Sizes, Refused> {
    if module.global_variables.len() > GLOBALS_MAX || module.overrides.len() > GLOBALS_MAX {
        return Err(Refused::Globals);
    }
    let types = sizes(module);
    let mut functions = Vec::with_capacity(module.functions.len());
    for (_, function) in module.functions.iter() {
        functions.push(whole(function, &types, &functions)?);
    }
    let mut entries = Vec::with_capacity(module.entry_points.len());
    for entry in &module.entry_points {
        let whole = whole(&entry.function, &types, &functions)?;
        if whole.size > INLINED_MAX {
            return Err(Refused::Inlined { entry: entry.name.clone(), size: whole.size });
        }
        let (mut private, mut workgroup, mut arrays) = (whole.locals, 0_u64, Vec::new());
        for (handle, global) in module.global_variables.iter() {
            if !whole.uses(handle.index()) {
                continue;
            }
            let bytes = types.get(global.ty.index()).copied().unwrap_or(u64::MAX);
            match global.space {
                AddressSpace::Private | AddressSpace::Function => private = private.saturating_add(bytes),
                AddressSpace::WorkGroup => {
                    workgroup = workgroup.saturating_add(bytes);
                    pending(module, &types, global.ty, &mut arrays);
                }
                _ => {}
            }
        }
        if private > PRIVATE_BYTES_MAX {
            return Err(Refused::Private { entry: entry.name.clone(), bytes: private });
        }
        if workgroup > u64::from(workgroup_limit) {
            let (entry, limit) = (entry.name.clone(), workgroup_limit);
            return Err(Refused::Workgroup { entry, bytes: workgroup, limit });
        }
        entries.push(Entry { name: entry.name.clone(), bytes: workgroup, arrays });
    }
    Ok(Sizes { entries, limit: workgroup_limit })
}

impl Whole {
    fn uses(&self, global: usize) -> bool {
        self.globals.get(global / 64).is_some_and(|word| word & (1 << (global % 64)) != 0)
    }

    fn mark(&mut self, global: usize) {
        if self.globals.len() <= global / 64 {
            self.globals.resize(global / 64 + 1, 0);
        }
        if let Some(word) = self.globals.get_mut(global / 64) {
            *word |= 1 << (global % 64);
        }
    }

    fn call(&mut self, callee: &Self) {
        self.size = self.size.saturating_add(callee.size);
        self.locals = self.locals.saturating_add(callee.locals);
        if self.globals.len() < callee.globals.len() {
            self.globals.resize(callee.globals.len(), 0);
        }
        self.globals.iter_mut().zip(&callee.globals).for_each(|(mine, theirs)| *mine |= theirs);
    }
}

/// naga has functions before those that call them.
fn whole(function: &Function, types: &[u64], before: &[Whole]) -> Result<Whole, Refused> {
    let mut whole = Whole { size: function.expressions.len() as u64, ..Whole::default() };
    for (_, local) in function.local_variables.iter() {
        let bytes = types.get(local.ty.index()).copied().unwrap_or(u64::MAX);
        whole.locals = whole.locals.saturating_add(bytes);
    }
    for (_, expression) in function.expressions.iter() {
        if let Expression::GlobalVariable(global) = expression {
            whole.mark(global.index());
        }
    }
    walk(&function.body, &mut |statement| {
        whole.size = whole.size.saturating_add(1);
        if let Statement::Call { function, .. } = statement {
            whole.call(before.get(function.index()).ok_or(Refused::Recursion)?);
        }
        Ok(())
    })?;
    Ok(whole)
}

/// The nesting of blocks is bounded by that of brackets.
fn walk(block: &Block, see: &mut dyn FnMut(&Statement) -> Result<(), Refused>) -> Result<(), Refused> {
    for statement in block.iter() {
        see(statement)?;
        match statement {
            Statement::Block(block) => walk(block, see)?,
            Statement::If { accept, reject, .. } => {
                walk(accept, see)?;
                walk(reject, see)?;
            }
            Statement::Switch { cases, .. } => cases.iter().try_for_each(|case| walk(&case.body, see))?,
            Statement::Loop { body, continuing, .. } => {
                walk(body, see)?;
                walk(continuing, see)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Bytes of each type, by its index: what it is made of comes before it. Of an array whose size is not known, nothing.
fn sizes(module: &Module) -> Vec<u64> {
    let mut sizes: Vec<u64> = Vec::with_capacity(module.types.len());
    for (_, ty) in module.types.iter() {
        let bytes = match &ty.inner {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => u64::from(scalar.width),
            TypeInner::Vector { size, scalar } => *size as u64 * u64::from(scalar.width),
            // Columns of three are as far from each other as those of four.
            TypeInner::Matrix { columns, rows, scalar } => {
                *columns as u64 * (*rows as u64).next_power_of_two() * u64::from(scalar.width)
            }
            TypeInner::Array { base, size, stride } => match size {
                ArraySize::Constant(count) => {
                    let element = sizes.get(base.index()).copied().unwrap_or(0).max(u64::from(*stride));
                    element.saturating_mul(u64::from(count.get()))
                }
                ArraySize::Pending(_) | ArraySize::Dynamic => 0,
            },
            TypeInner::Struct { members, span } => {
                let of = |ty: Handle<Type>| sizes.get(ty.index()).copied().unwrap_or(0);
                let sum = members.iter().fold(0_u64, |sum, member| sum.saturating_add(of(member.ty)));
                sum.max(u64::from(*span))
            }
            _ => 8,
        };
        sizes.push(bytes);
    }
    sizes
}

/// WGSL has such an array only as the whole of a workgroup variable.
fn pending(module: &Module, types: &[u64], ty: Handle<Type>, arrays: &mut Vec<Pending>) {
    if let TypeInner::Array { base, size: ArraySize::Pending(by), stride } = &module.types[ty].inner {
        let element = types.get(base.index()).copied().unwrap_or(0).max(u64::from(*stride));
        let by: &Override = &module.overrides[*by];
        let key = by.id.map(|id| id.to_string()).or_else(|| by.name.clone());
        let default = by.init.and_then(|init| match module.global_expressions[init] {
            Expression::Literal(Literal::U32(value)) => Some(f64::from(value)),
            Expression::Literal(Literal::I32(value)) => Some(f64::from(value)),
            Expression::Literal(Literal::AbstractInt(value)) => Some(value as f64),
            _ => None,
        });
        arrays.push(Pending { element, key, default });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str) -> Result<Sizes, Refused> {
        check_module(&wgpu::naga::front::wgsl::parse_str(source).unwrap(), 16 << 10)
    }

    const MAIN: &str = "@compute @workgroup_size(1) fn main()";

    #[test]
    fn large_variables_are_refused_wherever_they_are() {
        for count in [100, 100_000] {
            let shaders = [
                format!("var<private> a: array<u32, {count}>; {MAIN} {{ a[0] = 1u; }}"),
                format!("{MAIN} {{ var a: array<u32, {count}>; a[0] = 1u; }}"),
                format!("fn f() {{ var a: array<array<u32, {count}>, 2>; a[0][0] = 1u; }} {MAIN} {{ f(); f(); }}"),
                format!("struct S {{ a: array<vec4f, {count}> }} {MAIN} {{ var s: S; s.a[0] = vec4f(); }}"),
            ];
            for shader in shaders {
                let judged = check(&shader);
                assert_eq!(matches!(judged, Err(Refused::Private { .. })), count > 1_000, "{shader}: {judged:?}");
            }
        }
        assert!(check(&format!("var<private> a: array<u32, 100000>; {MAIN} {{}}")).is_ok(), "nobody uses it");
        let largest = format!("var<private> a: array<array<mat4x4f, 3000>, 3000>; {MAIN} {{ a[0][0] = a[1][0]; }}");
        assert!(check(&largest).is_err());
    }

    #[test]
    fn calls_are_counted_as_often_as_they_are_inlined() {
        let mut source = String::from("fn f0(x: u32) -> u32 { return x * 3u + 1u; }\n");
        for at in 1..=20 {
            source += &format!("fn f{at}(x: u32) -> u32 {{ return f{0}(f{0}(x)); }}\n", at - 1);
        }
        let main = |f| format!("{source} var<private> p: u32; {MAIN} {{ p = f{f}(1u); }}");
        assert!(check(&main(5)).is_ok());
        assert!(matches!(check(&main(20)), Err(Refused::Inlined { size, .. }) if size > 1 << 20));
    }

    #[test]
    fn workgroup_memory_is_of_the_entry_points_that_use_it() {
        let shader = |bytes: u32| {
            format!(
                "var<workgroup> a: array<u32, {0}>; var<workgroup> b: array<u32, {0}>;
                 @compute @workgroup_size(1) fn one() {{ a[0] = 1u; }}
                 @compute @workgroup_size(1) fn two() {{ b[0] = 1u; }}",
                bytes / 4
            )
        };
        assert!(check(&shader(16 << 10)).is_ok());
        assert!(matches!(check(&shader(16 << 11)), Err(Refused::Workgroup { bytes: 32768, limit: 16384, .. })));
    }

    #[test]
    fn an_array_by_an_override_is_judged_with_the_constants() {
        let of = |declaration| format!("{declaration} var<workgroup> a: array<u32, n>; {MAIN} {{ a[0] = 1u; }}");
        let given = |value| [("n".to_owned(), value)];
        let sizes = check(&of("override n: u32;")).unwrap();
        assert!(sizes.check(&[]).unwrap_err().contains("override n"));
        assert!(sizes.check(&given(4_096.0)).is_ok());
        assert!(sizes.check(&given(4_097.0)).is_err());
        assert!(sizes.check(&given(f64::INFINITY)).is_err());
        let sizes = check(&of("@id(7) override n: u32 = 5000u;")).unwrap();
        assert!(sizes.check(&[]).is_err());
        assert!(sizes.check(&[("7".to_owned(), 8.0)]).is_ok());
    }
}
