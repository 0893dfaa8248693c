//! Hides 32 bits in pictures and finds them again. wasi:http 0.3.
//!
//! | request                  | answer                                                                                       |
//! |--------------------------|----------------------------------------------------------------------------------------------|
//! | `GET /`                  | a page to try it on, in one file                                                             |
//! | `GET /sample`            | a picture to try it with, a PNG                                                              |
//! | `POST /mark?bits=4c415454` | the body, a PNG or a JPEG, with these bits in it; the header `x-psnr` says how much it differs |
//! | `POST /read`             | the bits of the body, as JSON                                                                |
//!
//! [`query`] has the parameters of `/mark`. Errors are 400 for the query, 404, 405, 413 for what is too large, 415 for what is neither a
//! PNG nor a JPEG, 422 for a picture that is broken or too small, with a text.

mod query;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use picture::{Error as PictureError, Picture};
use query::{Format, Query};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};
use watermark_engine::{Error as MarkError, Found, Watermark, sample};

wasip3::http::service::export!(Component);

struct Component;

const PAGE: &str = include_str!("page.html");
/// The page runs its own script and asks its own node, nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 20;
const CHUNK_BYTES: usize = 64 << 10;

thread_local! {
    static WATERMARK: RefCell<Option<Rc<Watermark>>> = const { RefCell::new(None) };
}

struct Answer {
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { headers: vec![("content-type", kind.to_owned())], body: body.into() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A status and a text.
type Refusal = (u16, String);

impl Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (status, answer) = match answer(request).await {
            Ok(answer) => (200, answer),
            Err((status, text)) => (status, Answer::new("text/plain", format!("{text}\n"))),
        };
        let headers = Fields::new();
        for (name, value) in answer.headers {
            let _ = headers.set(name, &[value.into_bytes()]);
        }
        let (mut writer, body) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(answer.body).await;
        });
        let (_none, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(body), trailers);
        // Every status below 1000 is one.
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn answer(request: Request) -> Result<Answer, Refusal> {
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    match (request.get_method(), path) {
        (Method::Get, "/") => Ok(Answer::new("text/html; charset=utf-8", PAGE).with("content-security-policy", POLICY)),
        (Method::Get, "/sample") => {
            let picture = sample::sample().ok_or((500, "there is no sample".into()))?;
            Ok(Answer::new("image/png", picture.to_png().map_err(refused)?))
        }
        (Method::Post, "/mark") => {
            let query = Query::parse(query).map_err(|text| (400, text))?;
            let body = body(request).await?;
            mark(&body, &query)
        }
        (Method::Post, "/read") if query.is_empty() => {
            let body = body(request).await?;
            read(&body)
        }
        (Method::Post, "/read") => Err((400, "there are no parameters for /read".into())),
        (_, "/" | "/sample") => Err((405, format!("GET {path}"))),
        (_, "/mark" | "/read") => Err((405, format!("POST {path}, a picture"))),
        _ => Err((404, "there are /, /sample, /mark and /read".into())),
    }
}

fn mark(body: &[u8], query: &Query) -> Result<Answer, Refusal> {
    let watermark = watermark()?;
    let mut picture = Picture::decode(body).map_err(refused)?;
    let begin = Instant::now();
    let decibels = watermark.mark(&mut picture, query.bits, query.strength).map_err(unmarked)?;
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let (kind, bytes) = match query.format {
        Format::Png => ("image/png", picture.to_png()),
        Format::Jpeg(quality) => ("image/jpeg", picture.to_jpeg(quality)),
    };
    let answer = Answer::new(kind, bytes.map_err(refused)?);
    Ok(answer.with("x-psnr", format!("{decibels:.1}")).with("x-milliseconds", format!("{milliseconds:.1}")))
}

fn read(body: &[u8]) -> Result<Answer, Refusal> {
    let watermark = watermark()?;
    let picture = Picture::decode(body).map_err(refused)?;
    let begin = Instant::now();
    let found = watermark.read(&picture).map_err(unmarked)?;
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let json = match found {
        Some(Found { payload, corrected, confidence }) => format!(
            "{{\"found\":true,\"bits\":\"{payload:08x}\",\"corrected\":{corrected},\"confidence\":{confidence:.3}}}\n"
        ),
        None => "{\"found\":false,\"bits\":null,\"corrected\":0,\"confidence\":0}\n".to_owned(),
    };
    Ok(Answer::new("application/json", json).with("x-milliseconds", format!("{milliseconds:.1}")))
}

/// What is built in, ready to run: once for all requests of an instance.
fn watermark() -> Result<Rc<Watermark>, Refusal> {
    if let Some(watermark) = WATERMARK.with_borrow(Option::clone) {
        return Ok(watermark);
    }
    let watermark = Rc::new(Watermark::load().map_err(unmarked)?);
    WATERMARK.set(Some(watermark.clone()));
    Ok(watermark)
}

fn refused(error: PictureError) -> Refusal {
    let status = match error {
        PictureError::Unknown => 415,
        PictureError::TooLarge { .. } => 413,
        PictureError::Malformed(_) => 422,
        PictureError::Unwritable(_) => 500,
    };
    (status, error.to_string())
}

fn unmarked(error: MarkError) -> Refusal {
    let status = match error {
        MarkError::TooSmall { .. } => 422,
        MarkError::Model(_) => 500,
    };
    (status, error.to_string())
}

async fn body(request: Request) -> Result<Vec<u8>, Refusal> {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, processed);
    let mut whole = Vec::new();
    loop {
        let (result, chunk) = body.read(Vec::with_capacity(CHUNK_BYTES)).await;
        if whole.len() + chunk.len() > BODY_BYTES_MAX {
            return Err((413, format!("a body has at most {BODY_BYTES_MAX} bytes")));
        }
        whole.extend(chunk);
        if matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
            return Ok(whole);
        }
    }
}
