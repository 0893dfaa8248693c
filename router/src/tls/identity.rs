//! Who a client has shown to be, for the component: a header of a form that proxies agree on.

use super::der;
use crate::headers;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Longest value. Names that do not fit are left out, all of them: half of them could pass for all.
const VALUE_BYTES_MAX: usize = 4096;

/// `Hash=…;Subject="…";URI=…;DNS=…` of a certificate that was verified: the SHA-256 of its DER, its subject as RFC 4514
/// writes it, its names. Nothing where it can't be parsed, which a verified one can.
pub(super) fn describe(certificate: &CertificateDer<'_>) -> Option<HeaderValue> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut line = String::from("Hash=");
    Sha256::digest(certificate).iter().try_for_each(|byte| write!(line, "{byte:02x}")).ok()?;
    let subject = der::distinguished_name(parsed.subject()).unwrap_or_default();
    // A quote in it is escaped already.
    let mut names = format!(";Subject=\"{subject}\"");
    // What is in no name may not end one.
    let is_plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;=\\".contains(&byte));
    for name in parsed.valid_uri_names().filter(is_plain) {
        names.extend([";URI=", name]);
    }
    for name in parsed.valid_dns_names().filter(is_plain) {
        names.extend([";DNS=", name]);
    }
    if line.len() + names.len() <= VALUE_BYTES_MAX {
        line.push_str(&names);
    }
    Some(headers::value(line))
}
