//! What must hold. Each checker answers with the sentence that says what did not, and has a file for its topic.
//!
//! [`History`] follows every write to the store and asks `claims.rs` about those to slots; `running.rs`, `plans.rs` and
//! `routes.rs` look at nodes after each step; `rest.rs` says when all that was asked for is there. `World::step` and
//! `World::at_rest` call them: a new one is added there.

mod claims;
mod history;
mod plans;
mod rest;
mod rollouts;
mod routes;
mod running;
mod weights;

pub(crate) use history::History;
pub(crate) use plans::plans_agree;
pub(crate) use rest::{is_converged, views_agree};
pub(crate) use routes::routes_have_one_holder;
pub(crate) use running::{Floors, answering, gpus_are_shared, strict_runs_once};
pub(crate) use weights::share_of_newest;

pub(crate) type Verdict = Result<(), String>;
