//! Certificates as they are in files, and which of them a client gets.

use super::{TlsError, TlsOptions, der};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::rustls::{
    SignatureScheme,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

const CERTIFICATES_MAX: usize = 1000;
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// All that the options name, as it was read.
pub(super) struct Files {
    pairs: Vec<Pair>,
    pub(super) client_authorities: Option<(PathBuf, Vec<u8>)>,
}

struct Pair {
    file: PathBuf,
    chain: Vec<u8>,
    key_file: PathBuf,
    key: Vec<u8>,
}

impl Files {
    pub(super) fn read(options: &TlsOptions) -> Result<Self, TlsError> {
        let mut named = options.certificates.clone();
        if let Some(directory) = &options.directory {
            named.extend(list(directory)?);
        }
        if named.is_empty() {
            return Err(match &options.directory {
                Some(directory) => failed(directory, "there is no NAME.pem or NAME.crt in it"),
                None => TlsError::None,
            });
        }
        if named.len() > CERTIFICATES_MAX {
            return Err(TlsError::TooMany { max: CERTIFICATES_MAX });
        }
        let mut pairs = Vec::with_capacity(named.len());
        for (file, key_file) in named {
            let chain = read(&file)?;
            let key_file = key_file.unwrap_or_else(|| file.clone());
            let key = if key_file == file { chain.clone() } else { read(&key_file)? };
            pairs.push(Pair { file, chain, key_file, key });
        }
        let authorities = options.client_authorities.as_ref();
        let client_authorities = authorities.map(|file| Ok((file.clone(), read(file)?))).transpose()?;
        Ok(Self { pairs, client_authorities })
    }

    /// Differs where any of the files, or their order, does.
    pub(super) fn digest(&self) -> [u8; 32] {
        let pairs = self.pairs.iter().flat_map(|pair| [&pair.chain, &pair.key]);
        let mut digest = Sha256::new();
        for bytes in pairs.chain(self.client_authorities.as_ref().map(|(_, bytes)| bytes)) {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        }
        digest.finalize().into()
    }
}

fn failed(file: &Path, why: impl ToString) -> TlsError {
    TlsError::File { file: file.to_owned(), why: why.to_string() }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(failed(file, error)),
        Ok(length) if length as u64 > FILE_BYTES_MAX => Err(failed(file, "it is too large for certificates")),
        Ok(_) => Ok(bytes),
    }
}

/// The certificates of a directory, by name.
fn list(directory: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, TlsError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| failed(directory, error))? {
        let file = entry.map_err(|error| failed(directory, error))?.path();
        if file.extension().is_some_and(|extension| extension == "pem" || extension == "crt") {
            let key = file.with_extension("key");
            found.push((file, key.exists().then_some(key)));
        }
        if found.len() > CERTIFICATES_MAX {
            return Err(TlsError::TooMany { max: CERTIFICATES_MAX });
        }
    }
    found.sort();
    Ok(found)
}

/// Which certificate a client gets: of those with the very name that it asks for the first that it can check, else of
/// those with a wildcard for it, else the first of all.
#[derive(Debug)]
pub(super) struct Certificates {
    first: Arc<CertifiedKey>,
    /// By the names in the certificates, in lower case, `*.example.org` included.
    by_name: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    not_after: i64,
}

impl Certificates {
    pub(super) fn parse(files: &Files, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut first = None;
        let mut by_name: BTreeMap<String, Vec<_>> = BTreeMap::new();
        let mut not_after = i64::MAX;
        for Pair { file, chain, key_file, key } in &files.pairs {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
            let chain = chain.map_err(|error| failed(file, error))?;
            let Some(own) = chain.first().cloned() else {
                return Err(failed(file, "there is no certificate in it"));
            };
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| failed(key_file, format!("there is no key in it: {error}")))?;
            let parsed = webpki::EndEntityCert::try_from(&own).map_err(|error| failed(file, error))?;
            let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| failed(key_file, error))?;
            let key = Arc::new(key);
            not_after = not_after.min(der::not_after(&own).unwrap_or(i64::MAX));
            for name in parsed.valid_dns_names() {
                by_name.entry(name.to_ascii_lowercase()).or_default().push(key.clone());
            }
            first.get_or_insert(key);
        }
        Ok(Self { first: first.ok_or(TlsError::None)?, by_name, not_after })
    }

    /// When the first of them expires, in Unix time.
    pub(super) fn not_after(&self) -> i64 {
        self.not_after
    }

    pub(super) fn names(&self) -> usize {
        self.by_name.len()
    }

    fn select(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        let name = name.map(str::to_ascii_lowercase);
        let wildcard = name.as_deref().and_then(|name| name.split_once('.')).map(|(_, parent)| format!("*.{parent}"));
        let names = [name, wildcard].into_iter().flatten();
        let mut candidates = names.filter_map(|name| self.by_name.get(&name)).flatten();
        candidates.find(|certified| certified.key.choose_scheme(schemes).is_some()).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.select(hello.server_name(), hello.signature_schemes()).clone())
    }
}
