//! Writes the access log: one line a request, to a file or to standard output. A thread of its own writes; where it can't
//! keep up, lines are dropped and counted, and a line says how many.

use lattice::{
    access::{Access, AccessLog},
    event::rfc3339,
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Lines that wait to be written.
const QUEUE: usize = 8192;
/// How often it is looked whether the file is still the one at its path: whoever rotates logs moves it away.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bytes of a text that a client wrote; the rest is cut off.
const TEXT_BYTES_MAX: usize = 2048;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object a line.
    Json,
    /// For people: `TIME CLIENT "METHOD HOST PATH PROTOCOL" STATUS`, then `name=value` for the rest.
    Text,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    /// Appended to; made if it is not there.
    File(PathBuf),
}

/// An access log that is open.
pub struct AccessWriter {
    lines: Mutex<Option<SyncSender<Access>>>,
    written: Counter,
    dropped: Counter,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AccessWriter {
    /// Fails where the file can't be opened.
    pub fn start(format: Format, to: Destination, metrics: &mut Registry) -> io::Result<Self> {
        let (written, dropped) = (Counter::default(), Counter::default());
        let registry = metrics.sub_registry_with_prefix("lattice_access_log");
        registry.register("lines", "Lines of the access log that were written", written.clone());
        registry.register("dropped", "Lines that were dropped, since writing took too long", dropped.clone());
        let output = Output::open(to)?;
        let (lines, waiting) = sync_channel(QUEUE);
        let writer = Writer { format, output, written: written.clone(), dropped: dropped.clone(), told: 0 };
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self { lines: Mutex::new(Some(lines)), written, dropped, thread: Mutex::new(Some(thread)) })
    }

    /// Write what waits, and no more after that.
    pub fn stop(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl AccessLog for AccessWriter {
    fn log(&self, access: Access) {
        let sent = match &*self.lines.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(lines) => lines.try_send(access).is_ok(),
            None => false,
        };
        if !sent {
            self.dropped.inc();
        }
    }
}

impl fmt::Debug for AccessWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessWriter({} written, {} dropped)", self.written.get(), self.dropped.get())
    }
}

struct Writer {
    format: Format,
    output: Output,
    written: Counter,
    dropped: Counter,
    /// Of those dropped, how many a line told of.
    told: u64,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Access>) {
        let mut is_failing = false;
        loop {
            let first = match waiting.recv_timeout(LOOK_AGAIN_AFTER) {
                Ok(access) => Some(access),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // All that is there, then it is out.
            let outcome = first.into_iter().chain(waiting.try_iter()).try_for_each(|access| self.write(&access));
            let outcome = outcome.and_then(|()| self.tell_dropped()).and_then(|()| self.output.flush());
            match outcome {
                Ok(()) => is_failing = false,
                Err(error) if is_failing => tracing::debug!(%error, "the access log can't be written"),
                Err(error) => {
                    is_failing = true;
                    tracing::error!(%error, "the access log can't be written; lines are lost");
                }
            }
        }
    }

    fn write(&mut self, access: &Access) -> io::Result<()> {
        let line = line(access, self.format);
        self.output.write(&line).inspect_err(|_| {
            self.dropped.inc();
        })?;
        self.written.inc();
        Ok(())
    }

    fn tell_dropped(&mut self) -> io::Result<()> {
        let dropped = self.dropped.get();
        if dropped == self.told {
            return Ok(());
        }
        let number = dropped - std::mem::replace(&mut self.told, dropped);
        self.output.write(&match self.format {
            Format::Json => format!("{{\"dropped\":{number}}}\n"),
            Format::Text => format!("# {number} lines dropped\n"),
        })
    }
}

enum Output {
    Stdout(BufWriter<io::Stdout>),
    File { path: PathBuf, file: BufWriter<File>, looked: Instant },
}

impl Output {
    fn open(to: Destination) -> io::Result<Self> {
        Ok(match to {
            Destination::Stdout => Output::Stdout(BufWriter::new(io::stdout())),
            Destination::File(path) => {
                let file = BufWriter::new(append(&path)?);
                Output::File { path, file, looked: Instant::now() }
            }
        })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.write_all(line.as_bytes()),
            Output::File { path, file, looked } => {
                if looked.elapsed() >= LOOK_AGAIN_AFTER {
                    *looked = Instant::now();
                    let is_there = match (std::fs::metadata(&*path), file.get_ref().metadata()) {
                        (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
                        _ => false,
                    };
                    if !is_there {
                        file.flush()?;
                        *file = BufWriter::new(append(path)?);
                    }
                }
                file.write_all(line.as_bytes())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.flush(),
            Output::File { file, .. } => file.flush(),
        }
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// As it stands in the file.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: Option<std::net::IpAddr>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'static str,
    status: Option<u16>,
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
    head_ms: Option<f64>,
    workload: Option<&'a str>,
    route: Option<&'a str>,
    node: Option<&'a str>,
    generation: Option<u64>,
    reused: Option<bool>,
    via: &'static str,
    error: Option<&'static str>,
    trace: Option<String>,
}

fn line(access: &Access, format: Format) -> String {
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let line = Line {
        time: rfc3339(access.unix_ms),
        client: access.client,
        method: cut(access.method.as_str()),
        host: cut(&access.host),
        path: cut(&access.path),
        protocol: match access.protocol {
            http::Version::HTTP_2 => "HTTP/2",
            http::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        status: access.status,
        request_bytes: access.request_bytes,
        response_bytes: access.response_bytes,
        duration_ms: millis(access.duration),
        head_ms: access.head.map(millis),
        workload: access.workload.as_ref().map(lattice::id::WorkloadName::as_str),
        route: access.route.as_deref(),
        node: access.node.as_ref().map(lattice::id::NodeId::as_str),
        generation: access.generation.map(|generation| generation.0),
        reused: access.reused,
        via: access.via,
        error: access.error,
        trace: access.trace.map(|trace| format!("{trace:032x}")),
    };
    match format {
        Format::Json => serde_json::to_string(&line).unwrap_or_default() + "\n",
        Format::Text => line.text(),
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or(text)
}

impl Line<'_> {
    fn text(&self) -> String {
        let mut text = String::with_capacity(256);
        let client = self.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
        let status = self.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let _ = write!(text, "{} {client} \"", self.time);
        for (number, part) in [self.method, self.host, self.path, self.protocol].into_iter().enumerate() {
            if number > 0 {
                text.push(' ');
            }
            escape(if part.is_empty() { "-" } else { part }, &mut text);
        }
        let _ = write!(text, "\" {status} in={} out={}", self.request_bytes, self.response_bytes);
        let _ = write!(text, " ms={} via={}", self.duration_ms, self.via);
        let rest = [("workload", self.workload), ("route", self.route), ("node", self.node), ("error", self.error)];
        if let Some(generation) = self.generation {
            let _ = write!(text, " generation={generation}");
        }
        if let Some(reused) = self.reused {
            let _ = write!(text, " reused={reused}");
        }
        for (name, value) in rest.into_iter().chain([("trace", self.trace.as_deref())]) {
            if let Some(value) = value {
                let _ = write!(text, " {name}=");
                escape(value, &mut text);
            }
        }
        text.push('\n');
        text
    }
}

/// What could end a field or a line, or play with a terminal, is written as `\x..` or `\u{…}`.
fn escape(part: &str, text: &mut String) {
    for character in part.chars() {
        match character {
            '"' | '\\' | ' ' => drop(write!(text, "\\x{:02x}", character as u32)),
            character if character.is_ascii_graphic() => text.push(character),
            character if character.is_alphanumeric() => text.push(character),
            character => drop(write!(text, "\\u{{{:x}}}", character as u32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Version};

    fn access(path: &str) -> Access {
        Access {
            unix_ms: 1_795_366_800_123,
            client: Some("192.0.2.7".parse().unwrap()),
            method: Method::GET,
            host: "shop.test".to_owned(),
            path: path.to_owned(),
            protocol: Version::HTTP_11,
            status: Some(200),
            request_bytes: 3,
            response_bytes: 42,
            duration: Duration::from_micros(1500),
            head: Some(Duration::from_millis(1)),
            workload: Some("shop".parse().unwrap()),
            route: Some("shop.test/".into()),
            node: Some("n1".parse().unwrap()),
            generation: Some(lattice::id::Generation(3)),
            reused: Some(true),
            via: "local",
            error: None,
            trace: Some(0xabc),
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_a_client_writes() {
        let evil = "/\n{\"status\":200}\r\u{1b}[2J\"\\ \u{2028}ü";
        let json = line(&access(evil), Format::Json);
        assert_eq!(json.matches('\n').count(), 1);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&read["path"], &read["status"], &read["duration_ms"]), (&evil.into(), &200.into(), &1.5.into()));
        assert_eq!(read["trace"], "00000000000000000000000000000abc");
        assert_eq!(read["error"], serde_json::Value::Null);
        let text = line(&access(evil), Format::Text);
        assert!(text.starts_with("2026-11-2") && text.contains(" 192.0.2.7 \"GET shop.test /\\u{a}"), "{text}");
        assert!(text.trim_end().chars().all(|character| !character.is_control()), "{text}");
        assert!(text.contains("\\u{1b}[2J\\x22\\x5c\\x20\\u{2028}ü HTTP/1.1\" 200 in=3 out=42 ms=1.5"), "{text}");
        let long = line(&access(&"é".repeat(TEXT_BYTES_MAX)), Format::Json);
        assert!(long.len() < TEXT_BYTES_MAX + 1024, "{}", long.len());
    }

    #[test]
    fn a_file_is_appended_to_and_followed_when_it_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut output = Output::open(Destination::File(path.clone())).unwrap();
        output.write("first\n").unwrap();
        std::fs::rename(&path, dir.path().join("access.log.1")).unwrap();
        if let Output::File { looked, .. } = &mut output {
            *looked = Instant::now().checked_sub(2 * LOOK_AGAIN_AFTER).unwrap();
        }
        output.write("second\n").unwrap();
        output.flush().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("access.log.1"), read("access.log")), ("before\nfirst\n".into(), "second\n".into()));
    }

    #[test]
    fn all_that_was_taken_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut registry = Registry::default();
        let log = AccessWriter::start(Format::Json, Destination::File(path.clone()), &mut registry).unwrap();
        for _ in 0..2 * QUEUE {
            log.log(access("/"));
        }
        log.stop();
        log.log(access("/late"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter(|line| line.contains("\"status\":200")).count() as u64;
        assert_eq!((lines, lines + log.dropped.get()), (log.written.get(), 2 * QUEUE as u64 + 1));
        let missing = dir.path().join("not/there");
        assert!(AccessWriter::start(Format::Json, Destination::File(missing), &mut registry).is_err());
    }
}
