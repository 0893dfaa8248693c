//! What the benches share: worlds to decide about, one small HTTP exchange, a nats-server, whole nodes, and the comparison
//! with a peer. No measurement happens here: each file in `benches/` asks one question and says in its header which.
//!
//! Start at [`Pairs`]. How to run the benches and how to read them: `docs/performance.md`.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that can't be set up has nothing to measure")]

pub mod nats_server;
#[cfg(feature = "criterion")]
mod pairs;
#[cfg(feature = "criterion")]
pub mod processes;
pub mod small;
pub mod wires;
pub mod world;

#[cfg(feature = "criterion")]
pub use pairs::{Pairs, repeat};
