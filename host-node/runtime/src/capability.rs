//! What a guest gets behind an interface that nodes offer, in words: offered is not the same as granted. For people only;
//! what is granted is decided where instances are made (`host.rs`).

use crate::linker;

/// What is behind an interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// False where it can be imported and each use of it is refused.
    pub granted: bool,
    /// One clause: `the spec's config of all its components`.
    pub what: &'static str,
}

const fn granted(what: &'static str) -> Capability {
    Capability { granted: true, what }
}

const fn refused(what: &'static str) -> Capability {
    Capability { granted: false, what }
}

/// What is behind an import, or `None` if no node offers it.
pub fn capability(import: &str) -> Option<Capability> {
    if !linker::is_offered(import) {
        return None;
    }
    let (interface, _) = linker::split(import);
    let (package, name) = interface.split_once('/').unwrap_or((interface, ""));
    Some(match (package, name) {
        ("lattice:node", _) => granted("the workload's name and the replica's index"),
        ("wasi:cli", "environment") => granted("the spec's env, no arguments but the workload's name"),
        ("wasi:cli", "stdin") => granted("always at its end"),
        ("wasi:cli", "stdout" | "stderr") => granted("lines for `lattice logs`"),
        ("wasi:cli", "exit") => granted("ends the instance"),
        ("wasi:cli", _) => granted("no terminal"),
        ("wasi:clocks", _) => granted("the node's clocks"),
        ("wasi:config", _) => granted("the spec's config"),
        ("wasi:filesystem", _) => refused("no directory is opened to a guest"),
        ("wasi:http", "outgoing-handler" | "client") => refused("requests of the guest's own are denied"),
        ("wasi:http", _) => granted("types of requests and responses"),
        ("wasi:io", _) => granted("streams and polling"),
        ("wasi:random", _) => granted("the node's randomness"),
        ("wasi:sockets", _) => refused("no address can be reached and no name looked up"),
        _ => granted("offered by the node"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_offer_is_described_and_nothing_else() {
        for (interface, version) in linker::OFFERED {
            let name = if version.contains('-') {
                format!("{interface}@{version}")
            } else {
                format!("{interface}@{version}.1")
            };
            let capability = capability(&name).unwrap_or_else(|| panic!("{name}"));
            assert_ne!(capability.what, "offered by the node", "{name} wants a line of its own");
        }
        assert_eq!(capability("wasi:http/types@0.9.0"), None);
        assert!(!capability("wasi:sockets/tcp@0.2.0").unwrap().granted);
        assert!(capability("wasi:config/store@0.2.0-rc.1").unwrap().granted);
    }
}
