//! Streams of bytes between two stores. A stream is of one store; what crosses is what is in it, by a short queue between
//! two ends of ours, one in each store. Only to and from a service that runs by itself: the store of any other part rests as
//! soon as its call has returned, and its streams with it.
//!
//! A stream knows one end, and whoever reads it takes that for the whole. So where a service ends in the middle of one
//! (a trap, a restart, the end of the unit), the caller that reads it fails like one whose call failed. The other way round
//! that can't be: a service holds what others need, and must not end with one of its callers. What a reader may be told is
//! that a stream has ended, or nothing; an error of a producer is one of the whole store, and a guest's task can be
//! cancelled by another guest only, never by the host. To tell it nothing would leave its task waiting for ever, with one
//! of the few calls that a service has at a time. So a service that reads a stream sees it end where its caller did.
//!
//! There are [`PIPES_MAX`](crate::limits::PIPES_MAX) of them in one unit: what is in them is in no guest's memory.

use super::{Called, Values, back, call_beside};
use crate::{
    host::Host,
    inherited::Inherited,
    parts::{PartCall, PartStreams, Target},
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::PollSender;
use wasmtime::{
    AsContextMut, Store, StoreContextMut,
    component::{
        Accessor, Destination, Func, LinkerInstance, Source, StreamAny, StreamConsumer, StreamProducer, StreamReader,
        StreamResult, Val, VecBuffer,
        types::{self, Type},
    },
};

/// Written at once. What a writer offers beyond it waits.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Chunks between two stores. With what each side holds at the moment it bounds how far a writer is ahead of its reader.
const CHUNKS_MAX: usize = 2;

/// Types of a function that passes streams.
struct Shape {
    params: Vec<Type>,
    results: Vec<Type>,
}

/// Define `name` if it passes streams; answers whether it does. That they may pass was checked before.
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
                let streams = call.streams();
                let crossing = accessor.with(|access| Crossing::leave(access, shape, params, &streams))?;
                Ok((call, crossing, streams))
            });
            Box::pin(async move {
                let (call, crossing, streams) = prepared?;
                let crossing = *back::<Crossing>(call.run_apart(Box::new(crossing)).await?)?;
                accessor.with(|access| crossing.arrive(access, results, &streams))
            })
        })?;
    } else {
        linker.func_new_async(name, move |mut store: StoreContextMut<'_, Host>, _, params, results| {
            let shape = shape.clone();
            let prepared = PartCall::of(&mut store, target).and_then(|call| {
                let streams = call.streams();
                let crossing = Crossing::leave(store.as_context_mut(), shape, params, &streams)?;
                Ok((call, crossing, streams))
            });
            Box::new(async move {
                let (call, crossing, streams) = prepared?;
                let crossing = *back::<Crossing>(call.run(Box::new(crossing)).await?)?;
                crossing.arrive(store, results, &streams)
            })
        })?;
    }
    Ok(true)
}

/// Whether there is a stream in values of this type.
fn passes(ty: &Type) -> bool {
    let inner = |ty: Type| passes(&ty);
    match ty {
        Type::Stream(_) => true,
        Type::Record(record) => record.fields().any(|field| inner(field.ty)),
        Type::Tuple(tuple) => tuple.types().any(inner),
        Type::Option(option) => inner(option.ty()),
        Type::Result(result) => [result.ok(), result.err()].into_iter().flatten().any(inner),
        _ => false,
    }
}

/// Does something with each stream in a value, in an order that depends on the type and on which cases there are.
fn each_stream(
    ty: &Type,
    value: &mut Val,
    visit: &mut impl FnMut(&mut Val) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    if !passes(ty) {
        return Ok(());
    }
    match (ty, value) {
        (Type::Stream(_), value) => visit(value),
        (Type::Record(record), Val::Record(fields)) => {
            let mut types = record.fields();
            fields.iter_mut().try_for_each(|(_, value)| match types.next() {
                Some(field) => each_stream(&field.ty, value, visit),
                None => Ok(()),
            })
        }
        (Type::Tuple(tuple), Val::Tuple(values)) => {
            let mut pairs = tuple.types().zip(values);
            pairs.try_for_each(|(ty, value)| each_stream(&ty, value, visit))
        }
        (Type::Option(option), Val::Option(Some(value))) => each_stream(&option.ty(), value, visit),
        (Type::Result(result), Val::Result(Ok(Some(value)))) => match result.ok() {
            Some(ty) => each_stream(&ty, value, visit),
            None => Ok(()),
        },
        (Type::Result(result), Val::Result(Err(Some(value)))) => match result.err() {
            Some(ty) => each_stream(&ty, value, visit),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The values of one call between two stores: parameters on the way there, results on the way back.
struct Crossing {
    shape: Arc<Shape>,
    /// With something else in the place of each stream.
    values: Vec<Val>,
    /// In the order in which they are in the values. Nothing where there was no place for all of them.
    streams: Option<Vec<Receiver>>,
}

impl Crossing {
    fn leave(
        mut store: impl AsContextMut<Data = Host>,
        shape: Arc<Shape>,
        params: &[Val],
        with: &PartStreams,
    ) -> wasmtime::Result<Self> {
        let mut values = params.to_vec();
        match take_out(&mut store, &shape.params, &mut values)? {
            None => Err(with.refuse().into()),
            streams => Ok(Self { shape, values, streams }),
        }
    }

    fn arrive(
        mut self,
        mut store: impl AsContextMut<Data = Host>,
        results: &mut [Val],
        of: &PartStreams,
    ) -> wasmtime::Result<()> {
        // Only here: it is the caller's call that fails of it, not the service.
        let Some(mut streams) = self.streams else { return Err(of.refuse().into()) };
        for stream in &mut streams {
            stream.of = Some(of.clone());
        }
        put_in(&mut store, &self.shape.results, &mut self.values, streams)?;
        for (result, value) in results.iter_mut().zip(self.values) {
            *result = value;
        }
        Ok(())
    }
}

impl Values for Crossing {
    fn call<'a>(&'a mut self, _: &'a mut Store<Host>, _: Func) -> Called<'a> {
        Box::pin(async { Err(wasmtime::Error::msg("a part that does not run by itself was given a stream")) })
    }

    fn call_concurrent<'a>(
        &'a mut self,
        accessor: &'a Accessor<Host>,
        function: Func,
        inherited: Inherited,
    ) -> Called<'a> {
        Box::pin(async move {
            let Self { shape, values, streams } = self;
            let mut params = std::mem::take(values);
            let arriving = streams.take().unwrap_or_default();
            accessor.with(|mut access| put_in(&mut access, &shape.params, &mut params, arriving))?;
            let mut results = vec![Val::Bool(false); shape.results.len()];
            call_beside(accessor, function, &params, &mut results, inherited).await?;
            *streams = accessor.with(|mut access| take_out(&mut access, &shape.results, &mut results))?;
            *values = results;
            Ok(())
        })
    }
}

/// Take the streams out of values of this store. Nothing where there is no place for all of them: then all are closed.
fn take_out(
    store: &mut impl AsContextMut<Data = Host>,
    types: &[Type],
    values: &mut [Val],
) -> wasmtime::Result<Option<Vec<Receiver>>> {
    let context = store.as_context();
    let (over, parts) = (context.data().over.clone(), context.data().parts.upgrade());
    let mut streams = Some(Vec::new());
    for (ty, value) in types.iter().zip(values) {
        each_stream(ty, value, &mut |value| {
            let Val::Stream(stream) = std::mem::replace(value, Val::Bool(false)) else {
                return Err(wasmtime::Error::msg("a stream is none"));
            };
            let mut stream = StreamReader::<u8>::try_from_stream_any(stream)?;
            let Some(place) = parts.as_ref().and_then(|parts| parts.pipe()) else {
                streams = None;
                return stream.close(store.as_context_mut());
            };
            let (sender, receiver) = pipe(over.clone(), place);
            stream.pipe(store.as_context_mut(), sender)?;
            if let Some(streams) = &mut streams {
                streams.push(receiver);
            }
            Ok(())
        })?;
    }
    Ok(streams)
}

/// Put streams into values for this store.
fn put_in(
    store: &mut impl AsContextMut<Data = Host>,
    types: &[Type],
    values: &mut [Val],
    streams: Vec<Receiver>,
) -> wasmtime::Result<()> {
    let mut streams = streams.into_iter();
    for (ty, value) in types.iter().zip(values) {
        each_stream(ty, value, &mut |value| {
            let receiver = streams.next().ok_or_else(|| wasmtime::Error::msg("a stream is missing"))?;
            let stream = StreamReader::new(store.as_context_mut(), receiver)?;
            *value = Val::Stream(StreamAny::try_from_stream_reader(store.as_context_mut(), stream)?);
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether a store ends now: what ends with it was not ended by its guest.
#[derive(Clone, Default)]
pub(crate) struct Over(Arc<AtomicBool>);

/// Says so. Must be dropped before the store is.
pub(crate) struct EndsWith(Over);

impl EndsWith {
    pub(crate) fn of(store: &Store<Host>) -> Self {
        Self(store.data().over.clone())
    }
}

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

fn pipe(over: Over, place: OwnedSemaphorePermit) -> (Sender, Receiver) {
    let (chunks, received) = mpsc::channel(CHUNKS_MAX);
    let whole = Arc::<AtomicBool>::default();
    let sender = Sender { chunks: PollSender::new(chunks), over, whole: whole.clone() };
    (sender, Receiver { chunks: received, next: None, whole, of: None, _place: place })
}

/// Reads a stream in the store that it is from.
struct Sender {
    chunks: PollSender<Vec<u8>>,
    over: Over,
    whole: Arc<AtomicBool>,
}

impl StreamConsumer<Host> for Sender {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, Host>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        Poll::Ready(Ok(match self.chunks.poll_reserve(cx) {
            Poll::Pending if finish => StreamResult::Cancelled,
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => StreamResult::Dropped, // nobody reads it any more
            Poll::Ready(Ok(())) => {
                let mut source = source.as_direct(store);
                let offered = source.remaining();
                let chunk = offered.get(..CHUNK_BYTES_MAX).unwrap_or(offered).to_vec();
                source.mark_read(chunk.len());
                // Nothing is offered by one who only asks whether it could write.
                if !chunk.is_empty() && self.chunks.send_item(chunk).is_err() {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                StreamResult::Completed
            }
        }))
    }
}

impl Drop for Sender {
    /// Before the queue is closed, so that whoever sees that sees this as well.
    fn drop(&mut self) {
        self.whole.store(!self.over.0.load(Relaxed), Relaxed);
    }
}

/// Writes it in the store that it goes to.
struct Receiver {
    chunks: mpsc::Receiver<Vec<u8>>,
    /// Received and not yet written.
    next: Option<Vec<u8>>,
    whole: Arc<AtomicBool>,
    /// The service that it is from. None where it goes to one.
    of: Option<PartStreams>,
    /// Without this end the queue holds nothing, whatever the other one does.
    _place: OwnedSemaphorePermit,
}

impl StreamProducer<Host> for Receiver {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, Host>,
        mut destination: Destination<'a, u8, VecBuffer<u8>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let chunk = match self.next.take() {
            Some(chunk) => Some(chunk),
            None => match self.chunks.poll_recv(cx) {
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                pending_or_not => ready!(pending_or_not),
            },
        };
        let Some(chunk) = chunk else {
            return Poll::Ready(match &self.of {
                Some(of) if !self.whole.load(Relaxed) => Err(of.cut_short().into()),
                _ => Ok(StreamResult::Dropped),
            });
        };
        // One who only asks whether there is something gets nothing yet.
        match destination.remaining(&mut store) {
            Some(0) => self.next = Some(chunk),
            _ => destination.set_buffer(chunk.into()),
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
