//! Finds the HTTP/1 requests that say twice where their body ends: with `content-length` and with `transfer-encoding`
//! (RFC 9112 §6.3). hyper takes the second and drops the first before anybody sees it; whoever sent such a request through
//! a proxy that takes the first has smuggled one. Pure: told of each byte that is read, in order.
//!
//! It follows the bounds of messages only as far as it must to know where heads begin. Where it can't, because hyper will
//! refuse the same bytes or because they are more than it keeps, it says so, and what comes after is doubtful too.

/// Longest line that is kept over several reads: no head may be longer.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What follows in the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    RequestLine,
    Header {
        length: Option<u64>,
        coded: bool,
    },
    /// So many bytes, then a request line.
    Body(u64),
    ChunkSize,
    /// So many bytes with the end of line behind them, then the size of a chunk.
    Chunk(u64),
    Trailer,
    /// Nothing that is looked at: HTTP/2, or something that is no request.
    Unknown,
}

pub(crate) struct Framing {
    next: Next,
    /// The beginning of a line whose end has not been read.
    line: Vec<u8>,
    /// Heads that came in full.
    heads: u64,
    doubtful_from: Option<u64>,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self { next: Next::RequestLine, line: Vec::new(), heads: 0, doubtful_from: None }
    }

    /// The number of the first request, from 0, that says twice where it ends, or whose head was not understood. Those
    /// after it are doubtful too.
    pub(crate) fn doubtful_from(&self) -> Option<u64> {
        self.doubtful_from
    }

    /// Heads that came in full.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether what was read ends inside of a message, or can't be followed. HTTP/2 is not looked at, so it never does.
    pub(crate) fn is_torn(&self) -> bool {
        match self.next {
            Next::RequestLine => !self.line.is_empty(),
            Next::Unknown => self.doubtful_from.is_some(),
            _ => true,
        }
    }

    /// These bytes were read.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.next {
                Next::Unknown => return,
                Next::Body(left) => match skip(bytes, left) {
                    (rest, 0) => self.then(Next::RequestLine, rest),
                    (rest, left) => self.then(Next::Body(left), rest),
                },
                Next::Chunk(left) => match skip(bytes, left) {
                    (rest, 0) => self.then(Next::ChunkSize, rest),
                    (rest, left) => self.then(Next::Chunk(left), rest),
                },
                Next::RequestLine | Next::Header { .. } | Next::ChunkSize | Next::Trailer => self.read_line(bytes),
            };
        }
    }

    fn then<'a>(&mut self, next: Next, rest: &'a [u8]) -> &'a [u8] {
        self.next = next;
        rest
    }

    /// Take one line or what there is of it. Returns the rest.
    fn read_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.line.len().saturating_add(bytes.len()) > LINE_BYTES_MAX {
                self.doubt();
            } else {
                self.line.extend_from_slice(bytes);
            }
            return &[];
        };
        let (line, rest) = bytes.split_at(end);
        let rest = rest.get(1..).unwrap_or_default();
        if self.line.is_empty() {
            self.on_line(line);
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.on_line(&whole);
            // The room is kept for the next line that is torn.
            whole.clear();
            self.line = whole;
        }
        rest
    }

    fn on_line(&mut self, line: &[u8]) {
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            // For hyper a chunked body has no lines but those that end with CRLF: it reads on where others see an end.
            None if matches!(self.next, Next::ChunkSize | Next::Trailer) => return self.doubt(),
            None => line,
        };
        match self.next {
            // Empty lines in front of a request line are allowed (RFC 9112 §2.2).
            Next::RequestLine if line.is_empty() => {}
            Next::RequestLine if line == b"PRI * HTTP/2.0" => self.next = Next::Unknown,
            Next::RequestLine => self.next = Next::Header { length: None, coded: false },
            Next::Header { length, coded } if line.is_empty() => self.on_head(length, coded),
            Next::Header { length, coded } => self.on_header(line, length, coded),
            Next::ChunkSize => match chunk_size(line) {
                Some(0) => self.next = Next::Trailer,
                Some(size) => self.next = Next::Chunk(size.saturating_add(2)),
                None => self.doubt(),
            },
            Next::Trailer if line.is_empty() => self.next = Next::RequestLine,
            Next::Trailer | Next::Body(_) | Next::Chunk(_) | Next::Unknown => {}
        }
    }

    fn on_header(&mut self, line: &[u8], length: Option<u64>, coded: bool) {
        // Of each line in each head, so only those are looked at that can be one of the two.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            return;
        }
        if value_of(b"transfer-encoding", line).is_some() {
            self.next = Next::Header { length, coded: true };
        } else if let Some(value) = value_of(b"content-length", line) {
            let sent = std::str::from_utf8(value.trim_ascii()).ok().and_then(|digits| digits.parse().ok());
            match sent {
                Some(sent) => self.next = Next::Header { length: Some(sent), coded },
                None => self.doubt(),
            }
        }
    }

    fn on_head(&mut self, length: Option<u64>, coded: bool) {
        if length.is_some() && coded {
            return self.doubt();
        }
        self.heads += 1;
        self.next = match length {
            _ if coded => Next::ChunkSize,
            None | Some(0) => Next::RequestLine,
            Some(length) => Next::Body(length),
        };
    }

    fn doubt(&mut self) {
        self.doubtful_from = Some(self.heads);
        self.next = Next::Unknown;
        self.line = Vec::new();
    }
}

/// What a line of a head says, if it is about this.
fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    rest.strip_prefix(b":").filter(|_| start.eq_ignore_ascii_case(name))
}

/// What is behind the next `count` bytes, and how many of them are still to come.
fn skip(bytes: &[u8], count: u64) -> (&[u8], u64) {
    let here = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
    (bytes.get(here..).unwrap_or_default(), count - here as u64)
}

/// RFC 9112 §7.1: hexadecimal digits, then perhaps an extension.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let digits = std::str::from_utf8(size).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use hyper_util::rt::TokioIo;
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };
    use tokio::io::AsyncWriteExt as _;

    /// The first doubtful request, however the bytes come.
    fn check(sent: &str, doubtful_from: Option<u64>, heads: u64) {
        for size in [1, 2, 7, usize::MAX] {
            let mut framing = Framing::new();
            sent.as_bytes().chunks(size.min(sent.len())).for_each(|chunk| framing.read(chunk));
            assert_eq!((framing.doubtful_from(), framing.heads), (doubtful_from, heads), "{size}: {sent}");
        }
    }

    const BOTH: &str = "POST / HTTP/1.1\r\ncontent-length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
    const SIZED: &str = "POST / HTTP/1.1\r\nContent-Length: 70\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";

    #[test]
    fn two_ends_are_found_wherever_they_come() {
        check(BOTH, Some(0), 0);
        check("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: y\r\nCONTENT-LENGTH:4\r\n\r\n", Some(0), 0);
        check(&format!("\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n{BOTH}"), Some(1), 1);
        // Behind bodies that look like requests.
        let body = &BOTH[..BOTH.len().min(70)];
        let padded = format!("{body:70}");
        check(&format!("{SIZED}{padded}"), None, 1);
        check(&format!("{SIZED}{padded}{BOTH}"), Some(1), 1);
        let chunks = format!("{:x};ext=\"1\"\r\n{BOTH}\r\n3\r\nabc\r\n0\r\ncontent-length: 4\r\n\r\n", BOTH.len());
        check(&format!("{CHUNKED}{chunks}"), None, 1);
        check(&format!("{CHUNKED}{chunks}{CHUNKED}0\r\n\r\n{BOTH}"), Some(2), 2);
    }

    /// Requests of every kind, behind each other, at random.
    fn requests(seed: u64) -> (String, u64) {
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut sent = String::new();
        let count = 1 + random(8);
        for _ in 0..count {
            sent.push_str(["", "", "\r\n"][random(3) as usize]);
            // Bodies that would be taken for heads by who loses count.
            let body = BOTH.repeat(random(3) as usize);
            match random(4) {
                0 => sent.push_str("GET /a HTTP/1.1\r\nhost: h\r\nx:content-length: 5\r\n\r\n"),
                1 => sent.push_str("GET /b HTTP/1.1\ncontent-length:0\n\n"),
                2 => sent.push_str(&format!("PUT / HTTP/1.1\r\nCONTENT-length: \t{} \r\n\r\n{body}", body.len())),
                _ => {
                    sent.push_str("POST / HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n");
                    for chunk in [body.as_str(), "x"].into_iter().filter(|chunk| !chunk.is_empty()) {
                        let extension = ["", ";a", ";a=\"0;1\""][random(3) as usize];
                        sent.push_str(&format!("{:X}{extension}\r\n{chunk}\r\n", chunk.len()));
                    }
                    sent.push_str(["0\r\n\r\n", "00;z\r\ncontent-length: 9\r\nx: y\r\n\r\n"][random(2) as usize]);
                }
            }
        }
        (sent, count)
    }

    /// How many requests hyper finds, and what it says in the end.
    async fn found_by_hyper(sent: &str) -> (u64, hyper::Result<()>) {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            counter.fetch_add(1, Relaxed);
            async move {
                request.into_body().collect().await?;
                Ok::<_, hyper::Error>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
            }
        });
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(sent.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut builder = hyper::server::conn::http1::Builder::new();
        let outcome = builder.half_close(true).serve_connection(TokioIo::new(server), service).await;
        (seen.load(Relaxed), outcome)
    }

    #[tokio::test]
    async fn heads_begin_where_hyper_finds_them() {
        for seed in 0..300 {
            let (sent, count) = requests(seed);
            check(&sent, None, count);
            check(&format!("{sent}{BOTH}"), Some(count), count);
            let (seen, outcome) = found_by_hyper(&sent).await;
            outcome.unwrap_or_else(|error| panic!("{seed}: {error}: {sent}"));
            assert_eq!(seen, count, "{seed}: {sent}");
            // Lines of a chunked body without CR: where others see its end, hyper does not, and takes what follows for a
            // part of it.
            const ENDS: [&str; 6] =
                ["0\n\r\n", "0\r\n\n", "0\n\n", "0\r\nx: y\n\r\n", "0\r\nx: y\r\n\n", "1;a\nx\r\n0\r\n\r\n"];
            let torn = format!("{sent}{CHUNKED}{}", ENDS[seed as usize % ENDS.len()]);
            check(&torn, Some(count + 1), count + 1);
            let torn = format!("{torn}GET / HTTP/1.1\r\nhost: h\r\n\r\n");
            check(&torn, Some(count + 1), count + 1);
            assert_eq!(found_by_hyper(&torn).await.0, count + 1, "{seed}: {torn}");
        }
    }

    #[test]
    fn what_ends_inside_of_a_message() {
        for (sent, is_torn) in [
            ("", false),
            ("\r\n", false),
            ("G", true),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", true),
            ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", false),
            (SIZED, true),
            (CHUNKED, true),
            (BOTH, true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
        ] {
            let mut framing = Framing::new();
            framing.read(sent.as_bytes());
            assert_eq!(framing.is_torn(), is_torn, "{sent}");
        }
    }

    #[test]
    fn what_is_not_understood_is_doubtful_from_there_on() {
        check("POST / HTTP/1.1\r\ncontent-length: 1x\r\n\r\n", Some(0), 0);
        check(&format!("{CHUNKED}zz\r\n"), Some(1), 1);
        check(&format!("{CHUNKED}+1\r\n"), Some(1), 1);
        check(&format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{BOTH}"), None, 0);
        let mut framing = Framing::new();
        (0..33).for_each(|_| framing.read(&[b'x'; 32 * 1024]));
        assert_eq!((framing.doubtful_from(), framing.line.len()), (Some(0), 0));
    }
}
