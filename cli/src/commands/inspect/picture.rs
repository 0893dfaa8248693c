//! The composed graph as a picture: DOT for Graphviz, or an SVG of our own. Components stand in columns by how far they
//! are from the entry, the host at the right; an arrow goes from who imports to who exports.

use super::report::{BoundTo, Report, Role};
use crate::output::size;
use lattice::id::ComponentName;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

const HOST: &str = "host";

/// Arrows with what they carry, one for each pair. To the host they carry packages: interfaces would be too many.
fn arrows(report: &Report) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut arrows: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for edge in &report.edges {
        let ends = (component(&edge.from), component(&edge.to));
        arrows.entry(ends).or_default().insert(edge.import.clone());
    }
    for binding in report.bindings.iter().filter(|binding| binding.to != BoundTo::Types) {
        let package = binding.import.split(['/', '@']).next().unwrap_or_default();
        let label = match binding.to {
            BoundTo::Host | BoundTo::Types => package.to_owned(),
            BoundTo::Denied => format!("{package} (denied)"),
            BoundTo::Nothing => format!("{package} (missing)"),
        };
        for from in &binding.of {
            arrows.entry((component(from), HOST.to_owned())).or_default().insert(label.clone());
        }
    }
    arrows
}

/// Ids of components can't be mistaken for the host's.
fn component(name: &ComponentName) -> String {
    format!("c:{name}")
}

pub fn dot(report: &Report) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "));
    let mut text = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quote(report.workload.as_str()));
    for part in &report.components {
        let style = match part.role {
            Role::Entry => ", penwidth=2",
            Role::Unused => ", style=dashed",
            Role::Service | Role::Lazy | Role::Isolated => ", style=rounded",
            Role::Part | Role::Unknown => "",
        };
        let label = format!("{}, {}", part.name, size(part.bytes));
        let _ = writeln!(text, "  {} [label={}{style}];", quote(&component(&part.name)), quote(&label));
    }
    let arrows = arrows(report);
    if arrows.keys().any(|(_, to)| to == HOST) {
        let _ = writeln!(text, "  {HOST} [label=\"host\", style=filled, fillcolor=lightgrey];");
    }
    for ((from, to), labels) in &arrows {
        let label: Vec<String> = labels.iter().map(|label| label.replace('"', "'")).collect();
        let style = if to == HOST { ", style=dashed" } else { "" };
        let _ = writeln!(text, "  {} -> {} [label=\"{}\"{style}];", quote(from), quote(to), label.join("\\n"));
    }
    text.push_str("}\n");
    text
}

/// A box of the picture.
struct Place {
    x: usize,
    y: usize,
    label: String,
    note: String,
    class: &'static str,
}

const BOX_WIDTH: usize = 170;
const BOX_HEIGHT: usize = 46;
/// Room for labels between two columns.
const COLUMN: usize = BOX_WIDTH + 300;
const MARGIN: usize = 24;
const LINE: usize = 15;

pub fn svg(report: &Report) -> String {
    let arrows = arrows(report);
    let places = places(report, &arrows);
    let width = places.values().map(|place| place.x).max().unwrap_or(0) + BOX_WIDTH + MARGIN;
    let height = places.values().map(|place| place.y).max().unwrap_or(0) + BOX_HEIGHT + MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{}</title>\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#456\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        escape(report.workload.as_str())
    );
    for ((from, to), labels) in &arrows {
        let (Some(a), Some(b)) = (places.get(from.as_str()), places.get(to.as_str())) else { continue };
        let (x1, y1, x2, y2) = (a.x + BOX_WIDTH, a.y + BOX_HEIGHT / 2, b.x, b.y + BOX_HEIGHT / 2);
        let middle = usize::midpoint(x1, x2);
        let dashes = if to == HOST { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = writeln!(
            text,
            "<path d=\"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#456\"{dashes} \
             marker-end=\"url(#arrow)\"/>"
        );
        // Beside where the arrow starts: there the labels of a column's boxes are apart.
        let top = y1.saturating_sub(LINE * labels.len()) + LINE / 2;
        for (i, label) in labels.iter().enumerate() {
            let (x, y) = (x1 + 10, top + LINE * i + if to == HOST { BOX_HEIGHT } else { 0 });
            let _ = writeln!(text, "<text x=\"{x}\" y=\"{y}\" font-size=\"11\" fill=\"#345\">{}</text>", escape(label));
        }
    }
    for Place { x, y, label, note, class } in places.values() {
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\" {class}/>\n\
             <text x=\"{tx}\" y=\"{ty}\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\n\
             <text x=\"{tx}\" y=\"{ny}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#567\">{}</text>",
            escape(label),
            escape(note),
            tx = x + BOX_WIDTH / 2,
            ty = y + 20,
            ny = y + 37,
        );
    }
    text.push_str("</svg>\n");
    text
}

fn places(report: &Report, arrows: &BTreeMap<(String, String), BTreeSet<String>>) -> BTreeMap<String, Place> {
    // Longest way from a component that nobody uses. There are no circles, so as many rounds as there are boxes suffice.
    let mut column: BTreeMap<String, usize> = report.components.iter().map(|part| (component(&part.name), 0)).collect();
    for _ in 0..report.components.len() {
        for edge in &report.edges {
            let after = column.get(&component(&edge.from)).map_or(0, |column| column + 1);
            let to = column.entry(component(&edge.to)).or_default();
            *to = after.max(*to);
        }
    }
    // Boxes of one column are as far apart as the tallest label needs.
    let lines = arrows.values().map(BTreeSet::len).max().unwrap_or(0);
    let row = BOX_HEIGHT + 40 + LINE * lines;
    let mut filled: BTreeMap<usize, usize> = BTreeMap::new();
    let mut at = |column: usize| {
        let rows = filled.entry(column).or_default();
        *rows += 1;
        (MARGIN + column * COLUMN, MARGIN + LINE * lines + (*rows - 1) * row)
    };
    let mut places = BTreeMap::new();
    for part in &report.components {
        let id = component(&part.name);
        let (x, y) = at(column.get(&id).copied().unwrap_or(0));
        let (note, class) = match part.role {
            Role::Entry => ("entry", "fill=\"#e8f1ff\" stroke=\"#246\" stroke-width=\"2\""),
            Role::Unused => ("unused", "fill=\"#fff\" stroke=\"#999\" stroke-dasharray=\"4 3\""),
            Role::Service | Role::Lazy | Role::Isolated => {
                (part.role.as_str(), "fill=\"#fffbe8\" stroke=\"#652\" rx=\"8\"")
            }
            Role::Part | Role::Unknown => ("", "fill=\"#f6f9fc\" stroke=\"#456\""),
        };
        let comma = if note.is_empty() { "" } else { ", " };
        let note = format!("{note}{comma}{}", size(part.bytes));
        places.insert(id, Place { x, y, label: part.name.to_string(), note, class });
    }
    if arrows.keys().any(|(_, to)| to == HOST) {
        let (x, y) = at(column.values().max().copied().unwrap_or(0) + 1);
        let class = "fill=\"#eee\" stroke=\"#666\"";
        places.insert(HOST.to_owned(), Place { x, y, label: HOST.to_owned(), note: "what nodes offer".into(), class });
    }
    places
}

fn escape(text: &str) -> String {
    crate::output::plain(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
