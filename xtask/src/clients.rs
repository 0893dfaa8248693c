//! `cargo xtask clients`: installs clients that are not ours, with which tests submit workloads and send them requests,
//! into `target/toolchains`. It must not run the tests. Start at [`run`].

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Clients in Python that are installed together.
struct Set {
    /// Of its folder.
    name: &'static str,
    /// By which tests are told of the Python that has them.
    variable: &'static str,
    requirements: &'static str,
}

const SETS: [Set; 2] = [
    Set { name: "nats-py", variable: "LATTICE_NATS_PY", requirements: "cli/tests/clients/requirements.txt" },
    Set {
        name: "http-clients",
        variable: "LATTICE_HTTP_CLIENTS",
        requirements: "cli/tests/clients/http-requirements.txt",
    },
];

const REMEDY: &str = "clients in Python are installed with python3 and its module venv. Install them:
    apt-get install python3 python3-venv     (Debian, Ubuntu)
    dnf install python3                      (Fedora)
    brew install python                      (macOS)
What went wrong";

/// For each set its variable and the Python that has it. Installs what is missing or was installed from other
/// requirements.
pub(crate) fn run() -> Result<Vec<(&'static str, PathBuf)>> {
    SETS.iter().map(|set| Ok((set.variable, install(set)?))).collect()
}

fn install(set: &Set) -> Result<PathBuf> {
    let toolchains = workspace::root().join("target/toolchains");
    fs::create_dir_all(&toolchains)?;
    let lock = fs::File::create(toolchains.join(format!("{}.lock", set.name)))?;
    lock.lock().with_context(|| format!("cannot lock the folder of {}", set.name))?;

    let environment = toolchains.join(set.name);
    let python = environment.join("bin/python");
    let requirements = fs::read_to_string(workspace::root().join(set.requirements))?;
    // Written last, so it says that everything before succeeded.
    let stamp = environment.join("installed.txt");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == requirements) {
        return Ok(python);
    }
    workspace::timed(&format!("installing {} with pip", set.name), || {
        let mut create = Command::new("python3");
        workspace::output(create.args(["-m", "venv", "--clear"]).arg(&environment)).context(REMEDY)?;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
        workspace::output(
            install.args(["--require-hashes", "--requirement"]).arg(workspace::root().join(set.requirements)),
        )?;
        fs::write(&stamp, &requirements)?;
        Ok(python)
    })
}
