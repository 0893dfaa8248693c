//! Every subject of the lattice. What is not here is not published or subscribed.
//!
//! | subject | kind | payload |
//! |---|---|---|
//! | `lattice.{L}.ctl.workload.put` | request, queue | a spec, YAML or JSON |
//! | `lattice.{L}.ctl.workload.{get,status,history,delete,rollback,rollout,scale,explain}.{W}` | request, queue | see [`crate::ctl`] |
//! | `lattice.{L}.ctl.workload.list`, `….schema` (or `ctl.schema`) | request, queue | empty |
//! | `lattice.{L}.ctl.workload.logs.{W}` | request, every node answers | empty |
//! | `lattice.{L}.ctl.node.list`, `….node.{get,cordon,uncordon,undrain}.{N}` | request, queue | empty |
//! | `lattice.{L}.ctl.node.drain.{N}` | request, queue | [`crate::ctl::DrainRequest`] |
//! | `lattice.{L}.ctl.rebalance.{start,get,cancel}` | request, queue | see [`crate::ctl`] |
//! | `lattice.{L}.ctl.route.list` | request, queue | empty |
//! | `lattice.{L}.ctl.config.{put,get,delete}.{C}`, `lattice.{L}.ctl.config.list` | request, queue | see [`crate::ctl`] |
//! | `lattice.{L}.ctl.secret.{put,delete}.{C}`, `lattice.{L}.ctl.secret.list` | request, queue | a value; see [`crate::ctl`] |
//! | `lattice.{L}.http.{N}` | request, framed | [`crate::frame`] |
//! | `lattice.{L}.held.{N}` | request | [`crate::held::Held`] |
//! | `lattice.{L}.state.>`, `lattice.{L}.specs.>` | republished by the server | records |
//! | `lattice.{L}.evt.{kind}` | publish, stream | [`crate::event::CloudEvent`] |
//! | `lattice.{L}.report.{N}` | publish | [`crate::report::NodeReport`] |
//! | `lattice.{L}.log.{W}.{i}` | publish | [`crate::ctl::LogLine`] |
//!
//! Ids have no dots, wildcards or spaces, so joining them can't change a subject's shape.

use crate::{
    event::EventKind,
    id::{ConfigName, LatticeId, NodeId, SlotId, WorkloadName},
    store::Bucket,
};

/// Queue group of the control interface: any node answers.
pub const CTL_QUEUE: &str = "lattice-ctl";
/// Name of the micro service that every node is an instance of.
pub const CTL_SERVICE: &str = "lattice-ctl";

/// An operation on one workload that its subject names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadVerb {
    Get,
    Status,
    History,
    Delete,
    Rollback,
    Rollout,
    Scale,
    Logs,
    Explain,
}

impl WorkloadVerb {
    pub const ALL: [WorkloadVerb; 9] = [
        WorkloadVerb::Get,
        WorkloadVerb::Status,
        WorkloadVerb::History,
        WorkloadVerb::Delete,
        WorkloadVerb::Rollback,
        WorkloadVerb::Rollout,
        WorkloadVerb::Scale,
        WorkloadVerb::Logs,
        WorkloadVerb::Explain,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            WorkloadVerb::Get => "get",
            WorkloadVerb::Status => "status",
            WorkloadVerb::History => "history",
            WorkloadVerb::Delete => "delete",
            WorkloadVerb::Rollback => "rollback",
            WorkloadVerb::Rollout => "rollout",
            WorkloadVerb::Scale => "scale",
            WorkloadVerb::Logs => "logs",
            WorkloadVerb::Explain => "explain",
        }
    }
}

/// An operation on one piece of configuration that its subject names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigVerb {
    Put,
    Get,
    Delete,
}

impl ConfigVerb {
    pub const ALL: [ConfigVerb; 3] = [ConfigVerb::Put, ConfigVerb::Get, ConfigVerb::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            ConfigVerb::Put => "put",
            ConfigVerb::Get => "get",
            ConfigVerb::Delete => "delete",
        }
    }
}

/// An operation on one secret that its subject names. None answers with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretVerb {
    Put,
    Delete,
}

impl SecretVerb {
    pub const ALL: [SecretVerb; 2] = [SecretVerb::Put, SecretVerb::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            SecretVerb::Put => "put",
            SecretVerb::Delete => "delete",
        }
    }
}

/// What travels on a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    WorkloadPut,
    WorkloadList,
    WorkloadSchema,
    Workload(WorkloadVerb, WorkloadName),
    NodeList,
    NodeGet(NodeId),
    NodeCordon(NodeId),
    NodeUncordon(NodeId),
    NodeDrain(NodeId),
    NodeUndrain(NodeId),
    RebalanceStart,
    RebalanceGet,
    RebalanceCancel,
    RouteList,
    ConfigList,
    Config(ConfigVerb, ConfigName),
    SecretList,
    Secret(SecretVerb, ConfigName),
    Http(NodeId),
    Held(NodeId),
    Event(EventKind),
    Report(NodeId),
    Log(SlotId),
}

impl Topic {
    pub fn subject(&self, lattice: &LatticeId) -> String {
        match self {
            Topic::WorkloadPut => format!("lattice.{lattice}.ctl.workload.put"),
            Topic::WorkloadList => format!("lattice.{lattice}.ctl.workload.list"),
            Topic::WorkloadSchema => format!("lattice.{lattice}.ctl.workload.schema"),
            Topic::Workload(verb, name) => format!("lattice.{lattice}.ctl.workload.{}.{name}", verb.as_str()),
            Topic::NodeList => format!("lattice.{lattice}.ctl.node.list"),
            Topic::NodeGet(node) => format!("lattice.{lattice}.ctl.node.get.{node}"),
            Topic::NodeCordon(node) => format!("lattice.{lattice}.ctl.node.cordon.{node}"),
            Topic::NodeUncordon(node) => format!("lattice.{lattice}.ctl.node.uncordon.{node}"),
            Topic::NodeDrain(node) => format!("lattice.{lattice}.ctl.node.drain.{node}"),
            Topic::NodeUndrain(node) => format!("lattice.{lattice}.ctl.node.undrain.{node}"),
            Topic::RebalanceStart => format!("lattice.{lattice}.ctl.rebalance.start"),
            Topic::RebalanceGet => format!("lattice.{lattice}.ctl.rebalance.get"),
            Topic::RebalanceCancel => format!("lattice.{lattice}.ctl.rebalance.cancel"),
            Topic::RouteList => format!("lattice.{lattice}.ctl.route.list"),
            Topic::ConfigList => format!("lattice.{lattice}.ctl.config.list"),
            Topic::Config(verb, name) => format!("lattice.{lattice}.ctl.config.{}.{name}", verb.as_str()),
            Topic::SecretList => format!("lattice.{lattice}.ctl.secret.list"),
            Topic::Secret(verb, name) => format!("lattice.{lattice}.ctl.secret.{}.{name}", verb.as_str()),
            Topic::Http(node) => http(lattice, node),
            Topic::Held(node) => format!("lattice.{lattice}.held.{node}"),
            Topic::Event(kind) => format!("lattice.{lattice}.evt.{}", kind.as_str()),
            Topic::Report(node) => format!("lattice.{lattice}.report.{node}"),
            Topic::Log(slot) => format!("lattice.{lattice}.log.{slot}"),
        }
    }

    pub fn parse(subject: &str) -> Option<(LatticeId, Topic)> {
        let rest = subject.strip_prefix("lattice.")?;
        let (lattice, rest) = rest.split_once('.')?;
        let topic = match rest.split_once('.')? {
            ("ctl", "workload.put") => Topic::WorkloadPut,
            ("ctl", "workload.list") => Topic::WorkloadList,
            ("ctl", "workload.schema" | "schema") => Topic::WorkloadSchema,
            ("ctl", "node.list") => Topic::NodeList,
            ("ctl", "rebalance.start") => Topic::RebalanceStart,
            ("ctl", "rebalance.get") => Topic::RebalanceGet,
            ("ctl", "rebalance.cancel") => Topic::RebalanceCancel,
            ("ctl", "route.list") => Topic::RouteList,
            ("ctl", "config.list") => Topic::ConfigList,
            ("ctl", "secret.list") => Topic::SecretList,
            ("ctl", rest) => match rest.split_once('.')? {
                ("workload", rest) => {
                    let (verb, name) = rest.split_once('.')?;
                    let verb = WorkloadVerb::ALL.into_iter().find(|known| known.as_str() == verb)?;
                    Topic::Workload(verb, WorkloadName::new(name).ok()?)
                }
                ("config", rest) => {
                    let (verb, name) = rest.split_once('.')?;
                    let verb = ConfigVerb::ALL.into_iter().find(|known| known.as_str() == verb)?;
                    Topic::Config(verb, ConfigName::new(name).ok()?)
                }
                ("secret", rest) => {
                    let (verb, name) = rest.split_once('.')?;
                    let verb = SecretVerb::ALL.into_iter().find(|known| known.as_str() == verb)?;
                    Topic::Secret(verb, ConfigName::new(name).ok()?)
                }
                ("node", rest) => {
                    let (verb, node) = rest.split_once('.')?;
                    let node = NodeId::new(node).ok()?;
                    match verb {
                        "get" => Topic::NodeGet(node),
                        "cordon" => Topic::NodeCordon(node),
                        "uncordon" => Topic::NodeUncordon(node),
                        "drain" => Topic::NodeDrain(node),
                        "undrain" => Topic::NodeUndrain(node),
                        _ => return None,
                    }
                }
                _ => return None,
            },
            ("http", node) => Topic::Http(NodeId::new(node).ok()?),
            ("held", node) => Topic::Held(NodeId::new(node).ok()?),
            ("evt", kind) => Topic::Event(serde_json::from_value(serde_json::Value::String(kind.to_owned())).ok()?),
            ("report", node) => Topic::Report(NodeId::new(node).ok()?),
            ("log", slot) => Topic::Log(slot.parse().ok()?),
            _ => return None,
        };
        Some((LatticeId::new(lattice).ok()?, topic))
    }
}

/// Where a node takes other nodes' requests: [`Topic::Http`], for whoever needs it with each request.
pub fn http(lattice: &LatticeId, node: &NodeId) -> String {
    ["lattice.", lattice.as_str(), ".http.", node.as_str()].concat()
}

/// Everything under the control interface. Subscribed by nodes, so that an unknown operation gets an answer.
pub fn ctl_all(lattice: &LatticeId) -> String {
    format!("lattice.{lattice}.ctl.>")
}

/// One operation on any workload.
pub fn ctl_workload_any(lattice: &LatticeId, verb: WorkloadVerb) -> String {
    format!("lattice.{lattice}.ctl.workload.{}.*", verb.as_str())
}

/// Where the server republishes the changes of a bucket.
pub fn republish_prefix(lattice: &LatticeId, bucket: Bucket) -> String {
    format!("lattice.{lattice}.{bucket}")
}

pub fn events_all(lattice: &LatticeId) -> String {
    format!("lattice.{lattice}.evt.>")
}

/// The reports of all nodes.
pub fn reports_all(lattice: &LatticeId) -> String {
    format!("lattice.{lattice}.report.*")
}

/// The output of all replicas of a workload.
pub fn logs_of(lattice: &LatticeId, workload: &WorkloadName) -> String {
    format!("lattice.{lattice}.log.{workload}.*")
}

pub fn bucket_name(lattice: &LatticeId, bucket: Bucket) -> String {
    format!("lattice-{lattice}-{bucket}")
}

pub fn artifacts_name(lattice: &LatticeId) -> String {
    format!("lattice-{lattice}-artifacts")
}

/// The bucket of the values of secrets.
pub fn secrets_name(lattice: &LatticeId) -> String {
    format!("lattice-{lattice}-secrets")
}

pub fn events_stream(lattice: &LatticeId) -> String {
    format!("lattice-{lattice}-events")
}

/// Whether a node may answer to a reply subject. Anything else would let a client make a node publish where the client
/// itself may not, such as over a slot's record.
pub fn is_reply_subject(reply: &str) -> bool {
    let wild = |token: &str| token.is_empty() || token == "*" || token == ">";
    (reply.starts_with("_INBOX.") || reply.starts_with("_R_.")) && !reply.split('.').any(wild)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = String> {
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
    }

    fn topic() -> impl Strategy<Value = Topic> {
        let workload = || id().prop_map(|s| WorkloadName::new(s).unwrap());
        let node = || id().prop_map(|s| NodeId::new(s).unwrap());
        let verb = proptest::sample::select(WorkloadVerb::ALL.to_vec());
        prop_oneof![
            Just(Topic::WorkloadPut),
            Just(Topic::WorkloadList),
            Just(Topic::WorkloadSchema),
            Just(Topic::NodeList),
            Just(Topic::RebalanceStart),
            Just(Topic::RebalanceGet),
            Just(Topic::RebalanceCancel),
            Just(Topic::RouteList),
            Just(Topic::ConfigList),
            Just(Topic::SecretList),
            (proptest::sample::select(SecretVerb::ALL.to_vec()), id())
                .prop_map(|(verb, name)| Topic::Secret(verb, ConfigName::new(name).unwrap())),
            (proptest::sample::select(ConfigVerb::ALL.to_vec()), id())
                .prop_map(|(verb, name)| Topic::Config(verb, ConfigName::new(name).unwrap())),
            Just(Topic::Event(EventKind::StoreRegressed)),
            (verb, workload()).prop_map(|(verb, name)| Topic::Workload(verb, name)),
            node().prop_map(Topic::NodeGet),
            node().prop_map(Topic::NodeCordon),
            node().prop_map(Topic::NodeUncordon),
            node().prop_map(Topic::NodeDrain),
            node().prop_map(Topic::NodeUndrain),
            node().prop_map(Topic::Http),
            node().prop_map(Topic::Held),
            node().prop_map(Topic::Report),
            (workload(), any::<u32>()).prop_map(|(name, i)| Topic::Log(SlotId::new(name, i))),
        ]
    }

    proptest! {
        #[test]
        fn parse_is_the_inverse_of_subject(lattice in id(), topic in topic()) {
            let lattice = LatticeId::new(lattice).unwrap();
            let subject = topic.subject(&lattice);
            prop_assert_eq!(Topic::parse(&subject), Some((lattice, topic)));
        }

        #[test]
        fn parse_takes_any_text(text in ".{0,64}") {
            let _ = Topic::parse(&text);
        }
    }

    #[test]
    fn only_inboxes_are_answered() {
        for good in ["_INBOX.a.b", "_R_.x.y"] {
            assert!(is_reply_subject(good), "{good}");
        }
        for bad in
            ["", "_INBOX", "_INBOX.", "_INBOX.*", "_INBOX.>", "$KV.lattice-default-state.slot.hello.0", "x._INBOX.a"]
        {
            assert!(!is_reply_subject(bad), "{bad}");
        }
    }
}
