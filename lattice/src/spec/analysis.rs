//! `rollout.analysis`: the bounds that what is new must keep while it is rolled out.

use super::SpecError;
use crate::units::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// What replicas that run what is new must keep to, from their first request until all of it is rolled out. Beyond a bound
/// the change does not work, as if a replica had failed: `rollout.rollback` says what follows. `docs/rollouts.md` tells
/// the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AnalysisSpec {
    /// Requests that may fail: those answered with a status of 500 or more, and those that got no answer since the component
    /// failed or its time ran out. Default: not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<ErrorRate>,
    /// What 95 of 100 requests may take at most, from when they come to the replica until the head of the response. Default:
    /// not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_p95: Option<Millis>,
    /// The same of 99 of 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_p99: Option<Millis>,
    /// With fewer requests in the window nothing is concluded. Default 100.
    #[serde(default = "requests")]
    #[schemars(range(min = 1))]
    pub min_requests: u32,
    /// How far back requests count, and no further than to the last step. `5s` to `1h`, default `1m`.
    #[serde(default = "minute")]
    pub window: Millis,
}

fn requests() -> u32 {
    100
}

fn minute() -> Millis {
    Millis::from_secs(60)
}

/// Some of all requests, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErrorRate(u32);

impl ErrorRate {
    /// Whether so many of all requests are more than it allows.
    pub fn is_exceeded(self, errors: u64, requests: u64) -> bool {
        u128::from(errors) * 10_000 > u128::from(self.0) * u128::from(requests)
    }
}

impl FromStr for ErrorRate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no percentage; write 1% or 0.5%");
        let number = text.strip_suffix('%').ok_or_else(bad)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 2 {
            return Err(bad());
        }
        let whole: u32 = whole.parse().map_err(|_| bad())?;
        let part: u32 = format!("{part:0<2}").parse().map_err(|_| bad())?;
        let rate = whole.checked_mul(100).and_then(|whole| whole.checked_add(part));
        rate.filter(|rate| *rate < 10_000).map(ErrorRate).ok_or_else(|| format!("{text} is not less than 100%"))
    }
}

impl fmt::Display for ErrorRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl Serialize for ErrorRate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ErrorRate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ErrorRate {
    fn schema_name() -> Cow<'static, str> {
        "ErrorRate".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]{1,2}(\\.[0-9]{1,2})?%$",
            "examples": ["1%", "0.5%"],
        })
    }
}

/// What types cannot say.
pub(super) fn check(analysis: &AnalysisSpec) -> Result<(), SpecError> {
    let AnalysisSpec { max_error_rate, max_p95, max_p99, min_requests, window } = analysis;
    let field = |name: &str| format!("rollout.analysis.{name}");
    if max_error_rate.is_none() && max_p95.is_none() && max_p99.is_none() {
        return Err(SpecError::new("rollout.analysis", "has no bound")
            .hint("write one or more of max-error-rate: 1%, max-p95: 300ms, max-p99: 1s"));
    }
    for (name, bound) in [("max-p95", max_p95), ("max-p99", max_p99)] {
        if bound.is_some_and(|bound| bound.0 == 0) {
            return Err(SpecError::new(field(name), "must be more than zero"));
        }
    }
    if *min_requests == 0 {
        return Err(SpecError::new(field("min-requests"), "must be more than zero"));
    }
    const SHORTEST: Millis = Millis::from_secs(5);
    const LONGEST: Millis = Millis::from_secs(3600);
    if !(SHORTEST..=LONGEST).contains(window) {
        return Err(SpecError::new(field("window"), format!("{window} is not between {SHORTEST} and {LONGEST}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn parse(analysis: &str) -> Result<AnalysisSpec, String> {
        let digest = "0".repeat(64);
        let yaml = format!(
            "name: w\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\nrollout: {{analysis: {{{analysis}}}}}\n"
        );
        let spec = spec::parse(yaml.as_bytes()).map_err(|error| error.field)?;
        let read = serde_json::from_value::<spec::WorkloadSpec>(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(read, spec);
        Ok(spec.rollout.analysis.unwrap())
    }

    #[test]
    fn bounds_are_read_and_those_that_say_nothing_refused() {
        let all = parse("max-error-rate: 0.5%, max-p95: 300ms, max-p99: 1s, min-requests: 20, window: 30s").unwrap();
        let expected = AnalysisSpec {
            max_error_rate: Some(ErrorRate(50)),
            max_p95: Some(Millis(300)),
            max_p99: Some(Millis::from_secs(1)),
            min_requests: 20,
            window: Millis::from_secs(30),
        };
        assert_eq!(all, expected);
        let least = parse("max-p99: 1s").unwrap();
        assert_eq!((least.min_requests, least.window), (100, Millis::from_secs(60)));
        for (bad, field) in [
            ("", "rollout.analysis"),
            ("min-requests: 5", "rollout.analysis"),
            ("max-error-rate: 1", "rollout.analysis.max-error-rate"),
            ("max-error-rate: 100%", "rollout.analysis.max-error-rate"),
            ("max-error-rate: 1.234%", "rollout.analysis.max-error-rate"),
            ("max-error-rate: -1%", "rollout.analysis.max-error-rate"),
            ("max-p95: 0s", "rollout.analysis.max-p95"),
            ("max-p99: 1s, min-requests: 0", "rollout.analysis.min-requests"),
            ("max-p99: 1s, window: 4s", "rollout.analysis.window"),
            ("max-p99: 1s, window: 2h", "rollout.analysis.window"),
            ("max-p50: 1s", "rollout.analysis.max-p50"),
        ] {
            assert_eq!(parse(bad), Err(field.into()), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_exceeded_by_the_first_request_more() {
        for (text, errors, requests, expected) in [
            ("1%", 1, 100, false),
            ("1%", 2, 100, true),
            ("0.5%", 5, 1000, false),
            ("0.5%", 6, 1000, true),
            ("0.25%", 1, 400, false),
            ("0%", 0, 100, false),
            ("0%", 1, 100, true),
            ("0%", 0, 0, false),
            ("99.99%", u64::MAX, u64::MAX, true),
        ] {
            let rate: ErrorRate = text.parse().unwrap();
            assert_eq!(rate.to_string(), text);
            assert_eq!(rate.is_exceeded(errors, requests), expected, "{text} {errors} of {requests}");
        }
    }
}
