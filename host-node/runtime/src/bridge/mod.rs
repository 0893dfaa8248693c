//! How a call crosses from one store to another: the functions that stand in a caller's linker for those of a part.
//!
//! Values are copied. Functions of a shape that is often met go through typed closures (`shapes.rs`), all others through
//! dynamic values, which take 40 bytes for each of theirs, for each byte of a `list<u8>` too. What is in streams of bytes and
//! in futures crosses when it is there (`ends.rs`). Start at [`define`].

pub(crate) mod crossing;
mod ends;
mod futures;
mod shapes;
mod spelling;
pub(crate) mod streams;

use crate::{
    host::Host,
    inherited::Inherited,
    parts::{PartCall, Target},
};
use std::any::Any;
use wasmtime::{
    Store, StoreContextMut,
    component::{Accessor, Func, LinkerInstance, Val, types},
};

/// The values of one call: parameters on the way there, results on the way back. Everything between two stores handles
/// them as one object, so that little code is made for each shape.
pub(crate) trait Values: Any + Send {
    /// Takes the parameters, leaves the results.
    fn call<'a>(&'a mut self, store: &'a mut Store<Host>, function: Func) -> Called<'a>;

    /// The same within the loop of the callee's store, beside other calls.
    fn call_concurrent<'a>(
        &'a mut self,
        accessor: &'a Accessor<Host>,
        function: Func,
        inherited: Inherited,
    ) -> Called<'a>;
}

pub(crate) type Called<'a> = std::pin::Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'a>>;

/// Define in a caller's linker the function `name` of type `ty` so that it calls `target`. `caller` is the caller's type.
pub(crate) fn define(
    linker: &mut LinkerInstance<'_, Host>,
    name: &str,
    ty: &types::ComponentFunc,
    caller: &types::Component,
    target: Target,
) -> wasmtime::Result<()> {
    if shapes::define(linker, name, ty, caller, target)? || ends::define(linker, name, ty, target)? {
        return Ok(());
    }
    if ty.async_() {
        return linker.func_new_concurrent(name, move |accessor, _, params, results| {
            let call = PartCall::new(accessor, target);
            let values = Box::new(Dynamic { values: params.to_vec(), results: results.len() });
            Box::pin(async move { put(call?.run_apart(values).await?, results) })
        });
    }
    linker.func_new_async(name, move |store: StoreContextMut<'_, Host>, _, params, results| {
        let call = PartCall::of(store, target);
        let values = Box::new(Dynamic { values: params.to_vec(), results: results.len() });
        Box::new(async move { put(call?.run(values).await?, results) })
    })
}

fn put(found: Box<dyn Values>, results: &mut [Val]) -> wasmtime::Result<()> {
    for (result, found) in results.iter_mut().zip(back::<Dynamic>(found)?.values) {
        *result = found;
    }
    Ok(())
}

/// Values that were sent, as what they were sent as.
fn back<V: Values>(values: Box<dyn Values>) -> wasmtime::Result<Box<V>> {
    let values: Box<dyn Any> = values;
    values.downcast().map_err(|_| wasmtime::Error::msg("a call came back as another one"))
}

/// A call without parameters, of a function that has one result.
pub(crate) fn question() -> Box<dyn Values> {
    Box::new(Dynamic { values: Vec::new(), results: 1 })
}

/// What came of [`question`].
pub(crate) fn answer(values: Box<dyn Values>) -> wasmtime::Result<Option<Val>> {
    Ok(back::<Dynamic>(values)?.values.into_iter().next())
}

/// Values of any type that can cross.
struct Dynamic {
    values: Vec<Val>,
    results: usize,
}

impl Dynamic {
    /// The parameters, and room for the results, which the call overwrites.
    fn turn(&mut self) -> (Vec<Val>, &mut [Val]) {
        let params = std::mem::replace(&mut self.values, vec![Val::Bool(false); self.results]);
        (params, &mut self.values)
    }
}

impl Values for Dynamic {
    fn call<'a>(&'a mut self, store: &'a mut Store<Host>, function: Func) -> Called<'a> {
        Box::pin(async move {
            let (params, results) = self.turn();
            function.call_async(store, &params, results).await
        })
    }

    fn call_concurrent<'a>(
        &'a mut self,
        accessor: &'a Accessor<Host>,
        function: Func,
        inherited: Inherited,
    ) -> Called<'a> {
        Box::pin(async move {
            let (params, results) = self.turn();
            call_beside(accessor, function, &params, results, inherited).await
        })
    }
}

/// Call a function beside others of its store.
async fn call_beside(
    accessor: &Accessor<Host>,
    function: Func,
    params: &[Val],
    results: &mut [Val],
    inherited: Inherited,
) -> wasmtime::Result<()> {
    let call = accessor.with(|mut store| {
        let call = function.start_call_concurrent(&mut store, params, results)?;
        store.data_mut().called_for_beside(call.task(), inherited);
        wasmtime::error::Ok(call)
    })?;
    function.finish_call_concurrent(accessor, call).await
}
