//! `lattice diff`: what is different between two specs that a workload had.

use crate::{
    Context,
    error::{Exit, Failure},
    lists,
    output::{Paint, plain},
};
use lattice::{
    ctl::{GenerationState, HistoryItem, SpecReply},
    id::{ConfigName, Generation, WorkloadName},
};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Show what is different between two specs of a workload
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice diff hello                      the current one against the one before it
  lattice diff hello 3                    against generation 3
  lattice diff hello 2 3                  generation 3 against generation 2")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// The older one [default: what is stable while a change is under way, else the one before the current one]
    #[arg(value_name = "FROM")]
    from: Option<u64>,
    /// The newer one [default: the current one]
    #[arg(value_name = "TO")]
    to: Option<u64>,
}

/// A field that two specs do not agree in.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Difference {
    field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { workload, from, to } = args;
    let client = context.client().await?;
    let items = lists::history(&client, workload.clone()).await?;
    let specs = of_this_life(&items);
    let find = |generation: u64| {
        specs.iter().copied().find(|spec| spec.generation == Generation(generation)).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{workload} has no generation {generation} in its history"))
                .hint(format!("see `lattice history {workload}`"))
        })
    };
    let last = specs.last().copied();
    let to = to.map_or_else(|| last.ok_or_else(|| nothing(&workload)), find)?;
    let from = match from {
        Some(from) => find(from)?,
        None => before(&specs, to).ok_or_else(|| nothing(&workload))?,
    };
    let mut differences = differences(&serde_json::to_value(&from.spec)?, &serde_json::to_value(&to.spec)?);
    let is_same_spec = differences.is_empty();
    differences.extend(of_configs(from, to));
    let (before, after) = (from.generation, to.generation);
    if differences.is_empty() {
        context.out.note(format!("generations {before} and {after} are the same"));
    } else if is_same_spec {
        context.out.note(format!("the specs of {before} and {after} are the same: {after} is for new configuration"));
    }
    let fields = || differences.iter().map(|difference| difference.field.clone()).collect();
    context.out.show(&differences, |paint| render(&differences, paint), fields)?;
    Ok(Exit::Ok)
}

fn nothing(workload: &WorkloadName) -> Failure {
    Failure::new(Exit::NotFound, format!("{workload} has nothing to compare with: there is one generation only"))
}

/// The specs since the name was deleted last, oldest first.
fn of_this_life(items: &[HistoryItem]) -> Vec<&SpecReply> {
    let mut specs: Vec<&SpecReply> = Vec::new();
    for item in items {
        match item {
            HistoryItem::Put(spec) => specs.push(spec),
            HistoryItem::Deleted { .. } => specs.clear(),
        }
    }
    specs
}

fn before<'a>(specs: &[&'a SpecReply], to: &SpecReply) -> Option<&'a SpecReply> {
    let stable =
        specs.iter().find(|spec| spec.state == Some(GenerationState::Stable) && spec.generation < to.generation);
    stable.or_else(|| specs.iter().rfind(|spec| spec.generation < to.generation)).copied()
}

/// Versions of configuration that the generations were made for.
fn of_configs(before: &SpecReply, after: &SpecReply) -> Vec<Difference> {
    let version = |version: Option<&Generation>| version.map(|version| Value::from(format!("version {version}")));
    let names: BTreeSet<_> = before.configs.keys().chain(after.configs.keys()).collect();
    let difference = |name: &ConfigName| Difference {
        field: format!("config {name}"),
        before: version(before.configs.get(name)),
        after: version(after.configs.get(name)),
    };
    names.into_iter().map(difference).filter(|difference| difference.before != difference.after).collect()
}

fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let (mut befores, mut afters) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), before, &mut befores);
    flatten(String::new(), after, &mut afters);
    let mut fields: Vec<&String> = befores.keys().chain(afters.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    let difference = |field: &String| Difference {
        field: field.clone(),
        before: befores.get(field).map(|value| (*value).clone()),
        after: afters.get(field).map(|value| (*value).clone()),
    };
    fields.into_iter().map(difference).filter(|difference| difference.before != difference.after).collect()
}

/// The leaves of a document by their paths, such as `components[0].source`.
fn flatten<'v>(path: String, value: &'v Value, leaves: &mut BTreeMap<String, &'v Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(path, value, leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                flatten(format!("{path}[{index}]"), value, leaves);
            }
        }
        _ => drop(leaves.insert(path, value)),
    }
}

fn render(differences: &[Difference], paint: Paint) -> String {
    let text =
        |value: &Value| plain(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str()).to_string();
    let mut lines = String::new();
    for Difference { field, before, after } in differences {
        let field = plain(field);
        if let Some(before) = before {
            lines += &format!("{}\n", paint.bad(format!("- {field}: {}", text(before))));
        }
        if let Some(after) = after {
            lines += &format!("{}\n", paint.good(format!("+ {field}: {}", text(after))));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_in_one_only_or_differs_is_shown() {
        let before = json!({"name": "w", "replicas": 1, "components": [{"env": {"A": "1", "B": "x"}}], "services": []});
        let after = json!({"name": "w", "replicas": 1, "components": [{"env": {"A": "2"}}, {"lazy": true}]});
        assert_eq!(
            render(&differences(&before, &after), Paint::off()),
            "- components[0].env.A: 1\n+ components[0].env.A: 2\n- components[0].env.B: x\n\
             + components[1].lazy: true\n- services: []\n"
        );
        assert_eq!(differences(&before, &before), []);
    }
}
