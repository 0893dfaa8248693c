//! Components as compilers make them, of `guests/`: built by `cargo xtask guests --rust-only`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests as well")]

use lattice::id::ComponentName;
use lattice_composer::{Part, compose};
use std::path::PathBuf;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

fn guest(part: &str, file: &str) -> Part {
    let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/guests"));
    let folder = std::env::var_os("LATTICE_GUESTS").map_or_else(default, PathBuf::from);
    let path = folder.join(format!("{file}.wasm"));
    match std::fs::read(&path) {
        Ok(bytes) => Part { name: ComponentName::new(part).unwrap(), bytes: bytes.into(), role: None },
        Err(error) => panic!("{}: {error}; run `cargo xtask guests --rust-only`", path.display()),
    }
}

/// Names of the imports and exports of the outermost component.
fn surface(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                imports.extend(section.into_iter().map(|import| import.unwrap().name.name.to_owned()));
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                exports.extend(section.into_iter().map(|export| export.unwrap().name.name.to_owned()));
            }
            _ => {}
        }
    }
    (imports, exports)
}

#[test]
fn the_example_is_composed_into_a_valid_component_that_asks_the_host_for_wasi_only() {
    const GREET: &str = "example:greeter/greet@0.1.0";
    let (hello, greeter) = (guest("hello", "hello-composed"), guest("greeter", "greeter"));
    assert!(surface(&hello.bytes).0.contains(&GREET.to_owned()));
    let composition = compose(&[hello.clone(), greeter.clone()], &[]).unwrap();
    Validator::new_with_features(WasmFeatures::all()).validate_all(&composition.bytes).unwrap();

    let (imports, exports) = surface(&composition.bytes);
    assert!(imports.iter().all(|import| import.starts_with("wasi:")), "{imports:?}");
    assert!(exports.iter().any(|export| export.starts_with("wasi:http/incoming-handler@0.2")), "{exports:?}");
    assert_eq!(composition.graph.len(), 1);
    let edge = &composition.graph[0];
    assert_eq!((edge.from.as_str(), edge.to.as_str(), edge.import.as_str()), ("hello", "greeter", GREET));
    assert!(composition.dropped.is_empty());

    let again = compose(&[greeter, hello], &[]).unwrap();
    assert_eq!(again.bytes, composition.bytes);
}

#[test]
fn damaged_guests_are_no_panic() {
    let (hello, greeter) = (guest("hello", "hello-composed"), guest("greeter", "greeter"));
    // A step that meets every kind of section, types and names as well as code.
    for at in (8..greeter.bytes.len()).step_by(greeter.bytes.len() / 400) {
        let mut bytes = greeter.bytes.to_vec();
        bytes[at] ^= 0x15;
        let damaged = Part { bytes: bytes.into(), ..greeter.clone() };
        let _ = compose(&[hello.clone(), damaged], &[]);
    }
}
