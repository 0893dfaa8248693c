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
    io::Read as _,
    path::{Path, PathBuf},
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

/// Read a file, or standard input for `-`.
pub fn read(source: &str, overrides: &Overrides) -> anyhow::Result<Prepared> {
    if source == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes).context("can't read standard input")?;
        return prepare(bytes, None, overrides);
    }
    let path = Path::new(source);
    prepare(read_bounded(path)?, Some(path), overrides)
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || Failure::failed(format!("can't read {}", path.display()));
    let file = std::fs::File::open(path).with_context(what)?;
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(what)?;
    Ok(bytes)
}

fn prepare(bytes: Vec<u8>, path: Option<&Path>, overrides: &Overrides) -> anyhow::Result<Prepared> {
    let shown = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    if bytes.starts_with(b"\0asm") {
        return component_alone(bytes, &shown, path, overrides);
    }
    if bytes.len() > SPEC_BYTES_MAX {
        let message =
            format!("{shown} is {} long: too large for a spec, and not a component", size(bytes.len() as u64));
        return Err(Failure::failed(message).into());
    }
    let mut spec = spec::parse(&bytes).map_err(|error| with_place(error, &shown))?;
    apply(&mut spec, overrides);
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    if let Some(Script::File(name)) = &spec.compose.wac {
        let path = base.join(name);
        let what = || Failure::failed(format!("{shown}: compose.wac: {} can't be read", path.display()));
        let text = String::from_utf8(read_bounded(&path).with_context(what)?).with_context(what)?;
        spec.compose.wac = Some(text.parse().map_err(|error| what().hint(error))?);
        // Its size counts now, as that of the whole spec.
        spec = spec::parse_value(&serde_json::to_value(&spec)?).map_err(|error| with_place(error, &shown))?;
    }
    let mut files = Vec::new();
    for (field, source) in spec.sources_mut() {
        let Source::File(name) = source else { continue };
        let path: PathBuf = base.join(name);
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
        let error = prepare(bytes.to_vec(), path.map(Path::new), &Overrides::default()).unwrap_err();
        render(&error, Paint::off())
    }

    #[test]
    fn a_bare_component_makes_a_spec() {
        let path = Path::new("out/Hello_http.v2.wasm");
        let Prepared { spec, files } = prepare(COMPONENT.into(), Some(path), &Overrides::default()).unwrap();
        assert_eq!(spec.name.as_str(), "hello-http-v2");
        assert_eq!(spec.http.routes[0].host.to_string(), "hello-http-v2.localhost");
        assert_eq!(spec.components[0].source, Source::Stored(Digest::of(COMPONENT)));
        assert_eq!((spec.replicas, files.len()), (1, 1));

        let overrides = Overrides {
            name: WorkloadName::new("shop").ok(),
            host: Some("*.shop.test".parse().unwrap()),
            replicas: Some(3),
        };
        let spec = prepare(COMPONENT.into(), None, &overrides).unwrap().spec;
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
}
