//! `probes`: how a node finds out whether a replica can take requests, and whether it is alive.

use super::{FunctionName, HostPattern, RequestPath, SpecError, WorkloadSpec, is_default};
use crate::{id::ComponentName, units::Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Between two probes, at least. Each is work for the guest.
const EVERY_MIN: Millis = Millis(100);
const EVERY_MAX: Millis = Millis::from_secs(3600);
const TIMEOUT_MAX: Millis = Millis::from_secs(300);
const DELAY_MAX: Millis = Millis::from_secs(3600);
const COUNT_MAX: u32 = 100;

/// What a node asks a replica once in a while. It asks by itself, beside the requests of clients: no listener, route,
/// queue or metric of theirs is involved. `docs/health.md` says what follows from which answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ProbesSpec {
    /// Whether the replica can take requests. It counts as ready, and gets any, only when this passes, and no longer when
    /// it fails; nothing is started again for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ProbeSpec>,
    /// Whether the replica is alive. One that fails this is started again as a whole: it takes no new requests, those under
    /// way have the time of a drain, and a new one comes up after a delay that grows with each failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<ProbeSpec>,
}

/// How one question is asked, and how often its answer must be the same before it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ProbeSpec {
    /// Path, perhaps with a query, of a `GET` to the component that answers HTTP: `/healthz`. Its host is that of the first
    /// route without a wildcard, or else the workload's name. A status of 2xx or 3xx passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/healthz")]
    pub http: Option<RequestPath>,
    /// In place of `http`: an exported function that is called, `acme:shop/health#ready`. It takes no parameters, and answers
    /// with a `bool` or with a `result` that has nothing in it but perhaps a `string` for the error. True and ok pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// With `function`: the name of the service that exports it. Default: the component that answers requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<ComponentName>,
    /// Between the end of one probe and the next. `100ms` to `1h`, default `5s`. Until a replica is ready for the first
    /// time it is asked more often, where that is longer than a moment.
    #[serde(default = "every", skip_serializing_if = "is_every")]
    pub every: Millis,
    /// Longest time until the whole answer. Up to `5m`, default `1s`.
    #[serde(default = "timeout", skip_serializing_if = "is_timeout")]
    pub timeout: Millis,
    /// Failures in a row after which it fails. 1 to 100, default 3.
    #[serde(default = "three", skip_serializing_if = "is_three")]
    #[schemars(range(min = 1, max = 100))]
    pub failures: u32,
    /// Passes in a row after which it passes. 1 to 100, default 1; for `live` always 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 100))]
    pub successes: u32,
    /// Time from the start of the replica to its first probe. Up to `1h`, default `0ms`.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub delay: Millis,
}

fn every() -> Millis {
    Millis::from_secs(5)
}
fn is_every(value: &Millis) -> bool {
    *value == every()
}
fn timeout() -> Millis {
    Millis::from_secs(1)
}
fn is_timeout(value: &Millis) -> bool {
    *value == timeout()
}
fn three() -> u32 {
    3
}
fn is_three(value: &u32) -> bool {
    *value == three()
}
fn one() -> u32 {
    1
}
fn is_one(value: &u32) -> bool {
    *value == one()
}
fn none() -> Millis {
    Millis(0)
}
fn is_none(value: &Millis) -> bool {
    *value == none()
}

impl ProbeSpec {
    /// With the default of everything else.
    pub fn new(http: RequestPath) -> Self {
        let http = Some(http);
        let (every, timeout, failures, successes, delay) = (every(), timeout(), three(), one(), none());
        Self { http, function: None, of: None, every, timeout, failures, successes, delay }
    }

    /// What it asks. Nothing of a spec that was not admitted.
    pub fn asks(&self) -> Option<Asks<'_>> {
        match (&self.http, &self.function) {
            (Some(path), None) => Some(Asks::Http(path)),
            (None, Some(function)) => Some(Asks::Function { function, of: self.of.as_ref() }),
            _ => None,
        }
    }
}

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks<'a> {
    /// A `GET`.
    Http(&'a RequestPath),
    /// A call; of a service, where one is named.
    Function { function: &'a FunctionName, of: Option<&'a ComponentName> },
}

impl fmt::Display for Asks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asks::Http(path) => write!(f, "GET {path}"),
            Asks::Function { function, of: None } => write!(f, "{function}"),
            Asks::Function { function, of: Some(of) } => write!(f, "{function} of {of}"),
        }
    }
}

impl ProbesSpec {
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }

    fn asks(&self) -> impl Iterator<Item = Asks<'_>> {
        [&self.ready, &self.live].into_iter().flatten().filter_map(ProbeSpec::asks)
    }

    /// Whether something is asked over HTTP.
    pub fn ask_http(&self) -> bool {
        self.asks().any(|asks| matches!(asks, Asks::Http(_)))
    }

    /// The functions that are called of a service, or of what answers requests.
    pub fn functions(&self, of: Option<&ComponentName>) -> impl Iterator<Item = &FunctionName> {
        self.asks().filter_map(move |asks| match asks {
            Asks::Function { function, of: it } if it == of => Some(function),
            _ => None,
        })
    }

    pub(super) fn call_functions(&self) -> bool {
        self.asks().any(|asks| matches!(asks, Asks::Function { .. }))
    }
}

impl WorkloadSpec {
    /// The host that probes ask for.
    pub fn probe_host(&self) -> &str {
        let exact = self.http.routes.iter().find_map(|route| match &route.host {
            HostPattern::Exact(host) => Some(host.as_str()),
            HostPattern::Any | HostPattern::Under(_) => None,
        });
        exact.unwrap_or(self.name.as_str())
    }
}

pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let ProbesSpec { ready, live } = &spec.probes;
    for (name, probe) in [("ready", ready), ("live", live)] {
        let Some(probe) = probe else { continue };
        let field = |field: &str| format!("probes.{name}.{field}");
        match (&probe.http, &probe.function, &probe.of) {
            (Some(_), None, None) | (None, Some(_), None) => {}
            (Some(_), Some(_), _) => {
                return Err(SpecError::new(field("function"), "a probe asks one thing: `http` is written as well")
                    .hint("leave one of both out"));
            }
            (None, None, _) => {
                return Err(SpecError::new(format!("probes.{name}"), "it says nothing of what is asked")
                    .hint("write {http: /healthz}, or {function: 'acme:shop/health#ready'}"));
            }
            (Some(_), None, Some(_)) => {
                return Err(SpecError::new(field("of"), "what answers over HTTP is no service")
                    .hint("leave it out, or ask the service by `function`"));
            }
            (None, Some(_), Some(of)) if !spec.services.iter().any(|service| service.name == *of) => {
                return Err(SpecError::new(field("of"), format!("no service is named {of}"))
                    .hint("name one of `services`; without `of` the component that answers requests is asked"));
            }
            (None, Some(_), Some(_)) => {}
        }
        let times = [
            ("every", probe.every, EVERY_MIN, EVERY_MAX),
            ("timeout", probe.timeout, Millis(1), TIMEOUT_MAX),
            ("delay", probe.delay, Millis(0), DELAY_MAX),
        ];
        for (what, time, least, most) in times {
            if time < least || time > most {
                return Err(SpecError::new(field(what), format!("{time} is not between {least} and {most}")));
            }
        }
        for (what, count) in [("failures", probe.failures), ("successes", probe.successes)] {
            if !(1..=COUNT_MAX).contains(&count) {
                return Err(SpecError::new(field(what), format!("{count} is not between 1 and {COUNT_MAX}")));
            }
        }
        if name == "live" && probe.successes != 1 {
            return Err(SpecError::new(field("successes"), "one answer shows that a replica is alive")
                .hint("leave it out; `probes.ready.successes` says when a replica may take requests again"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(probes: &str) -> Result<WorkloadSpec, (String, String)> {
        let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nprobes: {probes}\n");
        crate::spec::parse(text.as_bytes()).map_err(|error| (error.field, error.message))
    }

    #[test]
    fn a_probe_is_a_path_and_the_rest_has_defaults() {
        let spec = parse("{ready: {http: /healthz}}").unwrap();
        let probe = spec.probes.ready.clone().unwrap();
        assert_eq!(probe, ProbeSpec::new("/healthz".parse().unwrap()));
        assert_eq!(spec.probes.live, None);
        let value = serde_json::to_value(&spec.probes).unwrap();
        assert_eq!(value, serde_json::json!({"ready": {"http": "/healthz"}}));
        assert_eq!(spec.schema(), 4);
        let all = "{live: {http: '/live?deep=1', every: 1s, timeout: 200ms, failures: 5, delay: 10s}}";
        let live = parse(all).unwrap().probes.live.unwrap();
        assert_eq!((live.every, live.timeout, live.failures), (Millis(1_000), Millis(200), 5));
        let without = parse("{}").unwrap();
        assert_eq!((without.probes.is_empty(), without.schema()), (true, 1));
    }

    #[test]
    fn a_function_may_be_asked_in_place_of_a_path() {
        let pool = "name: a\ncomponents: [{name: a, source: 'file:a'}]\nservices: [{name: pool, source: 'file:p'}]\n";
        let parse = |probes: &str| {
            let spec = crate::spec::parse(format!("{pool}probes: {probes}\n").as_bytes());
            spec.map_err(|error| error.field)
        };
        let spec = parse("{ready: {function: 'a:b/c#ready'}, live: {function: alive, of: pool}}").unwrap();
        assert_eq!((spec.schema(), spec.probes.ask_http()), (7, false));
        let pool = "pool".parse().unwrap();
        let names = |of| spec.probes.functions(of).map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((names(None), names(Some(&pool))), (vec!["a:b/c#ready".into()], vec!["alive".into()]));
        let told =
            [&spec.probes.ready, &spec.probes.live].map(|probe| probe.as_ref().unwrap().asks().unwrap().to_string());
        assert_eq!(told, ["a:b/c#ready", "alive of pool"]);
        for (probes, field) in [
            ("{ready: {function: ''}}", "probes.ready.function"),
            ("{ready: {function: x, http: /}}", "probes.ready.function"),
            ("{live: {http: /, of: pool}}", "probes.live.of"),
            ("{live: {function: x, of: a}}", "probes.live.of"),
            ("{live: {of: pool}}", "probes.live"),
        ] {
            assert_eq!(parse(probes).err().as_deref(), Some(field), "{probes}");
        }
    }

    #[test]
    fn hints_speak_of_probes() {
        let hint = |probes: &str| {
            let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nprobes: {probes}\n");
            crate::spec::parse(text.as_bytes()).unwrap_err().hint.unwrap()
        };
        assert!(hint("{ready: /healthz}").contains("`function`, `http`"));
        assert_eq!(hint("{ready: {every: 5s}}"), "write {http: /healthz}, or {function: 'acme:shop/health#ready'}");
        assert!(hint("{ready: {http: /, every: 99ms}}").starts_with("Between the end of one probe and the next."));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (probes, field) in [
            ("{ready: {}}", "probes.ready"),
            ("{ready: {http: healthz}}", "probes.ready.http"),
            ("{ready: {http: /, every: 99ms}}", "probes.ready.every"),
            ("{ready: {http: /, every: 2h}}", "probes.ready.every"),
            ("{live: {http: /, timeout: 0ms}}", "probes.live.timeout"),
            ("{live: {http: /, timeout: 6m}}", "probes.live.timeout"),
            ("{live: {http: /, delay: 2h}}", "probes.live.delay"),
            ("{live: {http: /, failures: 0}}", "probes.live.failures"),
            ("{ready: {http: /, successes: 101}}", "probes.ready.successes"),
            ("{live: {http: /, successes: 2}}", "probes.live.successes"),
            ("{live: {call: is-alive}}", "probes.live.call"),
            ("{startup: {http: /}}", "probes.startup"),
        ] {
            assert_eq!(parse(probes).map_err(|(field, _)| field).err().as_deref(), Some(field), "{probes}");
        }
    }

    #[test]
    fn the_host_is_one_that_a_route_takes() {
        let host = |routes: &str| {
            let text = format!("name: shop\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: {routes}}}\n");
            crate::spec::parse(text.as_bytes()).unwrap().probe_host().to_owned()
        };
        assert_eq!(host("[{host: '*.example.org'}, {host: shop.example.org}]"), "shop.example.org");
        assert_eq!(host("[{host: '*'}]"), "shop");
        assert_eq!(host("[]"), "shop");
    }
}
