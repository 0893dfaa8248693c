//! What went wrong, as a person and a script should see it: one `error:` line with the causes behind it, one `hint:`,
//! and an exit code. Commands return [`anyhow::Result`]; this file alone decides what becomes of it.

use crate::output::Paint;
use lattice::{
    ctl::{CtlError, ErrorCode},
    spec::SpecError,
    store::StoreError,
};
use std::{fmt::Write as _, process::ExitCode};

/// Exit codes. Scripts depend on them: they are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    /// The command line is wrong. clap uses the same number.
    Usage = 2,
    NotFound = 3,
    /// Somebody else changed it first.
    Conflict = 4,
    NotAuthorised = 5,
    /// Time is up; the change was made and goes on.
    InProgress = 6,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error of a command's own making, or context that gives another error its exit code and remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The reader of our output went away, as `head` does. Not an error: the command ends without a word.
#[derive(Debug, thiserror::Error)]
#[error("the output is closed")]
pub struct OutputClosed;

/// Exit code of an error: that of the outermost cause that has one.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<OutputClosed>() {
        return Exit::Ok;
    }
    // Context is not part of `chain()` as its own type: ask for it by downcast first.
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    if let Some(error) = error.downcast_ref::<CtlError>() {
        return match error.code {
            ErrorCode::NotFound => Exit::NotFound,
            ErrorCode::Conflict => Exit::Conflict,
            ErrorCode::Refused => Exit::NotAuthorised,
            ErrorCode::Invalid | ErrorCode::BadComponent | ErrorCode::UnknownOperation | ErrorCode::Unavailable => {
                Exit::Failed
            }
        };
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Conflict { .. }) => Exit::Conflict,
        _ => Exit::Failed,
    }
}

/// The same error as one of a place: of several things that one command does. Exit code and hint stay.
pub fn at(place: &str, error: &anyhow::Error) -> Failure {
    let failure = Failure::new(exit_of(error), format!("{place}: {error:#}"));
    hint_of(error).into_iter().fold(failure, Failure::hint)
}

fn hint_of(error: &anyhow::Error) -> Option<&str> {
    let failure = error.downcast_ref::<Failure>().and_then(|failure| failure.hint.as_deref());
    let ctl = || error.downcast_ref::<CtlError>().and_then(|error| error.hint.as_deref());
    let spec = || error.downcast_ref::<SpecError>().and_then(|error| error.hint.as_deref());
    failure.or_else(ctl).or_else(spec)
}

/// The text for standard error, several lines, with a final newline. Empty for [`OutputClosed`].
pub fn render(error: &anyhow::Error, paint: Paint) -> String {
    if error.is::<OutputClosed>() {
        return String::new();
    }
    let mut shown = error.to_string();
    let mut text = format!("{} {shown}\n", paint.bad("error:"));
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !shown.contains(&cause) {
            let _ = writeln!(text, "  {} {cause}", paint.dim("because:"));
            shown.push_str(&cause);
        }
    }
    if let Some(hint) = hint_of(error) {
        let _ = writeln!(text, "{} {hint}", paint.strong("hint:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    fn ctl(code: ErrorCode) -> anyhow::Error {
        CtlError::new(code, "wrong").field("components[0].source").hint("write another").into()
    }

    #[test]
    fn each_refusal_has_its_exit_code() {
        for (code, exit) in [
            (ErrorCode::Invalid, Exit::Failed),
            (ErrorCode::NotFound, Exit::NotFound),
            (ErrorCode::Conflict, Exit::Conflict),
            (ErrorCode::BadComponent, Exit::Failed),
            (ErrorCode::Refused, Exit::NotAuthorised),
            (ErrorCode::UnknownOperation, Exit::Failed),
            (ErrorCode::Unavailable, Exit::Failed),
        ] {
            assert_eq!(exit_of(&ctl(code)), exit, "{code:?}");
            assert_eq!(exit_of(&ctl(code).context("while deploying")), exit, "{code:?} behind context");
        }
        assert_eq!(exit_of(&anyhow::anyhow!("anything")), Exit::Failed);
        assert_eq!(exit_of(&anyhow::Error::from(OutputClosed)), Exit::Ok);
    }

    #[test]
    fn context_can_set_the_exit_code() {
        let error = Err::<(), _>(std::io::Error::other("boom"))
            .context(Failure::new(Exit::InProgress, "not ready yet").hint("wait"))
            .unwrap_err();
        assert_eq!(exit_of(&error), Exit::InProgress);
        assert_eq!(render(&error, Paint::off()), "error: not ready yet\n  because: boom\nhint: wait\n");
    }

    #[test]
    fn field_and_hint_are_shown_and_no_cause_twice() {
        assert_eq!(
            render(&ctl(ErrorCode::Invalid), Paint::off()),
            "error: components[0].source: wrong\nhint: write another\n"
        );
        let twice = Err::<(), _>(std::io::Error::other("boom")).context("it went boom").unwrap_err();
        assert_eq!(render(&twice, Paint::off()), "error: it went boom\n");
        assert_eq!(render(&OutputClosed.into(), Paint::off()), "");
    }
}
