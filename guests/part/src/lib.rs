//! A part of a workload: functions with values of every shape, and some that do harm. `part-caller` calls them. Whether
//! it is composed with its caller or linked by the host, and how it lives there, is the workload's to say.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::exports::example::parts::{counter, faults, text, values};

wit_bindgen::generate!({ path: "wit", world: "part" });
export!(Part);

struct Part;

static COUNT: AtomicU32 = AtomicU32::new(0);

impl counter::Guest for Part {
    fn add(by: u32) -> u32 {
        COUNT.fetch_add(by, Relaxed) + by
    }
}

impl text::Guest for Part {
    fn same(text: String) -> String {
        text
    }

    fn upper(text: String) -> String {
        text.to_uppercase()
    }

    fn flip(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.reverse();
        bytes
    }

    fn count(bytes: Vec<u8>) -> u32 {
        bytes.len() as u32
    }

    fn variable(name: String) -> Result<String, String> {
        std::env::var(&name).map_err(|_| format!("no environment variable {name}"))
    }
}

impl values::Guest for Part {
    fn turn(mut all: values::Everything) -> values::Everything {
        if !all.shapes.is_empty() {
            all.shapes.rotate_left(1);
        }
        all
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
        std::thread::sleep(Duration::from_millis(millis.into()));
        millis
    }

    fn devour() {
        let mut eaten = Vec::new();
        loop {
            eaten.push(black_box(vec![1_u8; 1 << 20]));
        }
    }
}
