//! A report for people: sizes, the graph as a tree, what imports are bound to, and the interfaces that are the project's
//! own.

use super::report::{BoundTo, Component, Face, Report, Role};
use crate::output::{Cell, Paint, Table, Tone, plain, size};
use lattice::{id::ComponentName, spec::Requirement};
use std::collections::{BTreeMap, BTreeSet};

pub fn render(report: &Report, paint: Paint) -> String {
    let mut text = head(report, paint);
    text += "\n";
    text += &components(report).render(paint);
    if !report.edges.is_empty() {
        text += "\n";
        text += &graph(report, paint);
    }
    if !report.bindings.is_empty() {
        text += "\n";
        text += &bindings(report).render(paint);
    }
    for component in &report.components {
        text += &interfaces(component, "imports", &component.imports, paint);
        text += &interfaces(component, "exports", &component.exports, paint);
    }
    text
}

fn head(report: &Report, paint: Paint) -> String {
    let mut lines = Vec::new();
    let generation = report.generation.map_or_else(String::new, |generation| format!(", generation {generation}"));
    lines.push(format!("{}{generation}", paint.strong(&report.workload)));
    if let Some(whole) = &report.whole {
        let digest = whole.digest.short();
        lines.push(format!("  {}, {}, sha256 {digest}…", whole.kind.describe(), size(whole.bytes)));
        lines.push(format!("  {}", whole.engine.describe()));
    }
    let requires: Vec<String> = report.requires.iter().map(Requirement::to_string).collect();
    let requires = if requires.is_empty() { String::new() } else { format!(" where {}", requires.join(" and ")) };
    lines.push(match (&report.problem, &report.status) {
        (Some(problem), _) => format!("  {}: {}", paint.bad("can't run"), plain(&problem.message)),
        (None, Some(status)) => format!("  {} of {} replicas are ready{requires}", status.ready, status.replicas),
        (None, None) => format!("  {} on any node of this version{requires}", paint.good("can run")),
    });
    lines.join("\n") + "\n"
}

fn components(report: &Report) -> Table {
    let mut table = Table::new(&["COMPONENT", "ROLE", "SIZE", "EXPORTS"]);
    for component in &report.components {
        let role = match component.role {
            Role::Entry => Cell::new("entry", Tone::Good),
            Role::Part => "part".into(),
            Role::Service | Role::Lazy | Role::Isolated => component.role.as_str().into(),
            Role::Unused => Cell::new("unused", Tone::Warn),
            Role::Unknown => "-".into(),
        };
        let exports: Vec<&str> = component.exports.iter().map(|face| face.name.as_str()).collect();
        table.row([component.name.as_str().into(), role, size(component.bytes).into(), exports.join(", ").into()]);
    }
    if let (Some(whole), true) = (&report.whole, report.components.len() > 1) {
        table.row(["together".into(), "".into(), size(whole.bytes).into(), "".into()]);
    }
    table
}

/// The composed components as a tree from the entry; one that several use is taken apart where it comes first.
fn graph(report: &Report, paint: Paint) -> String {
    let Some(entry) = report.components.iter().find(|component| component.role == Role::Entry) else {
        return String::new();
    };
    let mut text = format!("{}\n", paint.strong(&entry.name));
    let mut seen = BTreeSet::from([&entry.name]);
    branch(report, &entry.name, "", &mut seen, &mut text, paint);
    text
}

fn branch<'a>(
    report: &'a Report,
    from: &ComponentName,
    indent: &str,
    seen: &mut BTreeSet<&'a ComponentName>,
    text: &mut String,
    paint: Paint,
) {
    let edges: Vec<_> = report.edges.iter().filter(|edge| edge.from == *from).collect();
    for (i, edge) in edges.iter().enumerate() {
        let (corner, rest) = if i + 1 == edges.len() { ("└─", "   ") } else { ("├─", "│  ") };
        let export = if edge.export == edge.import { String::new() } else { format!(" ({})", plain(&edge.export)) };
        let is_new = seen.insert(&edge.to);
        let again = if is_new || !report.edges.iter().any(|other| other.from == edge.to) { "" } else { " (see above)" };
        *text += &format!("{indent}{corner} {} → {}{export}{again}\n", plain(&edge.import), paint.strong(&edge.to));
        if is_new {
            branch(report, &edge.to, &format!("{indent}{rest}"), seen, text, paint);
        }
    }
}

/// One line for all patch versions of an interface: what is behind them is the same.
fn bindings(report: &Report) -> Table {
    let mut table = Table::new(&["IMPORT", "OF", "BOUND TO", "NOTE"]);
    let mut rows: BTreeMap<(&str, BoundTo, &str), BTreeSet<&str>> = BTreeMap::new();
    for binding in &report.bindings {
        let row = rows.entry((without_patch(&binding.import), binding.to, &binding.note)).or_default();
        row.extend(binding.of.iter().map(ComponentName::as_str));
    }
    for ((import, to, note), of) in rows {
        let tone = match to {
            BoundTo::Host => Tone::Good,
            BoundTo::Denied => Tone::Warn,
            BoundTo::Types => Tone::Dim,
            BoundTo::Nothing => Tone::Bad,
        };
        let of: Vec<&str> = of.into_iter().collect();
        table.row([import.into(), of.join(", ").into(), Cell::new(to.as_str(), tone), note.into()]);
    }
    table
}

/// `wasi:http/types@0.2.3` is `wasi:http/types@0.2`; a version before a release stays as it is.
fn without_patch(import: &str) -> &str {
    let Some((_, version)) = import.split_once('@').filter(|(_, version)| !version.contains('-')) else {
        return import;
    };
    let patch = version.match_indices('.').nth(1).map_or(0, |(dot, _)| version.len() - dot);
    import.get(..import.len() - patch).unwrap_or(import)
}

fn interfaces(component: &Component, what: &str, faces: &[Face], paint: Paint) -> String {
    let mut text = String::new();
    for face in faces.iter().filter(|face| !face.is_wasi()) {
        text += &format!("\n{} {what} {}\n", component.name, paint.strong(plain(&face.name)));
        for function in &face.functions {
            text += &format!("  {}\n", plain(function));
        }
    }
    text
}
