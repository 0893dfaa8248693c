//! A plain HTTP/1.1 client: a connection for each request, and bodies that stream.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{net::TcpStream, sync::mpsc};

/// Longer than any limit that a test sets for a workload.
const TIMEOUT: Duration = Duration::from_secs(45);

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// An answer as a whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The node that ran the component.
    pub fn node(&self) -> &str {
        self.header("lattice-node")
    }

    /// Why the router answered by itself.
    pub fn error(&self) -> &str {
        self.header("lattice-error")
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.error(), "", "{self:?}");
        self
    }
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

/// A body whose length is not announced.
pub fn chunked(bytes: Vec<u8>) -> Body {
    let frame = Frame::data(Bytes::from(bytes));
    StreamBody::new(stream::once(std::future::ready(Ok::<_, Error>(frame)))).boxed_unsync()
}

/// A body of what is sent, until nothing more is.
pub fn fed(chunks: mpsc::Receiver<Bytes>) -> Body {
    let frames = stream::unfold(chunks, async |mut chunks| {
        let chunk = chunks.recv().await?;
        Some((Ok::<_, Error>(Frame::data(chunk)), chunks))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Send a request; the response's body is still to be read.
pub async fn send(
    address: &str,
    method: Method,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Result<Response<Incoming>, Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(sender.send_request(request.body(body)?).await?)
}

/// Read a response to its end.
pub async fn whole(response: Response<Incoming>) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// GET, and read the answer to its end. An error means that there was none, or that it was cut.
pub async fn try_get(address: &str, host: &str, path: &str) -> Result<Answer, Error> {
    let exchange = async { whole(send(address, Method::GET, host, path, &[], empty()).await?).await };
    tokio::time::timeout(TIMEOUT, exchange).await?
}

pub async fn get(address: &str, host: &str, path: &str) -> Answer {
    match try_get(address, host, path).await {
        Ok(answer) => answer,
        Err(error) => panic!("GET {host}{path} at {address}: {error}"),
    }
}
