//! One request to a `wasi:http/handler@0.3`: an asynchronous call. The store's loop is entered once for each request
//! and left when the guest has no work left and its answer is through, so that the instance is idle when it is kept.

use super::Shared;
use crate::{body::RequestBody, host::Host};
use http::{header, uri};
use std::{future::poll_fn, pin::Pin, sync::Arc, task::ready};
use wasmtime::{
    Store,
    component::{Accessor, Resource},
};
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView as _,
    p3::{
        self,
        bindings::{Service, http::types::ErrorCode},
    },
};

pub(crate) async fn run(
    store: &mut Store<Host>,
    guest: &Service,
    request: http::Request<RequestBody>,
    shared: Arc<Shared>,
) -> wasmtime::Result<()> {
    let serve = async |accessor: &Accessor<Host>| -> wasmtime::Result<()> {
        accessor.with(|mut store| store.data_mut().answering(request.headers(), &shared));
        let (request, sent) = take_in(accessor, request)?;
        let answer = guest.wasi_http_handler().call_handle(accessor, request).await?;
        shared.answer(take_out(accessor, answer, sent)?);
        // Bytes and trailers travel through the store even after the guest's last task, so the body's end counts too.
        poll_fn(|cx| {
            let is_read = shared.poll_body_is_read(cx);
            ready!(accessor.poll_no_interesting_tasks(cx));
            is_read
        })
        .await;
        Ok(())
    };
    store.run_concurrent(serve).await?
}

/// Tells how the request's body came through, if the guest asks.
pub(crate) type Sent = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// The request as a handle for the guest.
pub(crate) fn take_in(
    accessor: &Accessor<Host>,
    mut request: http::Request<RequestBody>,
) -> wasmtime::Result<(Resource<p3::Request>, Sent)> {
    name_authority(&mut request);
    accessor.with(|mut store| {
        let http = store.data_mut().http();
        let (request, sent) = p3::Request::from_http(http.hooks, request);
        // Boxed, since its type would hold on to the store.
        let sent: Sent = Box::pin(sent);
        Ok((http.table.push(request)?, sent))
    })
}

/// The guest's answer, out of its handle.
pub(crate) fn take_out(
    accessor: &Accessor<Host>,
    answer: Result<Resource<p3::Response>, ErrorCode>,
    sent: Sent,
) -> wasmtime::Result<Result<http::Response<WasiBody>, String>> {
    match answer {
        Ok(response) => accessor.with(|mut store| {
            let response = store.data_mut().table.delete(response)?;
            Ok(Ok(response.into_http(&mut store, sent)?))
        }),
        Err(code) => Ok(Err(format!("{code:?}"))),
    }
}

/// 0.3 takes scheme and authority from the URI alone; a request of HTTP/1.1 has its authority in `Host`.
fn name_authority(request: &mut http::Request<RequestBody>) {
    if request.uri().authority().is_some() && request.uri().scheme().is_some() {
        return;
    }
    let host = request.headers().get(header::HOST).map(|host| host.as_bytes());
    let authority = host.and_then(|host| uri::Authority::try_from(host).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if parts.authority.is_none() {
        parts.authority = Some(authority.unwrap_or_else(|| uri::Authority::from_static("localhost")));
    }
    parts.scheme.get_or_insert(uri::Scheme::HTTP);
    parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = uri::Uri::from_parts(parts).unwrap_or_default();
}
