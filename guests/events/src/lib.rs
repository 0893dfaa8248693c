//! Server-sent events, for as long as the client listens. wasi:http 0.3.
//!
//! | path        | answer                                                                       |
//! |-------------|------------------------------------------------------------------------------|
//! | `/every/MS` | an event each MS milliseconds: its number from 1, and the path that asked     |
//! | any other   | the same, one a second                                                       |
//!
//! An event is written when it is due, and not held back on its way: nodes hand bodies on as they come. When the client goes
//! away its node stops what runs for it, and there is room for the next request; where several requests share the instance,
//! the write says so, and the task ends by itself.

use wasip3::clocks::monotonic_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::StreamWriter;
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Events);

struct Events;

const NANOS_PER_MILLI: u64 = 1_000_000;

impl Guest for Events {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let every = match path.strip_prefix("/every/").map(str::parse) {
            Some(Ok(every)) => every,
            Some(Err(_)) | None => 1000,
        };
        let fields = Fields::new();
        set(&fields, "content-type", "text/event-stream")?;
        set(&fields, "cache-control", "no-store")?;
        let (writer, reader) = wit_stream::new();
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        // It goes on after the head of the response is out: a component lives on until its spawned tasks end.
        spawn_local(send(writer, every, path));
        let (response, _sent) = Response::new(fields, Some(reader), none);
        Ok(response)
    }
}

async fn send(mut writer: StreamWriter<u8>, every: u64, path: String) {
    for number in 1_u64.. {
        let event = format!("id: {number}\ndata: {path}\n\n");
        if !writer.write_all(event.into_bytes()).await.is_empty() {
            println!("the client went away after {} events", number - 1);
            return;
        }
        monotonic_clock::wait_for(every.saturating_mul(NANOS_PER_MILLI)).await;
    }
}

fn set(fields: &Fields, name: &str, value: &str) -> Result<(), ErrorCode> {
    let internal = |error| ErrorCode::InternalError(Some(format!("{error:?}")));
    fields.set(name, &[value.as_bytes().to_vec()]).map_err(internal)
}
