//! One request to a `wasi:http/incoming-handler@0.2`: a plain call, with a place for the answer as its argument.

use super::Shared;
use crate::{body::RequestBody, host::Host};
use http::{HeaderValue, header, uri};
use std::sync::Arc;
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiHttpView as _,
    p2::bindings::{Proxy, http::types::Scheme},
};

pub(crate) async fn run(
    store: &mut Store<Host>,
    guest: &Proxy,
    mut request: http::Request<RequestBody>,
    shared: Arc<Shared>,
) -> wasmtime::Result<()> {
    let scheme = match request.uri().scheme() {
        Some(scheme) if *scheme == uri::Scheme::HTTPS => Scheme::Https,
        _ => Scheme::Http,
    };
    // A guest is always told an authority. HTTP/1.0 knows requests without one.
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    store.data_mut().answering(request.headers(), &shared);
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(scheme, request)?;
    let answer = move |answer: Result<_, _>| shared.answer(answer.map_err(|code| format!("{code:?}")));
    let out = http.new_response_outparam_from_callback(answer)?;
    guest.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
}
