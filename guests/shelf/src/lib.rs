//! Keeps files in object stores, however long they are: `wasi:blobstore` with its published WIT, and nothing of the lattice.
//! The host moves the bytes both ways; none pass through here. wasi:http 0.2.
//!
//! | request                        | answers                                                                      |
//! |--------------------------------|------------------------------------------------------------------------------|
//! | `PUT /CONTAINER/NAME`          | 201; the body is the object from now on                                      |
//! | `GET /CONTAINER/NAME`          | the object, or 404; with `range: bytes=A-B` that part of it                  |
//! | `HEAD /CONTAINER/NAME`         | its length                                                                   |
//! | `DELETE /CONTAINER/NAME`       | 204; there is no such object from now on                                     |
//! | `GET /CONTAINER/`              | the objects, one a line                                                      |
//! | `DELETE /CONTAINER/`           | 204; there are none from now on                                              |
//! | `POST /CONTAINER/NAME?copy=TO` | 204; `TO` (`CONTAINER/NAME`) is the same; with `move=TO` it is there instead |
//! | `POST /CONTAINER/NAME?list`    | the object, read as a list of bytes                                          |
//! | `POST /CONTAINER/NAME?late`    | 201; the body as in `PUT`, written before it is said where to                |
//!
//! What fails is 502 with the text of the error.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::wasi::blobstore::blobstore::{self, ObjectId};
use crate::wasi::blobstore::container::Container;
use crate::wasi::blobstore::types::{IncomingValue, OutgoingValue};

wit_bindgen::generate!({
    path: "../../wit/deps/blobstore",
    world: "wasi:blobstore/imports",
    with: {
        "wasi:io/error@0.2.1": wasip2::io::error,
        "wasi:io/poll@0.2.1": wasip2::io::poll,
        "wasi:io/streams@0.2.1": wasip2::io::streams,
    },
    generate_all,
});
wasip2::http::proxy::export!(Shelf);

struct Shelf;

/// What one splice moves at most.
const SPLICE_BYTES: u64 = 1 << 20;

enum Answer {
    Text(u16, String),
    /// The length of an object alone.
    Length(u64),
    /// A value: all there is, or a part.
    Value(u16, IncomingValue),
}

impl Guest for Shelf {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let answer = answer(&request).unwrap_or_else(|error| Answer::Text(502, format!("{error}\n")));
        let fields = Fields::new();
        let (status, length) = match &answer {
            Answer::Text(status, text) => (*status, text.len() as u64),
            Answer::Length(length) => (200, *length),
            Answer::Value(status, value) => (*status, value.size()),
        };
        let _ = fields.set("content-length", &[length.to_string().into_bytes()]);
        let response = OutgoingResponse::new(fields);
        let _ = response.set_status_code(status);
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        let Ok(mut stream) = outgoing.write() else { return };
        let written = match answer {
            Answer::Text(_, text) => stream.write_all(text.as_bytes()).map_err(|error| error.to_string()),
            Answer::Length(_) => Ok(()),
            Answer::Value(_, value) => IncomingValue::incoming_value_consume_async(value)
                .and_then(|value| splice(&value, &stream).map_err(|error| error.to_string())),
        };
        drop(stream);
        // A body that is not finished is cut short: that is how the caller learns that it is not all.
        if written.is_ok() {
            let _ = OutgoingBody::finish(outgoing, None);
        }
    }
}

fn text(status: u16, text: impl Into<String>) -> Result<Answer, String> {
    Ok(Answer::Text(status, text.into()))
}

fn answer(request: &IncomingRequest) -> Result<Answer, String> {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (name, object) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    if let Some((what, to)) = query.split_once('=') {
        return relocate(what, name, object, to);
    }
    let container = blobstore::get_container(name)?;
    match (request.method(), object) {
        (Method::Get, "") => list(&container),
        (Method::Delete, "") => container.clear().and_then(|()| text(204, "")),
        (Method::Put, object) => store(request, &container, object, false),
        (Method::Delete, object) => container.delete_object(object).and_then(|()| text(204, "")),
        (Method::Post, object) if query == "late" => store(request, &container, object, true),
        (Method::Head, object) => Ok(Answer::Length(container.object_info(object)?.size)),
        (Method::Get | Method::Post, object) if !container.has_object(object)? => text(404, "no such object\n"),
        (Method::Get, object) => {
            let range = request.headers().get("range");
            match range.first().and_then(|range| part(range)) {
                Some((start, end)) => Ok(Answer::Value(206, container.get_data(object, start, end)?)),
                None => Ok(Answer::Value(200, container.get_data(object, 0, u64::MAX)?)),
            }
        }
        (Method::Post, object) => {
            let value = container.get_data(object, 0, u64::MAX)?;
            let bytes = IncomingValue::incoming_value_consume_sync(value)?;
            text(200, String::from_utf8_lossy(&bytes))
        }
        _ => text(405, "GET, PUT, POST, HEAD or DELETE\n"),
    }
}

/// `bytes=A-B` and `bytes=A-`, as offsets of the first byte and the last.
fn part(range: &[u8]) -> Option<(u64, u64)> {
    let (start, end) = std::str::from_utf8(range).ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let end = if end.is_empty() { u64::MAX } else { end.parse().ok()? };
    Some((start.parse().ok()?, end))
}

fn relocate(what: &str, container: &str, object: &str, to: &str) -> Result<Answer, String> {
    let id = |container: &str, object: &str| ObjectId { container: container.into(), object: object.into() };
    let (from, to) = (id(container, object), to.split_once('/').map(|(container, object)| id(container, object)));
    let Some(to) = to else { return text(400, "where to is CONTAINER/NAME\n") };
    match what {
        "copy" => blobstore::copy_object(&from, &to)?,
        "move" => blobstore::move_object(&from, &to)?,
        _ => return text(400, "copy or move\n"),
    }
    text(204, "")
}

fn list(container: &Container) -> Result<Answer, String> {
    let names = container.list_objects()?;
    let mut lines = String::new();
    loop {
        let (some, is_end) = names.read_stream_object_names(100)?;
        for name in some {
            lines.push_str(&name);
            lines.push('\n');
        }
        if is_end {
            return text(200, lines);
        }
    }
}

/// `late`: the body is written before it is said where to, for which there is room for little.
fn store(request: &IncomingRequest, container: &Container, object: &str, late: bool) -> Result<Answer, String> {
    let value = OutgoingValue::new_outgoing_value();
    let out = value.outgoing_value_write_body().map_err(|()| "no stream for the value")?;
    if !late {
        container.write_data(object, &value)?;
    }
    let body = request.consume().map_err(|()| "the body was taken")?;
    let stream = body.stream().map_err(|()| "the body was taken")?;
    let copied = splice(&stream, &out);
    drop(out);
    drop(stream);
    let _ = IncomingBody::finish(body);
    if late && copied.is_ok() {
        container.write_data(object, &value)?;
    }
    match copied {
        Ok(()) => OutgoingValue::finish(value).and_then(|()| text(201, "")),
        // What is not finished is no object: it is dropped, and what was there before stays. That is so where the caller broke
        // off, and where the container takes no more.
        Err(StreamError::LastOperationFailed(error)) => Err(error.to_debug_string()),
        Err(StreamError::Closed) => Err("the stream was closed".to_owned()),
    }
}

/// Move all bytes of a stream to another one.
fn splice(from: &InputStream, to: &OutputStream) -> Result<(), StreamError> {
    loop {
        match to.blocking_splice(from, SPLICE_BYTES) {
            Ok(_) => {}
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
