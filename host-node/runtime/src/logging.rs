//! `wasi:logging@0.1.0-draft`: what a guest logs goes where its output goes, with the level and the context that it says. Bounded with
//! that together (`logs.rs`).

use crate::{host::Host, logs::GuestLogger};
use bindings::wasi::logging::logging::{self, Level};
use lattice::ctl::LogLevel;
use wasmtime::component::{HasSelf, Linker};

mod bindings {
    //! Generated from `wit/deps/logging`.
    wasmtime::component::bindgen!({ path: "../../wit/deps/logging", world: "wasi:logging/imports" });
}

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    logging::add_to_linker::<_, HasSelf<GuestLogger>>(linker, |host| &mut host.logger)
}

impl logging::Host for GuestLogger {
    fn log(&mut self, level: Level, context: String, message: String) {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
            Level::Critical => LogLevel::Critical,
        };
        self.print(level, &context, &message);
    }
}
