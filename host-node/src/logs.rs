//! Guest output: published line by line, and the last lines of each slot kept for who asks later. Nothing here makes a
//! guest wait: what can't be passed on in time is dropped and counted.

use crate::HostOptions;
use futures_util::StreamExt as _;
use lattice::{
    ctl::{LogLevel, LogLine, LogStream, Reply},
    event::rfc3339,
    host::GuestLines,
    id::{LatticeId, NodeId, SlotId, WorkloadName},
    limits::LOG_LINES_KEPT,
    store::{Message, Platform},
    subject::{self, Topic, WorkloadVerb},
    trace::TraceContext,
};
use lattice_runtime::{LogSink, Logged};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Lines of all guests that wait to be published.
const QUEUE: usize = 4096;
/// Slots whose last lines are kept, those that ran here before included.
const SLOTS_KEPT: usize = 1024;
/// Bytes of the lines kept of one slot, and of all.
const SLOT_BYTES_KEPT: usize = 256 * 1024;
const BYTES_KEPT: usize = 64 * 1024 * 1024;
/// What a line takes in memory besides its text, about.
const LINE_OVERHEAD_BYTES: usize = 256;
/// Bytes of one answer, well within the smallest payload limit that servers ship with.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Logs {
    lattice: LatticeId,
    node: NodeId,
    platform: Platform,
    kept: Mutex<Kept>,
    queue: mpsc::Sender<(SlotId, Arc<LogLine>)>,
    queued: tokio::sync::Mutex<mpsc::Receiver<(SlotId, Arc<LogLine>)>>,
    dropped: AtomicU64,
    /// Who is given each line as well.
    also: Option<Arc<dyn GuestLines>>,
}

impl Logs {
    pub(crate) fn new(options: &HostOptions, platform: &Platform) -> Arc<Self> {
        let (queue, queued) = mpsc::channel(QUEUE);
        Arc::new(Self {
            lattice: options.lattice.clone(),
            node: options.node.clone(),
            platform: platform.clone(),
            kept: Mutex::default(),
            queue,
            queued: tokio::sync::Mutex::new(queued),
            dropped: AtomicU64::new(0),
            also: options.guest_lines.clone(),
        })
    }

    /// Where the output of a slot's guests goes.
    pub(crate) fn sink(self: &Arc<Self>, slot: SlotId) -> Arc<dyn LogSink> {
        Arc::new(Sink { logs: self.clone(), slot })
    }

    /// How many lines of a slot there were so far.
    pub(crate) fn count(&self, slot: &SlotId) -> u64 {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.slots.get(slot).map_or(0, |kept| kept.count)
    }

    /// The last lines of a slot, of those that came after the first `count` ones, oldest first.
    pub(crate) fn last_lines(&self, slot: &SlotId, count: u64, most: usize) -> Vec<Arc<LogLine>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last_of(slot, count, most)
    }

    /// Publish lines, and answer who asks for the last ones. Never returns.
    pub(crate) async fn serve(&self) {
        tokio::join!(self.publish(), self.answer());
    }

    async fn publish(&self) {
        let mut queued = self.queued.lock().await;
        while let Some((slot, line)) = queued.recv().await {
            let message = Message {
                subject: Topic::Log(slot).subject(&self.lattice),
                payload: serde_json::to_vec(&*line).unwrap_or_default().into(),
                ..Default::default()
            };
            if let Err(error) = self.platform.bus.publish(message).await {
                tracing::debug!(%error, "a line of guest output was not published");
            }
            let dropped = self.dropped.swap(0, Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "guests print faster than lines can be published");
            }
        }
        std::future::pending().await
    }

    async fn answer(&self) {
        let subject = subject::ctl_workload_any(&self.lattice, WorkloadVerb::Logs);
        loop {
            match self.platform.bus.subscribe(subject.clone(), None).await {
                Ok(mut requests) => {
                    while let Some(request) = requests.next().await {
                        self.answer_one(request).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "logs are not served; trying again"),
            }
            self.platform.clock.sleep(RETRY).await;
        }
    }

    async fn answer_one(&self, request: Message) {
        let Some(reply) = request.reply.filter(|reply| subject::is_reply_subject(reply)) else { return };
        let Some((_, Topic::Workload(WorkloadVerb::Logs, workload))) = Topic::parse(&request.subject) else { return };
        let lines = self.kept.lock().unwrap_or_else(PoisonError::into_inner).of(&workload);
        let lines = last(&lines, ANSWER_BYTES_MAX);
        if lines.is_empty() {
            return; // who asks collects from all nodes
        }
        let payload = serde_json::to_vec(&Reply::Ok(lines)).unwrap_or_default().into();
        let message = Message { subject: reply, payload, ..Default::default() };
        if let Err(error) = self.platform.bus.publish(message).await {
            tracing::debug!(%error, "logs were not sent");
        }
    }
}

/// The last lines of each slot, within bounds for each and for all.
#[derive(Default)]
struct Kept {
    slots: BTreeMap<SlotId, SlotLines>,
    bytes: usize,
    /// Lines so far: tells which slot was silent for longest.
    written: u64,
}

#[derive(Default)]
struct SlotLines {
    lines: VecDeque<Arc<LogLine>>,
    bytes: usize,
    written: u64,
    /// Lines so far, those that are not kept any more included.
    count: u64,
}

impl Kept {
    fn keep(&mut self, slot: &SlotId, line: Arc<LogLine>) {
        self.written += 1;
        let kept = self.slots.entry(slot.clone()).or_default();
        kept.written = self.written;
        kept.count += 1;
        self.bytes -= kept.bytes;
        kept.bytes += size(&line);
        kept.lines.push_back(line);
        while kept.lines.len() > LOG_LINES_KEPT || kept.bytes > SLOT_BYTES_KEPT {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= size(&oldest);
        }
        self.bytes += kept.bytes;
        while self.slots.len() > SLOTS_KEPT || self.bytes > BYTES_KEPT {
            let silent = self.slots.iter().min_by_key(|(_, kept)| kept.written).map(|(slot, _)| slot.clone());
            let Some(gone) = silent.and_then(|slot| self.slots.remove(&slot)) else { break };
            self.bytes -= gone.bytes;
        }
    }

    fn last_of(&self, slot: &SlotId, count: u64, most: usize) -> Vec<Arc<LogLine>> {
        let Some(kept) = self.slots.get(slot) else { return Vec::new() };
        let new = usize::try_from(kept.count.saturating_sub(count)).unwrap_or(usize::MAX).min(most);
        kept.lines.iter().skip(kept.lines.len().saturating_sub(new)).cloned().collect()
    }

    /// The lines of a workload's replicas. Guests wait for the lock meanwhile, so nothing is copied here.
    fn of(&self, workload: &WorkloadName) -> Vec<Arc<LogLine>> {
        let (first, last) = (SlotId::new(workload.clone(), 0), SlotId::new(workload.clone(), u32::MAX));
        self.slots.range(first..=last).flat_map(|(_, kept)| kept.lines.iter().cloned()).collect()
    }
}

fn size(line: &LogLine) -> usize {
    line.line.len() + line.context.as_ref().map_or(0, String::len) + LINE_OVERHEAD_BYTES
}

/// The last of these lines, oldest first, as many as fit into so many bytes of JSON.
fn last(lines: &[Arc<LogLine>], bytes_max: usize) -> Vec<&LogLine> {
    let mut lines: Vec<&LogLine> = lines.iter().map(Arc::as_ref).collect();
    lines.sort_by(|a, b| a.time.cmp(&b.time));
    let mut bytes = 0;
    let fits = lines.iter().rev().take_while(|line| {
        bytes = json_length(line).saturating_add(bytes + 1);
        bytes <= bytes_max
    });
    let from = lines.len() - fits.count();
    lines.split_off(from)
}

/// Counted, since a character takes between one byte and six.
fn json_length(line: &LogLine) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, line) {
        Ok(()) => count.0,
        Err(_) => usize::MAX, // does not fit
    }
}

struct Sink {
    logs: Arc<Logs>,
    slot: SlotId,
}

impl LogSink for Sink {
    fn line(&self, instance: Option<u64>, stream: lattice_runtime::LogStream, trace: Option<TraceContext>, line: &str) {
        let stream = match stream {
            lattice_runtime::LogStream::Stdout => LogStream::Stdout,
            lattice_runtime::LogStream::Stderr => LogStream::Stderr,
        };
        self.pass_on(self.made(instance, stream, trace, line));
    }

    fn logged(&self, instance: u64, log: Logged<'_>, trace: Option<TraceContext>, line: &str) {
        let Logged { level, context } = log;
        let context = (!context.is_empty()).then(|| context.to_owned());
        let made = self.made(Some(instance), LogStream::Stderr, trace, line);
        self.pass_on(LogLine { level: Some(level), context, ..made });
    }
}

impl Sink {
    fn made(&self, instance: Option<u64>, stream: LogStream, trace: Option<TraceContext>, line: &str) -> LogLine {
        let SlotId { workload, index } = self.slot.clone();
        LogLine {
            workload,
            replica: index,
            node: self.logs.node.clone(),
            instance,
            stream,
            time: rfc3339(self.logs.platform.clock.unix_ms()),
            trace_id: trace.map(|context| format!("{:032x}", context.trace)),
            // What is not recorded has no span of the guest: this one is the client's.
            span_id: trace.filter(|context| context.sampled).map(|context| format!("{:016x}", context.span)),
            level: None,
            context: None,
            line: line.to_owned(),
        }
    }

    fn pass_on(&self, line: LogLine) {
        let line = Arc::new(line);
        let (trace_id, span_id) = (line.trace_id.as_deref(), line.span_id.as_deref());
        let (level, context) = (line.level.map(LogLevel::as_str), line.context.as_deref());
        tracing::debug!(
            target: "guest", slot = %self.slot, instance = line.instance, trace_id, span_id, level, context, "{}", line.line
        );
        if let Some(also) = &self.logs.also {
            also.line(&line);
        }
        self.logs.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(&self.slot, line.clone());
        if self.logs.queue.try_send((self.slot.clone(), line)).is_err() {
            self.logs.dropped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(workload: &str, index: u32) -> SlotId {
        SlotId::new(WorkloadName::new(workload).unwrap(), index)
    }

    fn line(slot: &SlotId, at: u64, text: &str) -> Arc<LogLine> {
        Arc::new(LogLine {
            workload: slot.workload.clone(),
            replica: slot.index,
            node: NodeId::new("n").unwrap(),
            instance: Some(1),
            stream: LogStream::Stdout,
            time: rfc3339(at),
            trace_id: None,
            span_id: None,
            level: None,
            context: None,
            line: text.to_owned(),
        })
    }

    fn texts(lines: &[&LogLine]) -> Vec<String> {
        lines.iter().map(|line| line.line.clone()).collect()
    }

    #[test]
    fn a_slot_keeps_so_many_lines_and_so_many_bytes() {
        let mut kept = Kept::default();
        let (many, long) = (slot("many", 0), slot("long", 0));
        let text = "x".repeat(8 * 1024);
        for at in 0..LOG_LINES_KEPT as u64 + 7 {
            kept.keep(&many, line(&many, at, &at.to_string()));
            kept.keep(&long, line(&long, at, &text));
        }
        let lines = kept.of(&many.workload);
        assert_eq!((lines.len(), lines[0].line.as_str()), (LOG_LINES_KEPT, "7"));
        let of_long = &kept.slots[&long];
        assert!(of_long.bytes <= SLOT_BYTES_KEPT && of_long.bytes + size(&of_long.lines[0]) > SLOT_BYTES_KEPT);
        assert_eq!(kept.bytes, kept.slots.values().flat_map(|kept| &kept.lines).map(|line| size(line)).sum::<usize>());
    }

    #[test]
    fn the_slot_that_was_silent_for_longest_goes_first() {
        let mut kept = Kept::default();
        for index in 0..SLOTS_KEPT as u32 {
            let slot = slot("web", index);
            kept.keep(&slot, line(&slot, 0, "x"));
        }
        let (first, second, new) = (slot("web", 0), slot("web", 1), slot("zzz", 0));
        kept.keep(&first, line(&first, 1, "again"));
        kept.keep(&new, line(&new, 2, "x"));
        assert_eq!(kept.slots.len(), SLOTS_KEPT);
        assert!(kept.slots.contains_key(&first) && !kept.slots.contains_key(&second));

        // A few lines of each fill the memory of all long before the number of slots does.
        let text = "x".repeat(64 * 1024);
        for at in 0..4 * SLOTS_KEPT as u64 {
            let slot = slot("big", (at / 3) as u32);
            kept.keep(&slot, line(&slot, at, &text));
            assert!(kept.bytes <= BYTES_KEPT);
        }
        assert!(kept.slots.len() < SLOTS_KEPT && kept.bytes > BYTES_KEPT - SLOT_BYTES_KEPT);
    }

    #[test]
    fn an_answer_has_the_newest_lines_in_order_and_is_as_long_as_counted() {
        let mut kept = Kept::default();
        for at in [3, 0, 2, 1] {
            let slot = slot("web", at % 2);
            kept.keep(&slot, line(&slot, at.into(), &format!("{at}\u{1}\"é")));
        }
        let other = slot("web2", 0);
        kept.keep(&other, line(&other, 9, "another workload"));
        let lines = kept.of(&slot("web", 0).workload);
        let all = last(&lines, ANSWER_BYTES_MAX);
        let length = serde_json::to_vec(&all).unwrap().len() - 1; // all but a bracket; each line counts its comma
        assert_eq!(texts(&last(&lines, length)), ["0\u{1}\"é", "1\u{1}\"é", "2\u{1}\"é", "3\u{1}\"é"]);
        assert_eq!(texts(&last(&lines, length - 1)), ["1\u{1}\"é", "2\u{1}\"é", "3\u{1}\"é"]);
    }
}
