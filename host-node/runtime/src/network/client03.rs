//! `wasi:http/client@0.3` over wasmtime's: before a request is sent, it is found out whose work it is.

use crate::host::Host;
use wasmtime::{
    AsContextMut as _,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi_http::{
    WasiHttp, WasiHttpView as _,
    p3::{
        Request, Response,
        bindings::http::{client::HostWithStore, types::ErrorCode},
    },
};

/// The version that wasmtime's own is linked under; the others of 0.3 are led there.
const CLIENT: &str = "wasi:http/client@0.3.0";

type Answer = wasmtime::Result<(Result<Resource<Response>, ErrorCode>,)>;

/// Take the place of wasmtime's function.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(CLIENT)?.func_wrap_concurrent(
        "send",
        |accessor: &Accessor<Host>, (request,): (Resource<Request>,)| {
            Box::pin(async move {
                accessor.with(|mut store| -> wasmtime::Result<()> {
                    let root = store.as_context_mut().async_call_stack()?.last();
                    store.data_mut().sends_for(root);
                    Ok(())
                })?;
                // Takes the request out of the store before its first wait, hence for whom it was just said.
                let http = accessor.with_getter::<WasiHttp>(Host::http);
                match <WasiHttp as HostWithStore<Host>>::send(&http, request).await {
                    Ok(response) => Answer::Ok((Ok(response),)),
                    Err(error) => Ok((Err(error.downcast()?),)),
                }
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
