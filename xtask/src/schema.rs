//! `cargo xtask schema`: what is in `docs/` word for word from somewhere else: the JSON Schemas, from the types, and the page about
//! interfaces, from their WIT. `cargo xtask tidy` compares them.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{interfaces, workspace};

/// Files relative to the root, and what belongs in them.
pub(crate) fn generated() -> Result<[(&'static str, String); 3]> {
    Ok([
        ("docs/workload-spec.schema.json", text(&lattice::spec::json_schema())?),
        ("docs/ctl.schema.json", text(&lattice::ctl::json_schema())?),
        ("docs/nats-interfaces.md", interfaces::page()?),
    ])
}

pub(crate) fn write() -> Result<()> {
    for (file, content) in generated()? {
        let path = workspace::root().join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::read_to_string(&path).is_ok_and(|current| current == content) {
            eprintln!("{file}: up to date");
            continue;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {file}"))?;
        eprintln!("{file}: written");
    }
    Ok(())
}

fn text(schema: &serde_json::Value) -> Result<String> {
    let mut text = serde_json::to_string_pretty(schema)?;
    text.push('\n');
    Ok(text)
}
