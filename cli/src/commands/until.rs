//! Asking again and again until something is over: a line whenever something has moved, and an end of patience.

use crate::{
    Context,
    error::{Exit, Failure},
};
use lattice::units::Millis;
use std::time::Duration;
use tokio::time::Instant;

const ASK_EVERY: Duration = Duration::from_millis(200);

/// What one look found.
pub enum Look {
    Over,
    /// In one line. The same line is not told twice.
    Goes(String),
    /// Nothing that is worth a line.
    Unheard,
}

/// Look until it is over. `too_late` makes the last line that was told, if there is one, into what is said when `timeout` has
/// passed; the exit code is 6 then.
pub async fn until_over(
    context: &Context,
    timeout: Millis,
    mut look: impl AsyncFnMut() -> anyhow::Result<Look>,
    too_late: impl FnOnce(Option<String>) -> (String, &'static str),
) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from(timeout);
    let mut told: Option<String> = None;
    loop {
        match look().await? {
            Look::Over => return Ok(()),
            Look::Goes(line) if told.as_ref() != Some(&line) => {
                context.out.note(&line);
                told = Some(line);
            }
            Look::Goes(_) | Look::Unheard => {}
        }
        if Instant::now() >= end {
            let (message, hint) = too_late(told);
            return Err(Failure::new(Exit::InProgress, message).hint(hint).into());
        }
        tokio::time::sleep_until((Instant::now() + ASK_EVERY).min(end)).await;
    }
}
