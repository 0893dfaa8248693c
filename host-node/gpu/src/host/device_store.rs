//! What a device tells later: pipelines that are compiled, errors, its end.

use crate::{
    bindings::webgpu::*,
    device::{Fault, FaultKind, Gpu, Lane, Object, Shared},
    host::{GpuView, HasGpu, pipelines, resources as r},
    lock,
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::mpsc;
use wasmtime::{
    StoreContextMut,
    component::{
        Access, Accessor, Destination, FutureProducer, FutureReader, Resource, StreamProducer, StreamReader,
        StreamResult,
    },
};

/// Builds something whose error is the answer. Without the device there is an object all the same, which is invalid.
async fn build<P: Send + 'static>(
    lane: &Lane,
    build: impl FnOnce(&Gpu) -> Result<P, Fault> + Send + 'static,
) -> Result<Object<P>, CreatePipelineError> {
    let object = lane.object();
    let made = object.clone();
    let built = lane.ask(0, move |gpu| gpu.capturing(|| build(gpu)).and_then(|built| built).map(|it| made.set(it)));
    let Some(Err(fault)) = built.await else { return Ok(object) };
    let reason = match fault.kind {
        FaultKind::Validation => GpuPipelineErrorReason::Validation,
        FaultKind::OutOfMemory | FaultKind::Internal => GpuPipelineErrorReason::Internal,
    };
    Err(CreatePipelineError { kind: CreatePipelineErrorKind::GpuPipelineError(reason), message: fault.message })
}

/// A pipeline of the device: `of` says its label and how it is built.
async fn create<T, P, B>(
    accessor: &Accessor<T, HasGpu>,
    it: &Resource<r::Device>,
    of: impl FnOnce(&mut GpuView<'_>) -> wasmtime::Result<(String, B)>,
) -> wasmtime::Result<Result<Resource<r::Kept<P>>, CreatePipelineError>>
where
    T: Send + 'static,
    P: Send + 'static,
    B: FnOnce(&Gpu) -> Result<P, Fault> + Send + 'static,
{
    let (lane, (label, how)) = accessor.with(|mut access| {
        let mut view = access.get();
        let lane = view.table.get(it)?.lane.clone();
        wasmtime::error::Ok((lane, of(&mut view)?))
    })?;
    match build(&lane, how).await {
        Err(error) => Ok(Err(error)),
        Ok(object) => accessor.with(|mut access| Ok(Ok(access.get().table.push(r::Kept { object, label, lane })?))),
    }
}

impl<T: Send + 'static> HostGpuDeviceWithStore<T> for HasGpu {
    async fn create_compute_pipeline_async(
        accessor: &Accessor<T, Self>,
        it: Resource<r::Device>,
        descriptor: GpuComputePipelineDescriptor,
    ) -> wasmtime::Result<Result<Resource<r::ComputePipeline>, CreatePipelineError>> {
        create(accessor, &it, |view| {
            let parts = pipelines::Compute::of(view, descriptor)?;
            Ok((parts.label.clone(), move |gpu: &Gpu| parts.build(gpu)))
        })
        .await
    }

    async fn create_render_pipeline_async(
        accessor: &Accessor<T, Self>,
        it: Resource<r::Device>,
        descriptor: GpuRenderPipelineDescriptor,
    ) -> wasmtime::Result<Result<Resource<r::RenderPipeline>, CreatePipelineError>> {
        create(accessor, &it, |view| {
            let parts = pipelines::Render::of(view, descriptor)?;
            Ok((parts.label.clone(), move |gpu: &Gpu| parts.build(gpu)))
        })
        .await
    }

    /// A lost device has no errors.
    async fn pop_error_scope(
        accessor: &Accessor<T, Self>,
        it: Resource<r::Device>,
    ) -> wasmtime::Result<Result<Option<Resource<r::Error>>, PopErrorScopeError>> {
        let lane = accessor.with(|mut access| {
            let view = access.get();
            wasmtime::error::Ok(view.table.get(&it)?.lane.clone())
        })?;
        let popped = lane.ask(0, |gpu| lock(&gpu.shared.errors).pop()).await;
        match popped {
            None | Some(Some(None)) => Ok(Ok(None)),
            Some(None) => Ok(Err(PopErrorScopeError {
                kind: PopErrorScopeErrorKind::OperationError,
                message: "no error scope is open".into(),
            })),
            Some(Some(Some(fault))) => {
                accessor.with(|mut access| Ok(Ok(Some(access.get().table.push(r::Error(fault))?))))
            }
        }
    }

    fn lost(
        mut access: Access<'_, T, Self>,
        it: Resource<r::Device>,
    ) -> wasmtime::Result<FutureReader<Resource<r::LostInfo>>> {
        let shared = access.get().table.get(&it)?.lane.shared.clone();
        let view = access.getter();
        let lost = Box::pin(async move { until_lost(shared).await });
        FutureReader::new(access, Lost { lost, view })
    }

    fn on_uncaptured_error(
        mut access: Access<'_, T, Self>,
        it: Resource<r::Device>,
    ) -> wasmtime::Result<StreamReader<Resource<r::Error>>> {
        let shared = access.get().table.get(&it)?.lane.shared.clone();
        let errors = lock(&shared.errors).listen();
        let view = access.getter();
        StreamReader::new(access, Uncaptured { errors, view })
    }
}

async fn until_lost(shared: Arc<Shared>) -> crate::device::Lost {
    shared.until_lost().await
}

/// The end of a device, once.
struct Lost<T: 'static> {
    lost: Pin<Box<dyn Future<Output = crate::device::Lost> + Send>>,
    view: fn(&mut T) -> GpuView<'_>,
}

impl<T: 'static> FutureProducer<T> for Lost<T> {
    type Item = Resource<r::LostInfo>;

    fn poll_produce(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'_, T>,
        finish: bool,
    ) -> Poll<wasmtime::Result<Option<Self::Item>>> {
        match self.lost.as_mut().poll(context) {
            Poll::Ready(lost) => {
                let info = (self.view)(store.data_mut()).table.push(r::LostInfo(lost));
                Poll::Ready(Ok(Some(info?)))
            }
            Poll::Pending if finish => Poll::Ready(Ok(None)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Errors that no scope caught. At its end where too many listen.
struct Uncaptured<T: 'static> {
    errors: Option<mpsc::Receiver<Fault>>,
    view: fn(&mut T) -> GpuView<'_>,
}

impl<T: 'static> StreamProducer<T> for Uncaptured<T> {
    type Item = Resource<r::Error>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let polled = match &mut self.errors {
            Some(errors) => errors.poll_recv(context),
            None => Poll::Ready(None),
        };
        match polled {
            Poll::Ready(Some(fault)) => {
                let error = (self.view)(store.data_mut()).table.push(r::Error(fault))?;
                destination.set_buffer(Some(error));
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(None) => Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}
