//! The options of a node that are about TLS with its HTTP clients. Named after `--http`, so that nobody takes them for
//! `--tlscert` and its like, which are about the connection to NATS.

use crate::error::Failure;
use anyhow::Context as _;
use lattice_router::{Tls, TlsOptions};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc};

#[derive(Debug, Default, Clone, clap::Args)]
#[command(next_help_heading = "HTTPS")]
pub struct HttpsArgs {
    /// Where to take HTTPS, beside --http
    #[arg(long = "https", env = "LATTICE_HTTPS", value_name = "ADDR")]
    pub address: Option<SocketAddr>,
    /// A certificate and its chain, in PEM; clients get the one for the name that they ask for, else the first. Repeat it
    /// for more. New content is taken within seconds, as of all files here
    #[arg(long = "https-cert", env = "LATTICE_HTTPS_CERT", value_delimiter = ',', value_name = "FILE")]
    certificates: Vec<PathBuf>,
    /// The key of each --https-cert, in the same order [default: it is in the same file]
    #[arg(long = "https-key", env = "LATTICE_HTTPS_KEY", value_delimiter = ',', value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A directory of more: NAME.pem or NAME.crt, with the key in NAME.key or in the same file
    #[arg(long = "https-certs", env = "LATTICE_HTTPS_CERTS", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Certificate authorities, in PEM: a client without a certificate of one of them gets no connection. Who it is, the
    /// component reads in x-forwarded-client-cert
    #[arg(long = "https-client-ca", env = "LATTICE_HTTPS_CLIENT_CA", value_name = "FILE")]
    client_authorities: Option<PathBuf>,
}

impl HttpsArgs {
    /// Without certificates.
    #[cfg(test)]
    pub fn at(address: SocketAddr) -> Self {
        Self { address: Some(address), ..Self::default() }
    }

    /// The same for another node, which listens here.
    pub fn arguments(&self, address: SocketAddr) -> Vec<OsString> {
        let files = |option: &'static str, files: &[PathBuf]| -> Vec<OsString> {
            files.iter().flat_map(|file| [option.into(), file.into()]).collect()
        };
        let lists = [("--https-cert", &self.certificates), ("--https-key", &self.keys)];
        let ones = [("--https-certs", &self.directory), ("--https-client-ca", &self.client_authorities)];
        let lists = lists.into_iter().flat_map(|(option, list)| files(option, list));
        let ones = ones.into_iter().flat_map(|(option, one)| files(option, one.as_slice()));
        ["--https".into(), address.to_string().into()].into_iter().chain(lists).chain(ones).collect()
    }

    /// The certificates, where there is a listener for them. Blocks.
    pub fn load(&self) -> anyhow::Result<Option<Arc<Tls>>> {
        let has_certificates = !self.certificates.is_empty() || self.directory.is_some();
        match (self.address, has_certificates) {
            (Some(_), true) => {}
            (None, false) if self.keys.is_empty() && self.client_authorities.is_none() => return Ok(None),
            (None, _) => {
                let why = "certificates, keys and authorities are for --https, which is not given";
                return Err(Failure::usage(why).hint("add --https 0.0.0.0:443").into());
            }
            (Some(_), false) => {
                let hint = "add --https-cert FILE and --https-key FILE, or --https-certs DIR";
                return Err(Failure::usage("--https needs a certificate").hint(hint).into());
            }
        }
        if !self.keys.is_empty() && self.keys.len() != self.certificates.len() {
            let (keys, certificates) = (self.keys.len(), self.certificates.len());
            let why = format!("{certificates} times --https-cert, {keys} times --https-key");
            return Err(Failure::usage(why).hint("give each certificate its key, in the same order").into());
        }
        let keys = self.keys.iter().cloned().map(Some).chain(std::iter::repeat(None));
        let options = TlsOptions {
            certificates: self.certificates.iter().cloned().zip(keys).collect(),
            directory: self.directory.clone(),
            client_authorities: self.client_authorities.clone(),
            ..Default::default()
        };
        let tls = Tls::load(options).with_context(|| Failure::usage("the certificates for HTTPS can't be used"))?;
        Ok(Some(Arc::new(tls)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_is_told_the_same() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let args = HttpsArgs {
            certificates: files(&["a", "b"]),
            keys: files(&["c", "d"]),
            directory: Some("e".into()),
            client_authorities: Some("f".into()),
            ..Default::default()
        };
        let said = args.arguments("127.0.0.1:1".parse().unwrap()).join(std::ffi::OsStr::new(" "));
        let expect = "--https 127.0.0.1:1 --https-cert a --https-cert b --https-key c --https-key d --https-certs e --https-client-ca f";
        assert_eq!(said, expect);
    }

    fn check(args: HttpsArgs, expect: &str) {
        let error = args.load().err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(expect) && error.is_empty() == expect.is_empty(), "{error}");
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        let address = "127.0.0.1:0".parse().ok();
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        check(HttpsArgs::default(), "");
        check(HttpsArgs { address, ..Default::default() }, "--https needs a certificate");
        check(HttpsArgs { client_authorities: Some("ca".into()), ..Default::default() }, "--https, which is not given");
        check(HttpsArgs { certificates: files(&["a"]), ..Default::default() }, "--https, which is not given");
        let (certificates, keys) = (files(&["a", "b"]), files(&["c"]));
        check(
            HttpsArgs { address, certificates, keys, ..Default::default() },
            "2 times --https-cert, 1 times --https-key",
        );
        check(
            HttpsArgs { address, certificates: files(&["/no/such/file.pem"]), ..Default::default() },
            "/no/such/file.pem: ",
        );
    }
}
