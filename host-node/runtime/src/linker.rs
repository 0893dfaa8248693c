//! What this node offers to components, twice: as the linkers that wasmtime asks, and as a list of names that can be
//! compared with a component's imports before anything is compiled. The linker has the last word.

use crate::{gpu, host::Host, network, volumes};
use lattice::interface::Offers;
pub(crate) use lattice::interface::split;
use wasmtime::{Engine, component::Linker};
use wasmtime_wasi_config::WasiConfig;

/// Interfaces on offer, by name and version. Within 0.2 any patch version is served, as semver has it. Those of plain
/// types alone (`wasi:cli/types@0.3`) are not asked of anybody.
pub(crate) const OFFERED: &[(&str, &str)] = &[
    ("lattice:nats/core", "0.1"),
    ("lattice:nats/counters", "0.1"),
    ("lattice:nats/jetstream", "0.1"),
    ("lattice:nats/kv", "0.1"),
    ("lattice:nats/limits", "0.1"),
    ("lattice:nats/objects", "0.1"),
    ("lattice:nats/schedules", "0.1"),
    ("lattice:nats/services", "0.1"),
    ("lattice:nats/transactions", "0.1"),
    ("lattice:node/identity", "0.1"),
    ("wasi:blobstore/blobstore", "0.2.0-draft"),
    ("wasi:blobstore/container", "0.2.0-draft"),
    ("wasi:blobstore/types", "0.2.0-draft"),
    ("wasi:cli/environment", "0.2"),
    ("wasi:cli/exit", "0.2"),
    ("wasi:cli/stderr", "0.2"),
    ("wasi:cli/stdin", "0.2"),
    ("wasi:cli/stdout", "0.2"),
    ("wasi:cli/terminal-input", "0.2"),
    ("wasi:cli/terminal-output", "0.2"),
    ("wasi:cli/terminal-stderr", "0.2"),
    ("wasi:cli/terminal-stdin", "0.2"),
    ("wasi:cli/terminal-stdout", "0.2"),
    ("wasi:clocks/monotonic-clock", "0.2"),
    ("wasi:clocks/wall-clock", "0.2"),
    ("wasi:config/store", "0.2.0-rc.1"),
    ("wasi:filesystem/preopens", "0.2"),
    ("wasi:filesystem/types", "0.2"),
    ("wasi:http/outgoing-handler", "0.2"),
    ("wasi:http/types", "0.2"),
    ("wasi:io/error", "0.2"),
    ("wasi:io/poll", "0.2"),
    ("wasi:io/streams", "0.2"),
    ("wasi:keyvalue/atomics", "0.2.0-draft"),
    ("wasi:keyvalue/batch", "0.2.0-draft"),
    ("wasi:keyvalue/store", "0.2.0-draft"),
    ("wasi:logging/logging", "0.1.0-draft"),
    ("wasi:random/insecure", "0.2"),
    ("wasi:random/insecure-seed", "0.2"),
    ("wasi:random/random", "0.2"),
    ("wasi:sockets/instance-network", "0.2"),
    ("wasi:sockets/ip-name-lookup", "0.2"),
    ("wasi:sockets/network", "0.2"),
    ("wasi:sockets/tcp", "0.2"),
    ("wasi:sockets/tcp-create-socket", "0.2"),
    ("wasi:sockets/udp", "0.2"),
    ("wasi:sockets/udp-create-socket", "0.2"),
    ("wasi:cli/environment", "0.3"),
    ("wasi:cli/exit", "0.3"),
    ("wasi:cli/stderr", "0.3"),
    ("wasi:cli/stdin", "0.3"),
    ("wasi:cli/stdout", "0.3"),
    ("wasi:cli/terminal-input", "0.3"),
    ("wasi:cli/terminal-output", "0.3"),
    ("wasi:cli/terminal-stderr", "0.3"),
    ("wasi:cli/terminal-stdin", "0.3"),
    ("wasi:cli/terminal-stdout", "0.3"),
    ("wasi:clocks/monotonic-clock", "0.3"),
    ("wasi:clocks/system-clock", "0.3"),
    ("wasi:clocks/types", "0.3"),
    ("wasi:filesystem/preopens", "0.3"),
    ("wasi:filesystem/types", "0.3"),
    ("wasi:http/client", "0.3"),
    ("wasi:http/types", "0.3"),
    ("wasi:random/insecure", "0.3"),
    ("wasi:random/insecure-seed", "0.3"),
    ("wasi:random/random", "0.3"),
    ("wasi:sockets/ip-name-lookup", "0.3"),
    ("wasi:sockets/types", "0.3"),
    #[cfg(feature = "webgpu")]
    ("wasi:webgpu/webgpu", "0.3.0-rc.2"),
    ("wasmcloud:messaging/consumer", "0.2"),
    ("wasmcloud:secrets/reveal", "0.1.0-draft"),
    ("wasmcloud:secrets/reveal", "1"),
    ("wasmcloud:secrets/store", "0.1.0-draft"),
    ("wasmcloud:secrets/store", "1"),
];

/// Whether only the linker for concurrent components has it: all of WASI 0.3 and of `lattice:nats`, also what there is no async
/// in.
pub(crate) fn needs_concurrency(import: &str) -> bool {
    let (interface, version) = split(import);
    (version == "0.3" || version.starts_with("0.3.")) && interface.starts_with("wasi:")
        || interface.starts_with("lattice:nats/")
}

/// Interfaces to name beside one that is not offered.
const NEAR_MISSES_MAX: usize = 3;

/// The linker for components that need no concurrency support: everything of 0.2, and our own.
pub(crate) fn plain(engine: &Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // Ours in the place of wasmtime's: volumes have quotas.
    linker.allow_shadowing(true);
    volumes::add_p2_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |host: &mut Host| WasiConfig::from(&host.config))?;
    crate::identity::add_to_linker(&mut linker)?;
    crate::blobstore::add_to_linker(&mut linker)?;
    crate::keyvalue::add_to_linker(&mut linker)?;
    crate::logging::add_to_linker(&mut linker)?;
    crate::messaging::add_to_linker(&mut linker)?;
    crate::secrets::add_to_linker(&mut linker)?;
    network::add_to_linker02(&mut linker)?;
    Ok(linker)
}

/// The linker for the others: 0.2 and 0.3.
pub(crate) fn concurrent(engine: &Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = plain(engine)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    linker.allow_shadowing(true);
    volumes::add_p3_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    network::add_to_linker03(&mut linker)?;
    gpu::add_to_linker(&mut linker)?;
    crate::nats::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// What this program offers, for peers. A GPU is offered apart from the interface that uses it.
pub fn offers() -> Offers {
    Offers::new(OFFERED.iter().map(|(interface, version)| format!("{interface}@{version}")))
}

pub(crate) fn is_offered(import: &str) -> bool {
    OFFERED.contains(&split(import))
}

/// What the author may have meant: the same interface at another version, then others of the same package.
pub(crate) fn near_misses(import: &str) -> Vec<String> {
    let (interface, _) = split(import);
    let package = interface.split('/').next().unwrap_or(interface);
    let same_interface = OFFERED.iter().filter(|(offered, _)| *offered == interface);
    let same_package = OFFERED.iter().filter(|(offered, _)| {
        *offered != interface && offered.strip_prefix(package).is_some_and(|rest| rest.starts_with('/'))
    });
    let names = same_interface.chain(same_package).map(|(interface, version)| format!("{interface}@{version}"));
    names.take(NEAR_MISSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::interface::need;
    use std::{
        collections::BTreeSet,
        fs::File,
        io::{BufRead as _, BufReader},
    };

    #[test]
    fn peers_are_told_of_everything_on_offer() {
        let offers = offers();
        for (interface, version) in OFFERED {
            assert!(offers.has(&need(&format!("{interface}@{version}"))), "{interface}@{version}");
        }
        assert!(!offers.has("wasi:http@0.9") && !offers.has("wasi:keyvalue@0.2"));
        let bytes: usize = offers.iter().map(|name| name.len() + 3).sum();
        assert!(bytes < 1024, "each renewal of each session carries them: {bytes} bytes");
    }

    /// Names of interfaces that the program contains, in their versions. wasmtime's linkers tell nobody what is in them,
    /// but whoever defines an interface writes its name as a literal, and this test's program holds all of them.
    fn literals() -> BTreeSet<String> {
        let is_name = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":/-".contains(byte);
        let is_version = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(byte);
        let mut program = BufReader::with_capacity(1 << 20, File::open(std::env::current_exe().unwrap()).unwrap());
        let (mut before, mut found) = (Vec::new(), BTreeSet::new());
        loop {
            let mut after = Vec::new();
            if program.read_until(b'@', &mut after).unwrap() == 0 {
                return found;
            }
            let version: Vec<u8> = after.iter().take(24).take_while(|byte| is_version(byte)).copied().collect();
            let interface: Vec<u8> =
                before.iter().rev().skip(1).take(64).take_while(|byte| is_name(byte)).copied().collect();
            // Literals lie side by side, so one may seem to begin before its start and to go on behind its end.
            if version.first().is_some_and(u8::is_ascii_digit) && interface.contains(&b'/') && interface.contains(&b':')
            {
                let interface = String::from_utf8(interface.into_iter().rev().collect()).unwrap();
                let version = String::from_utf8(version).unwrap();
                // Nor is its first colon surely the name's: the one before it may have some.
                let colon = interface.rfind(':').unwrap();
                for start in 0..colon {
                    for end in 5..=version.len() {
                        found.insert(format!("{}@{}", &interface[start..], &version[..end]));
                    }
                }
            }
            before = after;
        }
    }

    /// What a linker has under exactly one of these names, as [`split`] gives it.
    fn defined(mut linker: Linker<Host>, names: &BTreeSet<String>) -> BTreeSet<(&str, &str)> {
        // A linker refuses a name that is taken.
        let mut is_taken = |name: &str| linker.root().func_wrap(name, |_, (): ()| Ok(())).is_err();
        names.iter().filter(|name| is_taken(name)).map(|name| split(name)).collect()
    }

    #[test]
    fn what_is_said_to_be_offered_is_what_the_linkers_have() {
        let names = literals();
        let engine = |concurrency| Engine::new(&crate::engine::config(concurrency)).unwrap();
        let offered: BTreeSet<(&str, &str)> = OFFERED.iter().copied().collect();
        assert_eq!(offered.len(), OFFERED.len(), "something is listed twice");
        assert_eq!(defined(concurrent(&engine(true)).unwrap(), &names), offered);
        let without: BTreeSet<(&str, &str)> =
            offered.into_iter().filter(|(name, version)| !needs_concurrency(&format!("{name}@{version}.0"))).collect();
        assert_eq!(defined(plain(&engine(false)).unwrap(), &names), without);
    }

    #[test]
    fn near_misses_name_the_same_interface_first() {
        assert_eq!(near_misses("wasi:http/types@0.9.0").first().unwrap(), "wasi:http/types@0.2");
        assert!(near_misses("wasi:http/outgoing@0.2.0").contains(&"wasi:http/types@0.2".to_string()));
        assert!(near_misses("wasi:httpx/types@0.2.0").is_empty());
    }
}
