//! What may stand in a file: what pure crates must not name, headers, file names, words that must not be checked in.

use super::crates::PURE;
use super::{Files, Violation};

/// Names that make a pure crate depend on the moment, the machine or chance.
const IMPURE_NAMES: [(&str, &str); 8] = [
    ("Instant", "take the time as an argument"),
    ("SystemTime", "take the time as an argument"),
    ("HashMap", "its order is random: use BTreeMap"),
    ("HashSet", "its order is random: use BTreeSet"),
    ("new_v4", "take ids and random numbers as arguments"),
    ("now_v7", "take ids and the time as arguments"),
    ("tokio", "pure crates do not wait"),
    ("async_nats", "only lattice-nats names it"),
];
/// Modules of `std` that do.
const IMPURE_MODULES: [&str; 5] = ["env", "fs", "net", "process", "thread"];

/// File and folder names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 6] = ["common", "helper", "helpers", "misc", "util", "utils"];

/// Words for what should be done instead of being written down.
const UNFINISHED: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// Paths of somebody's own machine: whatever follows them is not there for others.
const MACHINE_PATHS: [&str; 3] = ["/work/", "/root/", "/tmp/"];

/// The only file that may contain the patterns: this one.
const THIS_FILE: &str = "xtask/src/tidy/sources.rs";

pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (file, text) in files {
        let found = [file_name(file), header(file, text), impurities(file, text), words(file, text)];
        let found = found.into_iter().flatten();
        violations.extend(found.map(|(line, what)| Violation { file: file.clone(), line, what }));
    }
    violations
}

type Faults = Vec<(usize, String)>;

fn file_name(file: &str) -> Faults {
    let empty = file.split('/').find(|part| EMPTY_NAMES.contains(&part.split('.').next().unwrap_or(part)));
    empty.map(|part| (1, format!("`{part}` does not say what is inside: name it after that"))).into_iter().collect()
}

fn header(file: &str, text: &str) -> Faults {
    if !file.ends_with(".rs") || text.starts_with("//!") {
        return Vec::new();
    }
    vec![(1, "no header: begin with `//!`: what this is, what it must not do, where to start reading".to_owned())]
}

fn impurities(file: &str, text: &str) -> Faults {
    let is_pure = file.ends_with(".rs") && PURE.iter().any(|(_, folder)| file.starts_with(folder));
    // Stands in for the server, so it needs locks and the like; no crate uses it outside tests.
    if !is_pure || file.starts_with("lattice/src/testing") {
        return Vec::new();
    }
    let code = code_of(text);
    let mut faults = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (name, remedy) in IMPURE_NAMES {
            if has_word(line, name) {
                faults.push((index + 1, format!("pure crates do not name `{name}`: {remedy}")));
            }
        }
    }
    for (line, module) in std_modules(&code) {
        if IMPURE_MODULES.contains(&module) {
            let what = format!("pure crates do not name `std::{module}`: do it in a service and pass in what it found");
            faults.push((line, what));
        }
    }
    faults
}

fn words(file: &str, text: &str) -> Faults {
    // Written by tools or by others.
    let is_foreign = file.ends_with("Cargo.lock") || file.ends_with("package-lock.json") || file.contains("wit/deps/");
    if file == THIS_FILE || is_foreign {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in UNFINISHED.into_iter().filter(|word| has_word(line, word)) {
            faults
                .push((index + 1, format!("`{word}` is checked in: do it, or open an issue and say what holds today")));
        }
        for path in MACHINE_PATHS.into_iter().filter(|path| has_machine_path(line, path)) {
            let what = format!("a path below `{path}` is not there on other machines: use one relative to the root");
            faults.push((index + 1, what));
        }
    }
    faults
}

/// The text without comments and without the module of tests at its end; as many lines, so that numbers stay right.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens_tests =
            |next: &&str| next.trim_start().starts_with("mod ") || next.trim_start().starts_with("pub mod ");
        if line.trim() == "#[cfg(test)]" && lines.peek().is_some_and(opens_tests) {
            break;
        }
        // `//` inside a string ends the line as well: that hides the rest of one line, no more.
        code.push_str(line.split("//").next().unwrap_or(line));
        code.push('\n');
    }
    code
}

/// Every module of `std` that is named, with its line: `std::fs`, and `fs` in `use std::{fmt, fs}`.
fn std_modules(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (start, matched) in code.match_indices("std::") {
        let Some(rest) = code.get(start + matched.len()..) else { continue };
        let before = code.get(..start).unwrap_or_default();
        if before.ends_with(is_word) {
            continue;
        }
        let line = before.matches('\n').count() + 1;
        let Some(list) = rest.strip_prefix('{') else {
            found.push((line, first_word(rest)));
            continue;
        };
        let (mut depth, mut at_item, mut lines) = (0, true, 0);
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_item = true,
                '\n' => lines += 1,
                _ if at_item && is_word(character) => {
                    found.push((line + lines, first_word(list.get(index..).unwrap_or_default())));
                    at_item = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn first_word(text: &str) -> &str {
    text.split(|character| !is_word(character)).next().unwrap_or_default()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|character| !is_word(character)).any(|part| part == word)
}

/// An absolute path: what stands before it is no part of a longer path or address.
fn has_machine_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(start, _)| {
        let before = line.get(..start).unwrap_or_default().chars().next_back();
        let after = line.get(start + path.len()..).unwrap_or_default().chars().next();
        !before.is_some_and(|character| is_word(character) || matches!(character, '.' | '-' | '}' | ')' | '>' | '*'))
            && after.is_some_and(|character| is_word(character) || matches!(character, '.' | '-' | '$' | '{' | '<'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines at which `text`, standing in `file`, breaks a rule.
    fn check(file: &str, text: &str, expect: &[usize]) {
        let found = super::check(&Files::from([(file.to_owned(), text.to_owned())]));
        let lines: Vec<usize> = found.iter().map(|violation| violation.line).collect();
        assert_eq!(lines, expect, "{found:?}");
    }

    const PURE_FILE: &str = "control-plane/planner/src/lib.rs";

    #[test]
    fn files_have_headers_and_names() {
        check("cli/src/main.rs", "//! What it is.\n", &[]);
        check("cli/src/main.rs", "// What it is.\n", &[1]);
        check("cli/src/notes.txt", "What it is.\n", &[]);
        check("cli/src/utils.rs", "//! x\n", &[1]);
        check("cli/tests/common/mod.rs", "//! x\n", &[1]);
        check("cli/src/commons.rs", "//! x\n", &[]);
    }

    #[test]
    fn pure_crates_name_nothing_impure() {
        check(PURE_FILE, "//! x\nlet now = Instant::now();\n", &[2]);
        check("cli/src/main.rs", "//! x\nlet now = Instant::now();\n", &[]);
        check("lattice/src/testing/mod.rs", "//! x\nuse std::collections::HashMap;\n", &[]);
        check(PURE_FILE, "//! x\nuse std::collections::{BTreeMap, HashMap};\n", &[2]);
        check(PURE_FILE, "//! No `HashMap` here.\nlet a = 1; // HashMap would be random\n", &[]);
        check(PURE_FILE, "//! x\nlet instant = MyInstant::new();\n", &[]);
        check(PURE_FILE, "//! x\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", &[]);
        check(PURE_FILE, "//! x\n#[cfg(test)]\nfn only_one() {}\nuse std::fs;\n", &[4]);
    }

    #[test]
    fn modules_of_std_are_found_in_lists() {
        check(PURE_FILE, "//! x\nuse std::fs::File;\n", &[2]);
        check(PURE_FILE, "//! x\nuse std::{\n    fmt,\n    fs::{self, File},\n};\n", &[4]);
        check(PURE_FILE, "//! x\nuse std::{collections::{BTreeMap, net}, fmt};\n", &[]);
        check(PURE_FILE, "//! x\nuse core_std::fs;\n", &[]);
    }

    #[test]
    fn nothing_unfinished_and_no_machine_is_checked_in() {
        check("a.md", "fine\nTODO: more\n", &[2]);
        check("a.md", "mktemp aXXXXXX, TODOS\n", &[]);
        check("a.md", "cd /work/main\n", &[1]);
        check("a.md", "`/tmp/lattice`\n", &[1]);
        check("a.md", "a/work/b https://example.org/work/x /tmp/ is cleaned\n", &[]);
        check("Cargo.lock", "TODO\n", &[]);
    }
}
