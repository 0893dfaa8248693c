//! Shows what becomes of the keys of the bucket `carts`, as it happens: `lattice:nats/kv` and its watches. wasi:http 0.3.
//!
//! | path    | answer                                                                                    |
//! |---------|-------------------------------------------------------------------------------------------|
//! | `/KEY`  | a line for the key as it is, and one for each change of it, until the client goes away     |
//! | `/`     | the same of all keys                                                                      |
//!
//! ```text
//! 7 put anna 3 apples
//! = that is all there is
//! 8 delete anna
//! ! began again: what is not told by the next = is gone
//! ```

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::{StreamReader, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::kv::{self, WatchEvent, WatchOptions};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        inline: "package example:tail; world tail { include lattice:nats/kv-watcher@0.1.0; }",
        world: "example:tail/tail",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

wasip3::http::service::export!(Tail);

struct Tail;

impl Guest for Tail {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let filters = match target.trim_start_matches('/') {
            "" => Vec::new(),
            key => vec![key.to_owned()],
        };
        let options = WatchOptions { state_first: true, metadata_only: false, puts_only: false };
        let opened = async { kv::open("carts".to_owned()).await?.watch(filters, options).await };
        let (status, events) = match opened.await {
            Ok(events) => (200, Ok(events)),
            Err(failure) => (502, Err(format!("{:?}: {}\n", failure.code, failure.detail))),
        };
        let (mut writer, body) = wit_stream::new();
        spawn_local(async move {
            match events {
                Ok(events) => tell(writer, events).await,
                Err(text) => drop(writer.write_all(text.into_bytes()).await),
            }
        });
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        let (response, _sent) = Response::new(Fields::new(), Some(body), none);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn tell(mut writer: StreamWriter<u8>, mut events: StreamReader<WatchEvent>) {
    while let Some(event) = events.next().await {
        let line = match event {
            WatchEvent::Changed(entry) => {
                let change = format!("{:?}", entry.change).replace("Change::", "").to_lowercase();
                format!("{} {change} {} {}\n", entry.revision, entry.key, String::from_utf8_lossy(&entry.value))
            }
            WatchEvent::CaughtUp => "= that is all there is\n".to_owned(),
            WatchEvent::Resynchronised => "! began again: what is not told by the next = is gone\n".to_owned(),
            WatchEvent::Failed(failure) => format!("! {}\n", failure.detail),
        };
        if !writer.write_all(line.into_bytes()).await.is_empty() {
            return; // nobody reads any more, and the watch ends with its stream
        }
    }
}
