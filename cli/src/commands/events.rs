//! `lattice events`: what happened.

use crate::{
    Context,
    error::{Exit, Failure},
    output::{Paint, plain},
};
use anyhow::Context as _;
use futures_util::StreamExt as _;
use lattice::event::CloudEvent;

/// Show what happened in the lattice, oldest first
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice events
  lattice events --follow
  lattice events --last 1000 -o json | jq 'select(.type == \"dev.lattice.node-lost\")'")]
pub struct Args {
    /// How many of the latest events to show
    #[arg(long, default_value_t = 50, value_name = "N")]
    last: u64,
    /// Go on with new ones until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let events = client.nats.events(&client.lattice, args.last, args.follow).await;
    let mut events = events.with_context(|| {
        Failure::failed(format!("can't read the events of lattice {:?}", client.lattice.as_str()))
            .hint("they are kept from the moment when its first node joins: is one running?")
    })?;
    let mut shown = 0_u64;
    while let Some(payload) = events.next().await {
        match serde_json::from_slice::<CloudEvent>(&payload).context("an event that this version can't read") {
            Ok(event) => context.out.show_item(&event, |paint| line(&event, paint), || event.id.clone())?,
            Err(error) => context.out.note(format!("{error:#}")),
        }
        shown += 1;
    }
    if shown == 0 {
        context.out.note("no events yet");
    }
    Ok(Exit::Ok)
}

fn line(event: &CloudEvent, paint: Paint) -> String {
    let kind = event.kind.strip_prefix("dev.lattice.").unwrap_or(&event.kind);
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
        event::{Event, EventKind},
        id::{LatticeId, NodeId},
    };

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
