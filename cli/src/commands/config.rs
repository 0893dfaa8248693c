//! `lattice config`: configuration that specs name with `config-from` and `env-from`.

use crate::{
    Context,
    client::Client,
    error::{Exit, Failure, exit_of},
    output::{Format, Table, size, yaml},
};
use anyhow::Context as _;
use lattice::{
    ctl::{
        ConfigDeleteReply, ConfigDeleteRequest, ConfigItem, ConfigList, ConfigPutRequest, ConfigReply,
        HEADER_EXPECTED_REVISION,
    },
    id::ConfigName,
    limits::CONFIG_BYTES_MAX,
    store::Headers,
    subject::{ConfigVerb, Topic},
};
use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Configuration that specs name by `config-from` and `env-from`
///
/// Each change is a new version. It reaches replicas that run as their spec says by `config-update`.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice config put shop currency=eur region=eu-1
  lattice config put shop --file shop.yaml     a mapping of keys to texts: all that there is then
  lattice config put shop --merge currency=usd changes one key, and keeps the others
  lattice config get shop
  lattice config list                          who uses what")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put entries under a name, in place of all that is there
    Put {
        /// Name that specs refer to
        name: ConfigName,
        /// Entries
        #[arg(value_name = "KEY=VALUE")]
        entries: Vec<String>,
        /// A YAML or JSON file with a mapping of keys to texts; `KEY=VALUE` counts before it
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Keep what is there under other keys
        #[arg(long)]
        merge: bool,
        /// Go on only if it is still at this revision; 0: only if there is none
        #[arg(long, value_name = "N", conflicts_with = "merge")]
        expected_revision: Option<u64>,
    },
    /// Print the entries of a name
    Get {
        /// Name that specs refer to
        name: ConfigName,
    },
    /// List all names, their versions and who uses them
    #[command(visible_alias = "ls")]
    List,
    /// Delete a name
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
        Command::Put { name, entries, file, merge, expected_revision } => {
            let written = written(&entries, file.as_deref())?;
            let client = context.client().await?;
            let item = match merge {
                true => put_merged(&client, &name, written).await?,
                false => put(&client, &name, expected_revision, written).await?,
            };
            let what = if item.changed == Some(false) { "is so already, at" } else { "is now at" };
            let line = |_| format!("{} {what} version {}\n", item.name, item.version);
            context.out.show(&item, line, || vec![item.name.to_string()])?;
        }
        Command::Get { name } => {
            let client = context.client().await?;
            let reply: ConfigReply = client.ask(Topic::Config(ConfigVerb::Get, name)).await?;
            if context.out.format == Format::Table {
                let ConfigItem { version, revision, changed_at, .. } = &reply.item;
                let head = format!("# version {version}, revision {revision}, of {changed_at}\n");
                context.out.write(&(head + &yaml(&reply.entries)?))?;
            } else {
                context.out.show(&reply, |_| String::new(), || reply.entries.keys().cloned().collect())?;
            }
        }
        Command::List => {
            let client = context.client().await?;
            let list: ConfigList = client.ask(Topic::ConfigList).await?;
            let items = &list.configs;
            match items.is_empty() {
                _ if list.omitted > 0 => context.out.note(format_args!("and {} more names", list.omitted)),
                true => context.out.note("no configuration yet; `lattice config put NAME KEY=VALUE` makes some"),
                false => {}
            }
            let names = || items.iter().map(|item| item.name.to_string()).collect();
            let rendered = |paint| if items.is_empty() { String::new() } else { table(items).render(paint) };
            context.out.show(&list, rendered, names)?;
        }
        Command::Delete { name, force, ignore_missing } => {
            let client = context.client().await?;
            let topic = Topic::Config(ConfigVerb::Delete, name.clone());
            let reply: ConfigDeleteReply = client.send(topic, Headers::new(), &ConfigDeleteRequest { force }).await?;
            if !reply.deleted && !ignore_missing {
                return Err(Failure::new(Exit::NotFound, format!("there is no config {name}"))
                    .hint("see `lattice config list`")
                    .into());
            }
            let line = |_| format!("{name} {}\n", if reply.deleted { "is deleted" } else { "was not there" });
            context.out.show(&reply, line, || vec![name.to_string()])?;
        }
    }
    Ok(Exit::Ok)
}

async fn put(
    client: &Client,
    name: &ConfigName,
    expected_revision: Option<u64>,
    entries: BTreeMap<String, String>,
) -> anyhow::Result<ConfigItem> {
    let expected = expected_revision.map(|revision| (HEADER_EXPECTED_REVISION.to_owned(), revision.to_string()));
    let topic = Topic::Config(ConfigVerb::Put, name.clone());
    client.send(topic, expected.into_iter().collect(), &ConfigPutRequest { entries }).await
}

/// Over what is there, as long as nobody else changes it meanwhile.
async fn put_merged(
    client: &Client,
    name: &ConfigName,
    written: BTreeMap<String, String>,
) -> anyhow::Result<ConfigItem> {
    let there: anyhow::Result<ConfigReply> = client.ask(Topic::Config(ConfigVerb::Get, name.clone())).await;
    let (revision, mut entries) = match there {
        Ok(reply) => (reply.item.revision.0, reply.entries),
        Err(error) if exit_of(&error) == Exit::NotFound => (0, BTreeMap::new()),
        Err(error) => return Err(error),
    };
    entries.extend(written);
    put(client, name, Some(revision), entries).await
}

/// The entries of the file, under those of the command line.
fn written(arguments: &[String], file: Option<&Path>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut entries = match file {
        Some(path) => read(path)?,
        None => BTreeMap::new(),
    };
    for argument in arguments {
        let Some((key, value)) = argument.split_once('=') else {
            return Err(Failure::usage(format!("{argument:?} is not KEY=VALUE")).into());
        };
        entries.insert(key.to_owned(), value.to_owned());
    }
    if file.is_none() && arguments.is_empty() {
        return Err(Failure::usage("nothing to put: give KEY=VALUE or --file").into());
    }
    Ok(entries)
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let failed = || Failure::failed(format!("can't read {}", path.display()));
    let mut text = String::new();
    // Twice what can be kept: comments and quotes are not.
    let most = 2 * CONFIG_BYTES_MAX as u64;
    std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)).with_context(failed)?;
    let parsed: BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{error}")).with_context(|| {
            Failure::failed(format!("{} is not a mapping of keys to texts", path.display()))
                .hint("write it as `key: value` lines, or as one JSON object")
        })?;
    let entry = |(key, value): (String, serde_json::Value)| match value {
        serde_json::Value::String(text) => Ok((key, text)),
        serde_json::Value::Number(number) => Ok((key, number.to_string())),
        serde_json::Value::Bool(truth) => Ok((key, truth.to_string())),
        _ => Err(Failure::failed(format!("{}: the value of {key} is not a text", path.display()))
            .hint("put a nested value in quotes, and let the component read it")
            .into()),
    };
    parsed.into_iter().map(entry).collect()
}

fn table(items: &[ConfigItem]) -> Table {
    let mut table = Table::new(&["CONFIG", "VERSION", "ENTRIES", "SIZE", "CHANGED", "USED BY"]);
    for ConfigItem { name, version, sizes, changed_at, used_by, used_by_omitted, .. } in items {
        let used_by: Vec<&str> = used_by.iter().map(|workload| workload.as_str()).collect();
        table.row([
            name.as_str().into(),
            version.into(),
            sizes.len().into(),
            size(sizes.values().sum()).into(),
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
    use crate::output::Paint;
    use lattice::id::{Generation, Revision};

    #[test]
    fn files_and_arguments_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.yaml");
        std::fs::write(&path, "currency: eur\ndepth: 3\ndebug: true\nurl: 'a=b'\n").unwrap();
        let entries = written(&["currency=usd".into(), "query=a=b".into()], Some(&path)).unwrap();
        let pairs: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        assert_eq!(pairs, ["currency:usd", "debug:true", "depth:3", "query:a=b", "url:a=b"]);
        std::fs::write(&path, r#"{"a": "b"}"#).unwrap();
        assert_eq!(written(&[], Some(&path)).unwrap().len(), 1);
        for bad in ["a: [1]", "- a", "a: {b: c}", "a: null"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(exit_of(&written(&[], Some(&path)).unwrap_err()), Exit::Failed, "{bad}");
        }
        assert_eq!(exit_of(&written(&["novalue".into()], None).unwrap_err()), Exit::Usage);
        assert_eq!(exit_of(&written(&[], None).unwrap_err()), Exit::Usage);
    }

    #[test]
    fn one_line_a_name() {
        let item = ConfigItem {
            name: "shop".parse().unwrap(),
            version: Generation(3),
            revision: Revision(14),
            sizes: [("currency".to_owned(), 3), ("motd".to_owned(), 1533)].into(),
            changed_at: "2026-11-22T11:00:00.000Z".into(),
            used_by: vec!["web".parse().unwrap(), "pay".parse().unwrap()],
            used_by_omitted: 0,
            changed: None,
        };
        assert_eq!(
            table(&[item]).render(Paint::off()),
            "CONFIG  VERSION  ENTRIES  SIZE     CHANGED                   USED BY\n\
             shop    3        2        1.5 KiB  2026-11-22T11:00:00.000Z  web,pay\n"
        );
    }
}
