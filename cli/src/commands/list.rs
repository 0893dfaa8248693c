//! `lattice list`: all workloads, one line each.

use super::status::state_cell;
use crate::{
    Context,
    error::Exit,
    lists,
    output::{Cell, Table, Tone},
};
use lattice::ctl::WorkloadSummary;

/// List the workloads
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice list
  lattice list -o name | xargs -n1 lattice status
  lattice list -o json | jq '.[] | select(.state != \"ready\")'")]
pub struct Args {}

pub async fn run(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let workloads = lists::workloads(&client).await?;
    if workloads.is_empty() {
        context.out.note("no workloads yet; `lattice deploy hello.yaml` makes one");
    }
    let names = || workloads.iter().map(|workload| workload.workload.to_string()).collect();
    context.out.show(
        &workloads,
        |paint| if workloads.is_empty() { String::new() } else { table(&workloads).render(paint) },
        names,
    )?;
    Ok(Exit::Ok)
}

pub fn table(workloads: &[WorkloadSummary]) -> Table {
    let mut table = Table::new(&["WORKLOAD", "STATE", "READY", "GENERATION", "REQUESTS", "NODES", "ROUTES"]);
    for workload in workloads {
        let ready = format!("{}/{}", workload.ready, workload.replicas);
        let tone = if workload.ready == workload.replicas { Tone::Plain } else { Tone::Warn };
        let nodes: Vec<&str> = workload.nodes.iter().map(|node| node.as_str()).collect();
        let more = match workload.nodes_omitted {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        table.row([
            workload.workload.as_str().into(),
            state_cell(workload.state),
            Cell::new(ready, tone),
            workload.generation.into(),
            match workload.totals.reported {
                0 => Cell::new("-", Tone::Dim),
                _ => workload.totals.requests.into(),
            },
            (nodes.join(",") + &more).into(),
            workload.routes.join(" ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use lattice::{
        ctl::{Totals, WorkloadState},
        id::{Generation, NodeId, WorkloadName},
    };

    #[test]
    fn one_line_a_workload() {
        let hello = WorkloadSummary {
            workload: WorkloadName::new("hello").unwrap(),
            state: WorkloadState::Progressing,
            generation: Generation(2),
            replicas: 3,
            ready: 2,
            routes: vec!["hello.test/".into()],
            nodes: vec![NodeId::new("n1").unwrap(), NodeId::new("n2").unwrap()],
            nodes_omitted: 0,
            totals: Totals { reported: 2, requests: 1042, ..Totals::default() },
        };
        assert_eq!(
            table(&[hello]).render(Paint::off()),
            "WORKLOAD  STATE        READY  GENERATION  REQUESTS  NODES  ROUTES\n\
             hello     progressing  2/3    2           1042      n1,n2  hello.test/\n"
        );
    }
}
