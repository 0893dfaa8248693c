//! Which bytes become a component here, and how refusals read.

use super::*;
use lattice_runtime::{Kind, LoadError, Retirement, StartError, inspect};

async fn refusal(bytes: &[u8]) -> LoadError {
    let loaded = RUNTIME.load(Digest::of(bytes), Bytes::copy_from_slice(bytes)).await;
    loaded.and_then(|component| RUNTIME.assemble(component, Vec::new(), Vec::new())).unwrap_err()
}

/// Sections of a component, each of fewer than 128 bytes.
fn assemble(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for (id, content) in sections {
        bytes.extend([*id, content.len() as u8]);
        bytes.extend(content);
    }
    bytes
}

/// A component that imports an instance with one function, `f`, under that name.
fn importing(name: &str) -> Vec<u8> {
    // (type (instance (type (func)) (export "f" (func (type 0)))))
    let instance_type = vec![1, 0x42, 2, 0x01, 0x40, 0x00, 0x01, 0x00, 0x04, 0x00, 1, b'f', 0x01, 0x00];
    let import = [vec![1, 0x00, name.len() as u8], name.as_bytes().to_vec(), vec![0x05, 0x00]].concat();
    assemble(&[(7, instance_type), (10, import)])
}

#[tokio::test]
async fn guests_are_what_they_say() {
    for (name, kind, needs_concurrency) in [
        ("hello-http02", Kind::Http02, false),
        ("hello-http03", Kind::Http03, true),
        ("hello-js", Kind::Http02, false),
        ("hello-python", Kind::Http03, true),
    ] {
        let inspection = inspect(&guest(name)).unwrap();
        assert_eq!((inspection.kind, inspection.needs_concurrency), (kind, needs_concurrency), "{name}");
        assert_eq!(inspection.missing, Vec::<String>::new(), "{name}");
        assert_eq!(component(name).await.inspection(), &inspection, "{name}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    assert_eq!(refusal(b"#!/bin/sh").await.to_string(), "this is not WebAssembly");
    let module = refusal(b"\0asm\x01\0\0\0").await;
    assert_eq!(module, LoadError::CoreModule);
    assert!(module.to_string().contains("wasm-tools component new"), "{module}");
    let empty = refusal(&assemble(&[])).await.to_string();
    assert!(empty.contains("exports neither wasi:http/incoming-handler@0.2") && empty.ends_with("it exports nothing"));
    let cut = guest("hello-http02");
    assert!(matches!(refusal(&cut[..cut.len() - 9]).await, LoadError::Malformed(_)));

    let bytes = guest("hello-http02");
    let wrong = RUNTIME.load(Digest::of(b"another"), bytes).await.unwrap_err();
    assert!(matches!(wrong, LoadError::DigestMismatch { .. }), "{wrong}");
}

#[tokio::test]
async fn a_pool_that_has_no_room_refuses_and_one_that_does_not_fit_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = RuntimeOptions::new(dir.path().join("code"));
    options.max_instances = 1;
    let bytes = guest("faults");
    let without_pool = RuntimeOptions { max_memory_bytes: 1 << 40, ..options.clone() }; // more than a place can hold
    for options in [options.clone(), without_pool] {
        let runtime = Runtime::new(options).unwrap();
        let faults = alone(&runtime, runtime.load(Digest::of(&bytes), bytes.clone()).await.unwrap());
        has_room_for_one(&runtime, faults, "all 1 places for instances").await;
    }

    options.max_instances = 10_000_000; // more address space than there is
    let runtime = Runtime::new(options).unwrap();
    let faults = alone(&runtime, runtime.load(Digest::of(&bytes), bytes).await.unwrap());
    let unit = Unit::start(&runtime, faults, config()).await.unwrap();
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
}

/// A second instance is refused, whoever asks for it, while the first one is at work. Idle, it goes.
async fn has_room_for_one(runtime: &Runtime, faults: Assembly, lacks: &str) {
    let unit = Unit::start(runtime, faults.clone(), config()).await.unwrap();
    let sleeping = tokio::spawn(unit.call(get("/sleep/400")));
    until("the only instance is busy", || unit.stats().in_flight == 1).await;
    let error = Unit::start(runtime, faults.clone(), config()).await.unwrap_err();
    assert!(matches!(error, StartError::NoRoom { .. }) && error.to_string().contains(lacks), "{error}");
    let refused = unit.call(get("/")).await.unwrap_err();
    assert!(matches!(refused, CallError::Overloaded { .. }) && refused.nothing_ran(), "{refused}");
    assert_eq!(sleeping.await.unwrap().unwrap().status(), 200);
    let other = Unit::start(runtime, faults, config()).await.unwrap();
    assert_eq!(unit.stats().instances_retired.get(&Retirement::Room), Some(&1));
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "and the other way round");
    drop((unit, other));
    until("its memory is given back", || runtime.memory_bytes_used() == 0).await;
}

#[tokio::test]
async fn units_share_the_memory_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = RuntimeOptions::new(dir.path().join("code"));
    let bytes = guest("faults");
    let runtime = Runtime::new(options.clone()).unwrap();
    let faults = alone(&runtime, runtime.load(Digest::of(&bytes), bytes.clone()).await.unwrap());
    let _unit = Unit::start(&runtime, faults, config()).await.unwrap();
    let one = runtime.memory_bytes_used();
    assert!(one >= 64 << 10, "{one} bytes: an instance has a page at least");

    options.memory_bytes_total = one + one / 2;
    let runtime = Runtime::new(options.clone()).unwrap();
    let faults = alone(&runtime, runtime.load(Digest::of(&bytes), bytes.clone()).await.unwrap());
    has_room_for_one(&runtime, faults, "memory of this node").await;

    // What a guest that runs asks for in vain costs its own request alone.
    options.memory_bytes_total = 16 << 20;
    let runtime = Runtime::new(options).unwrap();
    let faults = alone(&runtime, runtime.load(Digest::of(&bytes), bytes).await.unwrap());
    let unit = Unit::start(&runtime, faults, config()).await.unwrap();
    let error = text(&unit, get("/memory")).await.unwrap_err();
    assert!(matches!(error, CallError::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains("needs more memory than is left on this node"), "{error}");
    assert_eq!(unit.stats().instances_retired, [(Retirement::Memory, 1)].into());
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
    assert_eq!(runtime.memory_bytes_used(), one, "what the one that failed had is given back");
}

#[test]
fn missing_imports_are_named_with_what_is_near() {
    for (name, missing) in [
        ("acme:bank/accounts@1.0.0", true),
        ("wasi:http/types@0.2.99", false),
        ("wasi:http/outgoing-handler@0.3.0", true),
    ] {
        let inspection = inspect(&importing(name)).unwrap();
        assert_eq!(inspection.imports, [name]);
        assert_eq!(!inspection.missing.is_empty(), missing, "{name}");
    }
    // There is no async in it, and only the engine for concurrent components has it.
    for (name, expected) in [("wasi:random/insecure-seed@0.3.0", true), ("wasi:random/insecure-seed@0.2.0", false)] {
        assert_eq!(inspect(&importing(name)).unwrap().needs_concurrency, expected, "{name}");
    }
    let error = LoadError::MissingImport { name: "a:b/c@1.0.0".into(), near: vec!["a:b/c@2".into()] };
    let expect = "the component imports a:b/c@1.0.0, which is not offered here; near it: a:b/c@2";
    assert_eq!(error.to_string(), expect);
}

/// What is refused is refused by its name, when a spec is put or when the code is compiled.
#[tokio::test]
async fn proposals_that_no_component_needs_are_not_offered() {
    let v128 = "(v128.const i64x2 0 0)";
    let i64 = "(i64.const 0)";
    for (module, names) in [
        ("(memory i64 1)".to_owned(), "memory64"),
        ("(memory 1 1 shared)".to_owned(), "threads"),
        ("(memory 1 (pagesize 1))".to_owned(), "custom page sizes"),
        ("(func $f return_call $f)".to_owned(), "tail calls"),
        ("(type $f (func)) (func (param (ref $f)))".to_owned(), "function references"),
        ("(type (struct))".to_owned(), "gc"),
        ("(tag)".to_owned(), "exceptions"),
        (format!("(func (drop (i8x16.relaxed_swizzle {v128} {v128})))"), "relaxed SIMD"),
        (format!("(func (result i64 i64) (i64.add128 {i64} {i64} {i64} {i64}))"), "wide arithmetic"),
        ("(type $f (func)) (type (cont $f))".to_owned(), "stack switching"),
        ("(type (shared (func)))".to_owned(), "shared-everything"),
    ] {
        let bytes = wat::parse_str(format!("(component (core module {module}))")).unwrap();
        let error = refusal(&bytes).await.to_string();
        assert!(error.contains(names), "{module}: {error}");
    }
    for (definition, names) in [
        ("(type (func (param \"x\" error-context)))", "error-context"),
        ("(type (map string u32))", "map"),
        ("(type (list u8 4))", "fixed-length lists"),
    ] {
        let bytes = wat::parse_str(format!("(component {definition})")).unwrap();
        let error = refusal(&bytes).await.to_string();
        assert!(error.contains(names), "{definition}: {error}");
    }
}
