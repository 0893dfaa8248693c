//! Why an outgoing request has no response, and what the guest is told of it.

use super::resolve::LookupError;
use lattice::{address::Special, http::BodyError, mesh::MeshError};
use std::{error::Error as StdError, io, net::IpAddr};
use tokio_rustls::rustls;
use wasmtime_wasi_http::Error;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the name can't be resolved: {0}")]
    Lookup(#[from] LookupError),
    #[error("{address} is {special}")]
    Prohibited { address: IpAddr, special: Special },
    #[error("{address} is this node")]
    OwnAddress { address: IpAddr },
    #[error("nothing in this replica listens on port {port}")]
    NoListener { port: u16 },
    #[error("{0}")]
    Io(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("it took too long")]
    Timeout,
    #[error("too many connections")]
    NoPlace,
    #[error("the address of the request is not understood")]
    Uri,
}

impl ConnectError {
    pub(crate) fn code(&self) -> Error {
        match self {
            ConnectError::Lookup(LookupError::NotFound(_)) => {
                Error::DnsError { rcode: Some("the name can't be resolved".into()), info_code: None }
            }
            ConnectError::Lookup(LookupError::Timeout) => Error::DnsTimeout,
            ConnectError::Prohibited { .. } | ConnectError::OwnAddress { .. } => Error::DestinationIpProhibited,
            ConnectError::NoListener { .. } => Error::ConnectionRefused,
            ConnectError::Io(error) => of_connecting(error),
            ConnectError::Tls(error) => of_tls(error),
            ConnectError::Timeout => Error::ConnectionTimeout,
            ConnectError::NoPlace => Error::ConnectionLimitReached,
            ConnectError::Uri => Error::HttpRequestUriInvalid,
        }
    }
}

fn of_connecting(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Error::ConnectionTerminated
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
            Error::DestinationIpUnroutable
        }
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        _ => Error::DestinationUnavailable,
    }
}

fn of_tls(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: Some(format!("{alert:?}")) }
        }
        Some(_) => Error::TlsProtocolError,
        None => of_connecting(error),
    }
}

/// What a client's error is to the guest: the first cause in its chain that says something.
pub(crate) fn of_client(error: &(dyn StdError + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return error.code();
        }
        if let Some(error) = error.downcast_ref::<Error>() {
            return of_request_body(error);
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return of_hyper(error);
        }
        cause = error.source();
    }
    Error::InternalError(None)
}

/// Also the errors of a response's body.
pub(crate) fn of_hyper(error: &hyper::Error) -> Error {
    if let Some(source) = error.source() {
        if let Some(error) = source.downcast_ref::<Error>() {
            return of_request_body(error);
        }
        if let Some(error) = source.downcast_ref::<io::Error>() {
            return of_connecting(error);
        }
    }
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if error.is_canceled() || error.is_closed() {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

/// Why another workload did not answer.
pub(crate) fn of_mesh(error: &MeshError) -> Error {
    match error {
        MeshError::NoWorkload => Error::DestinationNotFound,
        MeshError::Refused => Error::HttpRequestDenied,
        MeshError::Loop => Error::LoopDetected,
        MeshError::NotReady | MeshError::Unreachable => Error::DestinationUnavailable,
        MeshError::Overloaded => Error::ConnectionLimitReached,
        MeshError::Timeout => Error::HttpResponseTimeout,
        MeshError::Failed => Error::HttpResponseIncomplete,
        MeshError::PeerLost => Error::ConnectionTerminated,
        MeshError::HeadTooLarge => Error::HttpRequestHeaderSectionSize(None),
        MeshError::BodyTooLarge => Error::HttpRequestBodySize(None),
        MeshError::BodyBroken => Error::InternalError(Some("the body of the request failed".into())),
        MeshError::BadRequest => Error::HttpRequestUriInvalid,
    }
}

/// Of the body of its response.
pub(crate) fn of_body(error: &BodyError) -> Error {
    match error {
        BodyError::Aborted(_) => Error::HttpResponseIncomplete,
        BodyError::TooLarge { limit } => Error::HttpResponseBodySize(Some(*limit)),
        BodyError::Timeout => Error::ConnectionReadTimeout,
    }
}

/// What the guest's own body failed with.
fn of_request_body(error: &Error) -> Error {
    match error {
        Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
        Error::HttpRequestTrailerSectionSize(size) => Error::HttpRequestTrailerSectionSize(*size),
        error => Error::InternalError(Some(format!("the body of the request failed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_telling_cause_is_told() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] ConnectError);
        let refused = || ConnectError::Io(io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(of_client(&Outer(refused())), Error::ConnectionRefused));
        let special = ConnectError::Prohibited { address: [10, 0, 0, 1].into(), special: Special::Private };
        assert!(matches!(of_client(&Outer(special)), Error::DestinationIpProhibited));
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        let alert = ConnectError::Tls(io::Error::other(alert));
        assert!(matches!(of_client(&Outer(alert)), Error::TlsAlertReceived { alert_id: Some(40), .. }));
        assert!(matches!(of_client(&io::Error::other("what")), Error::InternalError(None)));
    }
}
