//! The page in `docs/` about the interfaces of `wit/nats`, from their own text. It reads WIT line by line, as it is written there:
//! one declaration a line, with its sentences above it. Start at [`page`].

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::workspace;

/// In the order in which they are told.
const FILES: [&str; 12] = [
    "package",
    "types",
    "core",
    "services",
    "jetstream",
    "counters",
    "schedules",
    "kv",
    "transactions",
    "objects",
    "limits",
    "worlds",
];

/// What is written to `docs/nats-interfaces.md`.
pub(crate) fn page() -> Result<String> {
    let read = |name: &str| {
        let path = workspace::root().join(format!("wit/nats/{name}.wit"));
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let texts = FILES.iter().map(|name| read(name)).collect::<Result<Vec<_>>>()?;
    let mut page = "<!-- Written by `cargo xtask schema` from wit/nats: edit that. -->\n".to_owned();
    texts.iter().for_each(|text| render(text, &mut page));
    page.truncate(page.trim_end().len());
    page.push('\n');
    Ok(page)
}

/// What is open around a line.
enum Block {
    Interface,
    World,
    Resource(String),
    /// A record, a variant or an enum: its fields come one a line, behind what is said of the whole.
    Fields,
}

fn render(text: &str, page: &mut String) {
    let (mut blocks, mut said) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(sentence) = line.strip_prefix("///") {
            said.push(sentence.strip_prefix(' ').unwrap_or(sentence));
            continue;
        }
        if line.is_empty() || line.starts_with("@since(") {
            continue;
        }
        declare(line, &std::mem::take(&mut said), &mut blocks, page);
    }
}

fn declare(line: &str, said: &[&str], blocks: &mut Vec<Block>, page: &mut String) {
    let mut tell = |heading: String, code: Option<&str>| {
        let _ = writeln!(page, "\n{heading}\n");
        if let Some(code) = code {
            let _ = writeln!(page, "```wit\n{code}\n```\n");
        }
        let _ = writeln!(page, "{}", said.join("\n"));
    };
    let named = |name: &str| name.trim_end_matches('{').trim().trim_start_matches('%').to_owned();
    if line == "}" {
        blocks.pop();
    } else if let Some(Block::Fields) = blocks.last() {
        let _ = writeln!(page, "- `{}`: {}", line.trim_end_matches(','), said.join(" "));
    } else if let Some(package) = line.strip_prefix("package ") {
        tell(format!("# {}", package.trim_end_matches(';')), None);
    } else if let Some(name) = line.strip_prefix("interface ") {
        tell(format!("## Interface `{}`", named(name)), None);
        blocks.push(Block::Interface);
    } else if let Some(name) = line.strip_prefix("world ") {
        tell(format!("## World `{}`", named(name)), None);
        blocks.push(Block::World);
    } else if let Some(name) = line.strip_prefix("resource ") {
        tell(format!("### resource `{}`", named(name)), None);
        blocks.push(Block::Resource(named(name)));
    } else if let Some((kind, name)) =
        ["record", "variant", "enum"].iter().find_map(|kind| Some((kind, line.strip_prefix(kind)?.strip_prefix(' ')?)))
    {
        tell(format!("### {kind} `{}`", named(name)), None);
        page.push('\n');
        blocks.push(Block::Fields);
    } else if let Some(name) = line.strip_prefix("import ") {
        let _ = writeln!(page, "\n- imports `{}`", name.trim_end_matches(';'));
    } else if let Some((name, _)) = line.strip_prefix("type ").and_then(|line| line.split_once(" = ")) {
        tell(format!("### type `{name}`"), Some(line));
    } else if let Some((name, _)) = line.split_once(": ")
        && !line.starts_with("use ")
    {
        let of = if let Some(Block::Resource(of)) = blocks.last() { format!("{of}.") } else { String::new() };
        tell(format!("### `{of}{}`", named(name)), Some(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_become_headings_with_their_text() {
        let wit = "/// A package.\npackage a:b@1.0.0;\n/// Things.\n@since(version = 0.1.0)\ninterface things {\n  use other.{x};\n  \
                   /// A way.\n  @since(version = 0.1.0)\n  enum way {\n    /// In.\n    in,\n  }\n  /// One.\n  \
                   resource thing {\n    /// Goes.\n    ///\n    /// Far.\n    %go: async func() -> u32;\n  }\n}\n\
                   /// All.\nworld all {\n  import things;\n}\n";
        let mut page = String::new();
        render(wit, &mut page);
        let expect = "\n# a:b@1.0.0\n\nA package.\n\n## Interface `things`\n\nThings.\n\n### enum `way`\n\nA way.\n\n- `in`: In.\n\n\
                      ### resource `thing`\n\nOne.\n\n### `thing.go`\n\n```wit\n%go: async func() -> u32;\n```\n\nGoes.\n\nFar.\n\n\
                      ## World `all`\n\nAll.\n\n- imports `things`\n";
        assert_eq!(page, expect);
    }
}
