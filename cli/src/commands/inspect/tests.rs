//! Components of one function each, taken apart: what is shown, what is refused, and what pictures have in them.

use super::{
    picture,
    report::{BoundTo, Report, Role, report},
    text,
};
use crate::output::Paint;
use bytes::Bytes;
use lattice::id::Digest;

/// A component that imports and exports instances with a function `f`.
fn component(export: &str, imports: &[&str]) -> Bytes {
    let imports: String = imports
        .iter()
        .map(|import| format!(r#"(import "{import}" (instance (export "f" (func (param "x" string) (result u32)))))"#))
        .collect();
    let text = format!(
        r#"(component {imports}
            (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
                (func (export "f") (param i32 i32) (result i32) (i32.const 1)))
            (core instance $i (instantiate $m))
            (func $f (param "x" string) (result u32)
                (canon lift (core func $i "f") (memory $i "memory") (realloc (func $i "realloc"))))
            (instance $own (export "f" (func $f)))
            (export "{export}" (instance $own)))"#
    );
    wat::parse_str(text).unwrap().into()
}

const HANDLER: &str = "wasi:http/incoming-handler@0.2.0";

fn inspect(components: &[(&str, Bytes)]) -> Report {
    let listed: Vec<String> =
        components.iter().map(|(name, bytes)| format!("{{name: {name}, source: '{}'}}", Digest::of(bytes))).collect();
    let spec = format!("name: shop\ncomponents: [{}]\nplacement: {{require: [zone == eu]}}", listed.join(", "));
    let sources: Vec<Bytes> = components.iter().map(|(_, bytes)| bytes.clone()).collect();
    report(&lattice::spec::parse(spec.as_bytes()).unwrap(), &sources).unwrap()
}

fn shop() -> Report {
    inspect(&[
        ("front", component(HANDLER, &["x:y/auth@1.0.0", "x:y/text@1.0.0", "wasi:random/random@0.2.0"])),
        ("auth", component("x:y/auth@1.0.0", &["x:y/text@1.0.0", "wasi:sockets/tcp@0.2.0"])),
        ("text", component("x:y/text@1.1.0", &["wasi:random/random@0.2.0"])),
        ("old", component("x:y/w@1.0.0", &[])),
    ])
}

#[test]
fn a_composition_is_shown_with_what_is_behind_each_import() {
    let report = shop();
    let roles: Vec<(&str, Role)> = report.components.iter().map(|part| (part.name.as_str(), part.role)).collect();
    assert_eq!(roles, [("auth", Role::Part), ("front", Role::Entry), ("old", Role::Unused), ("text", Role::Part)]);
    let bound: Vec<(&str, usize, BoundTo)> =
        report.bindings.iter().map(|binding| (binding.import.as_str(), binding.of.len(), binding.to)).collect();
    assert_eq!(bound, [("wasi:random/random@0.2.0", 2, BoundTo::Host), ("wasi:sockets/tcp@0.2.0", 1, BoundTo::Denied)]);
    assert_eq!(report.problem, None);

    let shown = text::render(&report, Paint::off());
    let graph = "\nfront\n├─ x:y/auth@1.0.0 → auth\n│  └─ x:y/text@1.0.0 → text (x:y/text@1.1.0)\n\
                 └─ x:y/text@1.0.0 → text (x:y/text@1.1.0)\n";
    assert!(shown.contains(graph), "{shown}");
    for part in [
        "answers HTTP by wasi:http 0.2",
        "plain engine",
        "can run on any node of this version where zone == eu",
        "unused",
        "wasi:random/random@0.2  front, text",
        "f: func(x: string) -> u32",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json.pointer("/whole/kind").unwrap(), "wasi:http@0.2");
    assert_eq!(json.pointer("/edges/0/to").unwrap(), "text");
}

#[test]
fn what_the_spec_grants_is_behind_the_import() {
    let imports = ["wasi:sockets/tcp@0.2.0", "wasi:http/outgoing-handler@0.2.0", "wasi:filesystem/types@0.2.0"];
    let bytes = component(HANDLER, &imports);
    let source = Digest::of(&bytes);
    let notes = |grants: &str| {
        let spec = format!("name: shop\ncomponents: [{{name: a, source: '{source}'}}]\n{grants}");
        let report = report(&lattice::spec::parse(spec.as_bytes()).unwrap(), std::slice::from_ref(&bytes)).unwrap();
        report.bindings.into_iter().map(|binding| (binding.to, binding.note)).collect::<Vec<_>>()
    };
    for (to, note) in notes("") {
        assert!(to == BoundTo::Denied && note.contains("the spec has no "), "{note}");
    }
    let granted = "grants: {http-out: ['https://api.test'], connect: ['tcp://db.test:5432']}
volumes: [{name: room, mount: /data, empty: {size: 1MiB}}]";
    for (to, note) in notes(granted) {
        let named = ["https://api.test", "tcp://db.test:5432", "/data"].iter().any(|grant| note.contains(grant));
        assert!(to == BoundTo::Host && named, "{note}");
    }
}

#[test]
fn what_can_not_run_says_why() {
    let missing = inspect(&[("a", component(HANDLER, &["x:y/none@1.0.0"]))]);
    assert_eq!(missing.bindings.first().unwrap().to, BoundTo::Nothing);
    let shown = text::render(&missing, Paint::off());
    assert!(shown.contains("can't run: the component imports x:y/none@1.0.0"), "{shown}");

    let circle = inspect(&[("a", component(HANDLER, &["x:y/b@1.0.0"])), ("b", component("x:y/b@1.0.0", &[HANDLER]))]);
    let problem = circle.problem.as_ref().unwrap();
    assert!(problem.message.contains("a → b → a") && problem.hint.is_some(), "{problem:?}");
    assert!(circle.whole.is_none() && circle.components.iter().all(|part| part.role == Role::Unknown));

    let part = inspect(&[("a", component("x:y/w@1.0.0", &[]))]);
    assert!(part.problem.is_some() && part.whole.is_some());
}

#[test]
fn pictures_have_every_box_and_arrow() {
    let report = shop();
    let dot = picture::dot(&report);
    for part in [
        r#""c:front" -> "c:auth" [label="x:y/auth@1.0.0"];"#,
        r#""c:auth" -> "host" [label="wasi:sockets (denied)", style=dashed];"#,
        "penwidth=2",
    ] {
        assert!(dot.contains(part), "{part} is not in {dot}");
    }
    let svg = picture::svg(&report);
    assert_eq!((svg.matches("<rect").count(), svg.matches("<path d=\"M").count()), (1 + 4 + 1, 1 + 3 + 3), "{svg}");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));

    // Somebody else's text does not become part of the picture's language.
    let mut forged = report;
    forged.edges.first_mut().unwrap().import = "x\"]; evil [<script>&".into();
    assert!(!picture::svg(&forged).contains("<script>"));
    assert!(!picture::dot(&forged).contains("x\"]"));
}
