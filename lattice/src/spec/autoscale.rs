//! `autoscale`: how many replicas run follows from what they have to do.

use super::{SpecError, WorkloadSpec};
use crate::{
    limits::{REPLICAS_MAX, clip},
    units::Millis,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Longest window, and longest time without a request before zero.
const WINDOW_MAX: Millis = Millis::from_secs(24 * 3600);
/// Shortest time without a request before zero.
const IDLE_MIN: Millis = Millis::from_secs(1);
const IDLE_DEFAULT: Millis = Millis::from_secs(5 * 60);
/// A thousand cores.
const CPU_PERCENT_MAX: u32 = 100_000;

/// As many replicas as the load asks for, in place of `replicas`. More come at once, fewer only after a while. What is not
/// known (a replica that starts, a node that does not report) never makes it fewer. How it is decided, and what the
/// figures mean, is in `docs/autoscaling.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AutoscaleSpec {
    /// Fewest replicas. With 0, none runs while nobody asks: see `idle`. 0 to `max`, default 1.
    #[serde(default = "super::one")]
    pub min: u32,
    /// Most replicas. 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub max: u32,
    /// What one replica is to carry. Default `{concurrency: 32}`.
    #[serde(default)]
    pub target: ScaleTarget,
    /// For how long more replicas must be wanted, without a break, before there are more. Up to `24h`, default `0s`.
    #[serde(default = "no_time")]
    pub up_after: Millis,
    /// For how long fewer replicas must have been enough, without a break, before there are fewer: the stabilisation
    /// window. Load that comes back within it finds all replicas. Up to `24h`, default `1m`.
    #[serde(default = "minute")]
    pub down_after: Millis,
    /// With `min: 0`: how long there must have been no request, and nothing pending that is a target, before the last replica
    /// goes. The next request then waits until one is there again. `1s` to `24h`, default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Millis>,
}

/// What one replica is to carry. There are as many replicas as it takes for each to carry no more, on average.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScaleTarget {
    /// Requests at a time, those that wait for their turn there included. At least 1.
    Concurrency(u32),
    /// Requests that come in within a second, refused ones too. At least 1.
    Requests(u32),
    /// Requests that wait for their turn there. Those at work count as well, as a full replica for each that they fill: an
    /// empty queue alone says nothing about how many replicas it takes to keep it empty. At least 1.
    Queue(u32),
    /// Processor time of its guests, in percent of one core: 150 is one and a half. 1 to 100000.
    Cpu(u32),
    /// Messages that a durable JetStream consumer has yet to settle.
    Pending(PendingTarget),
}

/// A durable consumer of JetStream, and what of its messages one replica is to have before it. What counts is what was not
/// delivered yet and what was delivered and not settled. With `min: 0` the first such message starts a replica, and while there are
/// any the last one stays. Who takes the messages is not looked at: a replica of this workload, or what it calls. No grant
/// is needed to count them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PendingTarget {
    /// The stream, in the account of the workload's guests.
    pub stream: JetStreamName,
    /// The consumer. One that is not there, or can't be asked for, changes nothing about the number of replicas.
    pub consumer: JetStreamName,
    /// Messages for each replica. At least 1.
    pub each: u32,
}

/// The name of a stream or of a consumer of JetStream: no white space, and none of `.`, `*`, `>`, `/` and `\`, 1 to 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = r"^[^\s.*>/\\]{1,255}$"))]
pub struct JetStreamName(String);

impl JetStreamName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JetStreamName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
        match (1..=255).contains(&text.len()) && !text.contains(is_bad) {
            true => Ok(Self(text)),
            false => Err(format!(
                "{:?} is not the name of a stream or consumer: 1 to 255 bytes without white space and . * > / \\",
                clip(&text, 128)
            )),
        }
    }
}

impl fmt::Display for JetStreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ScaleTarget {
    /// The consumer whose messages count, where it is that.
    pub fn pending(&self) -> Option<&PendingTarget> {
        if let ScaleTarget::Pending(pending) = self { Some(pending) } else { None }
    }
}

impl fmt::Display for ScaleTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScaleTarget::Concurrency(target) => write!(f, "concurrency {target}"),
            ScaleTarget::Requests(target) => write!(f, "requests {target}"),
            ScaleTarget::Queue(target) => write!(f, "queue {target}"),
            ScaleTarget::Cpu(target) => write!(f, "cpu {target} %"),
            ScaleTarget::Pending(PendingTarget { stream, consumer, each }) => {
                write!(f, "pending {each} of {stream}/{consumer}")
            }
        }
    }
}

impl Default for ScaleTarget {
    /// Half of the instances that a replica has at most by default.
    fn default() -> Self {
        ScaleTarget::Concurrency(32)
    }
}

impl AutoscaleSpec {
    /// With the default of everything else.
    pub fn new(min: u32, max: u32) -> Self {
        Self { min, max, target: ScaleTarget::default(), up_after: no_time(), down_after: minute(), idle: None }
    }

    /// The nearest number that is allowed.
    pub fn within(&self, replicas: u32) -> u32 {
        replicas.min(self.max).max(self.min)
    }

    /// Where nothing was decided yet: at least one, so that a workload that was just put is seen to start.
    pub fn first(&self) -> u32 {
        self.within(1)
    }

    /// How long there must have been no request before nothing runs; never, where something always does.
    pub fn idle(&self) -> Option<Duration> {
        (self.min == 0).then(|| self.idle.unwrap_or(IDLE_DEFAULT).into())
    }
}

fn no_time() -> Millis {
    Millis(0)
}

fn minute() -> Millis {
    Millis::from_secs(60)
}

/// What types cannot say.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let Some(autoscale) = &spec.autoscale else { return Ok(()) };
    let refuse = |field: &str, message: String, hint: &str| {
        let field = if field.is_empty() { "autoscale".to_owned() } else { format!("autoscale.{field}") };
        Err(SpecError::new(field, message).hint(hint))
    };
    let AutoscaleSpec { min, max, ref target, up_after, down_after, idle } = *autoscale;
    if spec.placement.daemon {
        return refuse(
            "",
            "can't be had together with placement.daemon: a daemon has one replica on each node".into(),
            "leave out autoscale, or placement.daemon",
        );
    }
    if spec.replicas != 1 {
        let message = format!("can't be had together with autoscale, and {} replicas are asked for", spec.replicas);
        return Err(SpecError::new("replicas", message).hint("leave out replicas, or autoscale"));
    }
    if !(1..=REPLICAS_MAX).contains(&max) {
        return refuse("max", format!("{max} is not between 1 and {REPLICAS_MAX}"), "write autoscale: {max: 10}");
    }
    if min > max {
        return refuse("min", format!("{min} is more than autoscale.max ({max})"), "raise max, or lower min");
    }
    match target {
        ScaleTarget::Concurrency(0) => {
            return refuse(
                "target.concurrency",
                "must be at least 1".into(),
                "write the requests that one replica is to have at a time, such as target: {concurrency: 32}",
            );
        }
        ScaleTarget::Requests(0) => {
            return refuse(
                "target.requests",
                "must be at least 1".into(),
                "write the requests that one replica is to take in a second, such as target: {requests: 100}",
            );
        }
        ScaleTarget::Queue(0) => {
            return refuse(
                "target.queue",
                "must be at least 1".into(),
                "write the requests that are to wait for one replica at most, such as target: {queue: 8}",
            );
        }
        ScaleTarget::Cpu(percent) if !(1..=CPU_PERCENT_MAX).contains(percent) => {
            return refuse(
                "target.cpu",
                format!("{percent} is not between 1 and {CPU_PERCENT_MAX}"),
                "write percent of one core that one replica is to use, such as target: {cpu: 70}",
            );
        }
        ScaleTarget::Pending(PendingTarget { each: 0, .. }) => {
            return refuse(
                "target.pending.each",
                "must be at least 1".into(),
                "write the messages that are to wait for one replica, such as each: 100",
            );
        }
        ScaleTarget::Concurrency(_)
        | ScaleTarget::Requests(_)
        | ScaleTarget::Queue(_)
        | ScaleTarget::Cpu(_)
        | ScaleTarget::Pending(_) => {}
    }
    for (field, window) in [("up-after", up_after), ("down-after", down_after), ("idle", idle.unwrap_or(IDLE_MIN))] {
        if window > WINDOW_MAX {
            return refuse(field, format!("{window} is more than {WINDOW_MAX}"), "write a shorter time, such as 5m");
        }
    }
    match idle {
        Some(_) if min > 0 => refuse(
            "idle",
            format!("has no meaning: with min: {min} there is always a replica"),
            "leave out idle, or write min: 0",
        ),
        Some(idle) if idle < IDLE_MIN => {
            refuse("idle", format!("{idle} is less than {IDLE_MIN}"), "write a longer time, such as 5m")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn parse(rest: &str) -> Result<AutoscaleSpec, SpecError> {
        let yaml = format!("name: w\ncomponents: [{{name: c, source: 'file:c'}}]\n{rest}\n");
        let spec = spec::parse(yaml.as_bytes())?;
        assert_eq!(spec::parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        Ok(spec.autoscale.unwrap())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let spec = parse("autoscale: {max: 8}").unwrap();
        assert_eq!(spec, AutoscaleSpec::new(1, 8));
        assert_eq!((spec.first(), spec.within(0), spec.within(9), spec.idle()), (1, 1, 8, None));
        let to_zero = parse("autoscale: {min: 0, max: 8, target: {concurrency: 5}, up-after: 10s}").unwrap();
        assert_eq!((to_zero.first(), to_zero.within(0)), (1, 0));
        assert_eq!(to_zero.idle(), Some(Duration::from_secs(300)));
        let target =
            |target: &str| parse(&format!("autoscale: {{max: 8, target: {target}}}")).unwrap().target.to_string();
        for (written, shown) in [("{requests: 100}", "requests 100"), ("{queue: 3}", "queue 3")] {
            assert_eq!(target(written), shown);
        }
        assert_eq!(parse("autoscale: {min: 3, max: 8}").unwrap().first(), 3);
        assert_eq!(parse("autoscale: {min: 0, max: 1, idle: 20s}").unwrap().idle(), Some(Duration::from_secs(20)));
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        for (rest, field, message) in [
            ("autoscale: {}", "autoscale", "missing field `max`"),
            ("autoscale: {max: 0}", "autoscale.max", "not between 1 and"),
            ("autoscale: {max: 10001}", "autoscale.max", "not between 1 and"),
            ("autoscale: {min: 3, max: 2}", "autoscale.min", "more than autoscale.max"),
            ("autoscale: {max: 2, target: {concurrency: 0}}", "autoscale.target.concurrency", "at least 1"),
            ("autoscale: {max: 2, target: {queue: 0}}", "autoscale.target.queue", "at least 1"),
            ("autoscale: {max: 2, target: {requests: 0}}", "autoscale.target.requests", "at least 1"),
            ("autoscale: {max: 2, target: {cpu: 0}}", "autoscale.target.cpu", "not between 1 and"),
            (
                "autoscale: {max: 2, target: {pending: {stream: s, consumer: c, each: 0}}}",
                "autoscale.target.pending.each",
                "at least 1",
            ),
            (
                "autoscale: {max: 2, target: {pending: {stream: s.t, consumer: c, each: 1}}}",
                "autoscale.target.pending.stream",
                "is not the name of a stream",
            ),
            ("autoscale: {max: 2, target: {requests: 5, queue: 3}}", "autoscale.target", ""),
            ("autoscale: {max: 2, target: {lag: 3}}", "autoscale.target", "is none of `concurrency`"),
            ("autoscale: {max: 2, idle: 5m}", "autoscale.idle", "always a replica"),
            ("autoscale: {min: 0, max: 2, idle: 10ms}", "autoscale.idle", "less than 1s"),
            ("autoscale: {min: 0, max: 2, idle: 48h}", "autoscale.idle", "more than 24h"),
            ("autoscale: {max: 2, down-after: 48h}", "autoscale.down-after", "more than 24h"),
            ("autoscale: {max: 2, window: 3s}", "autoscale.window", "unknown field"),
            ("autoscale: {max: 2}\nreplicas: 3", "replicas", "autoscale"),
            ("autoscale: {max: 2}\nplacement: {daemon: true}", "autoscale", "placement.daemon"),
        ] {
            let error = parse(rest).expect_err(rest);
            assert_eq!(error.field, field, "{error:?}");
            assert!(error.message.contains(message) && error.hint.is_some(), "{error:?}");
        }
    }
}
