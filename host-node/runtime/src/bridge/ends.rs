//! Calls that pass streams and futures between two stores. What a guest passes is a readable end, and an end is of one
//! store: here it is read in the store that it is from (`streams.rs`, `futures.rs`), and another one is made in the store
//! that it goes to. Only to and from a service that runs by itself: the store of any other part rests as soon as its call
//! has returned, and what is to be written or read there rests with it.
//!
//! Ends stand alone, or in records, tuples, options and results. There are [`PIPES_MAX`](crate::limits::PIPES_MAX) of them
//! on their way in one unit: what is in them is in no guest's memory.

use super::{Called, Values, back, call_beside, futures, streams};
use crate::{
    host::Host,
    inherited::Inherited,
    parts::{Counterpart, PartCall, Target},
};
use std::sync::Arc;
use wasmtime::{
    AsContextMut, Store, StoreContextMut,
    component::{
        Accessor, Func, LinkerInstance, Val,
        types::{self, Type},
    },
};

/// Types of a function that passes ends.
struct Shape {
    params: Vec<Type>,
    results: Vec<Type>,
}

/// An end that was taken out of one store, and is to be made in another.
pub(super) trait Arriving: Send {
    /// `of` is the service that it comes from; none where it goes to one.
    fn arrive(self: Box<Self>, store: StoreContextMut<'_, Host>, of: Option<&Counterpart>) -> wasmtime::Result<Val>;
}

/// Define `name` if it passes ends; answers whether it does. That they may pass was checked before.
pub(super) fn define(
    linker: &mut LinkerInstance<'_, Host>,
    name: &str,
    ty: &types::ComponentFunc,
    target: Target,
) -> wasmtime::Result<bool> {
    let shape = Shape { params: ty.params().map(|(_, ty)| ty).collect(), results: ty.results().collect() };
    if !shape.params.iter().chain(&shape.results).any(passes) {
        return Ok(false);
    }
    let shape = Arc::new(shape);
    if ty.async_() {
        linker.func_new_concurrent(name, move |accessor, _, params, results| {
            let shape = shape.clone();
            let prepared = PartCall::new(accessor, target).and_then(|call| {
                let counterpart = call.counterpart();
                let crossing = accessor.with(|access| Crossing::leave(access, shape, params, &counterpart))?;
                Ok((call, crossing, counterpart))
            });
            Box::pin(async move {
                let (call, crossing, counterpart) = prepared?;
                let crossing = *back::<Crossing>(call.run_apart(Box::new(crossing)).await?)?;
                accessor.with(|access| crossing.arrive(access, results, &counterpart))
            })
        })?;
    } else {
        linker.func_new_async(name, move |mut store: StoreContextMut<'_, Host>, _, params, results| {
            let shape = shape.clone();
            let prepared = PartCall::of(&mut store, target).and_then(|call| {
                let counterpart = call.counterpart();
                let crossing = Crossing::leave(store.as_context_mut(), shape, params, &counterpart)?;
                Ok((call, crossing, counterpart))
            });
            Box::new(async move {
                let (call, crossing, counterpart) = prepared?;
                let crossing = *back::<Crossing>(call.run(Box::new(crossing)).await?)?;
                crossing.arrive(store, results, &counterpart)
            })
        })?;
    }
    Ok(true)
}

/// Whether there is an end in values of this type.
fn passes(ty: &Type) -> bool {
    let inner = |ty: Type| passes(&ty);
    match ty {
        Type::Stream(_) | Type::Future(_) => true,
        Type::Record(record) => record.fields().any(|field| inner(field.ty)),
        Type::Tuple(tuple) => tuple.types().any(inner),
        Type::Option(option) => inner(option.ty()),
        Type::Result(result) => [result.ok(), result.err()].into_iter().flatten().any(inner),
        _ => false,
    }
}

/// Does something with each end in a value, in an order that depends on the type and on which cases there are.
fn each_end(
    ty: &Type,
    value: &mut Val,
    visit: &mut impl FnMut(&Type, &mut Val) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    if !passes(ty) {
        return Ok(());
    }
    match (ty, value) {
        (Type::Stream(_) | Type::Future(_), value) => visit(ty, value),
        (Type::Record(record), Val::Record(fields)) => {
            let mut types = record.fields();
            fields.iter_mut().try_for_each(|(_, value)| match types.next() {
                Some(field) => each_end(&field.ty, value, visit),
                None => Ok(()),
            })
        }
        (Type::Tuple(tuple), Val::Tuple(values)) => {
            let mut pairs = tuple.types().zip(values);
            pairs.try_for_each(|(ty, value)| each_end(&ty, value, visit))
        }
        (Type::Option(option), Val::Option(Some(value))) => each_end(&option.ty(), value, visit),
        (Type::Result(result), Val::Result(Ok(Some(value)))) => match result.ok() {
            Some(ty) => each_end(&ty, value, visit),
            None => Ok(()),
        },
        (Type::Result(result), Val::Result(Err(Some(value)))) => match result.err() {
            Some(ty) => each_end(&ty, value, visit),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The values of one call between two stores: parameters on the way there, results on the way back.
struct Crossing {
    shape: Arc<Shape>,
    /// With something else in the place of each end.
    values: Vec<Val>,
    /// In the order in which they are in the values. Nothing where there was no place for all of them.
    ends: Option<Vec<Box<dyn Arriving>>>,
}

impl Crossing {
    fn leave(
        mut store: impl AsContextMut<Data = Host>,
        shape: Arc<Shape>,
        params: &[Val],
        to: &Counterpart,
    ) -> wasmtime::Result<Self> {
        let mut values = params.to_vec();
        match take_out(&mut store, &shape.params, &mut values)? {
            None => Err(to.refuse().into()),
            ends => Ok(Self { shape, values, ends }),
        }
    }

    fn arrive(
        mut self,
        mut store: impl AsContextMut<Data = Host>,
        results: &mut [Val],
        of: &Counterpart,
    ) -> wasmtime::Result<()> {
        // Only here: it is the caller's call that fails of it, not the service.
        let Some(ends) = self.ends else { return Err(of.refuse().into()) };
        put_in(&mut store, &self.shape.results, &mut self.values, ends, Some(of))?;
        for (result, value) in results.iter_mut().zip(self.values) {
            *result = value;
        }
        Ok(())
    }
}

impl Values for Crossing {
    fn call<'a>(&'a mut self, _: &'a mut Store<Host>, _: Func) -> Called<'a> {
        Box::pin(async {
            Err(wasmtime::Error::msg("a part that does not run by itself was given a stream or a future"))
        })
    }

    fn call_concurrent<'a>(
        &'a mut self,
        accessor: &'a Accessor<Host>,
        function: Func,
        inherited: Inherited,
    ) -> Called<'a> {
        Box::pin(async move {
            let Self { shape, values, ends } = self;
            let mut params = std::mem::take(values);
            let arriving = ends.take().unwrap_or_default();
            accessor.with(|mut access| put_in(&mut access, &shape.params, &mut params, arriving, None))?;
            let mut results = vec![Val::Bool(false); shape.results.len()];
            call_beside(accessor, function, &params, &mut results, inherited).await?;
            *ends = accessor.with(|mut access| take_out(&mut access, &shape.results, &mut results))?;
            *values = results;
            Ok(())
        })
    }
}

/// Take the ends out of values of this store. Nothing where there is no place for all of them: then all are closed.
fn take_out(
    store: &mut impl AsContextMut<Data = Host>,
    types: &[Type],
    values: &mut [Val],
) -> wasmtime::Result<Option<Vec<Box<dyn Arriving>>>> {
    let parts = store.as_context().data().parts.upgrade();
    let mut ends = Some(Vec::new());
    for (ty, value) in types.iter().zip(values) {
        each_end(ty, value, &mut |ty, value| {
            let end = std::mem::replace(value, Val::Bool(false));
            let Some(place) = parts.as_ref().and_then(|parts| parts.pipe()) else {
                ends = None;
                return close(store.as_context_mut(), end);
            };
            let end = match (ty, end) {
                (Type::Stream(_), Val::Stream(stream)) => streams::take_out(store.as_context_mut(), stream, place)?,
                (Type::Future(ty), Val::Future(future)) => {
                    futures::take_out(store.as_context_mut(), ty, future, place)?
                }
                _ => return Err(no_end()),
            };
            if let Some(ends) = &mut ends {
                ends.push(end);
            }
            Ok(())
        })?;
    }
    Ok(ends)
}

fn close(store: StoreContextMut<'_, Host>, end: Val) -> wasmtime::Result<()> {
    match end {
        Val::Stream(mut stream) => stream.close(store),
        Val::Future(mut future) => future.close(store),
        _ => Err(no_end()),
    }
}

fn no_end() -> wasmtime::Error {
    wasmtime::Error::msg("a stream or future is none")
}

/// Put ends into values for this store.
fn put_in(
    store: &mut impl AsContextMut<Data = Host>,
    types: &[Type],
    values: &mut [Val],
    ends: Vec<Box<dyn Arriving>>,
    of: Option<&Counterpart>,
) -> wasmtime::Result<()> {
    let mut ends = ends.into_iter();
    for (ty, value) in types.iter().zip(values) {
        each_end(ty, value, &mut |_, value| {
            let end = ends.next().ok_or_else(|| wasmtime::Error::msg("a stream or future is missing"))?;
            *value = end.arrive(store.as_context_mut(), of)?;
            Ok(())
        })?;
    }
    Ok(())
}
