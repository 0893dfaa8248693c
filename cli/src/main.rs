//! `lattice`: the command line, and the only place that joins the crates. Each command is one file in [`commands`];
//! `node` is where the control plane, the host and the router of a node meet.

#![allow(unreachable_pub, reason = "a binary has no outside: `pub` is for its other modules")]

mod client;
mod commands;
mod connection;
mod error;
mod lists;
mod output;
mod screen;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use commands::Command;
use connection::NatsArgs;
use lattice::id::LatticeId;
use output::{Format, Output, Paint};
use std::process::ExitCode;

/// Run WebAssembly components on a set of nodes that share nothing but NATS.
#[derive(Debug, Parser)]
#[command(
    name = "lattice",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110,
    before_help = "Examples:
  lattice up                              NATS and three nodes on this machine, in one terminal
  lattice deploy hello.yaml               run what the spec asks for, and wait until it is ready
  lattice status hello                    where its replicas are, and why not if they are not
  lattice list -o json | jq               for programs
  lattice doctor                          what is wrong here, and what to do about it",
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 not authorised,
6 timeout with the change still in progress, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Name of the lattice; several can share one NATS
    #[arg(long, global = true, env = "LATTICE", default_value = "default", value_name = "NAME")]
    lattice: LatticeId,
    /// Format of the output
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// No notes and no progress on standard error
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// What every command gets beside its own arguments.
pub struct Context {
    pub nats: NatsArgs,
    pub lattice: LatticeId,
    pub out: Output,
}

impl Context {
    pub async fn client(&self) -> anyhow::Result<client::Client> {
        client::Client::connect(&self.nats, &self.lattice).await
    }
}

/// The command line with examples in front of the options.
fn command_line() -> clap::Command {
    const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}\n";
    Cli::command().help_template(TEMPLATE).mut_subcommands(|command| command.help_template(TEMPLATE))
}

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let Cli { command, global, nats } = cli;
    let out =
        Output { format: global.output, paint: Paint::stdout(), note_paint: Paint::stderr(), quiet: global.quiet };
    let note_paint = out.note_paint;
    match commands::run(command, Context { nats, lattice: global.lattice, out }) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprint!("{}", error::render(&error, note_paint));
            error::exit_of(&error).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command_line().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in command_line().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            let examples = help.find("Examples:").unwrap_or_else(|| panic!("{name} has no examples"));
            assert!(help.find("Usage:").unwrap() > examples, "{name}: examples come first");
            assert!(help.contains(&format!("lattice {name}")), "{name}: an example runs it");
        }
    }

    /// Of a command and all below it.
    fn walk(command: &clap::Command, path: &str, see: &mut dyn FnMut(&str, &clap::Command)) {
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            let path = format!("{path}{} ", inner.get_name());
            see(&path, inner);
            walk(inner, &path, see);
        }
    }

    #[test]
    fn the_manual_has_every_command_and_exit_code() {
        let manual = include_str!("../../docs/cli.md");
        for command in command_line().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let is_there = [" ", "`", ","].iter().any(|end| manual.contains(&format!("`{name}{end}")));
            assert!(is_there, "docs/cli.md lacks {name}");
        }
        use error::Exit::{Conflict, Failed, InProgress, Interrupted, NotAuthorised, NotFound, Ok, Usage};
        let help = command_line().render_long_help().to_string();
        for exit in [Ok, Failed, Usage, NotFound, Conflict, NotAuthorised, InProgress, Interrupted] {
            let code = exit as u8;
            assert!(manual.contains(&format!("\n| {code} | ")), "docs/cli.md lacks exit code {code}");
            assert!(help.contains(&format!("{code} ")), "`lattice --help` lacks exit code {code}");
        }
    }

    /// The documents of a language in the blocks of a text.
    fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
        let fence = format!("```{language}\n");
        text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
    }

    #[test]
    fn every_spec_in_the_documentation_is_one() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let mut count = 0;
        for path in docs.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|end| end == "md"))
        {
            let text = std::fs::read_to_string(&path).unwrap();
            for block in blocks(&text, "yaml")
                .into_iter()
                .filter(|block| block.starts_with("name: ") && block.contains("components:"))
            {
                for document in block.split("\n---\n") {
                    let error = lattice::spec::parse(document.as_bytes()).err();
                    assert!(error.is_none(), "{}: {document}\n{error:?}", path.display());
                    count += 1;
                }
            }
        }
        assert!(count > 10, "{count} were found");
    }

    #[test]
    fn help_is_of_one_style() {
        let mut others = Vec::new();
        walk(&command_line(), "", &mut |path, command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
            // In a pipe, and on most terminals, what is wider is broken in two.
            others
                .extend(examples.lines().filter(|line| line.chars().count() > 100).map(|line| format!("{path}{line}")));
            assert!(!about.is_empty() && !about.ends_with('.'), "{path}: {about:?}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let (id, help) = (argument.get_id(), argument.get_help().map(ToString::to_string).unwrap_or_default());
                let begins = help.chars().next().is_some_and(|first| !first.is_lowercase());
                if !begins || help.ends_with('.') {
                    others.push(format!("{path}{id}: {help:?}"));
                }
            }
        });
        assert_eq!(others, [""; 0]);
    }
}
