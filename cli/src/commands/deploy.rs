//! `lattice deploy`: upload, put, wait. The put is the same request that `nats req lattice.default.ctl.workload.put`
//! makes; the upload is all that this adds.

use super::{
    rollout,
    source::{self, Overrides, Prepared},
    status::refusals,
};
use crate::{
    Context,
    client::Client,
    error::{Exit, Failure, at, exit_of},
    output::{Cell, Table, Tone, plain},
};
use lattice::{
    ctl::{Composed, ComposedEdge, HEADER_DRY_RUN, HEADER_EXPECTED_REVISION, PlannedSlot, PutReply, PutWarning},
    id::ComponentName,
    store::Headers,
    subject::Topic,
};
use std::time::Duration;
use tokio::time::Instant;

/// Run a workload: from a spec, or from a component alone
///
/// A file of several YAML documents has several workloads. All of them are checked before the first is put; then they are
/// put in their order, and waited for.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice deploy hello.yaml
  lattice deploy hello.wasm               named hello, answering hello.localhost
  lattice deploy hello.wasm --name shop --host shop.example.org --replicas 3
  lattice deploy hello.yaml --dry-run     where each replica would run; changes nothing
  lattice get hello | sed s/1/2/ | lattice deploy -
  lattice import wadm.yaml | lattice deploy -

The smallest spec:
  name: hello
  components:
    - {name: hello, source: file:./hello.wasm}
  http:
    routes: [{host: hello.test}]")]
pub struct Args {
    /// Specs (YAML or JSON), a component (.wasm), or - for standard input
    #[arg(value_name = "FILE|COMPONENT.wasm|-")]
    file: String,
    #[command(flatten)]
    overrides: Overrides,
    /// Show where the replicas would run, and change nothing (components are uploaded)
    #[arg(long)]
    dry_run: bool,
    /// Go on only if the spec is still at this revision; 0: only if there is no such workload
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
    #[command(flatten)]
    wait: rollout::WaitArgs,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let all = source::read_all(&args.file, &args.overrides)?;
    if args.expected_revision.is_some() && all.len() > 1 {
        let message = format!("--expected-revision is for one workload, and there are {}", all.len());
        return Err(Failure::usage(message).hint("make a file of each").into());
    }
    let client = context.client().await?;
    let headers = expected_revision(args.expected_revision);
    let [prepared] = all.as_slice() else { return several(&args, &all, &client, context).await };
    if args.dry_run {
        let reply = submit(&client, context, prepared, dry(headers)).await?;
        note_composition(context, &reply);
        show_plan(context, &reply)?;
        return Ok(Exit::Ok);
    }
    let reply = submit(&client, context, prepared, headers).await?;
    note_composition(context, &reply);
    rollout::finish(&client, context, &reply, &args.wait).await
}

/// Check all, put all, wait for all. What waits for nothing else is not kept from it by one that does not get ready.
async fn several(args: &Args, all: &[Prepared], client: &Client, context: &Context) -> anyhow::Result<Exit> {
    for prepared in all {
        let name = prepared.spec.name.as_str();
        match submit(client, context, prepared, dry(Headers::new())).await {
            Ok(reply) if args.dry_run => {
                context.out.note(format!("{name}:"));
                note_composition(context, &reply);
                show_plan(context, &reply)?;
            }
            Ok(_) => {}
            // One before it in this file may be what it asks for, or give up a route.
            Err(error) if !args.dry_run && exit_of(&error) == Exit::Conflict => {}
            Err(error) => {
                return Err(at(&format!("{name} is refused, and nothing was changed"), &error).into());
            }
        }
    }
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    let mut replies = Vec::new();
    for prepared in all {
        let name = prepared.spec.name.as_str();
        let reply = submit_quietly(client, context, prepared, Headers::new()).await.map_err(|error| {
            let done: Vec<&str> = replies.iter().map(|reply: &PutReply| reply.workload.as_str()).collect();
            let rest: Vec<&str> = all.iter().skip(done.len() + 1).map(|later| later.spec.name.as_str()).collect();
            let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let place = format!("{name} is refused (accepted: {}; not tried: {})", list(&done), list(&rest));
            at(&place, &error)
        })?;
        note_composition(context, &reply);
        rollout::accepted(context, &reply);
        replies.push(reply);
    }
    let start = Instant::now();
    let mut failures: Vec<Failure> = Vec::new();
    for reply in &replies {
        let name = reply.workload.as_str();
        if args.wait.no_wait {
            let line = |_| format!("{name} generation {}", reply.generation);
            context.out.show_item(reply, line, || name.to_owned())?;
            continue;
        }
        let left = args.wait.timeout.map(|limit| Duration::from(limit).saturating_sub(start.elapsed()));
        match rollout::wait(client, context, reply, left).await {
            Ok(status) => {
                context.out.show_item(&status, |paint| rollout::arrived(&status, paint), || name.to_owned())?;
            }
            Err(error) if exit_of(&error) == Exit::Interrupted => return Err(error),
            Err(error) => failures.push(at(name, &error)),
        }
    }
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(Exit::Ok) };
    Err(failures
        .fold(first, |all, next| Failure { message: format!("{}\n{}", all.message, next.message), ..all })
        .into())
}

fn dry(mut headers: Headers) -> Headers {
    headers.insert(HEADER_DRY_RUN.into(), "true".into());
    headers
}

fn note_composition(context: &Context, reply: &PutReply) {
    if let Some(composed) = &reply.composition {
        context.out.note(composition(composed));
    }
}

fn show_plan(context: &Context, reply: &PutReply) -> anyhow::Result<()> {
    let plan = reply.plan.as_deref().unwrap_or_default();
    let nodes = || plan.iter().filter_map(|slot| slot.node.as_ref().map(ToString::to_string)).collect();
    if reply.plan_omitted > 0 {
        context.out.note(format!("and {} more replicas, for which there is no room here", reply.plan_omitted));
    }
    context.out.show(reply, |paint| plan_table(plan).render(paint), nodes)
}

/// Upload what a spec needs, and put it.
pub async fn submit(
    client: &Client,
    context: &Context,
    prepared: &Prepared,
    headers: Headers,
) -> anyhow::Result<PutReply> {
    let reply = submit_quietly(client, context, prepared, headers).await?;
    for PutWarning { field, message } in &reply.warnings {
        let (mark, message) = (context.out.note_paint.warn("warning:"), plain(message));
        context.out.note(format!("{mark} {}: {message}", plain(field)));
    }
    Ok(reply)
}

/// The same, without a word of the warnings.
async fn submit_quietly(
    client: &Client,
    context: &Context,
    prepared: &Prepared,
    headers: Headers,
) -> anyhow::Result<PutReply> {
    if !prepared.files.is_empty() {
        let artifacts = client.artifacts().await?;
        source::upload(artifacts.as_ref(), &prepared.files, &context.out).await?;
    }
    client.send(Topic::WorkloadPut, headers, &prepared.spec).await
}

/// The header of a conditional change.
pub fn expected_revision(revision: Option<u64>) -> Headers {
    revision.map(|revision| (HEADER_EXPECTED_REVISION.to_owned(), revision.to_string())).into_iter().collect()
}

/// What the components became: who gets what from whom, and who is not needed.
fn composition(composed: &Composed) -> String {
    let mut text = format!("composed, with {} in front", composed.entry);
    for ComposedEdge { from, import, to, export } in &composed.edges {
        let export = export.as_ref().map_or_else(String::new, |export| format!(" ({})", plain(export)));
        text += &format!("\n  {from} gets {} from {to}{export}", plain(import));
    }
    if composed.edges_omitted > 0 {
        text += &format!("\n  and {} more", composed.edges_omitted);
    }
    if !composed.dropped.is_empty() {
        let names: Vec<&str> = composed.dropped.iter().map(ComponentName::as_str).collect();
        text += &format!("\n  left out, since nothing needs it: {}", names.join(", "));
    }
    text
}

fn plan_table(plan: &[PlannedSlot]) -> Table {
    let mut table = Table::new(&["REPLICA", "NODE", "NOTE"]);
    for slot in plan {
        let (node, note) = match &slot.node {
            Some(node) if slot.stays => (node.as_str().into(), Cell::new("stays", Tone::Dim)),
            Some(node) => (node.as_str().into(), "new".into()),
            None => (Cell::new("none", Tone::Bad), refusals(&slot.refused, slot.refused_omitted).into()),
        };
        table.row([slot.replica.into(), node, note]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use lattice::{ctl::Refusal, id::NodeId};

    #[test]
    fn a_plan_shows_who_stays_and_who_finds_no_node() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let refused = vec![Refusal { node: node("n1"), reason: "memory is full".into(), rule: String::new() }];
        let plan = [
            PlannedSlot { replica: 0, node: Some(node("n1")), stays: true, refused: vec![], refused_omitted: 0 },
            PlannedSlot { replica: 1, node: Some(node("n2")), stays: false, refused: vec![], refused_omitted: 0 },
            PlannedSlot { replica: 2, node: None, stays: false, refused, refused_omitted: 0 },
        ];
        assert_eq!(
            plan_table(&plan).render(Paint::off()),
            "REPLICA  NODE  NOTE\n0        n1    stays\n1        n2    new\n2        none  n1: memory is full\n"
        );
    }

    #[test]
    fn a_composition_shows_its_edges_and_what_was_left_out() {
        let name = |text: &str| ComponentName::new(text).unwrap();
        let edge = ComposedEdge::new(name("api"), "acme:auth/check@1.0.0", name("auth"), "acme:auth/check@1.1.0");
        let composed = Composed::new(name("api"), [edge].into_iter(), vec![name("old")]);
        assert_eq!(
            composition(&composed),
            "composed, with api in front\n  api gets acme:auth/check@1.0.0 from auth (acme:auth/check@1.1.0)\n  \
             left out, since nothing needs it: old"
        );
    }

    #[test]
    fn a_condition_is_a_header() {
        assert!(expected_revision(None).is_empty());
        assert_eq!(expected_revision(Some(0)).get("Lattice-Expected-Revision").map(String::as_str), Some("0"));
    }
}
