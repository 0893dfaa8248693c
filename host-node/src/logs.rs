//! Guest output: published line by line, and the last lines of each slot kept for who asks later. Nothing here makes a
//! guest wait: what can't be passed on in time is dropped and counted.

use crate::HostOptions;
use futures_util::StreamExt as _;
use lattice::{
    ctl::{LogLine, LogStream, Reply},
    event::rfc3339,
    id::{LatticeId, NodeId, SlotId, WorkloadName},
    limits::LOG_LINES_KEPT,
    store::{Message, Platform},
    subject::{self, Topic, WorkloadVerb},
};
use lattice_runtime::LogSink;
use std::{
    collections::{BTreeMap, VecDeque},
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
/// Bytes of one answer, well within the smallest payload limit that servers ship with.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Logs {
    lattice: LatticeId,
    node: NodeId,
    platform: Platform,
    kept: Mutex<BTreeMap<SlotId, VecDeque<LogLine>>>,
    queue: mpsc::Sender<(SlotId, LogLine)>,
    queued: tokio::sync::Mutex<mpsc::Receiver<(SlotId, LogLine)>>,
    dropped: AtomicU64,
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
        })
    }

    /// Where the output of a slot's guests goes.
    pub(crate) fn sink(self: &Arc<Self>, slot: SlotId) -> Arc<dyn LogSink> {
        Arc::new(Sink { logs: self.clone(), slot })
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
                payload: serde_json::to_vec(&line).unwrap_or_default().into(),
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
        let lines = self.last(&workload);
        if lines.is_empty() {
            return; // who asks collects from all nodes
        }
        let payload = serde_json::to_vec(&Reply::Ok(lines)).unwrap_or_default().into();
        let message = Message { subject: reply, payload, ..Default::default() };
        if let Err(error) = self.platform.bus.publish(message).await {
            tracing::debug!(%error, "logs were not sent");
        }
    }

    /// The last lines of a workload's replicas here, oldest first, as many as fit an answer.
    fn last(&self, workload: &WorkloadName) -> Vec<LogLine> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let first = SlotId::new(workload.clone(), 0);
        let last = SlotId::new(workload.clone(), u32::MAX);
        let mut lines: Vec<LogLine> = kept.range(first..=last).flat_map(|(_, lines)| lines.iter().cloned()).collect();
        drop(kept);
        lines.sort_by(|a, b| a.time.cmp(&b.time));
        let mut bytes = 0;
        let fits = lines.iter().rev().take_while(|line| {
            bytes += 2 * line.line.len() + 256; // JSON may escape each character
            bytes <= ANSWER_BYTES_MAX
        });
        let from = lines.len() - fits.count();
        lines.split_off(from)
    }

    fn keep(&self, slot: &SlotId, line: &LogLine) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= SLOTS_KEPT && !kept.contains_key(slot) {
            kept.pop_first();
        }
        let lines = kept.entry(slot.clone()).or_default();
        if lines.len() >= LOG_LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line.clone());
    }
}

struct Sink {
    logs: Arc<Logs>,
    slot: SlotId,
}

impl LogSink for Sink {
    fn line(&self, stream: lattice_runtime::LogStream, line: &str) {
        let SlotId { workload, index } = self.slot.clone();
        let line = LogLine {
            workload,
            replica: index,
            node: self.logs.node.clone(),
            stream: match stream {
                lattice_runtime::LogStream::Stdout => LogStream::Stdout,
                lattice_runtime::LogStream::Stderr => LogStream::Stderr,
            },
            time: rfc3339(self.logs.platform.clock.unix_ms()),
            line: line.to_owned(),
        };
        tracing::debug!(target: "guest", slot = %self.slot, "{}", line.line);
        self.logs.keep(&self.slot, &line);
        if self.logs.queue.try_send((self.slot.clone(), line)).is_err() {
            self.logs.dropped.fetch_add(1, Relaxed);
        }
    }
}
