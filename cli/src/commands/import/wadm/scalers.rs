//! How many replicas the scalers of wadm ask for, and on which nodes.

use super::{
    super::{
        Notes,
        draft::{Draft, requirements},
        tree::Tree,
    },
    Part, link,
};
use serde_json::json;

/// How many and where: of all components of a workload together.
pub(super) fn scale(members: &[&Part<'_>], draft: &mut Draft, notes: &mut Notes) {
    let mut replicas: Option<i64> = None;
    for part in members {
        for one in part.tree.get("traits").map(Tree::items).unwrap_or_default() {
            notes.unknown(one, &["type", "properties"]);
            let kind = one.text_of("type").unwrap_or_default();
            let properties = one.get("properties");
            if matches!(kind.as_str(), "spreadscaler" | "daemonscaler") {
                scaler_unknown(properties, notes);
            }
            match kind.as_str() {
                "spreadscaler" => {
                    let number = properties.and_then(instances);
                    replicas = replicas.max(Some(number.map_or(1, |(_, instances)| instances)));
                    match number {
                        None => notes.mapped(one.line, "replicas: 1"),
                        Some((line, instances)) => {
                            let more = match (members.len(), instances) {
                                (2.., _) => "; composed components have one number, the largest",
                                (_, 5..) => {
                                    "; an instance there takes one call at a time, a replica here up to 64: fewer may do"
                                }
                                _ => "",
                            };
                            notes.changed(line, format!("replicas: {instances}{more}"));
                        }
                    }
                    properties.into_iter().for_each(|properties| spread(properties, draft, notes));
                }
                "daemonscaler" => {
                    notes.mapped(one.line, "placement.daemon: true, one replica on each node");
                    draft.set_in("placement", "daemon", true.into());
                    match properties.and_then(instances) {
                        Some((line, number)) if number > 1 => notes.changed(
                            line,
                            format!("{number} on each node: one replica there takes up to 64 calls at a time"),
                        ),
                        Some((line, _)) => notes.mapped(line, "instances: one replica on each node"),
                        None => {}
                    }
                    properties.into_iter().for_each(|properties| anywhere(properties, draft, notes));
                }
                "link" if link(one).is_none() => notes.lost(one.line, "a link without a target"),
                "link" => {}
                other => notes.lost(one.line, format!("trait {other}: not known here")),
            }
        }
    }
    if draft.get_in("placement", "daemon").is_none()
        && let Some(replicas) = replicas
    {
        draft.set("replicas", replicas.into());
    }
}

/// What no scaler is known to say.
fn scaler_unknown(properties: Option<&Tree>, notes: &mut Notes) {
    let Some(properties) = properties else { return };
    notes.unknown(properties, &["instances", "replicas", "spread"]);
    for spread in properties.get("spread").map(Tree::items).unwrap_or_default() {
        notes.unknown(spread, &["name", "requirements", "weight"]);
    }
}

fn instances(properties: &Tree) -> Option<(u64, i64)> {
    let tree = properties.get("instances").or_else(|| properties.get("replicas"))?;
    Some((tree.line, tree.number()?))
}

/// A label that each of several spreads has, and that tells them apart.
fn common_label(spreads: &[Tree]) -> Option<String> {
    let labels = |spread: &Tree| -> Vec<String> {
        let requirements = spread.get("requirements").map(Tree::entries).unwrap_or_default();
        requirements.iter().map(|entry| entry.key.clone()).collect()
    };
    let [first, rest @ ..] = spreads else { return None };
    match labels(first).as_slice() {
        [label] if rest.iter().all(|spread| labels(spread) == [label.clone()]) => Some(label.clone()),
        _ => None,
    }
}

/// The value that a spread wants of a label.
fn value_of(spread: &Tree, label: &str) -> Option<String> {
    spread.at(&["requirements", label])?.text()
}

fn spread(properties: &Tree, draft: &mut Draft, notes: &mut Notes) {
    let spreads = properties.get("spread").map(Tree::items).unwrap_or_default();
    let weight =
        |spread: &Tree| spread.get("weight").and_then(Tree::number).filter(|weight| *weight > 0).unwrap_or(100);
    match spreads {
        [] => {}
        [only] => {
            let conditions = only.get("requirements").map(requirements).unwrap_or_default();
            if conditions.is_empty() {
                notes.mapped(only.line, "spread: over all nodes, as evenly as there is room");
            }
            for condition in &conditions {
                notes.mapped(only.line, format!("placement.require: {condition}"));
                draft.push_in("placement", "require", condition.as_str().into());
            }
        }
        several => {
            let total: i64 = several.iter().map(weight).sum::<i64>().max(1);
            let percent = |spread: &Tree| (weight(spread) * 100 / total).clamp(0, 100);
            if let Some(label) = common_label(several) {
                let mut shares = serde_json::Map::new();
                for one in several {
                    let Some(value) = value_of(one, &label) else { continue };
                    notes.mapped(one.line, format!("placement.spread: {} percent over {label} {value}", percent(one)));
                    shares.insert(value, percent(one).into());
                }
                draft.push_in("placement", "spread", json!({"over": label, "shares": shares, "hard": true}));
                return;
            }
            for one in several {
                let conditions = one.get("requirements").map(requirements).unwrap_or_default();
                if conditions.is_empty() {
                    notes.lost(one.line, "a share for any node: say which nodes are preferred by placement.prefer");
                }
                for condition in conditions {
                    let weight = percent(one).max(1);
                    notes.changed(
                        one.line,
                        format!("placement.prefer: {condition}, weight {weight}: wadm would require it"),
                    );
                    draft.push_in("placement", "prefer", json!({"label": condition, "weight": weight}));
                }
            }
        }
    }
}

/// Nodes that a daemon is for: those of any spread.
fn anywhere(properties: &Tree, draft: &mut Draft, notes: &mut Notes) {
    let spreads = properties.get("spread").map(Tree::items).unwrap_or_default();
    for weight in spreads.iter().filter_map(|spread| spread.entry("weight")) {
        notes.changed(weight.line, "weight: says nothing, since a daemon is on each of the nodes");
    }
    let conditions: Vec<String> = match (spreads, common_label(spreads)) {
        ([], _) => Vec::new(),
        ([only], _) => {
            let conditions = only.get("requirements").map(requirements).unwrap_or_default();
            if conditions.is_empty() {
                notes.mapped(only.line, "spread: every node");
            }
            conditions
        }
        (several, Some(label)) => {
            let values: Vec<String> = several.iter().filter_map(|spread| value_of(spread, &label)).collect();
            let condition = format!("{label} in ({})", values.join(", "));
            for other in several.iter().skip(1) {
                notes.mapped(other.line, format!("placement.require: {condition}"));
            }
            vec![condition]
        }
        (several, None) => {
            for one in several {
                notes.lost(one.line, "one of several sets of labels: make a workload for each");
            }
            Vec::new()
        }
    };
    for condition in conditions {
        let line = spreads.first().map_or(properties.line, |first| first.line);
        notes.mapped(line, format!("placement.require: {condition}"));
        draft.push_in("placement", "require", condition.into());
    }
}
