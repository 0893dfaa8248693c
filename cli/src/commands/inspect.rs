//! `lattice inspect`: what a workload, a spec or a component is made of, and what its imports will be bound to. For files
//! it needs no server: the same code composes and judges them that admission and nodes use.

mod picture;
mod report;
mod text;

use super::source::{self, Prepared};
use crate::{
    Context,
    client::Client,
    error::{Exit, Failure},
};
use anyhow::Context as _;
use bytes::Bytes;
use lattice::{
    ctl::{SpecReply, StatusReply},
    id::WorkloadName,
    spec::{Source, WorkloadSpec},
    subject::{Topic, WorkloadVerb},
};
use report::Report;
use std::path::Path;

/// Show what a workload or a component is made of
///
/// Components with their imports, exports and sizes; the graph that they are composed into; what each import that is left
/// will be bound to; which engine runs it, and whether it can run at all.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice inspect shop                    what is deployed
  lattice inspect shop.yaml               what would be: the files beside the spec, no server needed
  lattice inspect auth.wasm               one component; -o json has all functions of all interfaces
  lattice inspect shop.yaml --svg > shop.svg
  lattice inspect shop --dot | dot -Tpng > shop.png")]
pub struct Args {
    /// A workload, a spec (.yaml, .json), or a component (.wasm)
    #[arg(value_name = "WORKLOAD|FILE")]
    target: String,
    /// The graph, for Graphviz
    #[arg(long, conflicts_with = "svg")]
    dot: bool,
    /// The graph, as a picture
    #[arg(long)]
    svg: bool,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (report, is_component) = if is_file(&args.target) {
        let path = Path::new(&args.target);
        let is_component = has_extension(path, "wasm");
        let overrides = if is_component { overrides(path) } else { source::Overrides::default() };
        let Prepared { spec, files } = source::read(&args.target, &overrides)?;
        let sources = Sources { files, client: None, context };
        (sources.report(&spec).await.with_context(|| format!("can't inspect {}", args.target))?, is_component)
    } else {
        (deployed(&args.target, context).await?, false)
    };
    if args.dot || args.svg {
        context.out.write(&if args.dot { picture::dot(&report) } else { picture::svg(&report) })?;
    } else {
        let names = || report.components.iter().map(|component| component.name.to_string()).collect();
        context.out.show(&report, |paint| text::render(&report, paint), names)?;
    }
    match report.problem {
        // A component alone may be meant as a part of something.
        Some(problem) if !is_component => {
            let failure = Failure::failed(format!("no node can run it: {}", problem.message));
            Err(problem.hint.into_iter().fold(failure, Failure::hint).into())
        }
        _ => Ok(Exit::Ok),
    }
}

async fn deployed(target: &str, context: &Context) -> anyhow::Result<Report> {
    let name: WorkloadName = target.parse().map_err(|error| {
        Failure::usage(format!("{target:?} is neither a file nor a workload: {error}"))
            .hint("a file has a `/` or one of the extensions .yaml, .yml, .json and .wasm")
    })?;
    let client = context.client().await?;
    let reply: SpecReply = client.ask(Topic::Workload(WorkloadVerb::Get, name.clone())).await?;
    let status: StatusReply = client.ask(Topic::Workload(WorkloadVerb::Status, name.clone())).await?;
    let sources = Sources { files: Vec::new(), client: Some(client), context };
    let report = sources.report(&reply.spec).await.with_context(|| format!("can't inspect {name}"))?;
    Ok(Report { generation: Some(reply.generation), status: Some(status), ..report })
}

/// Where components' bytes come from: files that were read, else the object store.
struct Sources<'a> {
    files: Vec<source::File>,
    client: Option<Client>,
    context: &'a Context,
}

impl Sources<'_> {
    async fn report(mut self, spec: &WorkloadSpec) -> anyhow::Result<Report> {
        let mut sources = Vec::new();
        for part in spec.parts() {
            let bytes = self.bytes(part.source).await;
            sources.push(bytes.with_context(|| format!("{}.source: {} can't be read", part.field, part.source))?);
        }
        report::report(spec, &sources)
    }

    async fn bytes(&mut self, source: &Source) -> anyhow::Result<Bytes> {
        // Files were read and named by their digests before.
        let Source::Stored(digest) = source else {
            return Err(Failure::failed("it is not in the object store").into());
        };
        if let Some(file) = self.files.iter().find(|file| file.digest == *digest) {
            return Ok(file.bytes.clone());
        }
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(self.context.client().await?),
        };
        let bytes = client.artifacts().await?.get(*digest).await?;
        bytes.ok_or_else(|| Failure::failed("it is not in the object store any more").into())
    }
}

/// A file whose name is none for a workload is inspected all the same.
fn overrides(path: &Path) -> source::Overrides {
    let name = if source::name_of(path).is_none() { WorkloadName::new("component").ok() } else { None };
    source::Overrides { name, ..source::Overrides::default() }
}

/// A name of a workload has neither a dot nor a slash.
fn is_file(target: &str) -> bool {
    let path = Path::new(target);
    target == "-" || target.contains('/') || ["wasm", "yaml", "yml", "json"].iter().any(|end| has_extension(path, end))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests;
