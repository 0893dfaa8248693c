//! The NATS account of a workload's guests, where it is not the lattice's.

use super::{Grants, SecretRef, SpecError, is_default};
use crate::limits::clip;
use http::uri::Authority;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// As whom, and to which NATS, guests are connected. For everything that they do there: `grants.nats`, `keyvalue`, `blobstore` and
/// `messaging` of the same grants, and the workload's `messages`. Buckets and streams are those of that account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NatsAccount {
    /// Servers of another cluster: `nats://nats.example.org:4222`, `tls://…`, without a user. At most 16; one of them is used, and
    /// those that it tells of are not. Their addresses must be public, or in a range that the operator of the node allows (`lattice
    /// node --allow-egress`). Default the lattice's own servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub servers: Vec<NatsServer>,
    /// The secret that is shown to the server. Its value is a credentials file (a user JWT and its seed, as nsc writes it), the seed
    /// of a user's nkey (`SU…`), or `USER:PASSWORD`. It must be there when the spec is put. A change of it reaches connections
    /// without the workload's doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// Certificates of the authorities that these servers are trusted by, in PEM, in place of the system's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ca: Option<String>,
}

/// Servers that one account names.
const SERVERS_MAX: usize = 16;
const URL_BYTES_MAX: usize = 256;
const CA_BYTES_MAX: usize = 64 * 1024;
const SCHEMES: [&str; 2] = ["nats://", "tls://"];

/// The URL of a NATS server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NatsServer(String);

impl NatsServer {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NatsServer {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        // A URL may hold a password: it is not shown.
        if text.contains('@') {
            return Err("a user or a token has no place in a server's URL: name a secret under `credentials`".into());
        }
        let authority = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        let is_good = |authority: &str| authority.parse::<Authority>().is_ok_and(|parsed| !parsed.host().is_empty());
        if text.len() <= URL_BYTES_MAX && authority.is_some_and(is_good) {
            return Ok(Self(text));
        }
        Err(format!("{:?} is not a NATS server: write nats://HOST:PORT or tls://HOST:PORT", clip(&text, 128)))
    }
}

impl From<NatsServer> for String {
    fn from(server: NatsServer) -> String {
        server.0
    }
}

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl JsonSchema for NatsServer {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NatsServer".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(nats|tls)://[^@/]+$",
            "examples": ["tls://nats.example.org:4222"],
        })
    }
}

impl Grants {
    /// The secret that its account names.
    pub(super) fn secret(&self) -> Option<&SecretRef> {
        self.nats.account.as_ref()?.credentials.as_ref()
    }
}

pub(super) fn check(field: &str, account: &NatsAccount) -> Result<(), SpecError> {
    let NatsAccount { servers, credentials, ca } = account;
    if servers.is_empty() && credentials.is_none() {
        return Err(SpecError::new(field, "names neither servers nor credentials")
            .hint("write account: {credentials: SECRET}, after `lattice secret put SECRET --file user.creds`"));
    }
    if servers.len() > SERVERS_MAX {
        return Err(SpecError::new(format!("{field}.servers"), format!("at most {SERVERS_MAX} servers are allowed")));
    }
    match ca {
        Some(pem) if pem.len() > CA_BYTES_MAX => {
            Err(SpecError::new(format!("{field}.ca"), format!("{} bytes are more than {CA_BYTES_MAX}", pem.len())))
        }
        Some(pem) if !pem.contains("-----BEGIN CERTIFICATE-----") => {
            Err(SpecError::new(format!("{field}.ca"), "there is no certificate in it")
                .hint("put the text of the PEM file here: `ca: |`, and its lines below"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn accounts_are_read_strictly_and_show_no_password() {
        let parse = |account: &str| {
            let text = format!(
                "name: a\ncomponents: [{{name: a, source: 'file:a'}}]\ngrants: {{nats: {{account: {account}}}}}"
            );
            super::super::parse(text.as_bytes())
        };
        let spec = parse("{servers: ['tls://a.test:4222', 'nats://[::1]:4222'], credentials: 'shop@2'}").unwrap();
        let account = spec.grants.nats.account.unwrap();
        assert_eq!(account.servers.len(), 2);
        assert_eq!(account.credentials.unwrap().to_string(), "shop@2");
        for (bad, field) in [
            ("{}", "grants.nats.account"),
            ("{servers: ['http://a.test']}", "grants.nats.account.servers[0]"),
            ("{servers: ['nats://']}", "grants.nats.account.servers[0]"),
            ("{servers: ['nats://a.test/x']}", "grants.nats.account.servers[0]"),
            ("{servers: ['nats://me:hunter2@a.test']}", "grants.nats.account.servers[0]"),
            ("{credentials: 'a b'}", "grants.nats.account.credentials"),
            ("{credentials: a, ca: nothing}", "grants.nats.account.ca"),
            ("{credentials: a, token: b}", "grants.nats.account.token"),
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.field, field, "{bad}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
