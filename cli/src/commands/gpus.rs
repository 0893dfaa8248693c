//! `lattice gpus`: what nodes offer of their GPUs, and who holds it.

use crate::{
    Context,
    error::Exit,
    output::{Cell, Table, Tone, plain, size},
};
use lattice::{
    ctl::NodeReply,
    gpu::{GpuGrant, GpuUse, Offer},
    id::NodeId,
    subject::Topic,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// List the GPUs of all nodes, or of one, and who holds what of them
///
/// Free is what no replica has claimed; what is claimed need not be in use. A node that finds no GPU, or whose GPU fails its
/// self-test, has no line.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice gpus
  lattice gpus n1 -o yaml
  lattice gpus -o json | jq '.[] | select(.free.slots > 0) | .node'")]
pub struct Args {
    /// Id of one node
    node: Option<NodeId>,
}

/// One GPU of one node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    node: NodeId,
    #[serde(flatten)]
    offer: Offer,
    free: Free,
    held_by: BTreeMap<String, GpuGrant>,
}

/// What no replica has claimed.
#[derive(Debug, Serialize)]
struct Free {
    memory: u64,
    slots: u32,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let nodes: Vec<NodeReply> = match args.node {
        Some(node) => vec![client.ask(Topic::NodeGet(node)).await?],
        None => client.ask(Topic::NodeList).await?,
    };
    let rows: Vec<Row> = nodes.into_iter().flat_map(rows).collect();
    let names = || rows.iter().map(|row| format!("{}/{}", row.node, row.offer.id)).collect();
    context.out.show(&rows, |paint| table(&rows).render(paint), names)?;
    Ok(Exit::Ok)
}

fn rows(node: NodeReply) -> Vec<Row> {
    let NodeReply { session, gpus_held, .. } = node;
    let row = |offer: Offer| {
        let held_by: BTreeMap<String, GpuGrant> = gpus_held
            .iter()
            .filter(|(_, grant)| grant.offer == offer.id)
            .map(|(slot, grant)| (slot.clone(), grant.clone()))
            .collect();
        let taken = held_by.values().fold(GpuUse::default(), GpuUse::plus);
        let free = Free {
            memory: offer.memory.total.saturating_sub(taken.memory),
            slots: offer.slots.saturating_sub(taken.slots),
        };
        Row { node: session.node.clone(), offer, free, held_by }
    };
    session.gpus.clone().into_iter().map(row).collect()
}

fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(&["NODE", "GPU", "CLASS", "STATE", "SLOTS FREE", "MEMORY FREE", "GFLOP/S", "HELD BY", "NAME"]);
    for Row { node, offer, free, held_by } in rows {
        let state = match &offer.failing {
            Some(why) => Cell::new(plain(why), Tone::Bad),
            None => Cell::new("ok", Tone::Good),
        };
        let speed = match offer.speed.gemm_gflops {
            0 => Cell::new("-", Tone::Dim),
            speed => speed.into(),
        };
        let held: Vec<&str> = held_by.keys().map(String::as_str).collect();
        table.row([
            node.as_str().into(),
            offer.id.as_str().into(),
            offer.class.as_str().into(),
            state,
            format!("{}/{}", free.slots, offer.slots).into(),
            format!("{}/{}", size(free.memory), size(offer.memory.total)).into(),
            speed,
            held.join(",").into(),
            plain(&offer.name).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use serde_json::json;

    #[test]
    fn one_line_a_gpu() {
        let offer = |id: &str, more: serde_json::Value| {
            let mut offer = json!({
                "id": id, "name": "A100", "class": "discrete", "backend": "vulkan",
                "memory": {"total": 8_u64 << 30}, "slots": 4, "speed": {"gemm-gflops": 9000}
            });
            offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            offer
        };
        let node = json!({
            "node": "n1", "incarnation": uuid::Uuid::nil(), "labels": {}, "version": "", "http": null, "draining": false,
            "capacity": {"memory": 0, "slots": 4}, "started-at": 0, "renewals": 0, "slots": [], "memory-reserved": 0,
            "gpus": [
                offer("vk-0", json!({})),
                offer("vk-1", json!({"class": "cpu", "speed": {}, "failing": "2 devices were lost"})),
            ],
            "gpus-held": {
                "shop.0": {"offer": "vk-0", "memory": 1_u64 << 30, "slots": 1},
                "shop.1": {"offer": "vk-0", "memory": 1_u64 << 29, "slots": 2},
            }
        });
        let rows = rows(serde_json::from_value(node).unwrap());
        assert_eq!(
            table(&rows).render(Paint::off()),
            "NODE  GPU   CLASS     STATE                SLOTS FREE  MEMORY FREE    GFLOP/S  HELD BY        NAME\n\
             n1    vk-0  discrete  ok                   1/4         6.5 GiB/8 GiB  9000     shop.0,shop.1  A100\n\
             n1    vk-1  cpu       2 devices were lost  4/4         8 GiB/8 GiB    -                       A100\n"
        );
        let shown = serde_json::to_value(&rows).unwrap();
        assert_eq!((&shown[0]["free"]["slots"], &shown[0]["held-by"]["shop.1"]["slots"]), (&json!(1), &json!(2)));
    }
}
