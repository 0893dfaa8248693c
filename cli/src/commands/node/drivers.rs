//! What GPU drivers find in this process's environment.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

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
