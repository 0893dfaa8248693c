//! Documents that must say what the types say.

use super::{Files, Violation, line_of};

const SUBJECTS: &str = "lattice/src/subject.rs";
const PROTOCOL: &str = "docs/protocol.md";

/// `schemas`: files and what belongs in them.
pub(super) fn check(files: &Files, schemas: &[(&str, String)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (file, expected) in schemas {
        let actual = files.get(*file).map_or("", String::as_str);
        if actual != expected {
            let differs =
                actual.lines().zip(expected.lines()).take_while(|(actual, expected)| actual == expected).count();
            let what = "is not what the types generate: run `cargo xtask schema`".to_owned();
            violations.push(Violation { file: (*file).to_owned(), line: differs + 1, what });
        }
    }
    if let (Some(source), Some(protocol)) = (files.get(SUBJECTS), files.get(PROTOCOL)) {
        for subject in subjects(source) {
            if !alternatives(subject).iter().all(|subject| protocol.contains(subject.as_str()))
                && !protocol.contains(subject)
            {
                let line = line_of(source, |line| line.contains(subject));
                let what = format!("{PROTOCOL} does not name `{subject}`: describe it there as well");
                violations.push(Violation { file: SUBJECTS.to_owned(), line, what });
            }
        }
    }
    violations
}

/// What stands between backticks in the first column of the table at the top of a file. `….x` stands for a subject
/// that only ends differently from the one before it: its ending is answered.
fn subjects(source: &str) -> Vec<&str> {
    let rows = source.lines().take_while(|line| line.starts_with("//!")).filter_map(|line| line.strip_prefix("//! |"));
    let cells = rows.filter_map(|row| row.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(|subject| subject.trim_start_matches('…')).collect()
}

/// `a.{b,c}.{D}` stands for `a.b.{D}` and `a.c.{D}`.
fn alternatives(subject: &str) -> Vec<String> {
    let list = subject.split_inclusive('}').find_map(|part| {
        let (_, list) = part.split_once('{')?;
        list.contains(',').then_some(list.trim_end_matches('}'))
    });
    let Some(list) = list else { return vec![subject.to_owned()] };
    let group = format!("{{{list}}}");
    list.split(',').flat_map(|word| alternatives(&subject.replacen(&group, word, 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "//! Subjects.\n//!\n//! | subject | kind |\n//! |---|---|\n\
        //! | `l.{L}.{get,put}.{W}` | `request` |\n//! | `l.{L}.list`, `….schema` | request |\nconst X: &str = \"|`no`\";\n";

    #[test]
    fn the_table_is_read() {
        assert_eq!(subjects(SOURCE), ["l.{L}.{get,put}.{W}", "l.{L}.list", ".schema"]);
        assert_eq!(alternatives("l.{L}.{get,put}.{W}"), ["l.{L}.get.{W}", "l.{L}.put.{W}"]);
        assert_eq!(alternatives("l.{L}"), ["l.{L}"]);
    }

    #[test]
    fn every_subject_is_described() {
        let check = |protocol: &str, expect: &[usize]| {
            let files = [(SUBJECTS.to_owned(), SOURCE.to_owned()), (PROTOCOL.to_owned(), protocol.to_owned())];
            let found = super::check(&Files::from(files), &[]);
            let lines: Vec<usize> = found.iter().map(|violation| violation.line).collect();
            assert_eq!(lines, expect, "{found:?}");
        };
        check("`l.{L}.get.{W}` `l.{L}.put.{W}` `l.{L}.list` `l.{L}.schema`", &[]);
        check("`l.{L}.{get,put}.{W}` `l.{L}.list` `l.{L}.schema`", &[]);
        check("`l.{L}.get.{W}` `l.{L}.list` `l.{L}.schema`", &[5]);
        check("`l.{L}.{get,put}.{W}`", &[6, 6]);
    }

    #[test]
    fn schemas_are_current() {
        let files = Files::from([("docs/a.json".to_owned(), "{\n  \"a\": 1\n}\n".to_owned())]);
        let current = ("docs/a.json", "{\n  \"a\": 1\n}\n".to_owned());
        let changed = ("docs/a.json", "{\n  \"a\": 2\n}\n".to_owned());
        let missing = ("docs/b.json", "{}\n".to_owned());
        assert_eq!(super::check(&files, &[current]), []);
        let found = super::check(&files, &[changed, missing]);
        let places: Vec<(&str, usize)> = found.iter().map(|it| (it.file.as_str(), it.line)).collect();
        assert_eq!(places, [("docs/a.json", 2), ("docs/b.json", 1)]);
    }
}
