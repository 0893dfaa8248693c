//! What `deploy` is given: a spec with files beside it, or a bare component. Reads files, talks to nobody but the
//! lattice's object store.

use crate::{
    error::Failure,
    output::{Output, size},
};
use anyhow::Context as _;
use bytes::Bytes;
use lattice::{
    id::{ComponentName, Digest, WorkloadName},
    limits::{COMPONENT_BYTES_MAX, SPEC_BYTES_MAX},
    spec::{self, HostPattern, PathMatch, Route, Script, Source, WorkloadSpec},
    store::Artifacts,
};
use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Component, Path, PathBuf},
};

/// What the command line changes in a spec.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Name of the workload [default: the spec's, or after the component's file]
    #[arg(long)]
    pub name: Option<WorkloadName>,
    /// Host to answer, instead of the spec's routes [default for a component: NAME.localhost]
    #[arg(long)]
    pub host: Option<HostPattern>,
    /// How many replicas run
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
}

impl Overrides {
    /// The first option that says something of one workload.
    fn of_one(&self) -> Option<&'static str> {
        let given = [("--name", self.name.is_some()), ("--host", self.host.is_some())];
        let given = given.into_iter().chain([("--replicas", self.replicas.is_some())]);
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }
}

/// A spec whose files have been read and named by their digests, and those files.
#[derive(Debug)]
pub struct Prepared {
    pub spec: WorkloadSpec,
    pub files: Vec<File>,
}

/// A component to upload.
#[derive(Debug)]
pub struct File {
    pub path: String,
    pub digest: Digest,
    pub bytes: Bytes,
}

/// Read a file, or standard input for `-`: one workload.
pub fn read(source: &str, overrides: &Overrides) -> anyhow::Result<Prepared> {
    let mut all = read_all(source, overrides)?;
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(only),
        (_, more) => Err(Failure::usage(format!("{source} has {} workloads, and one is wanted here", more + 1))
            .hint("make a file of each; `lattice deploy` takes all of them together")
            .into()),
    }
}

/// The same where a file may have several: YAML documents, separated by `---`. Names each one that is wrong.
pub fn read_all(source: &str, overrides: &Overrides) -> anyhow::Result<Vec<Prepared>> {
    if source == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes).context("can't read standard input")?;
        return prepare_all(bytes, None, overrides);
    }
    let path = Path::new(source);
    prepare_all(read_bounded(path)?, Some(path), overrides)
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || Failure::failed(format!("can't read {}", path.display()));
    let file = std::fs::File::open(path).with_context(what)?;
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(what)?;
    Ok(bytes)
}

fn prepare_all(bytes: Vec<u8>, path: Option<&Path>, overrides: &Overrides) -> anyhow::Result<Vec<Prepared>> {
    let shown = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    if bytes.starts_with(b"\0asm") {
        return Ok(vec![component_alone(bytes, &shown, path, overrides)?]);
    }
    let documents = match std::str::from_utf8(&bytes) {
        Ok(text) => documents(text),
        Err(_) => Vec::new(),
    };
    // One, or none: the spec's own errors say what is wrong with it.
    let [_, _, ..] = documents.as_slice() else {
        let only = documents.into_iter().next().map_or(bytes, String::into_bytes);
        return Ok(vec![prepare(&only, &shown, path, overrides)?]);
    };
    if let Some(option) = overrides.of_one() {
        let message = format!("{option} is for one workload, and {shown} has {}", documents.len());
        return Err(Failure::usage(message).hint("write it into the document that is meant").into());
    }
    let of = documents.len();
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for (number, document) in (1..).zip(documents) {
        match prepare(document.as_bytes(), &format!("{shown}, document {number} of {of}"), path, overrides) {
            Ok(prepared) => all.push(prepared),
            Err(error) => wrong.push(error),
        }
    }
    // All that is wrong, since all of it has to be mended before anything is sent.
    let mut wrong = wrong.into_iter();
    if let Some(first) = wrong.next() {
        let more: String = wrong.map(|error| format!("\n  {error}")).collect();
        return Err(if more.is_empty() {
            first
        } else {
            let hint = first.downcast_ref::<Failure>().and_then(|failure| failure.hint.clone());
            let failure = Failure::failed(format!("{first}{more}"));
            hint.into_iter().fold(failure, Failure::hint).into()
        });
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = all.iter().map(|prepared| &prepared.spec.name).find(|name| !names.insert(*name)) {
        return Err(Failure::failed(format!("{shown}: two documents are named {twice}")).into());
    }
    Ok(all)
}

/// The documents of a YAML text that say something, each with empty lines for those before it, so that errors count its
/// lines from the beginning of the file. No scalar has a line that begins with `---`.
fn documents(text: &str) -> Vec<String> {
    let is_marker = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
    };
    let says_something = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#'));
    let (mut documents, mut current, mut counts) = (Vec::new(), String::new(), false);
    for (number, line) in text.lines().enumerate() {
        let rest = match is_marker(line) {
            true => {
                let before = std::mem::replace(&mut current, "\n".repeat(number));
                documents.extend(counts.then_some(before));
                counts = false;
                line.get(3..).unwrap_or_default()
            }
            false => line,
        };
        counts |= says_something(rest);
        current.push_str(rest);
        current.push('\n');
    }
    documents.extend(counts.then_some(current));
    documents
}

fn prepare(bytes: &[u8], shown: &str, path: Option<&Path>, overrides: &Overrides) -> anyhow::Result<Prepared> {
    if bytes.len() > SPEC_BYTES_MAX {
        let message =
            format!("{shown} is {} long: too large for a spec, and not a component", size(bytes.len() as u64));
        return Err(Failure::failed(message).into());
    }
    let mut spec = spec::parse(bytes).map_err(|error| {
        // Of another system, as most are recognised by.
        let is_manifest = ["apiVersion", "kind"].contains(&error.field.as_str());
        let hint = "it looks like a manifest of another system: `lattice import` makes specs of wasmCloud's";
        with_place(if is_manifest { error.hint(hint) } else { error }, shown)
    })?;
    apply(&mut spec, overrides);
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    if let Some(Script::File(name)) = &spec.compose.wac {
        let path = base.join(name);
        let what = || Failure::failed(format!("{shown}: compose.wac: {} can't be read", path.display()));
        let text = String::from_utf8(read_bounded(&path).with_context(what)?).with_context(what)?;
        spec.compose.wac = Some(text.parse().map_err(|error| what().hint(error))?);
        // Its size counts now, as that of the whole spec.
        spec = spec::parse_value(&serde_json::to_value(&spec)?).map_err(|error| with_place(error, shown))?;
    }
    let mut files = Vec::new();
    for (field, source) in spec.sources_mut() {
        let Source::File(name) = source else { continue };
        let path = plain_path(&base.join(name));
        let read = read_bounded(&path).with_context(|| {
            Failure::failed(format!("{shown}: {field}: {} can't be read", path.display()))
                .hint("paths are relative to the spec's directory; has the component been built?")
        })?;
        let file = checked(read, path.display().to_string())?;
        *source = Source::Stored(file.digest);
        files.push(file);
    }
    Ok(Prepared { spec, files })
}

/// Without the detours of a path that was joined: `a/b/../c` is `a/c`, unless `b` is a link.
fn plain_path(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        let is_detour = part == Component::ParentDir
            && matches!(plain.components().next_back(), Some(Component::Normal(_)))
            && plain.symlink_metadata().is_ok_and(|data| !data.is_symlink());
        match part {
            Component::CurDir => {}
            Component::ParentDir if is_detour => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// The spec's errors know the field, not the file.
fn with_place(error: spec::SpecError, shown: &str) -> anyhow::Error {
    let failure =
        Failure { exit: crate::error::Exit::Failed, message: format!("{shown}: {error}"), hint: error.hint.clone() };
    anyhow::Error::new(failure)
}

fn apply(spec: &mut WorkloadSpec, overrides: &Overrides) {
    if let Some(name) = &overrides.name {
        spec.name = name.clone();
    }
    if let Some(host) = &overrides.host {
        spec.http.routes = vec![Route::new(host.clone(), PathMatch::default())];
    }
    if let Some(replicas) = overrides.replicas {
        spec.replicas = replicas;
    }
}

/// Size and kind, before it travels.
fn checked(bytes: Vec<u8>, path: String) -> anyhow::Result<File> {
    if bytes.len() as u64 > COMPONENT_BYTES_MAX {
        let limit = size(COMPONENT_BYTES_MAX);
        return Err(Failure::failed(format!("{path} is larger than a component may be ({limit})"))
            .hint("debug information is most of it, as a rule: `wasm-tools strip`, or build with `strip = true`")
            .into());
    }
    // The preamble: magic, version, layer (0: core module, 1: component).
    match bytes.first_chunk::<8>() {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => {}
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => {
            return Err(Failure::failed(format!("{path} is a core WebAssembly module, not a component"))
                .hint("build for wasm32-wasip2, or wrap it: `wasm-tools component new`")
                .into());
        }
        _ => return Err(Failure::failed(format!("{path} is not a WebAssembly component")).into()),
    }
    Ok(File { digest: Digest::of(&bytes), bytes: bytes.into(), path })
}

/// A spec for a component that has none.
fn component_alone(
    bytes: Vec<u8>,
    shown: &str,
    path: Option<&Path>,
    overrides: &Overrides,
) -> anyhow::Result<Prepared> {
    let name = match (&overrides.name, path) {
        (Some(name), _) => name.clone(),
        (None, Some(path)) => name_of(path).ok_or_else(|| {
            Failure::usage(format!("no workload name follows from {shown}")).hint("give one: --name hello")
        })?,
        (None, None) => {
            return Err(Failure::usage("a component from standard input needs a name").hint("--name hello").into());
        }
    };
    let file = checked(bytes, shown.to_owned())?;
    let host = format!("{name}.localhost");
    let document = serde_json::json!({
        "name": name,
        "components": [{ "name": ComponentName::new(name.as_str())?, "source": Source::Stored(file.digest) }],
        "http": { "routes": [{ "host": host }] },
    });
    let mut spec = spec::parse_value(&document).map_err(|error| with_place(error, shown))?;
    apply(&mut spec, overrides);
    Ok(Prepared { spec, files: vec![file] })
}

/// `target/hello_http.wasm` to `hello-http`.
pub(super) fn name_of(path: &Path) -> Option<WorkloadName> {
    let stem = path.file_stem()?.to_str()?.to_ascii_lowercase();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    WorkloadName::new(name.trim_matches('-')).ok()
}

/// Put the files where nodes find them. What is there already is not sent again.
pub async fn upload(artifacts: &dyn Artifacts, files: &[File], out: &Output) -> anyhow::Result<()> {
    for file in files {
        let length = file.bytes.len() as u64;
        let what = || Failure::failed(format!("can't upload {}", file.path));
        if artifacts.size(file.digest).await.with_context(what)? == Some(length) {
            continue;
        }
        out.note(format!("uploading {} ({}, sha256 {}…)", file.path, size(length), file.digest.short()));
        artifacts.put(file.bytes.clone()).await.with_context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::render, output::Paint};

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn refused(bytes: &[u8], path: Option<&str>) -> String {
        let error = prepare_all(bytes.to_vec(), path.map(Path::new), &Overrides::default()).unwrap_err();
        render(&error, Paint::off())
    }

    fn one(bytes: &[u8], path: Option<&Path>, overrides: &Overrides) -> Prepared {
        prepare_all(bytes.to_vec(), path, overrides).unwrap().pop().unwrap()
    }

    #[test]
    fn a_bare_component_makes_a_spec() {
        let path = Path::new("out/Hello_http.v2.wasm");
        let Prepared { spec, files } = one(COMPONENT, Some(path), &Overrides::default());
        assert_eq!(spec.name.as_str(), "hello-http-v2");
        assert_eq!(spec.http.routes[0].host.to_string(), "hello-http-v2.localhost");
        assert_eq!(spec.components[0].source, Source::Stored(Digest::of(COMPONENT)));
        assert_eq!((spec.replicas, files.len()), (1, 1));

        let overrides = Overrides {
            name: WorkloadName::new("shop").ok(),
            host: Some("*.shop.test".parse().unwrap()),
            replicas: Some(3),
        };
        let spec = one(COMPONENT, None, &overrides).spec;
        assert_eq!((spec.name.as_str(), spec.replicas), ("shop", 3));
        assert_eq!(spec.http.routes[0].host.to_string(), "*.shop.test");
    }

    #[test]
    fn files_are_found_beside_the_spec() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.wasm"), COMPONENT).unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "name: a\ncomponents: [{name: a, source: 'file:./a.wasm'}]\n").unwrap();
        let prepared = read(path.to_str().unwrap(), &Overrides::default()).unwrap();
        assert!(spec::unresolved(&prepared.spec).is_none());
        assert_eq!(prepared.files[0].digest, Digest::of(COMPONENT));

        std::fs::write(dir.path().join("a.wasm"), b"\0asm\x01\0\0\0").unwrap();
        let error = read(path.to_str().unwrap(), &Overrides::default()).unwrap_err();
        assert!(render(&error, Paint::off()).contains("core WebAssembly module"));
        let scripted = "name: a\ncomponents: [{name: a, source: 'file:./a.wasm'}, {name: b, source: 'file:./a.wasm'}]\n\
                        compose: {wac: 'file:a.wac'}\n";
        std::fs::write(&path, scripted).unwrap();
        let error = read(path.to_str().unwrap(), &Overrides::default()).unwrap_err();
        assert!(render(&error, Paint::off()).contains("compose.wac"), "{error:#}");
        std::fs::write(dir.path().join("a.wac"), "package a:b;\n").unwrap();
        std::fs::write(dir.path().join("a.wasm"), COMPONENT).unwrap();
        let prepared = read(path.to_str().unwrap(), &Overrides::default()).unwrap();
        assert_eq!(prepared.spec.compose.script(), Some("package a:b;\n"));
        std::fs::write(dir.path().join("a.wac"), "x".repeat(100_000)).unwrap();
        let error = read(path.to_str().unwrap(), &Overrides::default()).unwrap_err();
        assert!(render(&error, Paint::off()).contains("65536 are allowed"), "{error:#}");
        std::fs::write(dir.path().join("a.wac"), "package a:b;\n").unwrap();
        std::fs::remove_file(dir.path().join("a.wasm")).unwrap();
        let error = read(path.to_str().unwrap(), &Overrides::default()).unwrap_err();
        assert!(render(&error, Paint::off()).contains("components[0].source"), "{error:#}");
    }

    #[test]
    fn errors_name_file_and_field() {
        let text = refused(b"name: A\ncomponents: []", Some("x.yaml"));
        assert!(text.starts_with("error: x.yaml: name: "), "{text}");
        assert!(refused(b"\0asm\x01\0\0\0", Some("m.wasm")).contains("wasm32-wasip2"));
        assert!(refused(COMPONENT, Some("---.wasm")).contains("--name"));
        assert!(refused(COMPONENT, None).contains("--name"));
        assert!(refused(&vec![b' '; SPEC_BYTES_MAX + 1], None).contains("too large"));
    }

    #[test]
    fn a_path_is_shown_without_detours() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        assert_eq!(plain_path(&dir.path().join("a/b/../../c.wasm")), dir.path().join("c.wasm"));
        assert_eq!(plain_path(Path::new("../x/./c.wasm")), Path::new("../x/c.wasm"));
        assert_eq!(plain_path(Path::new("gone/../c.wasm")), Path::new("gone/../c.wasm"));
    }

    #[test]
    fn documents_are_told_apart_and_keep_their_lines() {
        let of = |text: &str| documents(text).iter().map(|document| document.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(of("a: 1\n---\nb: 2\n"), ["a: 1", "b: 2"]);
        assert_eq!(
            of("# what it is\n--- # first\na: 1\n---\n# nothing\n---\n--- {b: 2}\n"),
            ["# first\na: 1", "{b: 2}"]
        );
        assert_eq!(of("a: '---x'\nb: |\n  ---\n  c\n"), ["a: '---x'\nb: |\n  ---\n  c"]);
        assert_eq!(of("---\r\na: 1\r\n"), ["a: 1"]);
        assert_eq!(of(" \n# only words\n---\n"), [""; 0]);
        assert_eq!(documents("a: 1\n---\nb: 2\n").last().unwrap(), "\n\nb: 2\n");
    }

    #[test]
    fn of_several_documents_each_wrong_one_is_named() {
        let spec =
            |name: &str| format!("name: {name}\ncomponents: [{{name: a, source: '{}'}}]\n", Digest::of(COMPONENT));
        let both = format!("{}---\n{}", spec("a"), spec("b"));
        let all = prepare_all(both.clone().into_bytes(), None, &Overrides::default()).unwrap();
        assert_eq!(all.iter().map(|prepared| prepared.spec.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let overrides = Overrides { replicas: Some(3), ..Overrides::default() };
        let error = prepare_all(both.into_bytes(), None, &overrides).unwrap_err();
        assert!(error.to_string().starts_with("--replicas is for one workload"), "{error}");

        let text =
            refused(format!("{}---\nnam: b\n---\n{}---\n: [\n", spec("a"), spec("c")).as_bytes(), Some("x.yaml"));
        assert!(text.starts_with("error: x.yaml, document 2 of 4: "), "{text}");
        assert!(text.contains("\n  x.yaml, document 4 of 4: ") && text.contains("line 9 column 1: "), "{text}");
        assert!(refused(format!("{0}---\n{0}", spec("a")).as_bytes(), None).contains("two documents are named a"));
    }
}
