//! From names to addresses, behind a trait, so that tests can answer as an attacker would.

use std::{
    fmt, io,
    net::{IpAddr, ToSocketAddrs as _},
};
use tokio::sync::OwnedSemaphorePermit;

/// Addresses that one lookup is asked for at most; more are left out.
const ADDRESSES_MAX: usize = 16;

/// The answer of a [`Resolver`].
pub type Lookup = lattice::Fut<'static, Result<Vec<IpAddr>, LookupError>>;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no such name, or it has no address; resolvers do not tell reliably which, or whether asking again helps.
    #[error("{0}")]
    NotFound(String),
    #[error("the lookup took too long")]
    Timeout,
}

/// Turns names into addresses.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// All addresses of a name in normal form, in the order in which they are tried. `permit` is to be kept until the work
    /// has really ended, also when nobody waits for the answer any more.
    fn lookup(&self, name: &str, permit: (OwnedSemaphorePermit, OwnedSemaphorePermit)) -> Lookup;
}

/// The system's own: `/etc/hosts`, DNS, and what else it is set up for.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn lookup(&self, name: &str, permit: (OwnedSemaphorePermit, OwnedSemaphorePermit)) -> Lookup {
        let name = name.to_owned();
        Box::pin(async move {
            let answer = tokio::task::spawn_blocking(move || -> io::Result<Vec<IpAddr>> {
                let _permit = permit;
                Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).take(ADDRESSES_MAX).collect())
            });
            match answer.await {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(error)) => Err(LookupError::NotFound(error.to_string())),
                Err(error) => Err(LookupError::NotFound(error.to_string())),
            }
        })
    }
}
