//! Traces: what travels of one with a request (W3C Trace Context, level 1), and the spans that say what became of it.
//! Knows no clock, no chance and no exporter: time, ids and the choice of what is recorded are the [`Recorder`]'s. Where
//! there is none, nothing of this costs more than a look.
//!
//! Start at [`Tracer`]. A span is begun with the headers of a request and ends when it is dropped.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::{borrow::Cow, fmt, sync::Arc};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Attributes of one span; more are left out.
const ATTRIBUTES_MAX: usize = 32;
/// Bytes of one text in a span; the rest is cut off.
const TEXT_BYTES_MAX: usize = 1024;
/// Bytes of a context on the wire, without what later versions append.
const CONTEXT_BYTES: usize = 55;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Not zero.
    pub trace: u128,
    /// Not zero.
    pub span: u64,
    /// Whoever came before records its part, and wants the rest recorded too.
    pub sampled: bool,
}

impl TraceContext {
    /// Of a `traceparent`. None for what is not valid, which is to be replaced.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (context, rest) = value.split_at_checked(CONTEXT_BYTES)?;
        let (version, context) = context.split_at_checked(2)?;
        let (trace, context) = context.strip_prefix(b"-")?.split_at_checked(32)?;
        let (span, context) = context.strip_prefix(b"-")?.split_at_checked(16)?;
        let flags = context.strip_prefix(b"-")?;
        // A later version may append fields.
        let is_whole = rest.is_empty() || version != b"00" && rest.starts_with(b"-");
        if !is_whole || version == b"ff" {
            return None;
        }
        hex(version)?;
        let context = Self { trace: hex(trace)?, span: hex(span)? as u64, sampled: hex(flags)? & 1 == 1 };
        (context.trace != 0 && context.span != 0).then_some(context)
    }

    /// Of a request. None as well where it has two.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut sent = headers.get_all(TRACEPARENT).iter();
        match (sent.next(), sent.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Write it into the headers of a request.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some(value) = self.to_value() {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The value of `traceparent`.
    pub fn to_value(&self) -> Option<HeaderValue> {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (high, low) = ((self.trace >> 64) as u64, self.trace as u64);
        for (from, number) in [(3, high), (19, low), (36, self.span)] {
            if let Some(digits) = text.get_mut(from..from + 16) {
                digits.copy_from_slice(&hex_digits(number));
            }
        }
        if let (true, Some(flags)) = (self.sampled, text.last_mut()) {
            *flags = b'1';
        }
        HeaderValue::from_bytes(&text).ok()
    }
}

fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// All digits of a number. Eight at a time, each in a byte of a word: formatting would cost as much as all else here.
fn hex_digits(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let (high, low) = digits.split_at_mut(8);
    high.copy_from_slice(&hex_word((number >> 32) as u32));
    low.copy_from_slice(&hex_word(number as u32));
    digits
}

fn hex_word(number: u32) -> [u8; 8] {
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte that is to be a letter.
    let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// Which side of an exchange a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Server,
    Client,
    /// Of a message that is sent in its context, and handled by whoever gets it, at some time.
    Producer,
    Internal,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(Cow<'static, str>),
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// A part of a trace that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub context: TraceContext,
    /// None for the first of a trace.
    pub parent: Option<u64>,
    /// The parent is of another process.
    pub parent_is_remote: bool,
    pub kind: SpanKind,
    pub name: Cow<'static, str>,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    /// Keys are the semantic conventions' of OpenTelemetry, or begin with `lattice.`.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed: a word of a closed set, as in `error.type`.
    pub error: Option<Cow<'static, str>>,
}

/// Takes what is recorded. Called on the way of requests, so it must not wait, and what it can't take it drops and counts.
pub trait Recorder: fmt::Debug + Send + Sync + 'static {
    /// Whether the spans of a trace are recorded. The same for the same question. `parent` tells whether those before are;
    /// none for a trace that begins here.
    fn records(&self, trace: u128, parent: Option<bool>) -> bool;
    /// Not zero, and no other span's.
    fn span_id(&self) -> u64;
    /// Nanoseconds since 1970, for spans: those of one process are in order.
    fn now(&self) -> u64;
    fn record(&self, span: Span);
}

/// Begins spans, where somebody records them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<dyn Recorder>>);

impl Tracer {
    pub fn new(recorder: Arc<dyn Recorder>) -> Self {
        Self(Some(recorder))
    }

    /// Something may be recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of what comes from outside with this context, if it is to be recorded.
    pub fn enter(&self, from: TraceContext, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Option<OpenSpan> {
        let recorder = self.0.as_ref()?;
        if !recorder.records(from.trace, Some(from.sampled)) {
            return None;
        }
        Some(OpenSpan::new(recorder, from.trace, Some(from.span), true, kind, name.into()))
    }

    /// The first span of a new trace, if it is to be recorded.
    pub fn begin(&self, trace: u128, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Option<OpenSpan> {
        let recorder = self.0.as_ref()?;
        recorder.records(trace, None).then(|| OpenSpan::new(recorder, trace, None, false, kind, name.into()))
    }

    /// A span within what the request with these headers is a part of, if that is recorded.
    pub fn within(&self, headers: &HeaderMap, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Option<OpenSpan> {
        self.0.as_ref()?;
        self.under(headers.get(TRACEPARENT)?, kind, name)
    }

    /// The same of what has this `traceparent`.
    pub fn under(
        &self,
        traceparent: &HeaderValue,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Option<OpenSpan> {
        let recorder = self.0.as_ref()?;
        let value = traceparent.as_bytes();
        // Most are not, and that shows in one digit.
        if value.get(CONTEXT_BYTES - 1).is_none_or(|flags| flags & 1 == 0) {
            return None;
        }
        let parent = TraceContext::parse(value).filter(|parent| parent.sampled)?;
        let records = recorder.records(parent.trace, Some(true));
        records.then(|| OpenSpan::new(recorder, parent.trace, Some(parent.span), false, kind, name.into()))
    }
}

/// A span under way. It ends when it is dropped.
pub struct OpenSpan(Box<Open>);

struct Open {
    recorder: Arc<dyn Recorder>,
    span: Span,
}

impl OpenSpan {
    fn new(
        recorder: &Arc<dyn Recorder>,
        trace: u128,
        parent: Option<u64>,
        parent_is_remote: bool,
        kind: SpanKind,
        name: Cow<'static, str>,
    ) -> Self {
        let context = TraceContext { trace, span: recorder.span_id(), sampled: true };
        let start = recorder.now();
        let attributes = Vec::with_capacity(16);
        let span = Span { context, parent, parent_is_remote, kind, name, start, end: start, attributes, error: None };
        Self(Box::new(Open { recorder: recorder.clone(), span }))
    }

    pub fn context(&self) -> TraceContext {
        self.0.span.context
    }

    /// What is sent with these headers is a part of this span.
    pub fn inject(&self, headers: &mut HeaderMap) {
        self.context().inject(headers);
    }

    pub fn name(&self) -> &str {
        &self.0.span.name
    }

    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        self.0.span.name = cut(name.into());
    }

    /// In the place of what was there under this key.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let attributes = &mut self.0.span.attributes;
        if let Some((_, known)) = attributes.iter_mut().find(|(known, _)| *known == key) {
            *known = value.into();
        } else if attributes.len() < ATTRIBUTES_MAX {
            attributes.push((key, value.into()));
        }
    }

    /// It did not come to what was asked for. The first reason stays.
    pub fn fail(&mut self, error: impl Into<Cow<'static, str>>) {
        self.0.span.error.get_or_insert_with(|| cut(error.into()));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Span { context, parent, parent_is_remote, kind, start, .. } = self.span;
        let name = std::mem::take(&mut self.span.name);
        let attributes = std::mem::take(&mut self.span.attributes);
        let error = self.span.error.take();
        let end = self.recorder.now().max(start);
        let span = Span { context, parent, parent_is_remote, kind, name, start, end, attributes, error };
        self.recorder.record(span);
    }
}

impl fmt::Debug for OpenSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.span.fmt(f)
    }
}

/// Texts are often a client's.
fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    Cow::Owned(text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned())
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value::Text(Cow::Borrowed(text))
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(cut(text.into()))
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}
impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Value::Int(number.into())
    }
}
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}
impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Float(number)
    }
}
impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Bool(truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    #[derive(Debug, Default)]
    struct Kept {
        spans: Mutex<Vec<Span>>,
        ids: AtomicU64,
    }

    impl Recorder for Kept {
        /// Odd traces, and those that somebody else records.
        fn records(&self, trace: u128, parent: Option<bool>) -> bool {
            parent.unwrap_or(trace % 2 == 1)
        }
        fn span_id(&self) -> u64 {
            self.ids.fetch_add(1, Relaxed) + 1
        }
        fn now(&self) -> u64 {
            self.ids.load(Relaxed) * 1000
        }
        fn record(&self, span: Span) {
            self.spans.lock().unwrap().push(span);
        }
    }

    #[test]
    fn contexts_are_read_as_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (value, is_valid) in [
            (good, true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false),
            ("", false),
        ] {
            let context = TraceContext::parse(value.as_bytes());
            assert_eq!(context.is_some(), is_valid, "{value}");
            if let Some(context) = context.filter(|_| value.starts_with("00")) {
                let mut headers = HeaderMap::new();
                context.inject(&mut headers);
                assert_eq!(headers[TRACEPARENT], value);
                assert_eq!(context.sampled, value.ends_with('1'));
            }
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, HeaderValue::from_static(good));
        assert!(TraceContext::of(&twice).is_some());
        twice.append(TRACEPARENT, HeaderValue::from_static(good));
        assert_eq!(TraceContext::of(&twice), None);
    }

    #[test]
    fn spans_of_a_request_are_one_trace() {
        let kept = Arc::new(Kept::default());
        let tracer = Tracer::new(kept.clone());
        let mut headers = HeaderMap::new();
        assert!(tracer.within(&headers, SpanKind::Internal, "x").is_none(), "there is no context");
        assert!(tracer.begin(2, SpanKind::Server, "x").is_none(), "it is not recorded");

        let mut root = tracer.begin(7, SpanKind::Server, "root").unwrap();
        root.inject(&mut headers);
        let mut child = tracer.within(&headers, SpanKind::Client, "child").unwrap();
        child.inject(&mut headers);
        let from_outside = tracer.enter(TraceContext::of(&headers).unwrap(), SpanKind::Server, "peer").unwrap();
        drop(from_outside);
        child.fail("timeout");
        child.fail("another");
        child.set("long", "é".repeat(TEXT_BYTES_MAX));
        drop(child);
        for key in "a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N".split(' ') {
            root.set(key, false);
            root.set(key, true);
        }
        drop(root);

        let spans = kept.spans.lock().unwrap();
        let told: Vec<_> = spans.iter().map(|span| (&*span.name, span.context.span, span.parent)).collect();
        assert_eq!(told, [("peer", 3, Some(2)), ("child", 2, Some(1)), ("root", 1, None)]);
        assert!(spans.iter().all(|span| span.context.trace == 7 && span.end >= span.start));
        assert_eq!(spans[1].error.as_deref(), Some("timeout"));
        assert_eq!(spans[1].attributes, [("long", Value::from("é".repeat(TEXT_BYTES_MAX / 2)))]);
        assert_eq!(spans[2].attributes.len(), ATTRIBUTES_MAX);
        assert!(spans[2].attributes.iter().all(|(_, value)| *value == Value::Bool(true)));
    }

    #[test]
    fn what_is_not_sampled_costs_nothing() {
        let kept = Arc::new(Kept::default());
        let tracer = Tracer::new(kept.clone());
        let mut headers = HeaderMap::new();
        TraceContext { trace: 7, span: 7, sampled: false }.inject(&mut headers);
        assert!(tracer.within(&headers, SpanKind::Internal, "x").is_none());
        assert!(tracer.enter(TraceContext::of(&headers).unwrap(), SpanKind::Server, "x").is_none());
        assert!(Tracer::default().begin(7, SpanKind::Server, "x").is_none());
        assert_eq!(kept.ids.load(Relaxed), 0);
    }
}
