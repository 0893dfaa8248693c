//! What guests print: bytes in, whole lines out, bounded in length and number. A guest can neither fill the node's
//! memory nor its log by printing, and it never waits for whoever reads.

use crate::{
    lock,
    tally::{Limit, Tally},
};
use bytes::Bytes;
use http::HeaderValue;
use lattice::{
    ctl::LogLevel,
    limits::{clip, one_line},
    trace::TraceContext,
};
use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// Longest line that is passed on; what follows it is cut off, and the line says so.
pub(crate) const LINE_BYTES_MAX: usize = lattice::limits::LOG_LINE_BYTES_MAX;
/// Longest context of a line that is passed on; the rest is cut off.
const CONTEXT_BYTES_MAX: usize = 256;
/// Lines of one unit that are passed on in one second; more are dropped, and their number is told.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 1000;

/// Takes what the guests of a unit print. It is called from within the guest's own call, so it must not block.
pub trait LogSink: Send + Sync + 'static {
    /// One line, without its end. `instance` counts the unit's instances from 1; lines about the unit have none. `trace`:
    /// of the request that the instance was at, as its guest saw it.
    fn line(&self, instance: Option<u64>, stream: LogStream, trace: Option<TraceContext>, line: &str);

    /// The same of a line that an instance logged with a level and a context (`wasi:logging`).
    fn logged(&self, instance: u64, log: Logged<'_>, trace: Option<TraceContext>, line: &str) {
        let Logged { level: _, context: _ } = log;
        self.line(Some(instance), LogStream::Stderr, trace, line);
    }
}

/// What a guest says of a line that it logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged<'a> {
    pub level: LogLevel,
    /// One line, possibly empty.
    pub context: &'a str,
}

/// Where a guest printed a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// The way out for all lines of one unit.
pub(crate) struct LogGate {
    sink: Arc<dyn LogSink>,
    tally: Arc<Tally>,
    window: Mutex<Window>,
}

struct Window {
    start: Instant,
    lines: u32,
    dropped: u64,
}

impl LogGate {
    pub(crate) fn new(sink: Arc<dyn LogSink>, tally: Arc<Tally>) -> Arc<Self> {
        Arc::new(Self { sink, tally, window: Mutex::new(Window { start: Instant::now(), lines: 0, dropped: 0 }) })
    }

    fn line(&self, instance: u64, stream: LogStream, trace: Option<TraceContext>, line: &str) {
        if self.admit() {
            self.sink.line(Some(instance), stream, trace, line);
        }
    }

    /// Whether one more line is passed on now.
    fn admit(&self) -> bool {
        self.tell_dropped(Instant::now());
        let mut window = lock(&self.window);
        if window.lines < LINES_PER_SECOND_MAX {
            window.lines += 1;
            return true;
        }
        // A flood counts once a window.
        if window.dropped == 0 {
            self.tally.hit(Limit::LogLines);
        }
        window.dropped += 1;
        false
    }

    /// Opens the next window where this one is over, and says what was dropped in it. Called now and then as well, so
    /// that the number is told even if the guest falls silent.
    pub(crate) fn tell_dropped(&self, now: Instant) {
        let dropped = {
            let mut window = lock(&self.window);
            if now.saturating_duration_since(window.start) < Duration::from_secs(1) {
                return;
            }
            let dropped = window.dropped;
            *window = Window { start: now, lines: 0, dropped: 0 };
            dropped
        };
        if dropped > 0 {
            let text = format!("[{dropped} lines dropped: more than {LINES_PER_SECOND_MAX} in a second]");
            self.sink.line(None, LogStream::Stderr, None, &text);
        }
    }
}

/// What an instance is at when it prints, as far as that can be told: from within a print nothing says whose work it is,
/// so only where there is one request.
#[derive(Default)]
pub(crate) struct At(Mutex<Requests>);

#[derive(Default)]
struct Requests {
    /// The `traceparent` of each.
    traces: Vec<(u64, Option<HeaderValue>)>,
    last: u64,
}

impl At {
    /// From now on, and until the next one, it is at this request alone.
    pub(crate) fn one(&self, trace: Option<HeaderValue>) {
        let mut requests = lock(&self.0);
        requests.traces.clear();
        requests.traces.push((0, trace));
    }

    /// It is at this request beside others, until that is dropped.
    pub(crate) fn beside(self: &Arc<Self>, trace: Option<HeaderValue>) -> Beside {
        let mut requests = lock(&self.0);
        requests.last += 1;
        let number = requests.last;
        // One that it was at alone is over.
        requests.traces.retain(|(number, _)| *number != 0);
        requests.traces.push((number, trace));
        Beside { at: self.clone(), number }
    }

    fn trace(&self) -> Option<TraceContext> {
        match lock(&self.0).traces.as_slice() {
            [(_, Some(trace))] => TraceContext::parse(trace.as_bytes()),
            _ => None,
        }
    }
}

/// A request that an instance is at.
pub(crate) struct Beside {
    at: Arc<At>,
    number: u64,
}

impl Drop for Beside {
    fn drop(&mut self) {
        lock(&self.at.0).traces.retain(|(number, _)| *number != self.number);
    }
}

/// What one instance logs by itself, with a level.
pub(crate) struct GuestLogger {
    gate: Arc<LogGate>,
    at: Arc<At>,
    instance: u64,
}

impl GuestLogger {
    pub(crate) fn new(gate: &Arc<LogGate>, at: &Arc<At>, instance: u64) -> Self {
        Self { gate: gate.clone(), at: at.clone(), instance }
    }

    /// A message may be several lines: each of them is one, with the same level and context.
    pub(crate) fn print(&self, level: LogLevel, context: &str, message: &str) {
        let context = one_line(context, CONTEXT_BYTES_MAX);
        for line in message.strip_suffix('\n').unwrap_or(message).split('\n') {
            if !self.gate.admit() {
                continue; // counted
            }
            let line = line.strip_suffix('\r').unwrap_or(line);
            let clipped = clip(line, LINE_BYTES_MAX);
            let cut = if clipped.len() < line.len() { " …[cut]" } else { "" };
            let log = Logged { level, context: &context };
            self.gate.sink.logged(self.instance, log, self.at.trace(), &format!("{clipped}{cut}"));
        }
    }
}

/// One stream of one instance.
#[derive(Clone)]
pub(crate) struct GuestLog(Arc<Mutex<Lines>>);

struct Lines {
    gate: Arc<LogGate>,
    at: Arc<At>,
    instance: u64,
    stream: LogStream,
    /// The line so far, at most [`LINE_BYTES_MAX`].
    line: Vec<u8>,
    /// The line so far was longer than that.
    cut: bool,
}

impl GuestLog {
    pub(crate) fn new(gate: &Arc<LogGate>, at: &Arc<At>, instance: u64, stream: LogStream) -> Self {
        let (gate, at) = (gate.clone(), at.clone());
        Self(Arc::new(Mutex::new(Lines { gate, at, instance, stream, line: Vec::new(), cut: false })))
    }

    fn print(&self, bytes: &[u8]) {
        lock(&self.0).print(bytes);
    }
}

impl Lines {
    fn print(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = LINE_BYTES_MAX - self.line.len();
            self.cut |= text.len() > room;
            self.line.extend_from_slice(text.get(..room).unwrap_or(text));
            if ended {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let mut text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(&bytes)).into_owned();
        if std::mem::take(&mut self.cut) {
            text.push_str(" …[cut]");
        }
        self.gate.line(self.instance, self.stream, self.at.trace(), &text);
    }
}

impl Drop for Lines {
    /// The last words of a guest seldom end in a line feed.
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestLog {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl LogSink for Kept {
        fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    fn printed(parts: &[&[u8]]) -> Vec<String> {
        let kept = Arc::new(Kept::default());
        let log = GuestLog::new(&LogGate::new(kept.clone(), Arc::default()), &Arc::default(), 1, LogStream::Stdout);
        for part in parts {
            log.print(part);
        }
        drop(log);
        std::mem::take(&mut *kept.0.lock().unwrap())
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(printed(&[b"a", b"b\nc", b"\r\n\nlast"]), ["ab", "c", "", "last"]);
    }

    #[test]
    fn long_lines_are_cut_and_say_so() {
        let long = vec![b'x'; LINE_BYTES_MAX];
        let lines = printed(&[&long, b"\n", &long, b"y", b"z\n", b"next\n"]);
        assert_eq!(lines[0].len(), LINE_BYTES_MAX);
        assert_eq!(lines[1], format!("{} …[cut]", lines[0]));
        assert_eq!(lines[2], "next");
    }

    #[test]
    fn a_line_has_a_trace_where_there_is_one_request() {
        let at = Arc::<At>::default();
        let trace = |number: u64| HeaderValue::from_str(&format!("00-{number:032x}-00f067aa0ba902b7-01")).ok();
        let told = || at.trace().map(|context| context.trace);
        assert_eq!(told(), None);
        at.one(trace(1));
        assert_eq!(told(), Some(1));
        at.one(None);
        assert_eq!(told(), None);
        at.one(trace(2));
        let first = at.beside(trace(3));
        assert_eq!(told(), Some(3), "the one before is over");
        let second = at.beside(trace(4));
        assert_eq!(told(), None, "whose line it is can't be told");
        drop(first);
        assert_eq!(told(), Some(4));
        drop(second);
        assert_eq!(told(), None);
    }

    #[derive(Default)]
    struct Levels(Mutex<Vec<(LogLevel, String, String)>>);

    impl LogSink for Levels {
        fn line(&self, _: Option<u64>, _: LogStream, _: Option<TraceContext>, line: &str) {
            self.0.lock().unwrap().push((LogLevel::Critical, "printed".to_owned(), line.to_owned()));
        }
        fn logged(&self, _: u64, log: Logged<'_>, _: Option<TraceContext>, line: &str) {
            self.0.lock().unwrap().push((log.level, log.context.to_owned(), line.to_owned()));
        }
    }

    #[test]
    fn what_is_logged_has_its_level_and_is_bounded_with_what_is_printed() {
        let kept = Arc::new(Levels::default());
        let gate = LogGate::new(kept.clone(), Arc::default());
        let logger = GuestLogger::new(&gate, &Arc::default(), 1);
        lock(&gate.window).start = Instant::now() + Duration::from_secs(3600);
        logger.print(LogLevel::Warn, "db\nfake", "one\r\n\ntwo\n");
        logger.print(LogLevel::Info, &"c".repeat(999), &"é".repeat(LINE_BYTES_MAX));
        logger.print(LogLevel::Trace, "", "");
        let told = std::mem::take(&mut *kept.0.lock().unwrap());
        let lines: Vec<(LogLevel, &str, &str)> =
            told.iter().map(|(level, context, line)| (*level, context.as_str(), line.as_str())).collect();
        let [first, empty, second, long, last] = lines.as_slice() else { panic!("{lines:?}") };
        let warn = |line| (LogLevel::Warn, "db fake", line);
        assert_eq!([first, empty, second], [&warn("one"), &warn(""), &warn("two")]);
        assert_eq!(
            (long.1.len(), long.2.strip_suffix(" …[cut]").map(str::len)),
            (CONTEXT_BYTES_MAX, Some(LINE_BYTES_MAX))
        );
        assert_eq!(*last, (LogLevel::Trace, "", ""));
        let out = GuestLog::new(&gate, &Arc::default(), 1, LogStream::Stdout);
        for _ in 0..LINES_PER_SECOND_MAX {
            out.print(b"printed\n");
            logger.print(LogLevel::Info, "", "logged");
        }
        assert_eq!(kept.0.lock().unwrap().len(), LINES_PER_SECOND_MAX as usize - 5, "one bound for both");
        gate.tell_dropped(Instant::now() + Duration::from_secs(3602));
        assert!(kept.0.lock().unwrap().last().unwrap().2.starts_with("[1005 lines dropped"));
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let kept = Arc::new(Kept::default());
        let tally = Arc::<Tally>::default();
        let gate = LogGate::new(kept.clone(), tally.clone());
        let log = GuestLog::new(&gate, &Arc::default(), 1, LogStream::Stdout);
        // Frozen time: the window cannot end by itself within the loop below on any machine.
        lock(&gate.window).start = Instant::now() + Duration::from_secs(3600);
        for _ in 0..LINES_PER_SECOND_MAX + 7 {
            log.print(b"line\n");
        }
        assert_eq!(kept.0.lock().unwrap().len(), LINES_PER_SECOND_MAX as usize);
        gate.tell_dropped(Instant::now() + Duration::from_secs(3602));
        assert!(kept.0.lock().unwrap().last().unwrap().starts_with("[7 lines dropped"));
        assert_eq!(tally.read().limits, [(Limit::LogLines, 1)].into());
    }
}
