//! A service of WASI 0.3: it counts by itself for as long as it runs, and is called meanwhile.
//!
//! `run` adds one every `PERIOD` milliseconds (10), until it has done so `TURNS` times, if that is set: then it returns, or
//! fails or traps, as `END` says (`ok`, `error`, `trap`). Where `LISTEN` is set it waits until it is told to end, says so and
//! returns.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use wasip3::clocks::monotonic_clock::wait_for;

use crate::exports::example::parts::{counter, faults, slow};

wit_bindgen::generate!({ path: "../part/wit", world: "part03" });
export!(Part);
wasip3::cli::command::export!(Part);

struct Part;

static COUNT: AtomicU32 = AtomicU32::new(0);

const MILLI: u64 = 1_000_000;

impl wasip3::exports::cli::run::Guest for Part {
    async fn run() -> Result<(), ()> {
        if std::env::var_os("LISTEN").is_some() {
            let (mut silence, _end) = wasip3::cli::stdin::read_via_stream();
            while silence.next().await.is_some() {}
            eprintln!("told to end");
            return Ok(());
        }
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let mut turns = number("TURNS");
        loop {
            match &mut turns {
                Some(0) => break,
                Some(turns) => *turns -= 1,
                None => {}
            }
            COUNT.fetch_add(1, Relaxed);
            wait_for(number("PERIOD").unwrap_or(10) * MILLI).await;
        }
        match std::env::var("END").as_deref() {
            Ok("trap") => panic!("asked to trap"),
            Ok("error") => Err(()),
            _ => Ok(()),
        }
    }
}

impl counter::Guest for Part {
    fn add(by: u32) -> u32 {
        COUNT.fetch_add(by, Relaxed) + by
    }
}

impl faults::Guest for Part {
    fn trap() {
        panic!("asked to trap");
    }

    fn spin() {
        let mut turns = 0_u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }

    fn sleep(millis: u32) -> u32 {
        std::thread::sleep(std::time::Duration::from_millis(millis.into()));
        millis
    }

    fn devour() {
        let mut eaten = Vec::new();
        loop {
            eaten.push(black_box(vec![1_u8; 1 << 20]));
        }
    }
}

impl slow::Guest for Part {
    async fn sleep(millis: u32) -> u32 {
        if millis > 0 {
            wait_for(u64::from(millis) * MILLI).await;
        }
        millis
    }
}
