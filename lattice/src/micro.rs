//! An instance of a micro service of NATS (ADR-32): under which subjects it is asked, and what it answers. Pure: who listens, and who
//! counts, is no matter here.

mod answer;

pub use answer::{Answer, AnsweredEndpoint};

use crate::{
    id::{LatticeId, SlotId},
    spec::WorkloadSpec,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What an instance is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }

    /// Where all instances of a service are asked for it, or one of them.
    pub fn subject(self, name: &str, id: Option<&str>) -> String {
        let id = id.map_or_else(String::new, |id| format!(".{id}"));
        format!("$SRV.{}.{name}{id}", self.as_str())
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Ping => "io.nats.micro.v1.ping_response",
            Self::Info => "io.nats.micro.v1.info_response",
            Self::Stats => "io.nats.micro.v1.stats_response",
        }
    }
}

/// What an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    /// Unlike that of any other instance. No dots.
    pub id: String,
    version: String,
    description: String,
    metadata: BTreeMap<String, String>,
    /// RFC 3339.
    started: String,
    endpoints: Vec<Endpoint>,
}

/// Where it is asked for what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub name: String,
    pub subject: String,
    pub group: String,
}

/// What became of the requests of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointStats {
    pub requests: u64,
    pub errors: u64,
    /// Empty where there was none.
    pub last_error: String,
    /// Of all together, in nanoseconds.
    pub processing: u64,
}

impl Instance {
    /// One replica, if its workload is a micro service.
    pub fn of(
        (lattice, slot): (&LatticeId, &SlotId),
        spec: &WorkloadSpec,
        (id, started): (String, String),
    ) -> Option<Self> {
        let micro = spec.micro.as_ref()?;
        let endpoints = spec.messages.iter().filter_map(|of| {
            Some(Endpoint {
                name: of.endpoint.as_ref()?.to_string(),
                subject: of.subject.to_string(),
                group: of.group_of(lattice, &spec.name),
            })
        });
        let own = [
            ("lattice", lattice.to_string()),
            ("workload", spec.name.to_string()),
            ("replica", slot.index.to_string()),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value));
        Some(Self {
            name: micro.name.as_ref().map_or_else(|| spec.name.to_string(), ToString::to_string),
            id,
            version: micro.version.to_string(),
            description: micro.description.clone(),
            metadata: micro.metadata.clone().into_iter().chain(own).collect(),
            started,
            endpoints: endpoints.collect(),
        })
    }

    /// What it listens to: all that all services, those of its name, and it alone are asked.
    pub fn subjects(&self) -> [String; 3] {
        let Self { name, id, .. } = self;
        ["$SRV.*".to_owned(), format!("$SRV.*.{name}"), format!("$SRV.*.{name}.{id}")]
    }

    /// What it is asked for on one of these.
    pub fn asked(subject: &str) -> Option<Verb> {
        let verb = subject.split('.').nth(1)?;
        Verb::ALL.into_iter().find(|it| it.as_str() == verb)
    }

    /// What it answers, in JSON. `stats`: one for each endpoint, in their order.
    pub fn answer(&self, verb: Verb, stats: &[EndpointStats]) -> Vec<u8> {
        let Self { name, id, version, description, metadata, started, endpoints } = self;
        let mut answer = Map::new();
        let common = [("name", name), ("id", id), ("version", version)];
        answer.insert("type".into(), verb.kind().into());
        answer.extend(common.map(|(key, value)| (key.to_owned(), value.clone().into())));
        answer.insert("metadata".into(), json!(metadata));
        match verb {
            Verb::Ping => {}
            Verb::Info => {
                answer.insert("description".into(), description.clone().into());
                let endpoints = endpoints.iter().map(|endpoint| {
                    let mut told = told(endpoint);
                    told.insert("metadata".into(), json!({}));
                    Value::from(told)
                });
                answer.insert("endpoints".into(), endpoints.collect());
            }
            Verb::Stats => {
                answer.insert("started".into(), started.clone().into());
                let endpoints = endpoints.iter().zip(stats).map(|(endpoint, stats)| {
                    let EndpointStats { requests, errors, last_error, processing } = stats;
                    let mut told = told(endpoint);
                    let counts = [
                        ("num_requests", *requests),
                        ("num_errors", *errors),
                        ("processing_time", *processing),
                        ("average_processing_time", processing.checked_div(*requests).unwrap_or(0)),
                    ];
                    told.extend(counts.map(|(key, value)| (key.to_owned(), value.into())));
                    told.insert("last_error".into(), last_error.clone().into());
                    Value::from(told)
                });
                answer.insert("endpoints".into(), endpoints.collect());
            }
        }
        Value::from(answer).to_string().into_bytes()
    }
}

fn told(endpoint: &Endpoint) -> Map<String, Value> {
    let Endpoint { name, subject, group } = endpoint;
    [("name", name), ("subject", subject), ("queue_group", group)]
        .map(|(key, value)| (key.to_owned(), value.clone().into()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn instance(micro: &str) -> Option<Instance> {
        let text = format!(
            "name: tasks\ncomponents: [{{name: c, source: 'file:c'}}]\nmessages:\n  - {{subject: 'tasks.*', endpoint: all, group: q}}\n  \
             - {{subject: audit}}\n  - {{subject: more, endpoint: more}}\n{micro}"
        );
        let mut spec = parse(text.as_bytes());
        if micro.is_empty() {
            spec = parse(b"name: tasks\ncomponents: [{name: c, source: 'file:c'}]\n");
        }
        let slot = SlotId::new("tasks".parse().unwrap(), 2);
        let started = "2026-11-23T09:30:00.000Z".to_owned();
        Instance::of((&LatticeId::new("default").unwrap(), &slot), &spec.unwrap(), ("i7".to_owned(), started))
    }

    fn answer(instance: &Instance, verb: Verb, stats: &[EndpointStats]) -> Value {
        serde_json::from_slice(&instance.answer(verb, stats)).unwrap()
    }

    #[test]
    fn it_is_asked_with_all_by_its_name_and_alone() {
        let instance = instance("micro: {name: Jobs, version: 1.2.0}\n").unwrap();
        assert_eq!(instance.subjects(), ["$SRV.*", "$SRV.*.Jobs", "$SRV.*.Jobs.i7"]);
        for (subject, expect) in [
            ("$SRV.PING", Some(Verb::Ping)),
            ("$SRV.INFO.Jobs", Some(Verb::Info)),
            ("$SRV.STATS.Jobs.i7", Some(Verb::Stats)),
            ("$SRV.ping", None),
            ("$SRV.SCHEMA", None),
            ("$SRV", None),
        ] {
            assert_eq!(Instance::asked(subject), expect, "{subject}");
        }
        assert_eq!(self::instance(""), None);
    }

    #[test]
    fn it_says_what_it_is_and_what_became_of_requests() {
        let instance =
            instance("micro: {version: 1.2.0, description: d, metadata: {team: shop, replica: x}}\n").unwrap();
        let metadata = json!({ "team": "shop", "lattice": "default", "workload": "tasks", "replica": "2" });
        let kind = |kind: &str| format!("io.nats.micro.v1.{kind}_response");
        let ping =
            json!({ "type": kind("ping"), "name": "tasks", "id": "i7", "version": "1.2.0", "metadata": metadata });
        assert_eq!(answer(&instance, Verb::Ping, &[]), ping);
        let mut info = ping.clone();
        info["type"] = kind("info").into();
        info["description"] = "d".into();
        info["endpoints"] = json!([
            { "name": "all", "subject": "tasks.*", "queue_group": "q", "metadata": {} },
            { "name": "more", "subject": "more", "queue_group": "lattice-default-tasks", "metadata": {} },
        ]);
        assert_eq!(answer(&instance, Verb::Info, &[]), info);
        let busy = EndpointStats { requests: 3, errors: 1, last_error: "500: no".into(), processing: 10 };
        let stats = answer(&instance, Verb::Stats, &[busy, EndpointStats::default()]);
        assert_eq!((&stats["type"], &stats["started"]), (&json!(kind("stats")), &json!("2026-11-23T09:30:00.000Z")));
        let expect = json!([
            { "name": "all", "subject": "tasks.*", "queue_group": "q", "num_requests": 3, "num_errors": 1,
              "last_error": "500: no", "processing_time": 10, "average_processing_time": 3 },
            { "name": "more", "subject": "more", "queue_group": "lattice-default-tasks", "num_requests": 0, "num_errors": 0,
              "last_error": "", "processing_time": 0, "average_processing_time": 0 },
        ]);
        assert_eq!(stats["endpoints"], expect);
    }
}
