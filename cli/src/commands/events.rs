//! `lattice events`: what happened.

use crate::{
    Context,
    client::Client,
    error::{Exit, Failure},
    output::{Paint, plain},
};
use anyhow::Context as _;
use bytes::Bytes;
use clap::builder::PossibleValuesParser;
use futures_util::StreamExt as _;
use lattice::{
    event::{CloudEvent, EventKind},
    store::Items,
};
use std::{collections::VecDeque, str::FromStr, time::SystemTime};

/// Show what happened in the lattice, oldest first
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice events
  lattice events hello --follow           of one workload and its replicas, until Ctrl-C
  lattice events --since 10m --kind slot-failed,node-lost
  lattice events --last 1000 -o json | jq 'select(.type == \"dev.lattice.node-lost\")'")]
pub struct Args {
    /// A workload, a replica such as hello.2, a node or a name of configuration: only what is about it
    about: Option<String>,
    /// How many of the latest events to show
    #[arg(long, default_value_t = 50, value_name = "N")]
    last: usize,
    /// Only what happened since: `10m` ago, or a time such as 2026-11-22T11:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only events of these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kinds())]
    kind: Vec<String>,
    /// Go on with new ones until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

/// A moment, by the clocks of those who tell.
#[derive(Debug, Clone, Copy)]
struct Since(SystemTime);

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_rfc3339(text) {
            return Ok(Self(time));
        }
        let ago = humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
        ago.map(Self)
            .ok_or_else(|| format!("{text:?} is neither a time such as 2026-11-22T11:00:00Z nor one such as 10m"))
    }
}

fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(EventKind::names())
}

/// What is asked for.
struct Filter {
    about: Option<String>,
    since: Option<SystemTime>,
    kinds: Vec<String>,
}

impl Filter {
    fn is_everything(&self) -> bool {
        self.about.is_none() && self.since.is_none() && self.kinds.is_empty()
    }

    fn takes(&self, event: &CloudEvent) -> bool {
        // What is about a workload is about its replicas too.
        let is_about = |about: &String| {
            let rest = event.subject.strip_prefix(about.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let is_since = |since: SystemTime| humantime::parse_rfc3339(&event.time).is_ok_and(|time| time >= since);
        self.about.as_ref().is_none_or(is_about)
            && self.since.is_none_or(is_since)
            && (self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind(event)))
    }
}

fn kind(event: &CloudEvent) -> &str {
    event.kind.strip_prefix("dev.lattice.").unwrap_or(&event.kind)
}

/// Events that are remembered, so that none is shown twice where old ones and new ones meet.
const OVERLAP: u64 = 256;

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let filter = Filter { about: args.about, since: args.since.map(|since| since.0), kinds: args.kind };
    // What is asked for may lie far back.
    let look = if filter.is_everything() { args.last as u64 } else { u64::MAX };
    let mut old = read(&client, look, false).await?;
    let mut found: VecDeque<CloudEvent> = VecDeque::new();
    let mut seen: VecDeque<String> = VecDeque::new();
    while let Some(payload) = old.next().await {
        let Some(event) = event(&payload, context) else { continue };
        seen.push_back(event.id.clone());
        if seen.len() as u64 > OVERLAP {
            seen.pop_front();
        }
        if filter.takes(&event) {
            found.push_back(event);
            if found.len() > args.last {
                found.pop_front();
            }
        }
    }
    if found.is_empty() && !args.follow {
        context.out.note(if filter.is_everything() { "no events yet" } else { "no such events" });
    }
    // Each node tells of its own as soon as it can: what comes later may have happened before.
    found.make_contiguous().sort_by(|one, other| one.time.cmp(&other.time));
    for event in found {
        context.out.show_item(&event, |paint| line(&event, paint), || event.id.clone())?;
    }
    if args.follow {
        let mut new = read(&client, OVERLAP, true).await?;
        while let Some(payload) = new.next().await {
            let Some(event) = event(&payload, context) else { continue };
            if !seen.contains(&event.id) && filter.takes(&event) {
                context.out.show_item(&event, |paint| line(&event, paint), || event.id.clone())?;
            }
        }
    }
    Ok(Exit::Ok)
}

async fn read(client: &Client, last: u64, follow: bool) -> anyhow::Result<Items<Bytes>> {
    client.nats.events(&client.lattice, last, follow).await.with_context(|| {
        Failure::failed(format!("can't read the events of lattice {:?}", client.lattice.as_str()))
            .hint("they are kept from the moment when its first node joins: is one running?")
    })
}

fn event(payload: &[u8], context: &Context) -> Option<CloudEvent> {
    let event = serde_json::from_slice(payload).context("an event that this version can't read");
    event.inspect_err(|error| context.out.note(format!("{error:#}"))).ok()
}

fn line(event: &CloudEvent, paint: Paint) -> String {
    let kind = kind(event);
    let node = event.source.rsplit('/').next().unwrap_or_default();
    let text = |field: &str| event.data.get(field).and_then(|text| text.as_str());
    let hint = text("hint").map_or_else(String::new, |hint| format!(" — {hint}"));
    let message = text("message").unwrap_or_default().to_owned() + &hint;
    let kind = format!("{kind:<18}");
    let kind = match kind.trim_end() {
        "node-lost" | "slot-failed" | "record-corrupt" | "store-regressed" | "part-gave-up" => paint.bad(kind),
        "reuse-off" | "limit-hit" | "instance-trapped" => paint.warn(kind),
        "slot-ready" | "node-joined" => paint.good(kind),
        _ => kind,
    };
    let message = plain(&message);
    format!("{}  {kind} {:<12} {message} {}", paint.dim(&event.time), event.subject, paint.dim(format!("({node})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        event::Event,
        id::{LatticeId, NodeId},
    };

    #[test]
    fn what_is_asked_for_is_shown() {
        let ids = (LatticeId::new("default").unwrap(), NodeId::new("n1").unwrap());
        let event =
            |kind, about: &str| Event::new(kind, about, "").into_cloud_event(&ids.0, &ids.1, uuid::Uuid::nil(), 5_000);
        let filter = |about: Option<&str>, since: Option<u64>, kinds: &[&str]| Filter {
            about: about.map(str::to_owned),
            since: since.map(|seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        };
        let ready = event(EventKind::SlotReady, "hello.0");
        for (filter, takes) in [
            (filter(None, None, &[]), true),
            (filter(Some("hello"), None, &[]), true),
            (filter(Some("hello.0"), None, &[]), true),
            (filter(Some("hello.1"), None, &[]), false),
            (filter(Some("hell"), None, &[]), false),
            (filter(None, Some(5), &[]), true),
            (filter(None, Some(6), &[]), false),
            (filter(None, None, &["slot-ready", "node-lost"]), true),
            (filter(Some("hello"), None, &["node-lost"]), false),
        ] {
            assert_eq!(filter.takes(&ready), takes, "{:?} {:?} {:?}", filter.about, filter.since, filter.kinds);
        }
        assert!("10m".parse::<Since>().is_ok() && "2026-11-22T11:00:00Z".parse::<Since>().is_ok());
        assert!("yesterday".parse::<Since>().is_err());
    }

    #[test]
    fn one_line_an_event() {
        let event = Event::new(EventKind::SlotReady, "hello.0", "ready at generation 2").into_cloud_event(
            &LatticeId::new("default").unwrap(),
            &NodeId::new("n1").unwrap(),
            uuid::Uuid::nil(),
            1_000,
        );
        assert_eq!(
            line(&event, Paint::off()),
            "1970-01-01T00:00:01.000Z  slot-ready         hello.0      ready at generation 2 (n1)"
        );
        let event = Event::new(EventKind::LimitHit, "hello.0", "limit wall was reached").hint("raise it");
        let id = (LatticeId::new("default").unwrap(), NodeId::new("n1").unwrap());
        let event = event.into_cloud_event(&id.0, &id.1, uuid::Uuid::nil(), 1_000);
        assert_eq!(
            line(&event, Paint::off()),
            "1970-01-01T00:00:01.000Z  limit-hit          hello.0      limit wall was reached — raise it (n1)"
        );
    }
}
