//! NATS behind the lattice's traits. The only crate that names async-nats: its errors, its traps and the server's
//! versions end here.
//!
//! Start at [`connect`], then [`Nats::open`], which makes the lattice's buckets where they are missing.

mod artifacts;
mod bus;
mod clock;
mod connect;
mod events;
mod guest_bus;
mod guests;
mod layout;
mod outbox;
mod store;
mod vault;

pub use clock::{SystemClock, SystemRng};
pub use connect::{ConnectError, ConnectOptions, Nats, ServerFacts, connect};
pub use guests::GuestBuckets;
pub use layout::{API_LEVEL_LEAST, API_LEVEL_RECOMMENDED};
