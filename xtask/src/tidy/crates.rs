//! Which crate may depend on which: arrows go down only, and each large library has one owner.

use std::path::Path;

use super::{Files, Violation, line_of};
use crate::workspace::{Dependency, Package};

/// The crates of the workspace from the bottom up. A crate may depend on those of lower layers only, so crates of one
/// layer do not know each other.
const LAYERS: [&[&str]; 4] = [
    // What everybody speaks, and what drives a library and knows nothing of lattices.
    &["lattice", "lattice-gpu"],
    // What decides without acting, and what drives one library.
    &[
        "lattice-composer",
        "lattice-planner",
        "lattice-supervisor",
        "lattice-route-table",
        "lattice-runtime",
        "lattice-nats",
        "lattice-telemetry",
    ],
    // Services.
    &["lattice-control-plane", "lattice-host-node", "lattice-router"],
    // What joins them.
    &["lattice-cli", "lattice-simulations", "lattice-benches", "lattice-scale", "xtask"],
];

/// Libraries, by the start of their names, and the only crates that may name them.
const OWNERS: [(&str, &[&str]); 5] = [
    // The benches measure against it.
    ("async-nats", &["lattice-nats", "lattice-benches"]),
    // The tests of the command line decode what comes over the wire.
    ("opentelemetry", &["lattice-telemetry", "lattice-cli"]),
    ("wac-", &["lattice-composer"]),
    ("wasmtime", &["lattice-runtime", "lattice-gpu"]),
    // The benches measure against it.
    ("wgpu", &["lattice-gpu", "lattice-benches"]),
];

/// Crates that compute and do nothing else: same input, same answer, on every node. With the folders of their sources.
pub(super) const PURE: [(&str, &str); 5] = [
    ("lattice", "lattice/src/"),
    ("lattice-composer", "control-plane/composer/src/"),
    ("lattice-planner", "control-plane/planner/src/"),
    ("lattice-supervisor", "host-node/supervisor/src/"),
    ("lattice-route-table", "router/table/src/"),
];

/// What pure crates may use: none of these has a clock, a socket, a thread or a generator of randomness that is used
/// without being called for.
const PURE_LIBRARIES: [&str; 24] = [
    "bytes",
    "futures-channel",
    "futures-core",
    "http",
    "http-body",
    "http-body-util",
    "humantime",
    "indexmap",
    "jiff",
    "lattice",
    "miette",
    "schemars",
    "semver",
    "serde",
    "serde-saphyr",
    "serde_json",
    "serde_path_to_error",
    "sha2",
    "thiserror",
    "uuid",
    "wac-graph",
    "wac-parser",
    "wasmparser",
    "zeroize",
];

pub(super) fn check(packages: &[Package], files: &Files, root: &Path) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages {
        let file = package.manifest_path.strip_prefix(root).unwrap_or(&package.manifest_path).display().to_string();
        let manifest = files.get(&file).map_or("", String::as_str);
        for (dependency, what) in faults(package) {
            let line = dependency.map_or(1, |dependency| line_of(manifest, |line| names(line, &dependency.name)));
            violations.push(Violation { file: file.clone(), line, what });
        }
        if !section(manifest, "lints").any(|line| line.trim() == "workspace = true") {
            let what = "the workspace's lints do not apply here: add `[lints]` with `workspace = true`".to_owned();
            violations.push(Violation { file: file.clone(), line: 1, what });
        }
    }
    // Also those of other workspaces, such as the guests'.
    for (file, text) in files.iter().filter(|(file, _)| file.ends_with("Cargo.toml")) {
        let is_package = text.lines().any(|line| line.trim() == "[package]");
        let named = |line: &str| line.starts_with("license.workspace") || line.starts_with("license =");
        if is_package && !section(text, "package").any(named) {
            let what = "no licence: add `license.workspace = true` to `[package]`".to_owned();
            violations.push(Violation { file: file.clone(), line: 1, what });
        }
    }
    violations
}

/// What is wrong with a package, and because of which dependency.
fn faults(package: &Package) -> Vec<(Option<&Dependency>, String)> {
    let name = package.name.as_str();
    let mut faults = Vec::new();
    let Some(layer) = layer_of(name) else {
        faults.push((None, format!("{name} is in no layer: add it to LAYERS in xtask/src/tidy/crates.rs")));
        return faults;
    };
    for dependency in &package.dependencies {
        let other = dependency.name.as_str();
        // A crate's tests may need the crate itself with another feature.
        if layer_of(other).is_some_and(|below| below >= layer) && other != name {
            let what = format!(
                "{name} must not depend on {other}, which is not in a lower layer: move what both need further down, or \
                 hand it over in a crate that joins them (layers: xtask/src/tidy/crates.rs)"
            );
            faults.push((Some(dependency), what));
        }
        for (library, owners) in OWNERS {
            if other.starts_with(library) && !owners.contains(&name) {
                let what = format!("only {} may name {other}: use what it offers", owners.join(" and "));
                faults.push((Some(dependency), what));
            }
        }
        let is_pure = PURE.iter().any(|(pure, _)| *pure == name);
        if is_pure && dependency.kind.is_none() && !PURE_LIBRARIES.contains(&other) {
            let what = format!(
                "{name} is pure and must not depend on {other}: do it in a service; if {other} has no clock, IO, threads \
                 or randomness, add it to PURE_LIBRARIES in xtask/src/tidy/crates.rs"
            );
            faults.push((Some(dependency), what));
        }
    }
    faults
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// Whether a line of a manifest begins the entry of a dependency.
fn names(line: &str, dependency: &str) -> bool {
    line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with([' ', '=', '.']))
}

/// The lines of one table of a manifest.
fn section<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(move |line| line.trim() != header);
    lines.skip(1).take_while(|line| !line.starts_with('['))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `dependencies`: names, those with `dev:` in front of them for tests only.
    fn check_package(name: &str, dependencies: &[&str], expect: &[&str]) {
        let manifest = "[package]\nlicense.workspace = true\n\n[lints]\nworkspace = true\n\n[dependencies]\n";
        let parsed = dependencies.iter().map(|name| match name.strip_prefix("dev:") {
            Some(name) => Dependency { name: name.to_owned(), kind: Some("dev".to_owned()) },
            None => Dependency { name: (*name).to_owned(), kind: None },
        });
        let package = Package {
            name: name.to_owned(),
            manifest_path: "/root-of-all/x/Cargo.toml".into(),
            dependencies: parsed.collect(),
        };
        let lines = dependencies.iter().map(|name| format!("{} = \"1\"\n", name.trim_start_matches("dev:")));
        let files = Files::from([("x/Cargo.toml".to_owned(), manifest.to_owned() + &lines.collect::<String>())]);
        let found = super::check(&[package], &files, Path::new("/root-of-all"));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found} does not contain {expect}");
        }
    }

    #[test]
    fn arrows_go_down() {
        check_package("lattice-router", &["lattice", "lattice-route-table", "lattice-nats"], &[]);
        check_package(
            "lattice-router",
            &["lattice", "lattice-host-node"],
            &["x/Cargo.toml:9: lattice-router must not"],
        );
        check_package("lattice-planner", &["lattice-supervisor"], &["must not depend", "is pure and must not"]);
        check_package("lattice", &["dev:lattice-nats"], &["must not depend on lattice-nats"]);
        check_package("lattice", &["dev:lattice"], &[]);
        check_package("lattice-cli", &["lattice-router", "lattice-control-plane", "lattice-nats", "anyhow"], &[]);
    }

    #[test]
    fn libraries_have_owners() {
        check_package("lattice-nats", &["async-nats"], &[]);
        check_package("lattice-cli", &["async-nats"], &["only lattice-nats and lattice-benches may name async-nats"]);
        check_package("lattice-cli", &["dev:wasmtime-wasi"], &["may name wasmtime-wasi"]);
        check_package("lattice-runtime", &["wasmtime", "wasmtime-wasi-http"], &[]);
    }

    #[test]
    fn pure_crates_use_pure_libraries() {
        check_package("lattice-planner", &["lattice", "dev:proptest"], &[]);
        check_package("lattice-planner", &["tokio"], &["lattice-planner is pure"]);
    }

    #[test]
    fn a_new_crate_is_given_a_layer() {
        check_package("lattice-new", &["lattice"], &["x/Cargo.toml:1: lattice-new is in no layer"]);
    }

    #[test]
    fn manifests_name_licence_and_lints() {
        let check = |manifest: &str, expect: &[&str]| {
            let package =
                Package { name: "lattice".to_owned(), manifest_path: "/r/Cargo.toml".into(), dependencies: Vec::new() };
            let files = Files::from([("Cargo.toml".to_owned(), manifest.to_owned())]);
            let found = super::check(&[package], &files, Path::new("/r"));
            let found: Vec<&str> = found.iter().map(|violation| violation.what.as_str()).collect();
            assert_eq!(found.len(), expect.len(), "{found:?}");
            assert!(found.iter().zip(expect).all(|(found, expect)| found.contains(expect)), "{found:?}");
        };
        check("[package]\nlicense = \"Apache-2.0\"\n[lints]\nworkspace = true\n", &[]);
        check("[package]\nname = \"x\"\n[lints]\nworkspace = true\n", &["no licence"]);
        check("[package]\nlicense.workspace = true\n[dependencies]\nworkspace = true\n", &["lints do not apply"]);
    }
}
