//! To an instance of this node, on the task that polls: a guest runs on its connection's own task.

use super::until;
use crate::{callee::Callee, error::RouteError, retry::Unanswered, seldom::Seldom};
use lattice::{
    http::{CallError, Instances, Request, Response},
    limits::{MESSAGE_BYTES_MAX, one_line},
    store::Clock,
};
use std::time::Duration;

pub(crate) async fn send(
    instances: &dyn Instances,
    clock: &dyn Clock,
    callee: Callee<'_>,
    request: Request,
    deadline: Duration,
    failures: &Seldom,
) -> Result<Response, Unanswered> {
    let error = match until(clock, deadline, callee.call(instances, request)).await {
        Ok(Ok(response)) => return Ok(response),
        Ok(Err(error)) => error,
        Err(_) => return Err(Unanswered::maybe_ran(RouteError::Timeout)),
    };
    if let CallError::Failed { message } = &error
        && let Some(suppressed) = failures.pass(clock.now())
    {
        let workload = callee.workload;
        tracing::warn!(%workload, reason = %one_line(message, MESSAGE_BYTES_MAX), suppressed, "the component failed");
    }
    Err(Unanswered { error: (&error).into(), nothing_ran: error.nothing_ran() })
}
