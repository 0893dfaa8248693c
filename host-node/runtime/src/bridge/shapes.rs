//! Functions whose types are known at compile time: the same values as Rust types. A `list<u8>` is copied as a whole,
//! which is a thousand times faster than as dynamic values; small calls save about half a microsecond.

use super::{Called, Values, back, spelling::SpelledList as _};
use crate::{
    host::Host,
    inherited::Inherited,
    parts::{PartCall, Target},
};
use wasmtime::{
    Store, StoreContextMut,
    component::{Accessor, ComponentNamedList, Func, Lift, LinkerInstance, Lower, types},
};

type Bytes = Vec<u8>;

/// Does the same for each shape: what is small and called often, and what passes bytes. Each is compiled, so the list is
/// short.
macro_rules! each_shape {
    ($do:ident) => {
        $do! {
            () => (), (u32,), (u64,), (String,), (Bytes,);
            (u32,) => (), (u32,), (String,), (Bytes,);
            (u64,) => (u64,), (Bytes,);
            (u32, u32) => (u32,);
            (u32, Bytes) => (), (Bytes,);
            (String,) => (), (bool,), (u32,), (String,), (Bytes,), (Option<String>,), (Option<Bytes>,),
                (Result<(), String>,), (Result<String, String>,), (Result<Bytes, String>,),
                (Result<Option<Bytes>, String>,), (Vec<(String, Bytes)>,);
            (Bytes,) => (), (bool,), (u32,), (String,), (Bytes,), (Option<Bytes>,), (Result<(), String>,),
                (Result<String, String>,), (Result<Bytes, String>,);
            (String, String) => (), (Option<Bytes>,), (Result<(), String>,), (Result<Bytes, String>,),
                (Result<Option<Bytes>, String>,);
            (String, u64) => (Result<Bytes, String>,);
            (String, u64, u64) => (Result<Bytes, String>,);
            (String, Bytes) => (), (bool,), (Bytes,), (Option<Bytes>,), (Result<(), String>,), (Result<Bytes, String>,);
            (String, Option<Bytes>) => (), (Result<(), String>,);
            (Bytes, Bytes) => (bool,), (Bytes,), (Result<Bytes, String>,);
            (String, String, Bytes) => (), (Result<(), String>,), (Result<Bytes, String>,);
            (Vec<String>,) => (Vec<Option<Bytes>>,);
            (Vec<Bytes>,) => (Bytes,), (Vec<Bytes>,);
            (Vec<(String, Bytes)>,) => (), (Result<(), String>,);
        }
    };
}

/// Define `name` if its type is one of those; answers whether it is.
pub(super) fn define(
    linker: &mut LinkerInstance<'_, Host>,
    name: &str,
    ty: &types::ComponentFunc,
    caller: &types::Component,
    target: Target,
) -> wasmtime::Result<bool> {
    macro_rules! define {
        ($($params:ty => $($result:ty),+;)*) => { $( $(
            if Typed::<$params, $result>::define(linker, name, ty, caller, target)? {
                return Ok(true);
            }
        )+ )* };
    }
    each_shape!(define);
    Ok(false)
}

/// Whether functions of these types are among them.
pub(super) fn is_typed(params: &[String], results: &[String]) -> bool {
    macro_rules! compare {
        ($($params:ty => $($result:ty),+;)*) => { $( $(
            if <$params>::spellings() == params && <$result>::spellings() == results {
                return true;
            }
        )+ )* };
    }
    each_shape!(compare);
    false
}

/// The values of a function from `P` to `R`.
enum Typed<P, R> {
    Params(P),
    Results(R),
    /// Between the two.
    Away,
}

impl<P, R> Typed<P, R>
where
    P: ComponentNamedList + Lift + Lower + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Lower + Send + Sync + 'static,
{
    fn define(
        linker: &mut LinkerInstance<'_, Host>,
        name: &str,
        ty: &types::ComponentFunc,
        caller: &types::Component,
        target: Target,
    ) -> wasmtime::Result<bool> {
        if ty.typecheck::<P, R>(&caller.instance_type()).is_err() {
            return Ok(false);
        }
        match ty.async_() {
            true => linker.func_wrap_concurrent(name, move |accessor: &Accessor<Host>, params: P| {
                let call = PartCall::new(accessor, target);
                Box::pin(async move { Self::results(call?.run_apart(Box::new(Self::Params(params))).await?) })
            })?,
            false => linker.func_wrap_async(name, move |store: StoreContextMut<'_, Host>, params: P| {
                let call = PartCall::of(store, target);
                Box::new(async move { Self::results(call?.run(Box::new(Self::Params(params))).await?) })
            })?,
        }
        Ok(true)
    }

    fn params(&mut self) -> wasmtime::Result<P> {
        match std::mem::replace(self, Self::Away) {
            Self::Params(params) => Ok(params),
            _ => Err(wasmtime::Error::msg("a call was made twice")),
        }
    }

    fn results(values: Box<dyn Values>) -> wasmtime::Result<R> {
        match *back::<Self>(values)? {
            Self::Results(results) => Ok(results),
            _ => Err(wasmtime::Error::msg("a call came back without its results")),
        }
    }
}

impl<P, R> Values for Typed<P, R>
where
    P: ComponentNamedList + Lift + Lower + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Lower + Send + Sync + 'static,
{
    fn call<'a>(&'a mut self, store: &'a mut Store<Host>, function: Func) -> Called<'a> {
        Box::pin(async move {
            let params = self.params()?;
            *self = Self::Results(function.typed::<P, R>(&mut *store)?.call_async(store, params).await?);
            Ok(())
        })
    }

    fn call_concurrent<'a>(
        &'a mut self,
        accessor: &'a Accessor<Host>,
        function: Func,
        inherited: Inherited,
    ) -> Called<'a> {
        Box::pin(async move {
            let params = self.params()?;
            let (typed, call) = accessor.with(|mut store| {
                let typed = function.typed::<P, R>(&mut store)?;
                let call = typed.start_call_concurrent(&mut store, params)?;
                store.data_mut().called_for_beside(call.task(), inherited);
                wasmtime::error::Ok((typed, call))
            })?;
            *self = Self::Results(typed.finish_call_concurrent(accessor, call).await?);
            Ok(())
        })
    }
}
