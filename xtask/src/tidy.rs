//! `cargo xtask tidy`: the structure of the workspace, checked. Start at [`run`]; the rules are in the modules.
//!
//! The rules are functions from text to violations: only this file reads the disk. Each violation says how to mend it.

mod crates;
mod documents;
mod sources;
mod wit;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};

use crate::schema;
use crate::workspace::{self, Metadata};

/// A rule that is broken at a place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// Relative to the root.
    file: String,
    /// From 1.
    line: usize,
    /// What is wrong and how to mend it.
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Every text file of the project by its path relative to the root: tracked, or about to be. Files that are not UTF-8
/// are left out.
type Files = BTreeMap<String, String>;

/// Prints every violation; fails if there is one.
pub(crate) fn run() -> Result<()> {
    let files = read_files(workspace::root())?;
    let metadata = Metadata::read()?;

    let mut violations = crates::check(&metadata.packages, &files, workspace::root());
    violations.extend(sources::check(&files));
    violations.extend(documents::check(&files, &schema::generated()?));
    violations.extend(wit::check(&files));
    violations.sort();

    for violation in &violations {
        eprintln!("{violation}");
    }
    ensure!(violations.is_empty(), "{} places to mend", violations.len());
    eprintln!("tidy: {} files, {} crates, nothing to mend", files.len(), metadata.packages.len());
    Ok(())
}

fn read_files(root: &Path) -> Result<Files> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = workspace::output(&mut git).context("tidy needs git and a checkout to know which files are ours")?;
    let mut files = Files::new();
    for name in listed.split_terminator('\0') {
        match fs::read(root.join(name)) {
            Ok(bytes) => {
                if let Ok(text) = String::from_utf8(bytes) {
                    files.insert(name.to_owned(), text);
                }
            }
            // Deleted, but still in git's index; or a link to a folder.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
        }
    }
    Ok(files)
}

/// The number of the first line that `accept`s, else 1.
fn line_of(text: &str, accept: impl Fn(&str) -> bool) -> usize {
    text.lines().position(accept).map_or(1, |index| index + 1)
}
