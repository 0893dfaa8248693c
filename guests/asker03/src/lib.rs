//! A part that asks another workload: `slow.sleep(N)` sends `GET http://asked.lattice/N` over wasi:http 0.3, and answers
//! with the status of the response, or with 0 where there was none. Several calls may wait at a time.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Scheme};
use wasip3::wit_future;

use crate::exports::example::parts::slow::Guest;

wit_bindgen::generate!({ path: "../part/wit", world: "asker03" });
export!(Asker);

struct Asker;

impl Guest for Asker {
    async fn sleep(millis: u32) -> u32 {
        ask(&format!("/{millis}")).await.map_or(0, u32::from)
    }
}

async fn ask(path: &str) -> Result<u16, ErrorCode> {
    let (_writer, trailers) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    let set = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some("asked.lattice")))
        .and_then(|()| request.set_path_with_query(Some(path)));
    set.map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok(client::send(request).await?.get_status_code())
}
