//! What a guest gets behind an interface that nodes offer, in words: offered is not the same as granted. For people only;
//! what is granted is decided where instances are made (`host.rs`).

use crate::linker;

/// What is behind an interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    pub from: Source,
    /// What every guest gets, whatever its spec says. One clause: `the node's clocks`.
    pub what: &'static str,
}

/// Who decides what a guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The node, for all alike.
    Node,
    /// `grants.http-out` of the spec. Without it each use is refused.
    HttpOut,
    /// `grants.connect` of the spec. Without it there is the replica's private loopback and nothing else.
    Connect,
    /// `grants.keyvalue` of the spec. Without it there is no store.
    Keyvalue,
    /// `grants.blobstore` of the spec. Without it there is no container.
    Blobstore,
    /// `grants.messaging` of the spec. Without it each use is refused.
    Messaging,
    /// `grants.nats` of the spec. Without it each use is refused.
    Nats,
    /// `volumes` of the spec. Without them there is no directory.
    Volumes,
}

const fn always(what: &'static str) -> Capability {
    Capability { from: Source::Node, what }
}

/// What is behind an import, or `None` if no node offers it.
pub fn capability(import: &str) -> Option<Capability> {
    if !linker::is_offered(import) {
        return None;
    }
    let (interface, _) = linker::split(import);
    let (package, name) = interface.split_once('/').unwrap_or((interface, ""));
    Some(match (package, name) {
        ("lattice:nats", "limits") => always("the bounds of NATS, of its server and of the replica"),
        ("lattice:nats", _) => Capability { from: Source::Nats, what: "what is refused" },
        ("lattice:node", _) => always("the workload's name and the replica's index"),
        ("wasi:blobstore", _) => Capability { from: Source::Blobstore, what: "no container at all" },
        ("wasi:cli", "environment") => always("the spec's env; the only argument is the workload's name"),
        ("wasi:cli", "stdin") => always("always at its end"),
        ("wasi:cli", "stdout" | "stderr") => always("lines for `lattice logs`"),
        ("wasi:cli", "exit") => always("ends the instance"),
        ("wasi:cli", _) => always("no terminal"),
        ("wasi:clocks", _) => always("the node's clocks"),
        ("wasi:config", _) => always("the spec's config"),
        ("wasi:filesystem", _) => Capability { from: Source::Volumes, what: "an empty list of directories" },
        ("wasi:http", "outgoing-handler" | "client") => {
            Capability { from: Source::HttpOut, what: "requests to the replica's own services" }
        }
        ("wasi:http", _) => always("types of requests and responses"),
        ("wasi:io", _) => always("streams and polling"),
        ("wasi:keyvalue", _) => Capability { from: Source::Keyvalue, what: "no store at all" },
        ("wasi:logging", _) => always("lines for `lattice logs`, with a level and a context"),
        ("wasi:random", _) => always("the node's randomness"),
        ("wasi:webgpu", _) => always("a GPU of the node; one that has none does not run the component"),
        ("wasmcloud:messaging", _) => Capability { from: Source::Messaging, what: "what is refused" },
        ("wasmcloud:secrets", _) => always("the secrets that the spec lists for it"),
        ("wasi:sockets", _) => Capability { from: Source::Connect, what: "the replica's private loopback" },
        _ => always("offered by the node"),
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
        assert_eq!(capability("wasi:sockets/tcp@0.2.0").unwrap().from, Source::Connect);
        assert_eq!(capability("wasi:config/store@0.2.0-rc.1").unwrap().from, Source::Node);
    }
}
