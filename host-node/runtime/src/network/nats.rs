//! What the guests of one replica do through `lattice:nats`: whether it is granted, and how much of it is under way. What is
//! denied is sent nowhere. A text that a guest gets names no server. Streams of JetStream are in `nats_streams.rs`, object stores in
//! `nats_objects.rs`.

use super::{
    Network,
    stores::{NodeRoom, Room},
};
use crate::inherited::Inherited;
use lattice::{
    limits::one_line,
    nats::{Arrival, Bucket, Code, Failure, Feed, Link, Message, Server, Stream},
    objects::Objects,
    spec::{
        BucketGrant, NatsGrants, QueueGroup, StoreName, Subject, SubjectPattern, is_joinable,
        profile::{Breach, CoreOperation, Given, KvOperation, listed},
    },
    trace::{TRACEPARENT, TRACESTATE},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

/// Operations of one replica's guests under way at a time. One more waits.
pub(crate) const OPERATIONS_MAX: u32 = 256;
/// Subscriptions, watches, lists and readers of one replica. One more is refused.
pub(crate) const STREAMS_MAX: u32 = 64;
/// Messages of one subscription that wait for their reader. More are lost.
pub(crate) const WAITING_MAX: u32 = 4096;
/// Bytes of those of all subscriptions of a replica. More are lost.
pub(crate) const WAITING_BYTES_MAX: u32 = 16 << 20;
/// Deliveries that one replica's guests hold. More are not asked for.
pub(crate) const DELIVERIES_MAX: u32 = 1_024;
/// Changes of one watch or list, or messages of one reader, that wait for their reader. The server keeps the rest.
const CHANGES_MAX: usize = 64;
/// Of an operation that says nothing else.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
const HEADERS_MAX: usize = 64;
/// What a message takes beside its payload.
pub(super) const MESSAGE_BYTES: usize = 256;
/// Names of headers that tell the server what to do with a message.
const OF_SERVER: &str = "nats-";
/// These tell the other side that it failed.
const OF_SERVICES: [&str; 2] = ["nats-service-error", "nats-service-error-code"];

/// Of one replica, or of one of its parts with other grants.
pub(crate) struct Nats {
    link: OnceCell<Arc<dyn Link>>,
    buckets: BTreeMap<StoreName, OnceCell<Arc<dyn Bucket>>>,
    pub(super) opened: BTreeMap<StoreName, OnceCell<Arc<dyn Stream>>>,
    pub(super) stores: BTreeMap<StoreName, OnceCell<Arc<dyn Objects>>>,
    turns: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    pub(super) deliveries: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    pub(super) room: Room,
}

impl Nats {
    pub(super) fn new(grants: &NatsGrants, node: &NodeRoom) -> Self {
        let semaphore = |most: u32| Arc::new(Semaphore::new(most as usize));
        Self {
            link: OnceCell::new(),
            buckets: grants.buckets().map(|(name, _)| (name.clone(), OnceCell::new())).collect(),
            opened: grants.streams.keys().map(|name| (name.clone(), OnceCell::new())).collect(),
            stores: grants.objects.keys().map(|name| (name.clone(), OnceCell::new())).collect(),
            turns: semaphore(OPERATIONS_MAX),
            streams: semaphore(STREAMS_MAX),
            deliveries: semaphore(DELIVERIES_MAX),
            waiting: semaphore(WAITING_BYTES_MAX),
            room: node.room(),
        }
    }

    /// For one subscription, watch, list or reader, until it is dropped.
    fn stream(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let text =
                format!("there are {STREAMS_MAX} subscriptions, watches, lists and readers in this replica: drop one");
            Failure::not(Code::QuotaExceeded(STREAMS_MAX), text)
        })
    }
}

/// A bucket as a guest has it.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenBucket {
    pub(crate) name: StoreName,
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) grant: Arc<BucketGrant>,
}

/// Something on its way to its reader, and the room that it takes until then.
pub(crate) struct Waiting<T> {
    pub(crate) item: T,
    _room: Option<[OwnedSemaphorePermit; 2]>,
    _waiting: Option<OwnedSemaphorePermit>,
}

/// What comes to a subscription, as its reader is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Message(Message),
    Lost(u64),
    Interrupted,
}

/// The turn of one operation.
pub(crate) struct Turn {
    pub(super) link: Arc<dyn Link>,
    until: Instant,
    _room: [OwnedSemaphorePermit; 2],
    _turn: OwnedSemaphorePermit,
}

impl Turn {
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Do something within the time that there is. What was not done by then may yet happen.
    pub(crate) async fn run<T>(&self, operation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let done = tokio::time::timeout_at(self.until, operation).await;
        done.unwrap_or_else(|_| Err(Failure::maybe(Code::Timeout, "no answer in time")))
    }
}

impl Network {
    /// Wait for the turn to do something with the server. `bytes`: of what is on its way; `answered`: by a message of any size.
    pub(crate) async fn nats_turn(
        &self,
        within: Option<Duration>,
        (bytes, answered): (usize, bool),
        inherited: &Inherited,
    ) -> Result<Turn, Failure> {
        let within = inherited.left(within.unwrap_or(TIMEOUT));
        let late = || Failure::not(Code::Timeout, "no time was left: nothing was sent");
        if within.is_zero() {
            return Err(late());
        }
        let until = Instant::now() + within;
        let prepare = async {
            let link = self.nats.link.get_or_try_init(|| self.node.nats.link(&self.login)).await?.clone();
            let answer = if answered { link.payload_bytes_max() } else { 0 };
            let ends = || Failure::not(Code::Other, "the replica ends");
            let room = self.nats.room.take(bytes.saturating_add(answer)).await.ok_or_else(ends)?;
            let turn = self.nats.turns.clone().acquire_owned().await.map_err(|_| ends())?;
            Ok(Turn { link, until, _room: room, _turn: turn })
        };
        tokio::time::timeout_at(until, prepare).await.unwrap_or_else(|_| Err(late()))
    }

    pub(crate) async fn nats_publish(&self, message: Message, inherited: &Inherited) -> Result<(), Failure> {
        self.judge_core(CoreOperation::Publish)?;
        let message = self.judge_outgoing(message, inherited)?;
        let turn = self.nats_turn(None, (message.bytes(), false), inherited).await?;
        turn.run(turn.link.publish(message)).await
    }

    pub(crate) async fn nats_flush(&self, within: Duration, inherited: &Inherited) -> Result<(), Failure> {
        self.judge_core(CoreOperation::Flush)?;
        let turn = self.nats_turn(Some(within.min(TIMEOUT)), (0, false), inherited).await;
        let turn = turn.map_err(|failure| Failure::maybe(failure.code, failure.detail))?;
        turn.run(turn.link.flush(turn.left())).await
    }

    pub(crate) async fn nats_request(
        &self,
        message: Message,
        within: Duration,
        inherited: &Inherited,
    ) -> Result<Message, Failure> {
        self.judge_core(CoreOperation::Request)?;
        if message.reply.is_some() {
            let text = "a request has no reply-to: the host sets it";
            return Err(Failure::not(Code::Invalid("message.reply-to".into()), text));
        }
        let message = self.judge_outgoing(message, inherited)?;
        let turn = self.nats_turn(Some(within), (message.bytes(), true), inherited).await?;
        turn.run(turn.link.request(message, turn.left())).await
    }

    pub(crate) async fn nats_server(&self, inherited: &Inherited) -> Result<Server, Failure> {
        Ok(self.nats_turn(None, (0, false), inherited).await?.link.server())
    }

    pub(crate) async fn nats_subscribe(
        &self,
        filter: &str,
        group: Option<String>,
        inherited: &Inherited,
    ) -> Result<mpsc::Receiver<Waiting<Told>>, Failure> {
        self.judge_core(CoreOperation::Subscribe)?;
        let filter = self.judge_filter(filter)?;
        if let Some(group) = &group {
            let invalid = |text: String| Failure::not(Code::Invalid("queue-group".into()), text);
            QueueGroup::try_from(group.clone()).map_err(invalid)?;
            if !is_joinable(group) {
                return Err(Failure::not(Code::Denied, format!("the queue group {group} is one of the lattice's own")));
            }
        }
        let place = self.nats.stream()?;
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let arrivals = turn.run(turn.link.subscribe(filter, group)).await.map_err(Failure::of_read)?;
        let (tell, told) = mpsc::channel(WAITING_MAX as usize);
        tokio::spawn(pass_on(arrivals, self.nats.waiting.clone(), tell, place));
        Ok(told)
    }

    /// What a feed brings, as it is read: who does not read holds up the server alone. `bytes`: of one item.
    pub(crate) async fn nats_feed<T: Send + 'static>(
        &self,
        opening: impl Future<Output = Result<Box<dyn Feed<T>>, Failure>>,
        (bytes, wanted): (fn(&T) -> usize, impl Fn(&T) -> bool + Send + Sync + 'static),
        inherited: &Inherited,
    ) -> Result<mpsc::Receiver<Waiting<T>>, Failure> {
        let place = self.nats.stream()?;
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let mut feed = turn.run(opening).await.map_err(Failure::of_read)?;
        let (tell, told) = mpsc::channel(CHANGES_MAX);
        let room = self.nats.room.clone();
        tokio::spawn(async move {
            let _place = place;
            let pass_on = async {
                while let Some(item) = feed.next().await {
                    if !wanted(&item) {
                        continue;
                    }
                    let room = room.take(bytes(&item) + MESSAGE_BYTES).await;
                    if tell.send(Waiting { item, _room: room, _waiting: None }).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = pass_on => {}
                () = tell.closed() => {}
            }
        });
        Ok(told)
    }

    /// A bucket by the name that it is granted under.
    pub(crate) async fn nats_bucket(&self, name: &str, inherited: &Inherited) -> Result<OpenBucket, Failure> {
        let granted = self.grants.nats.bucket(name);
        let Some((name, grant, cell)) =
            granted.and_then(|(name, grant)| Some((name.clone(), grant, self.nats.buckets.get(&name)?)))
        else {
            let name = one_line(name, 64);
            self.denials.note(|| {
                format!(
                    "the bucket {name:?} was denied; to allow it add to the spec: grants: {{nats: {{buckets: {{{name}: \
                     {{bucket: BUCKET}}}}}}}}"
                )
            });
            return Err(Failure::not(Code::Denied, format!("no grant of this workload names a bucket {name:?}")));
        };
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let open = cell.get_or_try_init(|| turn.link.bucket(&grant.bucket));
        let bucket = turn.run(async { open.await.cloned() }).await.map_err(Failure::of_read)?;
        Ok(OpenBucket { name, bucket, grant: Arc::new(grant.clone()) })
    }

    /// Whether an operation belongs to what the guest has of the bucket.
    pub(crate) fn judge_kv(&self, open: &OpenBucket, operation: KvOperation, given: Given) -> Result<(), Failure> {
        let OpenBucket { name, grant, .. } = open;
        let Err(breach) = grant.judge(operation, given) else { return Ok(()) };
        let operation = operation.as_str();
        let profiles = listed(grant.profiles.iter().map(|profile| profile.as_str()));
        let (code, field, text) = match breach {
            Breach::ReadOnly => (Code::Denied, "access", "it is granted to be read only".to_owned()),
            Breach::NotInProfile => (Code::Denied, "profiles", format!("{profiles} has no such operation")),
            Breach::NoRevision => {
                (Code::Invalid("revision".into()), "profiles", format!("{profiles} asks for a revision"))
            }
            Breach::NoTtl => (Code::Invalid("ttl".into()), "profiles", format!("{profiles} asks for a time to live")),
        };
        self.denials.note(|| {
            format!(
                "{operation} in the bucket {name} was denied: {text} (grants.nats.buckets.{name}.{field} of the spec)"
            )
        });
        Err(Failure::not(code, format!("{operation} in the bucket {name}: {text}")))
    }

    /// Whether an operation belongs to how the guest behaves with core NATS.
    fn judge_core(&self, operation: CoreOperation) -> Result<(), Failure> {
        if self.grants.nats.has(operation) {
            return Ok(());
        }
        let operation = operation.as_str();
        let profiles = listed(self.grants.nats.profiles.iter().map(|profile| profile.as_str()));
        self.denials.note(|| format!("{operation} was denied: grants.nats.profiles of the spec is {profiles}"));
        Err(Failure::not(Code::Denied, format!("{operation}: {profiles} has no such operation")))
    }

    /// A message as it may leave, in the trace that it belongs to. Who may answer is told where to: that, too, must be a subject
    /// on which the guest could publish itself, or it would have others publish there.
    fn judge_outgoing(&self, message: Message, inherited: &Inherited) -> Result<Message, Failure> {
        if !inherited.may_reply_to(&message.subject) {
            self.judge_subject("message.subject", &message.subject)?;
        }
        if let Some(reply) = &message.reply {
            self.judge_subject("message.reply-to", reply)?;
        }
        check_headers(&message.headers)?;
        Ok(in_trace(message, inherited))
    }

    fn judge_subject(&self, argument: &str, text: &str) -> Result<(), Failure> {
        let subject: Subject = text.parse().map_err(|error| not_a_subject(argument, &error))?;
        if self.grants.nats.allow_publish(&subject) {
            return Ok(());
        }
        let subject = one_line(text, 128);
        self.denials.note(|| {
            format!(
                "a message on {subject} was denied; to allow it add to the spec: grants: {{nats: {{publish: [{subject:?}]}}}}"
            )
        });
        Err(Failure::not(Code::Denied, format!("no grant of this workload covers {subject}")))
    }

    fn judge_filter(&self, text: &str) -> Result<String, Failure> {
        let filter: SubjectPattern = text.parse().map_err(|error| not_a_subject("filter", &error))?;
        if self.grants.nats.allow_subscribe(&filter) {
            return Ok(filter.as_str().to_owned());
        }
        let shown = one_line(text, 128);
        if filter.begins_with_wildcard() {
            let text = format!("{shown} begins with a wildcard, and so takes in what is reserved");
            return Err(Failure::not(Code::Denied, text));
        }
        self.denials.note(|| {
            format!(
                "a subscription to {shown} was denied; to allow it add to the spec: grants: {{nats: {{subscribe: \
                 [{shown:?}]}}}}"
            )
        });
        Err(Failure::not(Code::Denied, format!("no grant of this workload covers {shown}")))
    }
}

/// The message in the trace of what is answered, unless it says itself which one it belongs to.
pub(super) fn in_trace(mut message: Message, inherited: &Inherited) -> Message {
    if !message.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(TRACEPARENT.as_str())) {
        message.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(TRACESTATE.as_str()));
        message.headers.extend(inherited.trace_of_message());
    }
    message
}

/// Reserved subjects are denied: there can be no grant of them.
pub(crate) fn not_a_subject(argument: &str, error: &lattice::spec::SubjectError) -> Failure {
    let text = one_line(&error.to_string(), 512);
    match error {
        lattice::spec::SubjectError::Reserved(_) => Failure::not(Code::Denied, text),
        _ => Failure::not(Code::Invalid(argument.to_owned()), text),
    }
}

pub(super) fn check_headers(headers: &[(String, String)]) -> Result<(), Failure> {
    let invalid = |text: String| Err(Failure::not(Code::Invalid("message.headers".into()), text));
    if headers.len() > HEADERS_MAX {
        return invalid(format!("{} lines of headers; at most {HEADERS_MAX} are allowed", headers.len()));
    }
    for (name, value) in headers {
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !is_name || value.contains(['\r', '\n', '\0']) {
            return invalid(format!(
                "{:?} is no name of a header, or its value is more than a line",
                one_line(name, 64)
            ));
        }
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(OF_SERVER) && !OF_SERVICES.contains(&lower.as_str()) {
            return invalid(format!("the header {} is for the server alone", one_line(name, 64)));
        }
    }
    Ok(())
}

/// Bring what arrives to its reader. What comes while there is no room is dropped and counted, and the reader is told in its
/// place: as soon as there is room, before anything else.
async fn pass_on(
    mut arrivals: Box<dyn Feed<Arrival>>,
    waiting: Arc<Semaphore>,
    tell: mpsc::Sender<Waiting<Told>>,
    _place: OwnedSemaphorePermit,
) {
    let mut lost = 0_u64;
    let mut interrupted = false;
    loop {
        let arrival = tokio::select! {
            biased;
            () = tell.closed() => return,
            Ok(permit) = tell.reserve(), if lost > 0 || interrupted => {
                let item = match std::mem::take(&mut lost) {
                    0 => {
                        interrupted = false;
                        Told::Interrupted
                    }
                    lost => Told::Lost(lost),
                };
                permit.send(Waiting { item, _room: None, _waiting: None });
                continue;
            }
            arrival = arrivals.next() => arrival,
        };
        match arrival {
            None => return,
            Some(Arrival::Interrupted) => interrupted = true,
            Some(Arrival::Message(message)) => {
                let bytes = u32::try_from(message.bytes() + message.subject.len() + MESSAGE_BYTES).unwrap_or(u32::MAX);
                let room = waiting.clone().try_acquire_many_owned(bytes).ok();
                match (tell.try_reserve(), room) {
                    (Ok(permit), Some(room)) if lost == 0 && !interrupted => {
                        permit.send(Waiting { item: Told::Message(message), _room: None, _waiting: Some(room) });
                    }
                    _ => lost = lost.saturating_add(1),
                }
            }
        }
        // A subscription that always has something must not keep its thread to itself.
        tokio::task::coop::consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::Fut;

    /// Arrivals as written down, then none for ever.
    struct Coming(mpsc::UnboundedReceiver<Arrival>);

    impl Feed<Arrival> for Coming {
        fn next(&mut self) -> Fut<'_, Option<Arrival>> {
            Box::pin(async { self.0.recv().await })
        }
    }

    fn message(n: usize, bytes: usize) -> Arrival {
        Arrival::Message(Message { subject: n.to_string(), payload: vec![0; bytes].into(), ..Default::default() })
    }

    struct Subscription {
        come: mpsc::UnboundedSender<Arrival>,
        told: mpsc::Receiver<Waiting<Told>>,
        waiting: Arc<Semaphore>,
    }

    fn subscription(messages: usize, bytes: usize) -> Subscription {
        let (come, coming) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::channel(messages);
        let waiting = Arc::new(Semaphore::new(bytes));
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        tokio::spawn(pass_on(Box::new(Coming(coming)), waiting.clone(), tell, place));
        Subscription { come, told, waiting }
    }

    impl Subscription {
        async fn next(&mut self) -> String {
            match self.told.recv().await.unwrap().item {
                Told::Message(message) => message.subject,
                Told::Lost(lost) => format!("lost {lost}"),
                Told::Interrupted => "interrupted".into(),
            }
        }
    }

    async fn settle() {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_lost_is_told_where_it_would_have_been() {
        let mut subscription = subscription(3, 1 << 20);
        for n in 0..10 {
            subscription.come.send(message(n, 1)).unwrap();
        }
        settle().await;
        assert_eq!(subscription.next().await, "0");
        settle().await;
        subscription.come.send(message(10, 1)).unwrap();
        settle().await;
        for expect in ["1", "2", "lost 7"] {
            assert_eq!(subscription.next().await, expect);
        }
        settle().await;
        subscription.come.send(message(11, 1)).unwrap();
        let next = subscription.next().await;
        assert!(next == "lost 1", "what came behind the word of the loss found no room: {next}");
        assert_eq!(subscription.next().await, "11");
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_given_back() {
        let mut subscription = subscription(100, 10_000);
        for n in 0..4 {
            subscription.come.send(message(n, 3_000)).unwrap();
        }
        settle().await;
        for expect in ["0", "1", "2", "lost 1"] {
            assert_eq!(subscription.next().await, expect);
        }
        assert_eq!(subscription.waiting.available_permits(), 10_000, "what was read takes no room");
        subscription.come.send(Arrival::Interrupted).unwrap();
        subscription.come.send(message(4, 1)).unwrap();
        assert_eq!(subscription.next().await, "interrupted");
        assert_eq!(subscription.next().await, "4");
    }

    #[test]
    fn headers_of_the_server_are_not_a_guests_to_write() {
        let line = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for name in ["Nats-Rollup", "nats-msg-id", "NATS-TTL", "Nats-Expected-Stream", "", "a b", "a:b", "ü", "a\n"] {
            assert!(check_headers(&line(name, "x")).is_err(), "{name:?}");
        }
        for name in ["a", "Content-Type", "Nats-Service-Error", "nats-service-error-code", "natsy"] {
            assert!(check_headers(&line(name, "x")).is_ok(), "{name:?}");
        }
        assert!(check_headers(&line("a", "x\r\nNats-Rollup: all")).is_err());
        assert!(check_headers(&vec![("a".to_owned(), "x".to_owned()); HEADERS_MAX + 1]).is_err());
    }
}
