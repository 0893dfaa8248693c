//! `lattice nodes`: who is there.

use crate::{
    Context,
    error::Exit,
    lists,
    output::{Cell, Table, Tone, age, size},
};
use lattice::{ctl::NodeReply, id::NodeId, report::NodeUsage, subject::Topic, units::Millicores};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// List the nodes, or show one
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice nodes
  lattice nodes n1 -o yaml
  lattice nodes -o json | jq '.[] | {node, labels}'")]
pub struct Args {
    /// Id of one node
    node: Option<NodeId>,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match args.node {
        Some(node) => {
            let reply: NodeReply = client.ask(Topic::NodeGet(node.clone())).await?;
            let table = |paint| table(std::slice::from_ref(&reply), now).render(paint);
            context.out.show(&reply, table, || vec![node.to_string()])?;
        }
        None => {
            let nodes = lists::nodes(&client).await?;
            let names = || nodes.iter().map(|node| node.session.node.to_string()).collect();
            context.out.show(&nodes, |paint| table(&nodes, now).render(paint), names)?;
        }
    }
    Ok(Exit::Ok)
}

fn table(nodes: &[NodeReply], now: Duration) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        "HTTP",
        "REPLICAS",
        "RESERVED",
        "CPU",
        "IN USE",
        "INSTANCES",
        "IN FLIGHT",
        "GPUS",
        "AGE",
        "VERSION",
        "LABELS",
    ]);
    for NodeReply {
        session, cordoned, drain, slots, slots_omitted, memory_reserved, millicores_reserved, usage, ..
    } in nodes
    {
        let labels = session.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let taints = session.taints.iter().map(|taint| format!("!{taint}"));
        let labels: Vec<String> = labels.chain(taints).collect();
        table.row([
            session.node.as_str().into(),
            match (session.draining, drain, cordoned) {
                (true, ..) => Cell::new("leaving", Tone::Warn),
                (false, Some(drain), _) if drain.left.is_empty() => Cell::new("drained", Tone::Warn),
                (false, Some(drain), _) => Cell::new(format!("draining, {} left", drain.count()), Tone::Warn),
                (false, None, true) => Cell::new("cordoned", Tone::Warn),
                (false, None, false) => Cell::new("alive", Tone::Good),
            },
            session.http.as_deref().unwrap_or("-").into(),
            format!("{}/{}", slots.len() + *slots_omitted as usize, session.capacity.slots).into(),
            format!("{}/{}", size(*memory_reserved), size(session.capacity.memory)).into(),
            format!("{}/{}", Millicores(*millicores_reserved), Millicores(session.capacity.millicores)).into(),
            used(*usage, |usage| format!("{}/{}", size(usage.memory), size(usage.memory_limit))),
            used(*usage, |usage| format!("{}/{}", usage.instances, usage.instances_limit)),
            used(*usage, |usage| usage.in_flight.saturating_add(usage.waiting).to_string()),
            match session.gpus.iter().filter(|offer| offer.failing.is_some()).count() {
                0 => session.gpus.len().into(),
                failing => Cell::new(format!("{}, {failing} failing", session.gpus.len()), Tone::Bad),
            },
            age(now.saturating_sub(Duration::from_millis(session.started_at))).into(),
            session.version.as_str().into(),
            labels.join(",").into(),
        ]);
    }
    let mut hidden = Vec::new();
    // Nodes of older versions offer none.
    if nodes.iter().all(|node| (node.millicores_reserved, node.session.capacity.millicores) == (0, 0)) {
        hidden.push("CPU");
    }
    if nodes.iter().all(|node| node.session.gpus.is_empty()) {
        hidden.push("GPUS");
    }
    table.without(&hidden)
}

/// Nothing is known of a node of an older version, or of one that has just come.
fn used(usage: Option<NodeUsage>, text: impl Fn(NodeUsage) -> String) -> Cell {
    usage.map_or_else(|| Cell::new("-", Tone::Dim), |usage| text(usage).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use lattice::record::{Capacity, Session};

    #[test]
    fn one_line_a_node() {
        let node = NodeReply {
            session: Session {
                labels: [("zone".to_owned(), "z1".to_owned())].into(),
                capacity: Capacity { memory: 1 << 30, slots: 256, millicores: 4000 },
                http: Some("127.0.0.1:8001".into()),
                started_at: 1_000,
                renewals: 7,
                ..lattice::testing::session(NodeId::new("n1").unwrap(), uuid::Uuid::nil())
            },
            cordoned: false,
            drain: None,
            slots: vec!["hello.0".into()],
            slots_omitted: 0,
            memory_reserved: 128 << 20,
            millicores_reserved: 500,
            gpus_held: Default::default(),
            usage: Some(NodeUsage {
                memory: 3 << 20,
                memory_limit: 1 << 30,
                instances: 2,
                instances_limit: 1000,
                in_flight: 1,
                waiting: 4,
                ..NodeUsage::default()
            }),
            usage_age: Some(900),
        };
        let mut silent = NodeReply { cordoned: true, usage: None, usage_age: None, ..node.clone() };
        silent.session.taints = vec!["gpu:no-place".parse().unwrap()];
        assert_eq!(
            table(&[node, silent], Duration::from_secs(31)).render(Paint::off()),
            "NODE  STATE     HTTP            REPLICAS  RESERVED       CPU    IN USE       INSTANCES  IN FLIGHT  AGE  VERSION  LABELS\n\
             n1    alive     127.0.0.1:8001  1/256     128 MiB/1 GiB  0.5/4  3 MiB/1 GiB  2/1000     5          30s  0.1.0    zone=z1\n\
             n1    cordoned  127.0.0.1:8001  1/256     128 MiB/1 GiB  0.5/4  -            -          -          30s  0.1.0    \
             zone=z1,!gpu:no-place\n"
        );
    }
}
