//! `lattice schema`: JSON Schemas of what people and programs write and read. Needs no server.

use crate::{
    Context,
    error::Exit,
    output::{Format, json, yaml},
};

/// Print the JSON Schema of specs, or of messages
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice schema > workload-spec.schema.json
      and at the top of a spec, for editors:
      # yaml-language-server: $schema=./workload-spec.schema.json
  lattice schema messages                 what requests and replies look like")]
pub struct Args {
    /// Which schema
    #[arg(value_enum, default_value_t)]
    which: Which,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Which {
    /// The document that `lattice deploy` takes
    #[default]
    Spec,
    /// Requests and replies of the control interface, events, log lines
    Messages,
}

pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let schema = match args.which {
        Which::Spec => lattice::spec::json_schema(),
        Which::Messages => lattice::ctl::json_schema(),
    };
    let text = if context.out.format == Format::Yaml { yaml(&schema)? } else { json(&schema)? };
    context.out.write(&text)?;
    Ok(Exit::Ok)
}
