//! An engine with what nodes offer on it. Components that need no concurrency have one of their own, and so do those whose
//! calls are inlined over the borders within them: code that was compiled with inlining runs only on an engine that is set
//! to it. The latter two are made when the first such component comes: each engine reserves address space of its own.

use crate::{
    computing::Processors,
    engine::{Engines, RuntimeError, RuntimeOptions},
    host::Host,
    linker,
};
use lattice::spec::Optimize;
use std::sync::{Arc, OnceLock};
use wasmtime::{Engine, component::Linker};

pub(crate) struct Lane {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Host>,
}

pub(crate) struct Lanes {
    options: RuntimeOptions,
    engines: Engines,
    plain: Arc<Lane>,
    concurrent: Arc<Lane>,
    inlining_plain: OnceLock<Result<Arc<Lane>, String>>,
    inlining_concurrent: OnceLock<Result<Arc<Lane>, String>>,
}

impl Lanes {
    /// Those that are there from the beginning.
    pub(crate) fn engines(&self) -> [&Engine; 2] {
        [&self.plain.engine, &self.concurrent.engine]
    }

    pub(crate) fn new(options: RuntimeOptions, processors: Arc<Processors>) -> Result<Self, RuntimeError> {
        let engines = Engines::new(processors)?;
        let lane = |concurrency| lane(&engines, concurrency, Optimize::Default, &options);
        Ok(Self {
            plain: lane(false)?,
            concurrent: lane(true)?,
            inlining_plain: OnceLock::new(),
            inlining_concurrent: OnceLock::new(),
            engines,
            options,
        })
    }

    /// `Err` says why there is no such engine. One that can't be made is not tried again.
    pub(crate) fn get(&self, concurrency: bool, optimize: Optimize) -> Result<Arc<Lane>, String> {
        let inlining = match (optimize, concurrency) {
            (Optimize::Default, false) => return Ok(self.plain.clone()),
            (Optimize::Default, true) => return Ok(self.concurrent.clone()),
            (Optimize::Max, false) => &self.inlining_plain,
            (Optimize::Max, true) => &self.inlining_concurrent,
        };
        let make = || lane(&self.engines, concurrency, optimize, &self.options).map_err(|error| error.to_string());
        inlining.get_or_init(make).clone()
    }
}

fn lane(
    engines: &Engines,
    concurrency: bool,
    optimize: Optimize,
    options: &RuntimeOptions,
) -> Result<Arc<Lane>, RuntimeError> {
    let engine = engines.make(concurrency, optimize, options)?;
    let linker = if concurrency { linker::concurrent(&engine) } else { linker::plain(&engine) };
    let linker = linker.map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
    Ok(Arc::new(Lane { engine, linker }))
}
