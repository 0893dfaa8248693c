//! Keeps files in object stores, however long they are: every operation of `lattice:nats/objects`. The host moves the bytes from the
//! request into the store, and from there into the response; none pass through here. wasi:http 0.3.
//!
//! | request                       | answer                                                                                  |
//! |-------------------------------|-----------------------------------------------------------------------------------------|
//! | `PUT /STORE/NAME`             | 201 with `REVISION DIGEST`; the body is the object from now on                          |
//! | `GET /STORE/NAME`             | the object, or 404; with `range: bytes=A-B` that part of it                             |
//! | `HEAD /STORE/NAME`            | the headers `size`, `revision`, `digest` and `description`                              |
//! | `DELETE /STORE/NAME`          | 204, or 404 where there was none                                                        |
//! | `POST /STORE/NAME?link=TO`    | 204; the name stands for `TO`                                                           |
//! | `GET /STORE/`                 | a line for each object: `REVISION SIZE NAME`, and ` -> TO` where it is a link           |
//! | `GET /STORE/?watch`           | the same, then `= that is all there is`, then a line for each change, until the client goes away |
//! | `GET /STORE/?stat`            | how the store is configured                                                             |
//!
//! `if-none-match: *` writes an object that must not be there, `if-match: REVISION` one whose last change has that revision, which
//! `DELETE` knows as well; 412 where it is not so. The header `description` is kept with the object. What fails is 502, with `CODE OUTCOME:
//! DETAIL`.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::{StreamReader, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::{
    objects::{self, Object, Part, Precondition, PutOptions, Store, Upload, WatchEvent},
    types::{ErrorCode as NatsError, Failure},
};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        inline: "package example:depot; world depot { include lattice:nats/object-store@0.1.0; }",
        world: "example:depot/depot",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

wasip3::http::service::export!(Depot);

struct Depot;

impl Guest for Depot {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (store, name) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let asked = Asked { name: name.to_owned(), query: query.to_owned(), headers: request.get_headers() };
        let store = store.to_owned();
        let answer = async { asked.answer(&objects::open(store).await?, request).await };
        Ok(answer.await.unwrap_or_else(|failure| failed(&failure)))
    }
}

struct Asked {
    name: String,
    query: String,
    headers: Fields,
}

impl Asked {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).pop().map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    fn revision(&self) -> Option<u64> {
        self.header("if-match")?.parse().ok()
    }

    fn options(&self) -> PutOptions {
        let precondition = match (self.header("if-none-match"), self.revision()) {
            (Some(_), _) => Precondition::Absent,
            (None, Some(revision)) => Precondition::At(revision),
            (None, None) => Precondition::None,
        };
        let kind = self.header("content-type").map(|kind| ("content-type".to_owned(), kind));
        PutOptions { precondition, description: self.header("description"), metadata: kind.into_iter().collect() }
    }

    async fn answer(&self, store: &Store, request: Request) -> Result<Response, Failure> {
        let name = self.name.clone();
        match (request.get_method(), self.name.as_str(), self.query.as_str()) {
            (Method::Get, "", "stat") => Ok(text(200, &format!("{:#?}\n", store.stat().await?))),
            (Method::Get, "", "watch") => {
                let events = store.watch(true).await?;
                Ok(lines(events, event))
            }
            (Method::Get, "", _) => {
                let all = store.list().await?;
                Ok(lines(all, |object| object.map_or_else(|failure| told(&failure), |object| line(&object))))
            }
            (Method::Put, ..) => put(store.put(name, self.options()).await?, request).await,
            (Method::Head, ..) => Ok(store.info(name).await?.map_or_else(absent, |object| head(&object))),
            (Method::Get, ..) => self.get(store).await,
            (Method::Delete, ..) => {
                Ok(if store.delete(name, self.revision()).await? { text(204, "") } else { absent() })
            }
            (Method::Post, _, query) if query.starts_with("link=") => {
                store.link(name, query.trim_start_matches("link=").to_owned()).await?;
                Ok(text(204, ""))
            }
            _ => Ok(text(405, "GET, PUT, HEAD, POST or DELETE\n")),
        }
    }

    async fn get(&self, store: &Store) -> Result<Response, Failure> {
        let part = self.header("range").and_then(|range| part(&range));
        let Some((object, bytes, end)) = store.get(self.name.clone(), part).await? else { return Ok(absent()) };
        let length = part.map_or(object.size, |Part { offset, length }| length.min(object.size.saturating_sub(offset)));
        let (trailers, over) = wit_future::new(|| Err(ErrorCode::InternalError(None)));
        spawn_local(async move {
            // Bytes that are not all, or not those that were written, must not look like a whole file.
            let how = match end.await {
                Ok(()) => Ok(None),
                Err(failure) => Err(ErrorCode::InternalError(Some(failure.detail))),
            };
            let _ = trailers.write(how).await;
        });
        let (response, _sent) = Response::new(about(&object, Some(length)), Some(bytes), over);
        let _ = response.set_status_code(if part.is_some() { 206 } else { 200 });
        Ok(response)
    }
}

/// `bytes=A-B` and `bytes=A-`, as offsets of the first byte and the last.
fn part(range: &str) -> Option<Part> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let offset: u64 = from.parse().ok()?;
    let to = if to.is_empty() { u64::MAX } else { to.parse().ok()? };
    Some(Part { offset, length: to.checked_sub(offset)?.saturating_add(1) })
}

/// The body, which is an object if it came to its end. An upload that is dropped leaves what was there before.
async fn put(upload: Upload, request: Request) -> Result<Response, Failure> {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, processed);
    upload.write(body).await?;
    if let Err(error) = trailers.await {
        return Ok(text(400, &format!("the body broke off: {error:?}\n")));
    }
    let object = Upload::finish(upload).await?;
    Ok(text(201, &format!("{} {}\n", object.revision, object.digest.unwrap_or_default())))
}

fn line(object: &Object) -> String {
    let link = object.link.as_ref().map(|to| format!(" -> {to}")).unwrap_or_default();
    format!("{} {} {}{link}", object.revision, object.size, object.name)
}

fn event(event: WatchEvent) -> String {
    match event {
        WatchEvent::Changed(object) => line(&object),
        WatchEvent::Deleted(name) => format!("deleted {name}"),
        WatchEvent::CaughtUp => "= that is all there is".to_owned(),
        WatchEvent::Resynchronised => "! began again: what is not told by the next = is gone".to_owned(),
        WatchEvent::Failed(failure) => format!("! {}", told(&failure)),
    }
}

fn told(failure: &Failure) -> String {
    format!("{:?} {:?}: {}", failure.code, failure.outcome, failure.detail)
}

fn failed(failure: &Failure) -> Response {
    let status = match failure.code {
        NatsError::WrongRevision | NatsError::AlreadyExists(_) => 412,
        _ => 502,
    };
    text(status, &format!("{}\n", told(failure)))
}

fn absent() -> Response {
    text(404, "no such object\n")
}

/// Headers of a response that says this of an object.
fn about(object: &Object, length: Option<u64>) -> Fields {
    let fields = Fields::new();
    let pairs = [
        ("content-length", length.map(|length| length.to_string())),
        ("size", Some(object.size.to_string())),
        ("revision", Some(object.revision.to_string())),
        ("digest", object.digest.clone()),
        ("description", object.description.clone()),
    ];
    let metadata = object.metadata.iter().filter(|(name, _)| name == "content-type");
    let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    for (name, value) in pairs.chain(metadata.cloned()) {
        let _ = fields.set(&name, &[value.into_bytes()]); // what is no header's value is left out
    }
    fields
}

/// Without its length as that of a body, which would have to follow.
fn head(object: &Object) -> Response {
    let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
    Response::new(about(object, None), None, none).0
}

fn respond(status: u16, body: StreamReader<u8>) -> Response {
    let (_trailers, none) = wit_future::new(|| Ok(None)); // as above
    let (response, _sent) = Response::new(Fields::new(), Some(body), none);
    let _ = response.set_status_code(status);
    response
}

fn text(status: u16, text: &str) -> Response {
    let (mut writer, body) = wit_stream::new();
    let bytes = text.as_bytes().to_vec();
    spawn_local(async move { drop(writer.write_all(bytes).await) });
    respond(status, body)
}

/// One line for each item, as long as somebody reads.
fn lines<T: 'static>(items: StreamReader<T>, line: fn(T) -> String) -> Response {
    let (writer, body) = wit_stream::new();
    spawn_local(tell(writer, items, line));
    respond(200, body)
}

async fn tell<T>(mut writer: StreamWriter<u8>, mut items: StreamReader<T>, line: fn(T) -> String) {
    while let Some(item) = items.next().await {
        let mut line = line(item);
        line.push('\n');
        if !writer.write_all(line.into_bytes()).await.is_empty() {
            return; // nobody reads any more
        }
    }
}
