//! `cargo xtask clients`: installs the NATS clients that are not ours, with which tests submit workloads, into
//! `target/toolchains/nats-py`. It must not run the tests. Start at [`run`].

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

const REQUIREMENTS: &str = "cli/tests/clients/requirements.txt";

const REMEDY: &str = "nats-py is installed with python3 and its module venv. Install them:
    apt-get install python3 python3-venv     (Debian, Ubuntu)
    dnf install python3                      (Fedora)
    brew install python                      (macOS)
What went wrong";

/// The Python that has nats-py. Installs it where it is missing or was installed from other requirements.
pub(crate) fn run() -> Result<PathBuf> {
    let toolchains = workspace::root().join("target/toolchains");
    fs::create_dir_all(&toolchains)?;
    let lock = fs::File::create(toolchains.join("nats-py.lock"))?;
    lock.lock().context("cannot lock the folder of nats-py")?;

    let environment = toolchains.join("nats-py");
    let python = environment.join("bin/python");
    let requirements = fs::read_to_string(workspace::root().join(REQUIREMENTS))?;
    // Written last, so it says that everything before succeeded.
    let stamp = environment.join("installed.txt");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == requirements) {
        return Ok(python);
    }
    workspace::timed("installing nats-py with pip", || {
        let mut create = Command::new("python3");
        workspace::output(create.args(["-m", "venv", "--clear"]).arg(&environment)).context(REMEDY)?;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
        workspace::output(
            install.args(["--require-hashes", "--requirement"]).arg(workspace::root().join(REQUIREMENTS)),
        )?;
        fs::write(&stamp, &requirements)?;
        Ok(python)
    })
}
