//! `lattice completions`: a script for the shell.

use crate::{Context, error::Exit};

/// Print shell completions
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice completions bash > ~/.local/share/bash-completion/completions/lattice
  lattice completions zsh > \"${fpath[1]}/_lattice\"
  lattice completions fish > ~/.config/fish/completions/lattice.fish")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command_line(), "lattice", &mut script);
    context.out.write(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
