//! The scenarios of `simulations/scenarios/`, each with what is expected to come of it beside it. After a change that is
//! meant to change that: `LATTICE_BLESS=1 cargo test -p lattice-simulations --test scenarios`, and read the difference.

// Helpers of tests are tests, whatever clippy takes them for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lattice_simulations::scenario;
use std::{fs, path::Path};

#[test]
fn scenarios_come_out_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    assert!(!files.is_empty());
    let mut failed = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let played = scenario::play(&name, &fs::read_to_string(&file).unwrap());
        let played = played.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if let Some(violation) = played.violation {
            played.trace.lines().for_each(|line| eprintln!("{line}"));
            eprintln!("{name}: {violation}\n");
            failed.push(name);
            continue;
        }
        let expected = file.with_extension("out");
        if std::env::var_os("LATTICE_BLESS").is_some() {
            fs::write(&expected, &played.transcript).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != played.transcript {
            eprintln!("{name} is not {}:\n{}", expected.display(), played.transcript);
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_file_that_is_wrong_is_refused_with_its_line() {
    for (text, line) in [
        ("nodes 2\nput", "line 2"),
        ("nodes two", "line 1"),
        ("# words\n\nafter 5", "line 3"),
        ("weather rain=7", "line 1"),
        ("recreate everything", "line 1"),
        ("kill", "line 1"),
    ] {
        let error = scenario::play("wrong", text).unwrap_err();
        assert!(error.starts_with(line), "{text:?}: {error}");
    }
    let played = scenario::play("unknown node", "nodes 1\nkill n2").unwrap();
    assert!(played.violation.unwrap().contains("there is no node n2"));
}
