//! One small HTTP exchange: what a browser asks and a short page answers.

use crate::world;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use lattice::frame::{Chunk, Frame, RequestHead, ResponseHead, Tail};
use std::sync::LazyLock;

pub const HOST: &str = "shop.example.org";
pub const PATH: &str = "/api/orders/17?fields=id,total";
pub const BODY: Bytes = Bytes::from_static(&[b'x'; 200]);

/// Of workload 0.
pub fn request_head() -> RequestHead {
    RequestHead {
        workload: world::workload_name(0),
        method: Method::GET,
        scheme: Scheme::HTTP,
        authority: Authority::from_static(HOST),
        path_and_query: PathAndQuery::from_static(PATH),
        headers: request_headers().into(),
    }
}

/// Without `host`. A clone of what is made once: what a bench spends on it is no part of the question.
pub fn request_headers() -> HeaderMap {
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        headers(&[
            ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("accept-encoding", "gzip, deflate, br"),
            ("accept-language", "en-US,en;q=0.5"),
            ("cookie", "session=4f1d7c1e9b2a4f0c8d3e; theme=dark"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ])
    });
    HEADERS.clone()
}

pub fn response_head() -> ResponseHead {
    ResponseHead { status: StatusCode::OK, headers: response_headers() }
}

pub fn response_headers() -> HeaderMap {
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        headers(&[
            ("cache-control", "no-cache"),
            ("content-length", "200"),
            ("content-type", "text/html; charset=utf-8"),
            ("etag", "\"5d8c72a5edda8d6a\""),
        ])
    });
    HEADERS.clone()
}

pub fn request_frame(head: RequestHead) -> Frame {
    let chunk = Chunk { bytes: Bytes::new(), tail: Tail::End };
    Frame::Request {
        head: Box::new(head),
        remaining_ms: None,
        window_bytes: lattice::exchange::HTTP_WINDOW_BYTES,
        chunk,
    }
}

pub fn response_frame(head: ResponseHead, body: Bytes) -> Frame {
    Frame::Response { head: Box::new(head), window_bytes: 0, chunk: Chunk { bytes: body, tail: Tail::End } }
}

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}
