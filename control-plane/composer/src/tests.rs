//! What is composed is what was asked for, and what can't be is said in a way that helps.

use super::*;
use lattice::limits::SCRIPT_BYTES_MAX;
use proptest::prelude::*;

fn name(text: &str) -> ComponentName {
    ComponentName::new(text).unwrap()
}

fn part(part: &str, wat: &str) -> Part {
    Part { name: name(part), bytes: wat::parse_str(wat).unwrap().into(), role: None }
}

fn hosted(role: PartRole, part: Part) -> Part {
    Part { role: Some(role), ..part }
}

fn link(from: &str, import: &str, to: &str) -> Link {
    Link { from: name(from), import: import.into(), to: name(to) }
}

const HANDLER: &str = "wasi:http/incoming-handler@0.2.3";

/// A component that exports all of `exports` and imports all of `imports`, each an instance with a function
/// `f: func(n: u32) -> u32`.
fn component(exports: &[&str], imports: &[&str]) -> String {
    let f = r#"(export "f" (func (param "n" u32) (result u32)))"#;
    let imports: String = imports.iter().map(|import| format!("(import {import:?} (instance {f}))")).collect();
    let exports: String = exports.iter().map(|export| format!("(export {export:?} (instance $own))")).collect();
    format!(
        r#"(component {imports}
            (core module $m (func (export "f") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))
            (core instance $i (instantiate $m))
            (func $f (param "n" u32) (result u32) (canon lift (core func $i "f")))
            (instance $own (export "f" (func $f)))
            {exports})"#
    )
}

fn make(part_name: &str, exports: &[&str], imports: &[&str]) -> Part {
    part(part_name, &component(exports, imports))
}

/// Valid, with all function bodies, and with these names of imports and exports.
fn check(composition: &Composition, imports: &[&str], exports: &[&str]) {
    let features = wasmparser::WasmFeatures::all();
    wasmparser::Validator::new_with_features(features).validate_all(&composition.bytes).unwrap();
    let surface = surface::read(&composition.bytes).unwrap();
    assert_eq!((surface.imports, surface.exports), (strings(imports), strings(exports)));
    assert_eq!(composition.digest, Digest::of(&composition.bytes));
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn names(names: &[ComponentName]) -> Vec<&str> {
    names.iter().map(ComponentName::as_str).collect()
}

#[test]
fn imports_are_satisfied_by_siblings_and_the_rest_stays() {
    let parts = [
        make("api", &[HANDLER], &["acme:auth/check@0.1.0", "acme:text/upper@1.0.0", "wasi:clocks/wall-clock@0.2.0"]),
        make("auth", &["acme:auth/check@0.1.0"], &["acme:text/upper@1.0.0"]),
        make("text", &["acme:text/upper@1.1.0"], &["wasi:random/random@0.2.0"]),
        make("idle", &["acme:idle/idle@1.0.0"], &["acme:nobody/has@1.0.0"]),
    ];
    let composition = compose(&parts, &[]).unwrap();
    check(&composition, &["wasi:clocks/wall-clock@0.2.0", "wasi:random/random@0.2.0"], &[HANDLER]);
    assert_eq!(composition.entry, name("api"));
    assert_eq!(names(&composition.used), ["api", "auth", "text"]);
    assert_eq!(names(&composition.dropped), ["idle"]);
    let edges: Vec<String> =
        composition.graph.iter().map(|e| format!("{} {} {} {}", e.from, e.import, e.to, e.export)).collect();
    assert_eq!(
        edges,
        [
            "api acme:auth/check@0.1.0 auth acme:auth/check@0.1.0",
            "api acme:text/upper@1.0.0 text acme:text/upper@1.1.0",
            "auth acme:text/upper@1.0.0 text acme:text/upper@1.1.0",
        ]
    );
    let open: Vec<&str> = composition.open.iter().map(|open| open.import.as_str()).collect();
    assert_eq!(open, ["wasi:clocks/wall-clock@0.2.0", "wasi:random/random@0.2.0"]);
}

#[test]
fn the_bytes_do_not_depend_on_the_order_of_the_parts() {
    let mut parts = vec![
        make("c", &[HANDLER], &["x:b/b@1.0.0", "x:a/a@1.0.0", "wasi:clocks/wall-clock@0.2.0"]),
        make("b", &["x:b/b@1.0.0"], &["x:a/a@1.0.0", "wasi:clocks/wall-clock@0.2.6"]),
        make("a", &["x:a/a@1.0.0"], &["wasi:random/random@0.2.0"]),
    ];
    let first = compose(&parts, &[]).unwrap();
    check(&first, &["wasi:random/random@0.2.0", "wasi:clocks/wall-clock@0.2.6"], &[HANDLER]);
    for _ in 0..3 {
        parts.rotate_left(1);
        assert_eq!(compose(&parts, &[]).unwrap(), first);
    }
    parts.swap(0, 1);
    assert_eq!(compose(&parts, &[]).unwrap(), first);
}

#[test]
fn a_part_that_needs_no_other_is_left_as_it_is() {
    let alone = make("a", &[HANDLER], &["wasi:random/random@0.2.0"]);
    let parts = [alone.clone(), make("b", &["x:b/b@1.0.0"], &[])];
    let composition = compose(&parts, &[]).unwrap();
    assert_eq!((composition.bytes, composition.digest), (alone.bytes.clone(), Digest::of(&alone.bytes)));
    assert_eq!(names(&composition.dropped), ["b"]);
}

#[test]
fn what_stands_in_front_of_a_handler_is_the_entry() {
    // Built against other versions of WASI, either way round.
    for (front, behind) in [(HANDLER, HANDLER), ("wasi:http/incoming-handler@0.2.0", HANDLER)] {
        let parts = [make("app", &[behind], &[]), make("front", &[front], &[front])];
        let composition = compose(&parts, &[]).unwrap();
        check(&composition, &[], &[front]);
        assert_eq!(composition.entry, name("front"));
    }
    let async_handler = "wasi:http/handler@0.3.0";
    assert_eq!(compose(&[make("a", &[async_handler], &[])], &[]).unwrap().entry, name("a"));
    // Two in front need to be told their order.
    let chain =
        [make("app", &[HANDLER], &[]), make("outer", &[HANDLER], &[HANDLER]), make("inner", &[HANDLER], &[HANDLER])];
    assert!(matches!(compose(&chain, &[]), Err(ComposeError::AmbiguousImport { .. })));
    let composition = compose(&chain, &[link("outer", HANDLER, "inner"), link("inner", HANDLER, "app")]).unwrap();
    check(&composition, &[], &[HANDLER]);
    assert_eq!((composition.entry, composition.used.len()), (name("outer"), 3));
}

#[test]
fn an_exact_name_wins_and_a_link_decides_where_several_fit() {
    let api = make("api", &[HANDLER], &["x:a/a@1.0.0"]);
    let exporter = |part: &str, version: &str| make(part, &[&format!("x:a/a@{version}")], &[]);
    let to = |parts: &[Part], links: &[Link]| compose(parts, links).map(|composition| composition.graph[0].to.clone());

    let parts = [api.clone(), exporter("exact", "1.0.0"), exporter("newer", "1.1.0")];
    assert_eq!(to(&parts, &[]), Ok(name("exact")));
    assert_eq!(to(&parts, &[link("api", "x:a/a@1.0.0", "newer")]), Ok(name("newer")));

    let parts = [api.clone(), exporter("one", "1.1.0"), exporter("two", "1.2.0")];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(error.to_string(), "the import x:a/a@1.0.0 of api is exported by one (x:a/a@1.1.0), two (x:a/a@1.2.0)");
    assert!(error.hint().contains(r#"{from: api, import: "x:a/a@1.0.0", to: one}"#), "{}", error.hint());
    assert_eq!(error.part(), Some(&name("api")));
    assert_eq!(to(&parts, &[link("api", "x:a/a@1.0.0", "two")]), Ok(name("two")));

    // Of one part, the newest that fits.
    let both = make("both", &["x:a/a@1.1.0", "x:a/a@1.2.0", "x:a/a@2.0.0"], &[]);
    assert_eq!(compose(&[api, both], &[]).unwrap().graph[0].export, "x:a/a@1.2.0");
}

#[test]
fn an_import_that_only_nearly_fits_stays_open_and_says_who_was_near() {
    let parts = [
        make("api", &[HANDLER], &["x:a/a@1.1.0"]),
        make("older", &["x:a/a@1.0.0"], &[]),
        make("other", &["x:a/a@2.0.0"], &[]),
    ];
    let composition = compose(&parts, &[]).unwrap();
    let near: Vec<String> = composition.open[0].near.iter().map(ToString::to_string).collect();
    assert_eq!(near, ["older (x:a/a@1.0.0)", "other (x:a/a@2.0.0)"]);
    let error = compose(&parts, &[link("api", "x:a/a@1.1.0", "older")]).unwrap_err();
    assert!(matches!(error, ComposeError::UnmatchedLink { .. }), "{error:?}");
    assert_eq!((error.hint().as_str(), error.link()), ("it exports x:a/a@1.0.0", Some((&name("api"), "x:a/a@1.1.0"))));
}

#[test]
fn links_name_what_is_there() {
    let parts = [make("api", &[HANDLER], &["x:a/a@1.0.0"]), make("a", &["x:a/a@1.0.0"], &[])];
    let error = compose(&parts, &[link("api", "x:a/a@1.0.0", "b")]).unwrap_err();
    assert_eq!(error, ComposeError::UnknownPart { name: name("b") });
    let error = compose(&parts, &[link("api", "x:a/a", "a")]).unwrap_err();
    assert_eq!(error.hint(), "it imports x:a/a@1.0.0");
}

#[test]
fn a_circle_is_shown_whole() {
    let parts = [
        make("api", &[HANDLER], &["x:a/a@1.0.0"]),
        make("a", &["x:a/a@1.0.0"], &["x:b/b@1.0.0"]),
        make("b", &["x:b/b@1.0.0"], &["x:c/c@1.0.0"]),
        make("c", &["x:c/c@1.0.0"], &["x:a/a@1.0.0"]),
    ];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(error.to_string(), "the components need each other in a circle: a → b → c → a");
    // Two handlers that use each other have no entry, for the same reason.
    let parts = [make("a", &[HANDLER, "x:a/a"], &["x:b/b"]), make("b", &[HANDLER, "x:b/b"], &["x:a/a"])];
    assert_eq!(compose(&parts, &[]).unwrap_err().to_string(), "the components need each other in a circle: a → b → a");
}

#[test]
fn there_is_one_entry() {
    let parts = [make("a", &["x:a/a"], &[]), make("b", &["wasi:http/incoming-handler@0.3.0"], &[])];
    assert_eq!(compose(&parts, &[]), Err(ComposeError::NoEntry));
    assert_eq!(compose(&[], &[]), Err(ComposeError::NoEntry));
    let parts = [make("a", &[HANDLER], &[]), make("b", &[HANDLER], &[])];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(error, ComposeError::AmbiguousEntry { candidates: vec![name("a"), name("b")] });
    assert!(error.to_string().starts_with("a, b all export"), "{error}");
}

#[test]
fn types_that_differ_are_named_with_their_function() {
    let api = part(
        "api",
        &component(&[HANDLER], &["x:a/a@1.0.0"]).replacen(r#"(param "n" u32)"#, r#"(param "n" string)"#, 1),
    );
    let error = compose(&[api, make("a", &["x:a/a@1.0.0"], &[])], &[]).unwrap_err();
    let ComposeError::Mismatch { part: of, import, exporter, why, .. } = &error else { panic!("{error:?}") };
    assert_eq!((of, import.as_str(), exporter), (&name("api"), "x:a/a@1.0.0", &name("a")));
    assert!(why.contains("`f`") && why.contains("string") && why.contains("u32"), "{why}");

    // The exporter lacks a function.
    let api = component(&[HANDLER], &["x:a/a@1.0.0"]).replacen(r#"(export "f""#, r#"(export "g""#, 1);
    let error = compose(&[part("api", &api), make("a", &["x:a/a@1.0.0"], &[])], &[]).unwrap_err();
    assert!(error.to_string().contains("`g`"), "{error}");
}

#[test]
fn parts_that_ask_the_host_for_different_things_by_one_name_are_named() {
    let clock = "wasi:clocks/wall-clock@0.2.0";
    let other = component(&["x:a/a"], &[clock]).replacen("(result u32)", "(result u64)", 1);
    let parts = [make("api", &[HANDLER], &["x:a/a", clock]), part("a", &other)];
    let error = compose(&parts, &[]).unwrap_err();
    let ComposeError::ImportConflict { import, first, second, why } = &error else { panic!("{error:?}") };
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    assert_eq!((import.as_str(), both), (clock, ["a", "api"]));
    assert!(why.contains("`f`"), "{why}");
}

#[test]
fn bytes_that_are_no_component_are_refused_by_name() {
    let good = make("b", &[HANDLER], &["x:a/a"]);
    let whole = make("a", &["x:a/a"], &[]).bytes;
    let module = wat::parse_str("(module)").unwrap();
    let cut = whole.slice(..whole.len() - 1);
    let long = [&whole[..], b"\0"].concat();
    for bytes in [Bytes::new(), Bytes::from_static(b"\0asm\x0d\0\x01\0\xff"), module.into(), cut, long.into()] {
        let error = compose(&[good.clone(), Part { name: name("a"), bytes, role: None }], &[]).unwrap_err();
        assert!(matches!(&error, ComposeError::Malformed { part, .. } if *part == name("a")), "{error:?}");
    }
    let error = compose(&[good.clone(), good.clone()], &[]).unwrap_err();
    assert_eq!(error, ComposeError::DuplicateName { name: name("b") });
    let many: Vec<Part> = (0..=COMPONENTS_MAX).map(|i| Part { name: name(&format!("p{i}")), ..good.clone() }).collect();
    assert!(matches!(compose(&many, &[]), Err(ComposeError::TooManyParts { .. })));
}

fn host_edges(composition: &Composition) -> Vec<String> {
    let from = |edge: &HostEdge| edge.from.as_ref().map_or("whole", ComponentName::as_str).to_owned();
    let edges = composition.host_edges.iter();
    edges.map(|edge| format!("{} {} {} {}", from(edge), edge.import, edge.to, edge.export)).collect()
}

const RUN: &str = "wasi:cli/run@0.2.0";

#[test]
fn what_is_hosted_stays_an_import_and_becomes_an_edge() {
    let api = make("api", &[HANDLER], &["x:pool/pool@1.0.0", "x:text/text@1.0.0", "x:rare/rare@1.0.0"]);
    let parts = [
        api.clone(),
        make("text", &["x:text/text@1.0.0"], &["x:pool/pool@1.0.0"]),
        hosted(PartRole::Service, make("pool", &["x:pool/pool@1.1.0"], &["wasi:random/random@0.2.0"])),
        hosted(PartRole::Lazy, make("rare", &["x:rare/rare@1.0.0"], &["x:pool/pool@1.0.0", "x:deep/deep@1.0.0"])),
        hosted(PartRole::Isolated, make("deep", &["x:deep/deep@1.0.0"], &[])),
        hosted(PartRole::Isolated, make("idle", &["x:idle/idle@1.0.0"], &[])),
        hosted(PartRole::Service, make("clock", &[RUN], &["x:deep/deep@1.0.0"])),
    ];
    let composition = compose(&parts, &[]).unwrap();
    let mut imports = surface::read(&composition.bytes).unwrap().imports;
    imports.sort();
    assert_eq!(imports, ["x:pool/pool@1.0.0", "x:rare/rare@1.0.0"]);
    assert_eq!(names(&composition.used), ["api", "text"]);
    assert_eq!(names(&composition.hosted), ["clock", "deep", "pool", "rare"]);
    assert_eq!(names(&composition.dropped), ["idle"]);
    assert_eq!(
        host_edges(&composition),
        [
            "whole x:pool/pool@1.0.0 pool x:pool/pool@1.1.0",
            "whole x:rare/rare@1.0.0 rare x:rare/rare@1.0.0",
            "clock x:deep/deep@1.0.0 deep x:deep/deep@1.0.0",
            "rare x:deep/deep@1.0.0 deep x:deep/deep@1.0.0",
            "rare x:pool/pool@1.0.0 pool x:pool/pool@1.1.0",
        ]
    );
    assert_eq!(composition.graph.len(), 7);
    let open: Vec<(&str, &str)> =
        composition.open.iter().map(|open| (open.part.as_str(), open.import.as_str())).collect();
    assert_eq!(open, [("pool", "wasi:random/random@0.2.0")]);

    // A component alone runs as it is, beside what is hosted.
    let alone = compose(
        &[
            api.clone(),
            parts[2].clone(),
            hosted(PartRole::Lazy, make("rest", &["x:text/text@1.0.0", "x:rare/rare@1.0.0"], &[])),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(alone.bytes, api.bytes);
    assert_eq!(alone.host_edges.len(), 3);
}

#[test]
fn imports_that_become_one_lead_to_one_part() {
    let pool = |part: &str, exports: &[&str]| hosted(PartRole::Service, make(part, exports, &[]));
    let api = make("api", &[HANDLER], &["x:a/a@1.0.0", "x:text/text"]);
    let text = make("text", &["x:text/text"], &["x:a/a@1.1.0"]);
    // The later version decides what is called.
    let parts = [api.clone(), text.clone(), pool("pool", &["x:a/a@1.0.0", "x:a/a@1.2.0"])];
    let composition = compose(&parts, &[]).unwrap();
    check(&composition, &["x:a/a@1.1.0"], &[HANDLER]);
    assert_eq!(host_edges(&composition), ["whole x:a/a@1.1.0 pool x:a/a@1.2.0"]);
    assert!(composition.graph.iter().filter(|edge| edge.to == name("pool")).all(|edge| edge.export == "x:a/a@1.2.0"));

    // One part for the one, nobody for the other.
    let parts = [api.clone(), text.clone(), pool("pool", &["x:a/a@1.0.0"])];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "api and text both import x:a/a@1.1.0, which the whole imports once, but that of api comes from pool and that \
         of text from the node"
    );
    assert_eq!(error.part(), Some(&name("text")));
    // Two parts.
    let parts = [api.clone(), text.clone(), pool("one", &["x:a/a@1.0.0"]), pool("two", &["x:a/a@1.1.0"])];
    let error = compose(&parts, &[]).unwrap_err();
    assert!(error.to_string().contains("api comes from one and that of text from two"), "{error}");
    let link = link("api", "x:a/a@1.0.0", "two");
    let two_alone = compose(&[api.clone(), text.clone(), parts[3].clone()], std::slice::from_ref(&link)).unwrap();
    assert_eq!(host_edges(&two_alone), ["whole x:a/a@1.1.0 two x:a/a@1.1.0"]);
    // Composed into one, and imported by the other: each has its own.
    let parts = [api, text, make("inside", &["x:a/a@1.0.0"], &[]), pool("two", &["x:a/a@1.1.0"])];
    let composition = compose(&parts, &[]).unwrap();
    check(&composition, &["x:a/a@1.1.0"], &[HANDLER]);
    assert_eq!(host_edges(&composition), ["whole x:a/a@1.1.0 two x:a/a@1.1.0"]);
}

#[test]
fn what_is_hosted_can_not_call_what_is_composed() {
    let parts = [
        make("api", &[HANDLER, "x:api/log@1.0.0"], &["x:a/a@1.0.0"]),
        hosted(PartRole::Lazy, make("a", &["x:a/a@1.0.0"], &["x:api/log@1.0.0"])),
    ];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a is lazy and imports x:api/log@1.0.0, which only what is composed exports: api (x:api/log@1.0.0)"
    );
    assert_eq!((error.part(), error.hint().contains("`isolate: true` on api")), (Some(&name("a")), true));
    let to_api = link("a", "x:api/log@1.0.0", "api");
    assert_eq!(compose(&parts, &[to_api]).unwrap_err(), error);
    // Another one that is hosted is asked first.
    let log = hosted(PartRole::Isolated, make("log", &["x:api/log@1.1.0"], &[]));
    let composition = compose(&[parts[0].clone(), parts[1].clone(), log], &[]).unwrap();
    assert_eq!(host_edges(&composition), ["whole x:a/a@1.0.0 a x:a/a@1.0.0", "a x:api/log@1.0.0 log x:api/log@1.1.0"]);
}

#[test]
fn what_answers_requests_is_composed() {
    for (role, said) in [(PartRole::Lazy, "it is lazy"), (PartRole::Service, "it is a service")] {
        let parts = [make("a", &["x:a/a"], &[]), hosted(role, make("api", &[HANDLER], &[]))];
        let error = compose(&parts, &[]).unwrap_err();
        assert_eq!(error, ComposeError::HostedEntry { part: name("api"), role });
        assert!(error.to_string().ends_with(said), "{error}");
    }
    // One that is hosted is no rival.
    let parts = [make("api", &[HANDLER], &[]), hosted(PartRole::Service, make("other", &[HANDLER, RUN], &[]))];
    assert_eq!(compose(&parts, &[]).unwrap().entry, name("api"));
}

#[test]
fn a_service_has_something_to_do() {
    let parts = [make("api", &[HANDLER], &[]), hosted(PartRole::Service, make("s", &["x:a/a"], &[]))];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(error, ComposeError::IdleService { part: name("s"), exports: strings(&["x:a/a"]) });
    let parts = [make("api", &[HANDLER], &[]), hosted(PartRole::Service, make("s", &["wasi:cli/run@0.3.0"], &[]))];
    assert_eq!(names(&compose(&parts, &[]).unwrap().hosted), ["s"]);
}

#[test]
fn a_circle_of_hosted_parts_is_shown_whole() {
    let parts = [
        make("api", &[HANDLER], &["x:a/a"]),
        hosted(PartRole::Isolated, make("a", &["x:a/a"], &["x:b/b"])),
        hosted(PartRole::Service, make("b", &["x:b/b"], &["x:a/a"])),
    ];
    let error = compose(&parts, &[]).unwrap_err();
    assert_eq!(error.to_string(), "the components need each other in a circle: a → b → a");
}

#[test]
fn types_are_compared_over_the_border_as_well() {
    let string = |wat: String| wat.replacen(r#"(param "n" u32)"#, r#"(param "n" string)"#, 1);
    let a = hosted(PartRole::Service, make("a", &["x:a/a@1.0.0"], &[]));
    let api = part("api", &string(component(&[HANDLER], &["x:a/a@1.0.0"])));
    let error = compose(&[api, a.clone()], &[]).unwrap_err();
    let ComposeError::Mismatch { part: of, exporter, why, .. } = &error else { panic!("{error:?}") };
    assert_eq!((of, exporter), (&name("api"), &name("a")));
    assert!(why.contains("`f`") && why.contains("string") && why.contains("u32"), "{why}");
    // Between two that are hosted.
    let api = make("api", &[HANDLER], &["x:b/b"]);
    let b = hosted(PartRole::Lazy, part("b", &string(component(&["x:b/b"], &["x:a/a@1.0.0"]))));
    let error = compose(&[api, b, a], &[]).unwrap_err();
    assert!(matches!(&error, ComposeError::Mismatch { part, .. } if *part == name("b")), "{error:?}");
}

#[test]
fn types_alone_cross_no_border() {
    let types = r#"(instance (type $e (enum "a" "b")) (export "t" (type (eq $e))))"#;
    let with_types = |exports: &[&str], imports: &[&str]| {
        component(exports, imports).replacen("(component", &format!(r#"(component (import "x:a/types" {types})"#), 1)
    };
    // Neither needs anybody for them, though another one exports an interface of that name.
    let parts = [
        part("api", &with_types(&[HANDLER], &["x:a/a", "x:b/b"])),
        hosted(PartRole::Service, make("a", &["x:a/a", "x:a/types"], &[])),
        hosted(PartRole::Lazy, part("b", &with_types(&["x:b/b"], &[]))),
    ];
    let composition = compose(&parts, &[]).unwrap();
    assert_eq!(host_edges(&composition), ["whole x:a/a a x:a/a", "whole x:b/b b x:b/b"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is broken in a part, the answer is a value.
    #[test]
    fn damaged_parts_are_no_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(), is_cut in any::<bool>()) {
        let good = make("api", &[HANDLER], &["x:a/a@1.0.0", "wasi:random/random@0.2.0"]);
        let mut bytes = make("a", &["x:a/a@1.0.0"], &["wasi:random/random@0.2.1"]).bytes.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = compose(&[good, Part { name: name("a"), bytes: bytes.into(), role: None }], &[]);
    }

    /// In any graph of parts that import only later ones: it composes to valid bytes, the same in any order, with all
    /// and only what the entry reaches.
    #[test]
    fn any_graph_without_circles_is_composed(edges in prop::collection::vec(any::<bool>(), 15), turn in 0_usize..6) {
        let interface = |i: usize| format!("x:p{i}/i@1.0.0");
        let imports_of = |i: usize| -> Vec<String> {
            let first: usize = (0..i).map(|k| 5 - k).sum();
            (i + 1..6).filter(|j| edges[first + j - i - 1]).map(interface).collect()
        };
        let mut parts: Vec<Part> = (0..6).map(|i| {
            let export = if i == 0 { HANDLER.to_owned() } else { interface(i) };
            let imports = imports_of(i);
            make(&format!("p{i}"), &[&export], &imports.iter().map(String::as_str).collect::<Vec<_>>())
        }).collect();
        let composition = compose(&parts, &[]).unwrap();
        check(&composition, &[], &[HANDLER]);
        let mut reached = std::collections::BTreeSet::from([interface(0)]);
        for i in 0..6 {
            if reached.contains(&interface(i)) {
                reached.extend(imports_of(i));
            }
        }
        prop_assert_eq!(composition.used.len(), reached.len());
        prop_assert_eq!(composition.used.len() + composition.dropped.len(), 6);
        parts.rotate_left(turn);
        prop_assert_eq!(compose(&parts, &[]).unwrap(), composition);
    }

    /// In any graph of parts of which some are hosted: what is composed is valid and the same in any order; each hosted
    /// part that is needed is there once; each import is satisfied in one way; nobody hosted calls what is composed.
    #[test]
    fn any_graph_with_hosted_parts_is_joined(edges in prop::collection::vec(any::<bool>(), 15), roles in prop::collection::vec(0_u8..4, 5), turn in 0_usize..6) {
        let interface = |i: usize| format!("x:p{i}/i@1.0.0");
        let role = |i: usize| match i.checked_sub(1).map(|i| roles[i]) {
            Some(1) => Some(PartRole::Service),
            Some(2) => Some(PartRole::Lazy),
            Some(3) => Some(PartRole::Isolated),
            _ => None,
        };
        let imports_of = |i: usize| -> Vec<usize> {
            let first: usize = (0..i).map(|k| 5 - k).sum();
            (i + 1..6).filter(|j| edges[first + j - i - 1]).collect()
        };
        let mut parts: Vec<Part> = (0..6).map(|i| {
            let mut exports = vec![if i == 0 { HANDLER.to_owned() } else { interface(i) }];
            exports.extend((role(i) == Some(PartRole::Service)).then(|| RUN.to_owned()));
            let imports: Vec<String> = imports_of(i).into_iter().map(interface).collect();
            let part = make(&format!("p{i}"), &refs(&exports), &refs(&imports));
            Part { role: role(i), ..part }
        }).collect();
        let mut reached = std::collections::BTreeSet::from([0]);
        reached.extend((0..6).filter(|i| role(*i) == Some(PartRole::Service)));
        for i in 0..6 {
            if reached.contains(&i) {
                reached.extend(imports_of(i));
            }
        }
        let calls = || reached.iter().flat_map(|i| imports_of(*i).into_iter().map(move |j| (*i, j)));
        let composed = compose(&parts, &[]);
        if calls().any(|(i, j)| role(i).is_some() && role(j).is_none()) {
            let is_refused = matches!(composed, Err(ComposeError::OnlyComposed { .. }));
            prop_assert!(is_refused, "{composed:?}");
            return Ok(());
        }
        let composition = composed.unwrap();
        let to_hosted: std::collections::BTreeSet<usize> =
            calls().filter(|(i, j)| role(*i).is_none() && role(*j).is_some()).map(|(_, j)| j).collect();
        let mut imports: Vec<String> = to_hosted.iter().map(|j| interface(*j)).collect();
        let mut found = surface::read(&composition.bytes).unwrap().imports;
        imports.sort();
        found.sort();
        prop_assert_eq!(found, imports);
        let names_of = |hosted: bool| -> Vec<String> {
            reached.iter().filter(|i| role(**i).is_some() == hosted).map(|i| format!("p{i}")).collect()
        };
        prop_assert_eq!(names(&composition.used), names_of(false));
        prop_assert_eq!(names(&composition.hosted), names_of(true));
        let between_hosted = calls().filter(|(i, _)| role(*i).is_some()).count();
        prop_assert_eq!(composition.host_edges.len(), to_hosted.len() + between_hosted);
        prop_assert_eq!(composition.graph.len(), calls().count());
        parts.rotate_left(turn);
        prop_assert_eq!(compose(&parts, &[]).unwrap(), composition);
    }
}

/// Two that fit, a virtualization between them, and one that nobody needs.
fn shop() -> [Part; 4] {
    [
        make("api", &[HANDLER], &["x:y/auth@1.0.0", "wasi:clocks/wall-clock@0.2.0"]),
        make("auth", &["x:y/auth@1.0.0"], &["x:y/text@1.0.0"]),
        make("audit", &["x:y/auth@1.0.0"], &["x:y/auth@1.0.0"]),
        make("old", &["x:y/auth@1.0.0"], &[]),
    ]
}

const SCRIPT: &str = "package acme:shop;
// Every call of api goes through audit.
let auth = new component:auth { ... };
let audit = new component:audit { ...auth };
let api = new component:api { ...audit, ... };
export api...;
";

#[test]
fn a_script_composes_what_it_says_and_nothing_else() {
    let parts = shop();
    assert!(matches!(compose(&parts, &[]), Err(ComposeError::AmbiguousImport { .. })), "rules alone can't tell");
    let composition = compose_script(&parts, SCRIPT).unwrap();
    check(&composition, &["x:y/text@1.0.0", "wasi:clocks/wall-clock@0.2.0"], &[HANDLER]);
    assert_eq!(composition.entry.as_str(), "api");
    assert_eq!(names(&composition.used), ["api", "audit", "auth"]);
    assert_eq!(names(&composition.dropped), ["old"]);
    let edges: Vec<(&str, &str)> =
        composition.graph.iter().map(|edge| (edge.from.as_str(), edge.to.as_str())).collect();
    assert_eq!(edges, [("api", "audit"), ("audit", "auth")]);
    let open: Vec<(&str, &str)> =
        composition.open.iter().map(|open| (open.part.as_str(), open.import.as_str())).collect();
    assert_eq!(open, [("api", "wasi:clocks/wall-clock@0.2.0"), ("auth", "x:y/text@1.0.0")]);

    let mut reversed = parts.to_vec();
    reversed.reverse();
    assert_eq!(compose_script(&reversed, SCRIPT).unwrap(), composition, "same parts and script, same bytes");
    let commented = SCRIPT.replace("every", "each");
    assert_eq!(compose_script(&parts, &commented).unwrap().bytes, composition.bytes);
    let without = SCRIPT.replace("...audit", "...auth");
    assert_ne!(compose_script(&parts, &without).unwrap().bytes, composition.bytes);
}

#[test]
fn what_is_wrong_with_a_script_is_said_with_its_place() {
    let parts = shop();
    let refuse = |script: &str, at: (usize, usize), says: &str| {
        let error = compose_script(&parts, script).unwrap_err();
        assert!(error.is_of_script() && error.part().is_none(), "{error}");
        let ComposeError::Script { line, column, why } = &error else { panic!("{error}") };
        assert!((*line, *column) == at && why.contains(says), "{error} at {script}");
        assert!(!error.hint().is_empty());
    };
    refuse("", (1, 1), "expected");
    refuse("package acme:shop;\nlet = 1;", (2, 5), "expected");
    refuse(&SCRIPT.replace("component:auth", "component:oauth"), (3, 16), "component:oauth");
    refuse(&SCRIPT.replace("...audit", "...adit"), (5, 34), "adit");
    refuse(&SCRIPT.replace("{ ...auth }", "{}"), (4, 17), "x:y/auth@1.0.0");
    refuse(&format!("package a:b;\n/* ü */ {}", "é"), (2, 9), "unexpected");
    refuse(&"x".repeat(SCRIPT_BYTES_MAX + 1), (1, 1), "bytes");
    refuse(&"package a:b; /*((((*/".replace("((((", &"(".repeat(300)), (1, 1), "brackets");
    let silent = compose_script(&parts, &SCRIPT.replace("export api...;", "")).unwrap_err();
    assert_eq!(silent, ComposeError::ScriptWithoutHandler);
    // The types are compared as they are by the rules.
    let text = component(&["x:y/auth@1.0.0"], &["x:y/text@1.0.0"]).replace("(result u32)", "(result s32)");
    let mut parts = parts.to_vec();
    parts[1] = part("auth", &text);
    let error = compose_script(&parts, SCRIPT).unwrap_err().to_string();
    assert!(error.starts_with("line 4, column ") && error.contains("u32"), "{error}");
}

#[test]
fn a_script_has_no_types_of_its_own() {
    let refuse = |script: &str, at: (usize, usize), name: &str| {
        let error = compose_script(&shop(), script).unwrap_err();
        let why = format!("{name} declares types; import them from a component instead");
        assert_eq!(error, ComposeError::Script { line: at.0, column: at.1, why }, "{script}");
    };
    // Each is twice the one before, which the resolver works out.
    let doubled: String = (1..=60).map(|n| format!("type t{n}=tuple<t{0},t{0}>;\n", n - 1)).collect();
    refuse(&format!("package a:b;\ntype t0=u8;\n{doubled}import f: func() -> t60;"), (2, 6), "t0");
    // Each is an alias of the one before, which the resolver follows to the end.
    let aliases: String = (1..3500).map(|n| format!("type a{n}=a{};", n - 1)).collect();
    let aliases = format!("package a:b;type a0=u8;{aliases}import f: func(x: a3499);");
    assert!(aliases.len() <= SCRIPT_BYTES_MAX);
    refuse(&aliases, (1, 18), "a0");
    for (statement, column) in [
        ("record a { x: u8 }", 8),
        ("variant a { x }", 9),
        ("flags a { x }", 7),
        ("enum a { x }", 6),
        ("interface a {}", 11),
        ("world a {}", 7),
        ("import a: func();", 8),
        ("import a: interface {};", 8),
    ] {
        refuse(&format!("package a:b;\n{statement}"), (2, column), "a");
    }
    let imports = SCRIPT.replace("let auth", "import text: component:auth/text;\nlet auth");
    let error = compose_script(&shop(), &imports).unwrap_err().to_string();
    assert!(!error.contains("declares"), "an interface of a component is none of the script's: {error}");
}

#[test]
fn nesting_that_is_allowed_is_not_too_deep() {
    let parts = shop();
    for (open, close) in [("(", ")"), ("new component:auth { a: ", "}")] {
        let nested = format!("package a:b; let x = {}y{};", open.repeat(255), close.repeat(255));
        assert!(compose_script(&parts, &nested).is_err());
    }
    let types = format!("package a:b; type t = {}u8{};", "list<".repeat(255), ">".repeat(255));
    assert!(compose_script(&parts, &types).is_err());
}

proptest! {
    #[test]
    fn garbage_is_no_panic(text in "\\PC{0,200}") {
        let _ = compose_script(&shop(), &text);
    }

    #[test]
    fn words_of_the_language_in_any_order_are_no_panic(words in prop::collection::vec(prop::sample::select(vec![
        "package", "acme:shop", ";", "let", "a", "=", "new", "component:api", "component:auth", "component:audit", "{", "}",
        "...", "...a", "export", "import", "as", "\"x:y/auth@1.0.0\"", ":", ",", ".", "[", "]", "(", ")", "type", "world",
        "interface", "record", "resource", "func", "->", "list", "<", ">", "u8", "use", "include", "targets", "own",
    ]), 0..40)) {
        let text = format!("package acme:shop; let a = new component:auth {{ ... }}; {}", words.join(" "));
        let _ = compose_script(&shop(), &text);
    }

    #[test]
    fn a_damaged_script_is_no_panic(at in 0..SCRIPT.len(), with in "\\PC{0,3}", cut in 0..4usize) {
        let end = (at + cut).min(SCRIPT.len());
        let text = format!("{}{with}{}", &SCRIPT[..at], &SCRIPT[end..]);
        let _ = compose_script(&shop(), &text);
    }
}
