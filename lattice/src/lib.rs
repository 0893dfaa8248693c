//! The vocabulary of the lattice: what the nodes say to each other and to people, and the traits behind which the
//! store, the bus, the clock and randomness stand. No tokio, no NATS, no clock, no IO: everything here can be computed.
//!
//! Start at [`spec`] (what a person asks for), [`record`] (what nodes decide and observe) and [`subject`] (where it
//! travels).

pub mod access;
pub mod account;
pub mod address;
pub mod binding;
pub mod bucket;
pub mod ctl;
pub mod demand;
pub mod event;
pub mod exchange;
pub mod frame;
pub mod gpu;
pub mod held;
pub mod host;
pub mod http;
pub mod id;
pub mod interface;
pub mod limits;
pub mod mesh;
pub mod messaging;
pub mod micro;
pub mod nats;
pub mod objects;
pub mod recipe;
pub mod record;
pub mod report;
pub mod secret;
pub mod served;
pub mod spec;
pub mod store;
pub mod subject;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;
pub mod trigger;
pub mod units;
pub mod view;

/// A future behind a trait object.
pub type Fut<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
