//! WIT of our own: everything in it is explained where it stands, and its operations are named in the page about it.

use super::{Files, Violation};

/// Folders of packages, and the pages about them.
const PACKAGES: [(&str, Option<&str>); 2] = [("wit/nats/", Some("docs/nats.md")), ("wit/node/", None)];
/// What begins a declaration.
const KEYWORDS: [&str; 8] = ["interface ", "world ", "record ", "enum ", "variant ", "resource ", "flags ", "type "];

pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (folder, page) in PACKAGES {
        let page = page.map(|page| (page, files.get(page).map_or("", String::as_str)));
        for (file, text) in files.iter().filter(|(file, _)| file.starts_with(folder) && file.ends_with(".wit")) {
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            for (index, line) in lines.iter().enumerate() {
                let operation = operation(line);
                if operation.is_none() && !KEYWORDS.iter().any(|keyword| line.starts_with(keyword)) {
                    continue;
                }
                let mut before = lines.iter().take(index).rev();
                let since = before.next().is_some_and(|line| line.starts_with("@since("));
                let mut tell = |what: String| violations.push(Violation { file: file.clone(), line: index + 1, what });
                if !since || !before.next().is_some_and(|line| line.starts_with("///")) {
                    tell("has no sentence, and the version since which it is there, above it".to_owned());
                }
                if let (Some(operation), Some((page, text))) = (operation, page)
                    && !text.contains(&format!("`{operation}`"))
                {
                    tell(format!("{page} does not name `{operation}`: describe it there as well"));
                }
            }
        }
    }
    violations
}

/// The name of the function that a line declares.
fn operation(line: &str) -> Option<&str> {
    let (name, ty) = line.split_once(": ")?;
    let is_function =
        ["func(", "async func(", "static func(", "static async func("].iter().any(|kind| ty.starts_with(kind));
    is_function.then_some(name.trim_start_matches('%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_explained_is_found() {
        let wit = "/// A package.\npackage a:b;\n/// Things.\n@since(version = 0.1.0)\ninterface things {\n  \
                   /// Does it.\n  @since(version = 0.1.0)\n  go: async func() -> u32;\n  stop: func();\n}\n";
        let check = |page: &str| {
            let files = [("wit/nats/a.wit", wit), ("docs/nats.md", page)];
            let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));
            super::check(&Files::from(files)).iter().map(|found| found.line).collect::<Vec<_>>()
        };
        assert_eq!(check("`go` and `stop`"), [9]);
        assert_eq!(check("`stop`"), [8, 9]);
    }
}
