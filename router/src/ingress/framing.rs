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
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
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
        let line = line.strip_suffix(b"\r").unwrap_or(line);
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
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return self.doubt() };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.next = Next::Header { length, coded: true };
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let sent = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
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

    #[test]
    fn what_is_not_understood_is_doubtful_from_there_on() {
        check("GET / HTTP/1.1\r\nno colon\r\n", Some(0), 0);
        check("POST / HTTP/1.1\r\ncontent-length: 1x\r\n\r\n", Some(0), 0);
        check(&format!("{CHUNKED}zz\r\n"), Some(1), 1);
        check(&format!("{CHUNKED}+1\r\n"), Some(1), 1);
        check(&format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{BOTH}"), None, 0);
        let mut framing = Framing::new();
        (0..33).for_each(|_| framing.read(&[b'x'; 32 * 1024]));
        assert_eq!((framing.doubtful_from(), framing.line.len()), (Some(0), 0));
    }
}
