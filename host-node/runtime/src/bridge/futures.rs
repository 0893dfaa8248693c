//! Futures between two stores: the value crosses once its reader asks for it, so that no more is held by the host than is
//! wanted.
//!
//! The reader of a future waits until it has a value; that none will come is nothing that it can be told. Where a service
//! ends before it has written one, the caller that reads it fails, like one whose call failed. The other way round that
//! can't be, as with streams (`streams.rs`). So a service is given futures only of what has an error, and that is what it
//! reads where its caller has ended; others are refused as parameters.
//!
//! What a value is made of must be known at compile time, so there is a list of what a future may be of: [`PAYLOADS`].

use super::{ends::Arriving, spelling};
use crate::{host::Host, parts::Counterpart};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{
    StoreContextMut,
    component::{
        ComponentType, FutureAny, FutureConsumer, FutureProducer, FutureReader, Lift, Lower, Source, Val,
        types::FutureType,
    },
    error::Context as _,
};

/// What is on its way is in no guest's memory. Whoever writes more ends like one that trapped.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// A type that a future may be of.
struct Payload {
    /// Its spelling in WIT; empty where a future is of nothing.
    spelling: &'static str,
    /// That of the Rust type.
    #[cfg(test)]
    spelled: fn() -> String,
    /// A service that reads it can be told that its writer has ended.
    tells_of_end: bool,
    take_out: TakeOut,
}

type TakeOut = fn(StoreContextMut<'_, Host>, FutureAny, OwnedSemaphorePermit) -> wasmtime::Result<Box<dyn Arriving>>;

macro_rules! payloads {
    ($($spelling:literal $ty:ty,)*) => {
        /// Each is compiled, so the list is short.
        const PAYLOADS: &[Payload] = &[
            $(Payload {
                spelling: $spelling,
                #[cfg(test)]
                spelled: <$ty as spelling::Spelled>::spelling,
                tells_of_end: <$ty as Carried>::TELLS_OF_END,
                take_out: take_out_of::<$ty>,
            },)*
        ];
    };
}

type Bytes = Vec<u8>;

payloads! {
    "" (),
    "bool" bool,
    "u8" u8,
    "u32" u32,
    "u64" u64,
    "s32" i32,
    "s64" i64,
    "f64" f64,
    "string" String,
    "list<u8>" Bytes,
    "list<string>" Vec<String>,
    "option<string>" Option<String>,
    "option<list<u8>>" Option<Bytes>,
    "result" Result<(), ()>,
    "result<_, string>" Result<(), String>,
    "result<bool, string>" Result<bool, String>,
    "result<u32, string>" Result<u32, String>,
    "result<u64, string>" Result<u64, String>,
    "result<s64, string>" Result<i64, String>,
    "result<f64, string>" Result<f64, String>,
    "result<string, string>" Result<String, String>,
    "result<list<u8>, string>" Result<Bytes, String>,
    "result<list<string>, string>" Result<Vec<String>, String>,
    "result<option<string>, string>" Result<Option<String>, String>,
    "result<option<list<u8>>, string>" Result<Option<Bytes>, String>,
}

/// What the value of a future is.
trait Carried: ComponentType + Lift + Lower + Send + Sync + 'static {
    const TELLS_OF_END: bool = false;

    /// What a service reads whose caller has ended without a value.
    fn ended() -> Option<Self> {
        None
    }
}

macro_rules! carried {
    ($($ty:ty)*) => { $(impl Carried for $ty {})* };
}

carried! { () bool u8 u32 u64 i32 i64 f64 String Bytes Vec<String> Option<String> Option<Bytes> }

impl Carried for Result<(), ()> {
    const TELLS_OF_END: bool = true;

    fn ended() -> Option<Self> {
        Some(Err(()))
    }
}

impl<T: ComponentType + Lift + Lower + Send + Sync + 'static> Carried for Result<T, String> {
    const TELLS_OF_END: bool = true;

    fn ended() -> Option<Self> {
        Some(Err("its writer has ended".to_owned()))
    }
}

/// What a service may be given to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    Yes,
    /// From a service, but not to one.
    FromServices,
    No,
}

/// Whether a future of what is spelled like this can be carried.
pub(super) fn carries(spelling: &str) -> Carries {
    match PAYLOADS.iter().find(|payload| payload.spelling == spelling) {
        Some(payload) if payload.tells_of_end => Carries::Yes,
        Some(_) => Carries::FromServices,
        None => Carries::No,
    }
}

/// Read a future of this store, once that is wanted.
pub(super) fn take_out(
    store: StoreContextMut<'_, Host>,
    ty: &FutureType,
    future: FutureAny,
    place: OwnedSemaphorePermit,
) -> wasmtime::Result<Box<dyn Arriving>> {
    let spelling = spelling::of(ty.ty().as_ref());
    let payload = PAYLOADS.iter().find(|payload| Some(payload.spelling) == spelling.as_deref());
    let payload = payload.ok_or_else(|| wasmtime::Error::msg("a future of a type that is not carried"))?;
    (payload.take_out)(store, future, place)
}

fn take_out_of<T: Carried>(
    mut store: StoreContextMut<'_, Host>,
    future: FutureAny,
    place: OwnedSemaphorePermit,
) -> wasmtime::Result<Box<dyn Arriving>> {
    let ((want, wanted), (value, awaited)) = (oneshot::channel(), oneshot::channel());
    let writer = Writer { wanted, value: Some(value) };
    FutureReader::<T>::try_from_future_any(future)?.pipe(&mut store, writer)?;
    Ok(Box::new(Reader { want: Some(want), value: awaited, of: None, _place: place }))
}

/// Reads a future in the store that it is from.
struct Writer<T> {
    wanted: oneshot::Receiver<()>,
    value: Option<oneshot::Sender<T>>,
}

impl<T: Carried> FutureConsumer<Host> for Writer<T> {
    type Item = T;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'_, Host>,
        mut source: Source<'_, T>,
        finish: bool,
    ) -> Poll<wasmtime::Result<()>> {
        match Pin::new(&mut self.wanted).poll(cx) {
            Poll::Pending if finish => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(_) => {}
        }
        let mut value = None;
        let bytes_max = store.hostcall_fuel();
        store.set_hostcall_fuel(VALUE_BYTES_MAX.min(bytes_max));
        let read = source.read(&mut store, &mut value);
        store.set_hostcall_fuel(bytes_max);
        read.with_context(|| {
            format!("the value of a future to or from a service: at most {} KiB", VALUE_BYTES_MAX >> 10)
        })?;
        if let (Some(tell), Some(value)) = (self.value.take(), value) {
            let _ = tell.send(value); // nobody wants it any more; of that a consumer can't tell its writer
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes it in the store that it goes to.
struct Reader<T> {
    want: Option<oneshot::Sender<()>>,
    value: oneshot::Receiver<T>,
    /// The service that it is from. None where it goes to one.
    of: Option<Counterpart>,
    _place: OwnedSemaphorePermit,
}

impl<T: Carried> Arriving for Reader<T> {
    fn arrive(
        mut self: Box<Self>,
        mut store: StoreContextMut<'_, Host>,
        of: Option<&Counterpart>,
    ) -> wasmtime::Result<Val> {
        self.of = of.cloned();
        let future = FutureReader::new(&mut store, *self)?;
        Ok(Val::Future(future.try_into_future_any(store)?))
    }
}

impl<T: Carried> FutureProducer<Host> for Reader<T> {
    type Item = T;

    fn poll_produce(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: StoreContextMut<'_, Host>,
        finish: bool,
    ) -> Poll<wasmtime::Result<Option<T>>> {
        if let Some(want) = self.want.take() {
            let _ = want.send(()); // the writer has ended: as is found below
        }
        match (Pin::new(&mut self.value).poll(cx), &self.of) {
            (Poll::Ready(Ok(value)), _) => Poll::Ready(Ok(Some(value))),
            (Poll::Ready(Err(_)), Some(of)) => Poll::Ready(Err(of.cut_short().into())),
            (Poll::Ready(Err(_)), None) => match T::ended() {
                Some(ended) => Poll::Ready(Ok(Some(ended))),
                None => Poll::Ready(Err(wasmtime::Error::msg("a service was given a future that tells of no end"))),
            },
            (Poll::Pending, _) if finish => Poll::Ready(Ok(None)),
            (Poll::Pending, _) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_spelled_like_what_it_is_carried_as() {
        for payload in PAYLOADS {
            assert_eq!((payload.spelled)(), payload.spelling);
        }
    }
}
