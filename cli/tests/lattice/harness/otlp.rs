//! A receiver of OTLP over HTTP. It reads the wire format of protocol buffers by itself, by the field numbers of
//! opentelemetry-proto 1.x: what nodes send is held against the specification, not against the library that wrote it.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, task::JoinHandle};

pub type Attributes = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Of the process that told.
    pub resource: Attributes,
    /// Hexadecimal, as are all ids.
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    pub start: u64,
    pub end: u64,
    pub attributes: Attributes,
    /// 2 is an error.
    pub status: u64,
}

/// A point of a sum or a gauge, or the count of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub resource: Attributes,
    pub name: String,
    pub unit: String,
    pub attributes: Attributes,
    pub value: f64,
    /// Of a histogram: each bucket's own.
    pub buckets: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub resource: Attributes,
    pub severity: u64,
    pub body: String,
    pub attributes: Attributes,
    pub trace: String,
    pub span: String,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    points: Vec<Point>,
    records: Vec<Record>,
    /// What was wrong with what came.
    faults: Vec<String>,
    headers: Vec<hyper::HeaderMap>,
}

pub struct Receiver {
    port: u16,
    received: Arc<Mutex<Received>>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let port = super::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let task = tokio::spawn(serve(listener, received.clone()));
        Self { port, received, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn spans(&self, trace: &str) -> Vec<Span> {
        self.all_good().spans.iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// The latest ones of each series come last.
    pub fn points(&self, name: &str) -> Vec<Point> {
        self.all_good().points.iter().filter(|point| point.name == name).cloned().collect()
    }

    pub fn records(&self) -> Vec<Record> {
        self.all_good().records.clone()
    }

    pub fn headers(&self) -> Vec<hyper::HeaderMap> {
        self.all_good().headers.clone()
    }

    fn all_good(&self) -> std::sync::MutexGuard<'_, Received> {
        let received = self.received.lock().unwrap();
        assert!(received.faults.is_empty(), "{:?}", received.faults);
        received
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, received: Arc<Mutex<Received>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let received = received.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| take(request, received.clone()));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn take(request: Request<Incoming>, received: Arc<Mutex<Received>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let mut received = received.lock().unwrap();
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let outcome = match (body, kind, head.uri.path()) {
        (Ok(body), Some("application/x-protobuf"), "/v1/traces") => received.take_traces(&body),
        (Ok(body), Some("application/x-protobuf"), "/v1/metrics") => received.take_metrics(&body),
        (Ok(body), Some("application/x-protobuf"), "/v1/logs") => received.take_logs(&body),
        (body, kind, path) => Err(format!("{kind:?} to {path}: {body:?}")),
    };
    received.headers.push(head.headers);
    let mut response = Response::new(Full::new(Bytes::new()));
    if let Err(fault) = outcome {
        received.faults.push(fault);
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

impl Received {
    fn take_traces(&mut self, body: &[u8]) -> Result<(), String> {
        each_scope(body, |resource, scope| {
            for span in scope.messages(2)? {
                self.spans.push(Span {
                    resource: resource.clone(),
                    trace: hex(span.bytes(1)),
                    id: hex(span.bytes(2)),
                    parent: hex(span.bytes(4)),
                    name: span.text(5),
                    kind: span.number(6),
                    start: span.number(7),
                    end: span.number(8),
                    attributes: span.attributes(9)?,
                    status: span.messages(15)?.first().map_or(0, |status| status.number(3)),
                });
            }
            Ok(())
        })
    }

    fn take_metrics(&mut self, body: &[u8]) -> Result<(), String> {
        each_scope(body, |resource, scope| {
            for metric in scope.messages(2)? {
                let point = |attributes, value, buckets| {
                    let (name, unit) = (metric.text(1), metric.text(3));
                    Point { resource: resource.clone(), name, unit, attributes, value, buckets }
                };
                // A gauge, a sum that must be cumulative, a histogram that must be.
                for (kind, data) in [(5, metric.messages(5)?), (7, metric.messages(7)?), (9, metric.messages(9)?)] {
                    for data in data {
                        if kind != 5 && data.number(2) != 2 {
                            return Err(format!("{} is not cumulative", metric.text(1)));
                        }
                        for number in data.messages(1)? {
                            self.points.push(match kind {
                                9 => {
                                    let buckets = number.packed(6)?;
                                    if buckets.iter().sum::<u64>() != number.number(4) {
                                        return Err(format!("{} miscounts", metric.text(1)));
                                    }
                                    point(number.attributes(9)?, number.number(4) as f64, buckets)
                                }
                                _ => {
                                    let value = match number.find(6) {
                                        Some(Value::Number(number)) => *number as i64 as f64,
                                        _ => f64::from_bits(number.number(4)),
                                    };
                                    point(number.attributes(7)?, value, Vec::new())
                                }
                            });
                        }
                    }
                }
            }
            Ok(())
        })
    }

    fn take_logs(&mut self, body: &[u8]) -> Result<(), String> {
        each_scope(body, |resource, scope| {
            for record in scope.messages(2)? {
                self.records.push(Record {
                    resource: resource.clone(),
                    severity: record.number(2),
                    body: record.messages(5)?.first().map(Message::any).unwrap_or_default(),
                    attributes: record.attributes(6)?,
                    trace: hex(record.bytes(9)),
                    span: hex(record.bytes(10)),
                });
            }
            Ok(())
        })
    }
}

/// A request of any signal has resources, and these have scopes.
fn each_scope(body: &[u8], mut take: impl FnMut(&Attributes, &Message) -> Result<(), String>) -> Result<(), String> {
    for of_resource in Message::read(body)?.messages(1)? {
        let resource = of_resource.messages(1)?.first().map(|resource| resource.attributes(1)).transpose()?;
        for scope in of_resource.messages(2)? {
            take(&resource.clone().unwrap_or_default(), &scope)?;
        }
    }
    Ok(())
}

enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message, in the order in which they came.
struct Message(Vec<(u64, Value)>);

impl Message {
    fn read(mut bytes: &[u8]) -> Result<Self, String> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let value = match key & 7 {
                0 => Value::Number(varint(&mut bytes)?),
                1 => Value::Number(u64::from_le_bytes(take_bytes(&mut bytes, 8)?.try_into().unwrap())),
                2 => {
                    let length = varint(&mut bytes)? as usize;
                    Value::Bytes(take_bytes(&mut bytes, length)?.to_vec())
                }
                5 => Value::Number(u32::from_le_bytes(take_bytes(&mut bytes, 4)?.try_into().unwrap()).into()),
                other => return Err(format!("wire type {other}")),
            };
            fields.push((key >> 3, value));
        }
        Ok(Self(fields))
    }

    fn find(&self, field: u64) -> Option<&Value> {
        self.0.iter().rev().find(|(number, _)| *number == field).map(|(_, value)| value)
    }

    fn number(&self, field: u64) -> u64 {
        match self.find(field) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    fn bytes(&self, field: u64) -> &[u8] {
        match self.find(field) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    fn text(&self, field: u64) -> String {
        String::from_utf8_lossy(self.bytes(field)).into_owned()
    }

    fn messages(&self, field: u64) -> Result<Vec<Message>, String> {
        let bytes = self.0.iter().filter(|(number, _)| *number == field).filter_map(|(_, value)| match value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Number(_) => None,
        });
        bytes.map(|bytes| Message::read(bytes)).collect()
    }

    /// Numbers of 64 bits, one after the other.
    fn packed(&self, field: u64) -> Result<Vec<u64>, String> {
        let mut bytes = self.bytes(field);
        let mut numbers = Vec::new();
        while !bytes.is_empty() {
            numbers.push(u64::from_le_bytes(take_bytes(&mut bytes, 8)?.try_into().unwrap()));
        }
        Ok(numbers)
    }

    fn attributes(&self, field: u64) -> Result<Attributes, String> {
        let mut attributes = Attributes::new();
        for pair in self.messages(field)? {
            let value = pair.messages(2)?.first().map(Message::any).unwrap_or_default();
            if attributes.insert(pair.text(1), value).is_some() {
                return Err(format!("two attributes {}", pair.text(1)));
            }
        }
        Ok(attributes)
    }

    /// An `AnyValue`, as text.
    fn any(&self) -> String {
        match self.0.first() {
            Some((1, Value::Bytes(bytes))) => String::from_utf8_lossy(bytes).into_owned(),
            Some((2, Value::Number(truth))) => (*truth == 1).to_string(),
            Some((3, Value::Number(number))) => (*number as i64).to_string(),
            Some((4, Value::Number(bits))) => f64::from_bits(*bits).to_string(),
            _ => String::new(),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_bytes(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number without an end".to_owned())
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or("the message ends early")?;
    *bytes = rest;
    Ok(taken)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
