//! Counts and keeps values in a KV bucket, the same ones on every node: `wasi:keyvalue` with its published WIT, and nothing of
//! the lattice. wasi:http 0.2.
//!
//! | request                  | answers                                                                            |
//! |--------------------------|------------------------------------------------------------------------------------|
//! | `POST /KEY`, `/KEY?by=N` | the sum, after 1 or N was added to the number under KEY                            |
//! | `GET /KEY`               | the value of KEY, or 404                                                           |
//! | `PUT /KEY`               | nothing; the body is the value from now on                                         |
//! | `DELETE /KEY`            | nothing; KEY has no value from now on                                              |
//! | `GET /`                  | all keys, one a line                                                               |
//! | `POST /-/batch/N`        | how many of N keys had their values after they were set, and after they were deleted |
//!
//! With a header `store` it is the store of that name, else `default`. What is denied is 403, a store that is not there 404,
//! any other error of the store 502.

use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::wasi::keyvalue::{atomics, batch, store};

wit_bindgen::generate!({ path: "../../wit/deps/keyvalue", world: "wasi:keyvalue/imports", generate_all });
wasip2::http::proxy::export!(Counter);

struct Counter;

type Answer = Result<(u16, Vec<u8>), store::Error>;

impl Guest for Counter {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let (status, body) = match answer(&request) {
            Ok(answer) => answer,
            Err(store::Error::AccessDenied) => (403, b"denied\n".to_vec()),
            Err(store::Error::NoSuchStore) => (404, b"no such store\n".to_vec()),
            Err(store::Error::Other(text)) => (502, format!("{text}\n").into_bytes()),
        };
        let response = OutgoingResponse::new(Fields::new());
        let _ = response.set_status_code(status);
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = stream.write_all(&body);
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}

fn answer(request: &IncomingRequest) -> Answer {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.trim_start_matches('/');
    let header = request.headers().get("store");
    let name = header.first().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let bucket = store::open(&name)?;
    match (request.method(), key) {
        (Method::Get, "") => keys(&bucket),
        (Method::Get, key) => Ok(match bucket.get(key)? {
            Some(value) => (200, value),
            None => (404, b"no value\n".to_vec()),
        }),
        (Method::Put, key) => bucket.set(key, &read(request)).map(|()| (204, Vec::new())),
        (Method::Delete, key) => bucket.delete(key).map(|()| (204, Vec::new())),
        (Method::Post, key) if key.starts_with("-/batch/") => {
            batch_of(&bucket, key.trim_start_matches("-/batch/").parse().unwrap_or(3))
        }
        (Method::Post, key) => {
            let by = query.strip_prefix("by=").map_or(Ok(1), str::parse);
            let Ok(by) = by else { return Ok((400, b"by is not a number\n".to_vec())) };
            let sum = atomics::increment(&bucket, key, by)?;
            Ok((200, format!("{sum}\n").into_bytes()))
        }
        _ => Ok((405, b"GET, PUT, POST or DELETE\n".to_vec())),
    }
}

fn keys(bucket: &store::Bucket) -> Answer {
    let (mut lines, mut cursor) = (String::new(), None);
    loop {
        let page = bucket.list_keys(cursor)?;
        for key in page.keys {
            lines.push_str(&key);
            lines.push('\n');
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok((200, lines.into_bytes()));
        }
    }
}

fn batch_of(bucket: &store::Bucket, count: usize) -> Answer {
    let keys: Vec<String> = (0..count).map(|n| format!("batch.{n}")).collect();
    let pairs: Vec<(String, Vec<u8>)> = keys.iter().map(|key| (key.clone(), key.clone().into_bytes())).collect();
    batch::set_many(bucket, &pairs)?;
    let is_right = |(key, pair): &(&String, Option<(String, Vec<u8>)>)| {
        pair.as_ref().is_some_and(|(name, value)| name == *key && value == key.as_bytes())
    };
    let set = keys.iter().zip(batch::get_many(bucket, &keys)?).filter(is_right).count();
    batch::delete_many(bucket, &keys)?;
    let left = batch::get_many(bucket, &keys)?.into_iter().flatten().count();
    Ok((200, format!("{set} set, {left} left\n").into_bytes()))
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume() {
        if let Ok(mut stream) = body.stream() {
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = IncomingBody::finish(body);
    }
    bytes
}
