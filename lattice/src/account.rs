//! As whom the guests of a workload are connected to NATS: over the lattice's own account, or with credentials of their
//! own, where the spec says so to servers of another cluster.

use crate::{
    id::{ConfigName, Digest, WorkloadName},
    record::ConfigStamp,
    secret::{RevealError, Secret, reveal},
    spec::{Grants, SecretRef},
    store::Platform,
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Whose guests connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Login {
    pub workload: WorkloadName,
    /// `None`: as the node itself does, for guests.
    pub account: Option<Arc<Account>>,
}

impl From<WorkloadName> for Login {
    fn from(workload: WorkloadName) -> Self {
        Self { workload, account: None }
    }
}

impl Login {
    /// As these grants of a workload say, with the versions of its secrets that it was made for; without one the version of the
    /// moment.
    pub async fn of(
        platform: &Platform,
        workload: &WorkloadName,
        grants: &Grants,
        made_for: &BTreeMap<ConfigName, ConfigStamp>,
    ) -> Result<Self, AccountError> {
        let workload = workload.clone();
        let Some(asked) = &grants.nats.account else { return Ok(Self::from(workload)) };
        let credentials = match &asked.credentials {
            None => None,
            Some(secret) => {
                let (value, stamp) = reveal(platform, secret, made_for.get(&secret.name)).await?;
                let credentials = Credentials::parse(&value);
                let credentials = credentials.map_err(|error| AccountError::Credentials(secret.clone(), error))?;
                Some((credentials, format!("{} {} {}", secret.name, stamp.uid, stamp.version)))
            }
        };
        let servers = asked.servers.iter().map(ToString::to_string).collect();
        Ok(Self { workload, account: Some(Arc::new(Account::new(servers, asked.ca.clone(), credentials))) })
    }
}

/// Why nothing can be shown to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error(transparent)]
    Secret(#[from] RevealError),
    #[error("secret {0}: {1}")]
    Credentials(SecretRef, CredentialsError),
}

/// Where to connect, with which credentials. Two with the same [`Account::id`] are one: the value behind a version of a
/// secret does not change.
#[derive(Clone)]
pub struct Account {
    servers: Vec<String>,
    ca_pem: Option<String>,
    credentials: Option<Credentials>,
    place: String,
    id: String,
}

impl Account {
    /// `servers`: `nats://host:4222` or `tls://…`, none for the lattice's own. `ca_pem`: whom to trust in place of the
    /// system's authorities. `version` tells one value of the credentials from another one, as text.
    pub fn new(servers: Vec<String>, ca_pem: Option<String>, credentials: Option<(Credentials, String)>) -> Self {
        let trusted = ca_pem.as_ref().map(|pem| Digest::of(pem.as_bytes()).to_string()).unwrap_or_default();
        let (credentials, version) = credentials.unzip();
        let place = format!("{} {trusted}", servers.join(","));
        let id = format!("{place} {}", version.unwrap_or_default());
        Self { servers, ca_pem, credentials, place, id }
    }

    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The same for all versions of its credentials.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.id)
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
impl Eq for Account {}
impl PartialOrd for Account {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Account {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

/// What a NATS server is shown. Texts in it are secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user JWT and the seed that signs for it: what a `.creds` file holds.
    Jwt {
        jwt: Secret,
        seed: Secret,
    },
    /// The seed of a user's nkey.
    Nkey {
        seed: Secret,
    },
    Password {
        user: Secret,
        password: Secret,
    },
}

/// Why a value can't be shown to a NATS server. Says nothing of what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its value is neither a credentials file, nor the seed of a user's nkey (SU…), nor USER:PASSWORD in one line")]
pub struct CredentialsError;

const JWT: &str = "NATS USER JWT";
const SEED: &str = "USER NKEY SEED";
/// An nkey seed in base32: two bytes of prefix, 32 of seed, two of checksum.
const SEED_CHARS: usize = 58;

impl Credentials {
    pub fn parse(value: &Secret) -> Result<Self, CredentialsError> {
        let text = std::str::from_utf8(value.reveal()).map_err(|_| CredentialsError)?.trim();
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        if let Some(jwt) = block(text, JWT) {
            let seed = block(text, SEED).filter(|seed| is_seed(seed)).ok_or(CredentialsError)?;
            return Ok(Self::Jwt { jwt: secret(jwt), seed: secret(seed) });
        }
        if is_seed(text) {
            return Ok(Self::Nkey { seed: secret(text) });
        }
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() && !text.contains(char::is_control) => {
                Ok(Self::Password { user: secret(user), password: secret(password) })
            }
            _ => Err(CredentialsError),
        }
    }
}

fn is_seed(text: &str) -> bool {
    text.len() == SEED_CHARS && text.starts_with("SU") && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The line after `-----BEGIN WHAT-----`.
fn block<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {what}-----"))?;
    rest.lines().map(str::trim).find(|line| !line.is_empty()).filter(|line| !line.starts_with("-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Credentials, CredentialsError> {
        Credentials::parse(&Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn each_form_of_credentials_is_told_by_itself() {
        let seed = format!("SU{}", "A".repeat(SEED_CHARS - 2));
        let file = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.a-_b.c-\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\n------END USER NKEY SEED------\n"
        );
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        // Dashes are letters of base64url.
        let jwt = secret("eyJ0.a-_b.c-");
        assert_eq!(parse(&file), Ok(Credentials::Jwt { jwt, seed: secret(&seed) }));
        assert_eq!(parse(&format!("{seed}\n")), Ok(Credentials::Nkey { seed: secret(&seed) }));
        let password = Credentials::Password { user: secret("shop"), password: secret("a:b c") };
        assert_eq!(parse("shop:a:b c\n"), Ok(password));
        for bad in
            ["", "token", ":x", "a:b\nc:d", "SUAB", "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------"]
        {
            let error = parse(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{bad:?}: {error}");
        }
    }

    #[test]
    fn accounts_are_told_apart_by_the_version_of_their_credentials() {
        let account = |version: &str| {
            let credentials = parse("shop:hunter2").unwrap();
            Account::new(vec!["nats://a:4222".into()], None, Some((credentials, version.into())))
        };
        assert_eq!(account("1"), account("1"));
        assert_ne!(account("1"), account("2"));
        assert_eq!(account("1").place(), account("2").place());
        assert!(!format!("{:?}", account("1")).contains("hunter2"));
    }
}
