//! GPU drivers: what they find in this process's environment, and whether they can be let into it.

use crate::commands::try_gpus;
use lattice_host_node::GpuSelector;
use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Stdio},
    time::Duration,
};

/// Longer than a process takes that ends by itself where drivers do not answer.
const TRIAL_MAX: Duration = Duration::from_secs(90);

/// Mesa has a layer that picks a GPU for a desktop: it connects to the display for that, and complains on standard error where
/// there is none. This says that it is not wanted.
const NO_DISPLAY: &str = "NODEVICE_SELECT";

/// Start this program again in this process's place, with an environment that suits a node: a program can't safely change its
/// own once it runs. Where that can't be done, things go on as they are.
pub(super) fn prepare() {
    if std::env::var_os(NO_DISPLAY).is_some() {
        return;
    }
    let Ok(own) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("lattice"));
    // Comes back only with an error, such as that the file was replaced meanwhile.
    let _ = Command::new(own).arg0(name).args(arguments).env(NO_DISPLAY, "1").exec();
}

/// Why the drivers must not be loaded into this process: in one of its own they crashed, or never came to an end. What else is
/// wrong with them is found out, and said, by whoever loads them.
pub(super) async fn try_out(selector: &GpuSelector) -> Result<(), String> {
    if selector.is_off() {
        return Ok(());
    }
    // A program that was replaced while it runs can't be started again; that says nothing of the drivers.
    let Ok(own) = std::env::current_exe() else { return Ok(()) };
    let mut trial = tokio::process::Command::new(own);
    trial.args([try_gpus::NAME, &selector.to_string()]).kill_on_drop(true);
    // What a driver says of its end goes where this process's own lines go.
    trial.stdin(Stdio::null()).stdout(Stdio::null());
    let Ok(mut trial) = trial.spawn() else { return Ok(()) };
    match tokio::time::timeout(TRIAL_MAX, trial.wait()).await {
        Err(_) => Err(format!("did not answer within {} s", TRIAL_MAX.as_secs())),
        Ok(Ok(status)) => status.signal().map_or(Ok(()), |signal| Err(format!("crashed (signal {signal})"))),
        Ok(Err(_)) => Ok(()),
    }
}
