//! `lattice import`: manifests of wasmCloud, as they are, to specs, and what became of each line. Talks to nobody.

mod deployment;
mod draft;
mod messaging;
mod secrets;
mod tree;
mod wadm;

use crate::{
    Context,
    error::{Exit, Failure, at},
    output::{Format, Paint, yaml},
};
use anyhow::Context as _;
use draft::Draft;
use lattice::{
    limits::{SPEC_BYTES_MAX, one_line},
    spec::WorkloadSpec,
};
use secrets::Secrets;
use serde::Serialize;
use std::{
    io::Read as _,
    path::{Path, PathBuf},
};
use tree::Tree;

/// Turn a manifest of wasmCloud into specs
///
/// Takes OAM applications of wadm and `WorkloadDeployment`s, several in one file too. The specs go to standard output; what
/// became of each line goes to standard error, as `file:line: …`: `=` was taken over, `~` was taken over and wants a look,
/// `!` has no counterpart. Components in registries are not fetched.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice import wadm.yaml > specs.yaml
  lattice import workload.yaml -o json | jq '.notes[] | select(.fate == \"lost\")'")]
pub struct Args {
    /// The manifest, or - for standard input
    file: PathBuf,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    Mapped,
    /// It is there in another way, or something is left to do.
    Changed,
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    pub line: u64,
    pub fate: Fate,
    pub text: String,
}

/// What a file became.
#[derive(Debug, Default, Serialize)]
pub struct Imported {
    pub specs: Vec<WorkloadSpec>,
    /// In the order of the lines.
    pub notes: Vec<Note>,
}

/// Where mappers write down what became of what.
#[derive(Debug, Default)]
pub struct Notes(Vec<Note>);

impl Notes {
    pub fn mapped(&mut self, line: u64, text: impl Into<String>) {
        self.add(line, Fate::Mapped, text.into());
    }
    pub fn changed(&mut self, line: u64, text: impl Into<String>) {
        self.add(line, Fate::Changed, text.into());
    }
    pub fn lost(&mut self, line: u64, text: impl Into<String>) {
        self.add(line, Fate::Lost, text.into());
    }
    /// Keys that this version knows nothing about.
    pub fn unknown(&mut self, tree: &Tree, known: &[&str]) {
        for entry in tree.entries().iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            self.lost(entry.line, format!("{}: not known here", entry.key));
        }
    }
    fn add(&mut self, line: u64, fate: Fate, text: String) {
        self.0.push(Note { line, fate, text: one_line(&text, 1024) });
    }
}

pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let shown = args.file.display().to_string();
    let text = read(&args.file)?;
    let imported = import(&text).map_err(|error| at(&format!("can't import {shown}"), &error))?;
    if matches!(context.out.format, Format::Table) {
        let specs: Vec<String> = imported.specs.iter().map(yaml).collect::<anyhow::Result<_>>()?;
        context.out.write(&specs.join("---\n"))?;
        for note in &imported.notes {
            context.out.note(line(&shown, note, context.out.note_paint));
        }
        context.out.note(summary(&imported));
    } else {
        let names = || imported.specs.iter().map(|spec| spec.name.to_string()).collect();
        context.out.show(&imported, |_| String::new(), names)?;
    }
    if imported.specs.is_empty() {
        return Err(Failure::failed(format!("nothing of {shown} became a spec")).into());
    }
    Ok(Exit::Ok)
}

/// `2 specs; of the manifest 14 things are taken over, 5 want a look, 3 have no counterpart`.
fn summary(Imported { specs, notes }: &Imported) -> String {
    let count = |fate| notes.iter().filter(|note| note.fate == fate).count();
    let specs = if specs.len() == 1 { "1 spec".to_owned() } else { format!("{} specs", specs.len()) };
    let (mapped, changed, lost) = (count(Fate::Mapped), count(Fate::Changed), count(Fate::Lost));
    format!("{specs}; {mapped} things are taken over (=), {changed} want a look (~), {lost} have no counterpart (!)")
}

fn line(file: &str, note: &Note, paint: Paint) -> String {
    let place = format!("{file}:{}:", note.line);
    match note.fate {
        Fate::Mapped => format!("{} = {}", paint.dim(place), note.text),
        Fate::Changed => format!("{} {}", paint.dim(place), paint.warn(format_args!("~ {}", note.text))),
        Fate::Lost => format!("{} {}", paint.dim(place), paint.bad(format_args!("! {}", note.text))),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let what = || Failure::failed(format!("can't read {}", path.display()));
    let mut text = String::new();
    let most = SPEC_BYTES_MAX as u64 + 1;
    match path.to_str() {
        Some("-") => std::io::stdin().take(most).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)),
    }
    .with_context(what)?;
    if text.len() > SPEC_BYTES_MAX {
        return Err(Failure::failed(format!("{} is longer than {SPEC_BYTES_MAX} bytes", path.display())).into());
    }
    Ok(text)
}

/// Every document of a file.
pub fn import(text: &str) -> anyhow::Result<Imported> {
    // An error shows where it is, and nothing of what is there: that may be a secret's value.
    let options = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Tree> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut secrets = Secrets::of(&documents);
    let mut notes = Notes::default();
    let mut drafts: Vec<Draft> = Vec::new();
    let (mut known, mut native) = (0, Vec::new());
    for document in &documents {
        let kind = document.text_of("kind").unwrap_or_default();
        match (document.text_of("apiVersion").unwrap_or_default().split('/').next(), kind.as_str()) {
            (Some("core.oam.dev"), "Application") => {
                drafts.extend(wadm::map(document, &mut secrets, &mut notes));
            }
            (Some("runtime.wasmcloud.dev"), "WorkloadDeployment" | "Workload") => {
                drafts.extend(deployment::map(document, &mut secrets, &mut notes));
            }
            _ if kind.is_empty() && document.get("name").is_some() && document.get("components").is_some() => {
                let name = document.text_of("name").unwrap_or_default();
                notes.changed(document.line, format!("{name} is a spec already: deploy it as it is"));
                native.push(name);
                continue;
            }
            _ if secrets::is_secret(document) => {
                secrets::note_kept(document, &mut notes);
                continue;
            }
            _ => {
                let what = if kind.is_empty() { "a document without kind".to_owned() } else { format!("kind: {kind}") };
                notes.lost(document.line, format!("{what}: not an Application of wadm, nor a WorkloadDeployment"));
                continue;
            }
        }
        known += 1;
    }
    if known == 0 && !native.is_empty() {
        let what = if native.len() == 1 { "it is a spec" } else { "they are specs" };
        return Err(Failure::failed(format!("{what} of lattice already: {}", native.join(", ")))
            .hint("there is nothing to import: `lattice deploy FILE` takes it as it is")
            .into());
    }
    if known == 0 {
        return Err(Failure::failed("there is no manifest that can be imported")
            .hint(
                "it takes `kind: Application` of core.oam.dev, and `kind: WorkloadDeployment` of runtime.wasmcloud.dev",
            )
            .into());
    }
    let specs = drafts.into_iter().filter_map(|draft| draft.finish(&mut notes)).collect();
    let Notes(mut notes) = notes;
    notes.sort_by_key(|note| note.line); // stable
    Ok(Imported { specs, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is expected lies beside the manifest: `NAME.expected` has the specs, then the notes.
    fn golden(name: &str) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
        let text = std::fs::read_to_string(dir.join(format!("{name}.yaml"))).unwrap();
        let imported = import(&text).unwrap();
        let specs: Vec<String> = imported.specs.iter().map(|spec| yaml(spec).unwrap()).collect();
        let notes = imported.notes.iter().map(|note| line(&format!("{name}.yaml"), note, Paint::off()) + "\n");
        let found = specs.join("---\n") + "\n" + &notes.collect::<String>();
        let path = dir.join(format!("{name}.expected"));
        if std::env::var_os("LATTICE_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{found}\nis not what {} says: look, then set LATTICE_BLESS=1", path.display());
        // What is printed is read as it is by `deploy`.
        for spec in specs {
            lattice::spec::parse(spec.as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_hello_of_wadm() {
        golden("wadm-hello");
    }

    #[test]
    fn a_shop_of_wadm() {
        golden("wadm-shop");
    }

    #[test]
    fn a_workload_deployment() {
        golden("deployment");
    }

    #[test]
    fn stores_and_scalers() {
        golden("wadm-agents");
    }

    #[test]
    fn messages_and_objects_of_wadm() {
        golden("wadm-messages");
    }

    #[test]
    fn messages_and_objects_of_a_workload_deployment() {
        golden("deployment-messages");
    }

    #[test]
    fn secrets_of_wadm() {
        golden("wadm-secrets");
    }

    #[test]
    fn secrets_of_a_workload_deployment() {
        golden("deployment-secrets");
    }

    #[test]
    fn values_of_secrets_are_shown_nowhere() {
        let manifest = include_str!("../../../tests/import/deployment-secrets.yaml");
        let shown = format!("{:?}", import(manifest).unwrap());
        for value in ["aHVudGVyMg==", "hunter2", "correct horse"] {
            assert!(manifest.contains(value) && !shown.contains(value), "{value}");
        }
        let broken = manifest.replace("correct horse", "'correct horse");
        let error = import(&broken).unwrap_err().to_string();
        assert!(!error.contains("horse") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_spec_is_no_manifest() {
        let spec = "name: shop\ncomponents: [{name: shop, source: 'file:shop.wasm'}]\n";
        let error = import(spec).unwrap_err();
        assert_eq!(error.to_string(), "it is a spec of lattice already: shop");
        // Beside a manifest it is left to who deploys.
        let both = format!("{}---\n{spec}", include_str!("../../../tests/import/wadm-hello.yaml"));
        let imported = import(&both).unwrap();
        assert_eq!(imported.specs.len(), 1);
        assert!(imported.notes.iter().any(|note| note.text == "shop is a spec already: deploy it as it is"));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in ["", "a: b", "kind: Deployment\napiVersion: apps/v1", "- 1"] {
            assert!(import(text).is_err(), "{text:?}");
        }
    }
}
