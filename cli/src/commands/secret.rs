//! `lattice secret`: secrets that specs name. A value is read from a file or from standard input, never from the command line,
//! which other users of the machine see and shells remember; and no command prints one.

use crate::{
    Context,
    error::{Exit, Failure},
    output::Table,
};
use anyhow::Context as _;
use lattice::{
    ctl::{HEADER_EXPECTED_REVISION, SecretDeleteReply, SecretDeleteRequest, SecretItem, SecretList},
    id::ConfigName,
    limits::SECRET_BYTES_MAX,
    store::Headers,
    subject::{SecretVerb, Topic},
};
use std::{
    io::{IsTerminal as _, Read},
    path::{Path, PathBuf},
};

/// Secrets that specs name by `secrets` and `grants.nats.account`
///
/// Each change is a new version. It reaches replicas that run as their spec says by `config-update`. No command shows a value.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice secret put shop-db --file password.txt
  pass show shop/db | lattice secret put shop-db   the value from standard input
  lattice secret list                              versions, and who uses what
  lattice secret delete shop-db")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put a value under a name, in place of the one that is there
    Put {
        /// Name that specs refer to
        name: ConfigName,
        /// A file with the value, all of it; standard input by default
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Leave out one line break at the end
        #[arg(long)]
        trim: bool,
        /// Go on only if it is still at this revision; 0: only if there is none
        #[arg(long, value_name = "N")]
        expected_revision: Option<u64>,
    },
    /// List all names, their versions and who uses them
    #[command(visible_alias = "ls")]
    List,
    /// Delete a name and all its values
    #[command(visible_alias = "rm")]
    Delete {
        /// Name that specs refer to
        name: ConfigName,
        /// Also where workloads name it: what runs keeps its values, and nothing new starts
        #[arg(long)]
        force: bool,
        /// Succeed if there is none
        #[arg(long)]
        ignore_missing: bool,
    },
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    match args.command {
        Command::Put { name, file, trim, expected_revision } => {
            let mut value = read(file.as_deref())?;
            if trim {
                trim_line_break(&mut value);
            }
            let client = context.client().await?;
            let expected = expected_revision.map(|number| (HEADER_EXPECTED_REVISION.to_owned(), number.to_string()));
            let topic = Topic::Secret(SecretVerb::Put, name);
            let item: SecretItem = client.request(topic, expected.into_iter().collect(), value.into()).await?;
            let what = if item.changed == Some(false) { "is so already, at" } else { "is now at" };
            let line = |_| format!("{} {what} version {}\n", item.name, item.version);
            context.out.show(&item, line, || vec![item.name.to_string()])?;
        }
        Command::List => {
            let client = context.client().await?;
            let list: SecretList = client.ask(Topic::SecretList).await?;
            let items = &list.secrets;
            match items.is_empty() {
                _ if list.omitted > 0 => context.out.note(format_args!("and {} more names", list.omitted)),
                true => context.out.note("no secrets yet; `lattice secret put NAME --file FILE` makes one"),
                false => {}
            }
            let names = || items.iter().map(|item| item.name.to_string()).collect();
            let rendered = |paint| if items.is_empty() { String::new() } else { table(items).render(paint) };
            context.out.show(&list, rendered, names)?;
        }
        Command::Delete { name, force, ignore_missing } => {
            let client = context.client().await?;
            let topic = Topic::Secret(SecretVerb::Delete, name.clone());
            let reply: SecretDeleteReply = client.send(topic, Headers::new(), &SecretDeleteRequest { force }).await?;
            if !reply.deleted && !ignore_missing {
                return Err(Failure::new(Exit::NotFound, format!("there is no secret {name}"))
                    .hint("see `lattice secret list`")
                    .into());
            }
            let line = |_| format!("{name} {}\n", if reply.deleted { "is deleted" } else { "was not there" });
            context.out.show(&reply, line, || vec![name.to_string()])?;
        }
    }
    Ok(Exit::Ok)
}

/// One byte more than there may be, so that too long a value is refused and not cut.
fn read(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let most = SECRET_BYTES_MAX as u64 + 1;
    let mut value = Vec::with_capacity(SECRET_BYTES_MAX + 1);
    match file {
        Some(path) => {
            let failed = || Failure::failed(format!("can't read {}", path.display()));
            std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut value)).with_context(failed)?;
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::usage(
                "a terminal shows what is typed: give --file, or have a program write the value here",
            )
            .into());
        }
        None => drop(std::io::stdin().take(most).read_to_end(&mut value).context("can't read standard input")?),
    }
    match value.len() {
        0 => Err(Failure::usage("the value is empty").into()),
        len if len > SECRET_BYTES_MAX => {
            Err(Failure::usage(format!("the value is longer than {SECRET_BYTES_MAX} bytes")).into())
        }
        _ => Ok(value),
    }
}

fn trim_line_break(value: &mut Vec<u8>) {
    for end in [b'\n', b'\r'] {
        if value.last() == Some(&end) {
            value.pop();
        }
    }
}

fn table(items: &[SecretItem]) -> Table {
    let mut table = Table::new(&["SECRET", "VERSION", "EARLIER", "CHANGED", "USED BY"]);
    for SecretItem { name, version, earlier, changed_at, used_by, used_by_omitted, .. } in items {
        let used_by: Vec<&str> = used_by.iter().map(|workload| workload.as_str()).collect();
        let earlier: Vec<String> = earlier.iter().map(ToString::to_string).collect();
        table.row([
            name.as_str().into(),
            version.into(),
            if earlier.is_empty() { "-".to_owned() } else { earlier.join(",") }.into(),
            changed_at.as_str().into(),
            match used_by_omitted {
                0 => used_by.join(",").into(),
                more => format!("{} and {more} more", used_by.join(",")).into(),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::exit_of, output::Paint};
    use lattice::id::{Generation, Revision};

    #[test]
    fn values_are_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        for (bytes, expect) in [(0, false), (1, true), (SECRET_BYTES_MAX, true), (SECRET_BYTES_MAX + 1, false)] {
            std::fs::write(&path, vec![b'x'; bytes]).unwrap();
            assert_eq!(read(Some(&path)).map(|value| value.len()).ok(), expect.then_some(bytes));
        }
        let error = read(Some(&path)).unwrap_err();
        assert!(exit_of(&error) == Exit::Usage && !format!("{error:#}").contains("xx"), "{error:#}");
        for (before, after) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a")] {
            let mut value = before.as_bytes().to_vec();
            trim_line_break(&mut value);
            assert_eq!(value, after.as_bytes());
        }
    }

    #[test]
    fn one_line_a_name_and_no_value() {
        let item = SecretItem {
            name: "shop-db".parse().unwrap(),
            version: Generation(3),
            revision: Revision(14),
            earlier: vec![Generation(2)],
            changed_at: "2026-11-22T11:00:00.000Z".into(),
            used_by: vec!["web".parse().unwrap()],
            used_by_omitted: 0,
            changed: None,
        };
        assert_eq!(
            table(&[item]).render(Paint::off()),
            "SECRET   VERSION  EARLIER  CHANGED                   USED BY\n\
             shop-db  3        2        2026-11-22T11:00:00.000Z  web\n"
        );
    }
}
