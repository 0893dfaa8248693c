//! A gRPC service, by hand: calls of all four kinds over wasi:http 0.3. What it serves is in `echo.proto`.
//!
//! A call is a POST to `/PACKAGE.SERVICE/METHOD`; each message has five bytes in front (compressed or not, length); the
//! outcome is in the trailers. Nothing of it needs more of a node than that trailers and both bodies are streamed.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Trailers};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Echo);

struct Echo;

const SERVICE: &str = "/lattice.echo.v1.Echo/";
const CHUNK_BYTES: usize = 16 * 1024;
/// What gRPC libraries take by default.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

type TrailersResult = Result<Option<Trailers>, ErrorCode>;

/// Why a call failed: a code of gRPC and a text.
struct Status(u32, String);

impl Status {
    fn invalid(why: &str) -> Self {
        Self(3, why.to_owned())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Say,
    Repeat,
    Join,
    Chat,
    Fail,
}

impl Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let is_grpc =
            request.get_headers().get("content-type").iter().any(|kind| kind.starts_with(b"application/grpc"));
        if !is_grpc || !matches!(request.get_method(), Method::Post) {
            return plain(415, "this is a gRPC service\n");
        }
        let path = request.get_path_with_query().unwrap_or_default();
        let call = match path.strip_prefix(SERVICE) {
            Some("Say") => Call::Say,
            Some("Repeat") => Call::Repeat,
            Some("Join") => Call::Join,
            Some("Chat") => Call::Chat,
            Some("Fail") => Call::Fail,
            // Trailers alone: the head is all there is.
            _ => return refused(&Status(12, format!("there is no method {path}"))),
        };
        let fields = Fields::new();
        set(&fields, "content-type", b"application/grpc")?;
        let (_writer, processed) = wit_future::new(|| Ok(()));
        let (body, sent) = Request::consume_body(request, processed);
        let (writer, reader) = wit_stream::new();
        let (outcome, trailers) = wit_future::new(|| Ok(None));
        // The head goes out at once, so that both sides may talk.
        spawn_local(async move {
            let mut messages = Messages { body, sent: Some(sent), buffer: Vec::new() };
            let mut answers = Answers(writer);
            let status = match answer(call, &mut messages, &mut answers).await {
                Ok(()) => Status(0, String::new()),
                Err(status) => status,
            };
            drop(answers);
            let _ = outcome.write(trailers_of(&status)).await; // nobody waits for it any more
        });
        Ok(response(fields, 200, reader, trailers))
    }
}

async fn answer(call: Call, messages: &mut Messages, answers: &mut Answers) -> Result<(), Status> {
    let mut joined = String::new();
    let mut count = 0_u32;
    while let Some(Message { text, number }) = messages.next().await? {
        count += 1;
        match call {
            Call::Join => joined.push_str(&text),
            Call::Fail => return Err(Status(number, text)),
            Call::Say | Call::Chat => answers.send(&Message { text, number }).await?,
            Call::Repeat => {
                for number in 0..number {
                    answers.send(&Message { text: text.clone(), number }).await?;
                }
            }
        }
    }
    if call == Call::Join {
        return answers.send(&Message { text: joined, number: count }).await;
    }
    let is_single = matches!(call, Call::Say | Call::Repeat | Call::Fail);
    if is_single && count != 1 { Err(Status::invalid("one message is expected")) } else { Ok(()) }
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Message {
    text: String,
    number: u32,
}

impl Message {
    /// Fields that are not known are skipped, as protobuf wants it.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut message = Self::default();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            match tag & 7 {
                0 => {
                    let value = varint(&mut bytes)?;
                    if tag >> 3 == 2 {
                        message.number = value as u32;
                    }
                }
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).ok()?;
                    let (value, rest) = bytes.split_at_checked(length)?;
                    if tag >> 3 == 1 {
                        message.text = String::from_utf8(value.to_vec()).ok()?;
                    }
                    bytes = rest;
                }
                fixed @ (1 | 5) => bytes = bytes.get(if fixed == 1 { 8 } else { 4 }..)?,
                _ => return None,
            }
        }
        Some(message)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text.len() + 16);
        if !self.text.is_empty() {
            put_varint(1 << 3 | 2, &mut bytes);
            put_varint(self.text.len() as u64, &mut bytes);
            bytes.extend_from_slice(self.text.as_bytes());
        }
        if self.number != 0 {
            put_varint(2 << 3, &mut bytes);
            put_varint(self.number.into(), &mut bytes);
        }
        bytes
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// What the client sends.
struct Messages {
    body: StreamReader<u8>,
    /// Says whether the body came in full.
    sent: Option<FutureReader<TrailersResult>>,
    buffer: Vec<u8>,
}

impl Messages {
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        if !self.fill(5).await? {
            return Ok(None);
        }
        let head: Vec<u8> = self.buffer.drain(..5).collect();
        let [flag, length @ ..] = head.as_slice() else { return Err(Status::invalid("half a message")) };
        if *flag != 0 {
            return Err(Status(12, "compression was not agreed on".into()));
        }
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length > MESSAGE_BYTES_MAX {
            return Err(Status(8, format!("a message of {length} bytes is too large")));
        }
        if length > 0 && !self.fill(length).await? {
            return Err(Status::invalid("half a message"));
        }
        let message: Vec<u8> = self.buffer.drain(..length).collect();
        Message::decode(&message).map(Some).ok_or_else(|| Status::invalid("not a message"))
    }

    /// Read until so many bytes are there, or return false at the end of the body.
    async fn fill(&mut self, length: usize) -> Result<bool, Status> {
        while self.buffer.len() < length {
            match self.body.read(Vec::with_capacity(CHUNK_BYTES)).await {
                (StreamResult::Complete(_), chunk) => self.buffer.extend(chunk),
                (StreamResult::Dropped | StreamResult::Cancelled, _) => {
                    // A body that was cut short ends like a whole one: the error is here.
                    let ended = match self.sent.take() {
                        Some(sent) => sent.await.map(drop),
                        None => Ok(()),
                    };
                    return match ended {
                        Err(error) => Err(Status(1, format!("the call was broken off: {error:?}"))),
                        Ok(()) if self.buffer.is_empty() => Ok(false),
                        Ok(()) => Err(Status::invalid("half a message")),
                    };
                }
            }
        }
        Ok(true)
    }
}

/// What the client receives.
struct Answers(StreamWriter<u8>);

impl Answers {
    async fn send(&mut self, message: &Message) -> Result<(), Status> {
        let message = message.encode();
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(&message);
        let unsent = self.0.write_all(framed).await;
        if unsent.is_empty() { Ok(()) } else { Err(Status(1, "nobody reads the answers".into())) }
    }
}

fn trailers_of(status: &Status) -> TrailersResult {
    let trailers = Fields::new();
    set_status(&trailers, status)?;
    Ok(Some(trailers))
}

fn set_status(fields: &Fields, Status(code, message): &Status) -> Result<(), ErrorCode> {
    set(fields, "grpc-status", code.to_string().as_bytes())?;
    if message.is_empty() {
        return Ok(());
    }
    // Percent-encoded, all but visible ASCII.
    let coded = message.bytes().map(|byte| match byte {
        b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    set(fields, "grpc-message", coded.collect::<String>().as_bytes())
}

fn refused(status: &Status) -> Result<Response, ErrorCode> {
    let fields = Fields::new();
    set(&fields, "content-type", b"application/grpc")?;
    set_status(&fields, status)?;
    let (_writer, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, None, trailers);
    Ok(response)
}

fn plain(status: u16, text: &str) -> Result<Response, ErrorCode> {
    let fields = Fields::new();
    set(&fields, "content-type", b"text/plain; charset=utf-8")?;
    let (mut writer, reader) = wit_stream::new();
    let text = text.as_bytes().to_vec();
    spawn_local(async move { writer.write_all(text).await });
    let (_writer, trailers) = wit_future::new(|| Ok(None));
    Ok(response(fields, status, reader, trailers))
}

fn response(fields: Fields, status: u16, body: StreamReader<u8>, trailers: FutureReader<TrailersResult>) -> Response {
    // The future tells when the response was sent, or why not. Nothing here depends on it.
    let (response, _sent) = Response::new(fields, Some(body), trailers);
    let _ = response.set_status_code(status);
    response
}

fn set(fields: &Fields, name: &str, value: &[u8]) -> Result<(), ErrorCode> {
    fields.set(name, &[value.to_vec()]).map_err(|error| ErrorCode::InternalError(Some(format!("{error:?}"))))
}
