//! The whole system as people meet it: a real nats-server, real `lattice node` processes, the binary's own commands, and
//! HTTP through every node. Nothing here looks inside a process.
//!
//! Start at [`harness`]. Tests that only look, or that own what they deploy, share one lattice ([`harness::shared`]);
//! those that kill something have one of their own. Each wait is bounded and ends as soon as what it waits for is there.
//! Needs the guests and nats-server: `cargo xtask guests`, `cargo xtask nats`.

#![allow(unreachable_pub, reason = "a test binary has no outside: `pub` is for its other modules")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod harness;

mod accounts;
mod blobs;
mod calls;
mod canary;
mod choice;
mod clients;
mod clocks;
mod composition;
mod config;
mod control;
mod egress;
mod exchanges;
mod faults;
#[cfg(feature = "webgpu")]
mod gpu;
mod gpus;
mod handlers;
mod health;
mod http_clients;
mod https;
mod imports;
mod isolation;
mod joining;
mod logging;
mod maintenance;
mod messaging;
mod micro;
mod models;
mod nats;
mod nats_counters;
mod nats_deliveries;
mod nats_objects;
mod nats_schedules;
mod nats_streams;
mod nats_transactions;
mod observe;
mod outages;
mod partitions;
mod parts;
mod placement;
mod profiles;
mod profiles_streams;
mod rollouts;
mod routes;
mod scaling;
mod schedules;
mod secrets;
mod security;
mod servers;
mod serving;
mod stores;
mod streaming;
mod telemetry;
mod terminal;
mod up;
mod volumes;
