//! The same over TLS: which certificate, which version of HTTP, who the client is.

use super::*;
use lattice_router::{Tls, TlsError, TlsOptions};
use std::path::{Path, PathBuf};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, HandshakeKind, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

const RELOAD_EVERY: Duration = Duration::from_millis(20);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

fn options(names: &[&str]) -> TlsOptions {
    let pair = |name: &&str| (file(&format!("{name}.pem")), Some(file(&format!("{name}.key"))));
    TlsOptions { certificates: names.iter().map(pair).collect(), reload_every: RELOAD_EVERY, ..Default::default() }
}

/// A client that trusts the tests' authority, and shows a certificate of its own where one is named.
fn connector(alpn: &[&str], certificate: Option<&str>) -> TlsConnector {
    connector_of(rustls::DEFAULT_VERSIONS, alpn, certificate)
}

fn connector_of(
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&str],
    certificate: Option<&str>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("authority.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config).into()
}

type Shaken = std::io::Result<TlsStream<TcpStream>>;

async fn shake(port: &Port, connector: &TlsConnector, name: &str) -> Shaken {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(SOON, connector.connect(name, port.connect().await)).await.unwrap()
}

/// The own certificate of who answers for this name.
async fn shown(port: &Port, name: &str) -> CertificateDer<'static> {
    let stream = shake(port, &connector(&[], None), name).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()
}

/// What a GET is answered, head and all.
async fn get(stream: &mut TlsStream<TcpStream>, host: &str) -> std::io::Result<String> {
    let head =
        format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-forwarded-client-cert: Hash=forged\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection was left open")?;
    Ok(String::from_utf8(answer).unwrap())
}

/// A node with a guest at `w.test` that answers how it was asked.
async fn telling(change: impl FnOnce(&mut lattice_router::RouterOptions)) -> (World, Node) {
    let world = World::new();
    let a = world.node_with("a", change).await;
    a.guests.run("w", |request| async move {
        let header = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let scheme = request.uri().scheme_str().unwrap();
        ok(format!("{scheme} {} {}", header("x-forwarded-proto"), header("x-forwarded-client-cert")))
    });
    world.ready("w", &["a"]);
    table_knows(&a, "w").await;
    (world, a)
}

#[tokio::test]
async fn each_name_has_its_certificate() {
    let (_world, a) = telling(|_| ()).await;
    let port = Port::open_tls(&a, Tls::load(options(&["site", "wild"])).unwrap()).await;
    assert_eq!(shown(&port, "site.test").await, certificate("site"));
    assert_eq!(shown(&port, "a.wild.test").await, certificate("wild"));
    // A wildcard is for one label; who asks for another name gets the first.
    for other in ["a.b.wild.test", "wild.test", "other.test"] {
        let refused = shake(&port, &connector(&[], None), other).await.unwrap_err();
        assert!(refused.to_string().contains("not valid for name"), "{other}: {refused}");
    }
    // From a directory, whose certificates come after those that are named.
    let directory = tempfile::tempdir().unwrap();
    for name in ["wild.pem", "wild.key"] {
        std::fs::copy(file(name), directory.path().join(name)).unwrap();
    }
    let both = [std::fs::read(file("site.pem")).unwrap(), std::fs::read(file("site.key")).unwrap()].concat();
    std::fs::write(directory.path().join("site.crt"), both).unwrap();
    let mixed = TlsOptions { directory: Some(directory.path().to_owned()), ..options(&["renewed"]) };
    let port = Port::open_tls(&a, Tls::load(mixed).unwrap()).await;
    assert_eq!(shown(&port, "site.test").await, certificate("renewed"));
    assert_eq!(shown(&port, "w.test").await, certificate("site"));
    assert_eq!(shown(&port, "a.wild.test").await, certificate("wild"));
}

#[tokio::test]
async fn the_client_chooses_the_version_and_the_component_hears_of_tls() {
    let (_world, a) = telling(|_| ()).await;
    let port = Port::open_tls(&a, Tls::load(options(&["site"])).unwrap()).await;
    let mut stream = shake(&port, &connector(&["http/1.1"], None), "w.test").await.unwrap();
    let answer = get(&mut stream, "w.test").await.unwrap();
    assert!(answer.ends_with("https https -"), "{answer}");
    let stream = shake(&port, &connector(&["h2", "http/1.1"], None), "w.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let (mut client, connection) = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (host, expect) in [("w.test", 200), ("W.TEST.:8443", 200), ("site.test", 421), ("other.test", 421)] {
        let asked = request("GET", &format!("https://{host}/"), empty());
        let response = timeout(SOON, client.send_request(asked)).await.unwrap().unwrap();
        assert_eq!(response.status(), expect, "{host}");
        let error = response.headers().get("lattice-error").map(|value| value.to_str().unwrap());
        assert_eq!(error, (expect == 421).then_some("misdirected"), "{host}");
    }
    // Nothing that both speak; HTTP/2 that was not agreed on; no TLS.
    assert!(shake(&port, &connector(&["spdy/3"], None), "w.test").await.is_err());
    let mut stream = shake(&port, &connector(&[], None), "w.test").await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection was left open");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    let mut plain = port.connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: w.test\r\n\r\n").await.unwrap();
    assert!(!rest(&mut plain).await.contains("HTTP/1.1 200"));
    let metrics = a.metrics();
    assert!(metrics.contains("tls_handshakes_total{outcome=\"done\"} 3\n"), "{metrics}");
    assert!(metrics.contains("tls_handshakes_total{outcome=\"failed\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn who_has_no_certificate_of_the_authority_is_not_served() {
    let (_world, a) = telling(|_| ()).await;
    let strict = TlsOptions { client_authorities: Some(file("authority.pem")), ..options(&["site"]) };
    let port = Port::open_tls(&a, Tls::load(strict).unwrap()).await;
    let before = calls(&[&a]);
    for refused in [None, Some("stranger")] {
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        let answer = match shake(&port, &connector(&[], refused), "w.test").await {
            Ok(mut stream) => get(&mut stream, "w.test").await,
            Err(error) => Err(error),
        };
        assert!(answer.is_err(), "{refused:?}: {answer:?}");
    }
    assert_eq!(calls(&[&a]), before, "a guest was reached");
    let client = connector(&[], Some("client"));
    let hash: String = {
        use sha2::Digest as _;
        sha2::Sha256::digest(certificate("client")).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let expect = format!(
        "https https Hash={hash};Subject=\"CN=client,O=Example\\, Inc.,C=DE\";URI=spiffe://example.test/client;DNS=client.test"
    );
    for _ in 0..2 {
        let answer = get(&mut shake(&port, &client, "w.test").await.unwrap(), "w.test").await.unwrap();
        assert!(answer.ends_with(&expect), "{answer}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_only_where_they_stand_for_no_certificate() {
    let (_world, a) = telling(|_| ()).await;
    for (authority, own, expect) in
        [(None, None, HandshakeKind::Resumed), (Some("authority.pem"), Some("client"), HandshakeKind::Full)]
    {
        let served = TlsOptions { client_authorities: authority.map(file), ..options(&["site"]) };
        let port = Port::open_tls(&a, Tls::load(served).unwrap()).await;
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            let client = connector_of(versions, &[], own);
            for expect in [HandshakeKind::Full, expect] {
                let mut stream = shake(&port, &client, "w.test").await.unwrap();
                // Read to the end: tickets come behind the handshake.
                get(&mut stream, "w.test").await.unwrap();
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(expect), "{own:?} {versions:?}");
            }
        }
    }
}

#[tokio::test]
async fn certificates_that_change_are_taken_and_bad_ones_are_not() {
    let (_world, a) = telling(|_| ()).await;
    let directory = tempfile::tempdir().unwrap();
    let put = |from: &str, to: &str| std::fs::copy(file(from), directory.path().join(to)).unwrap();
    put("site.pem", "x.pem");
    put("site.key", "x.key");
    put("authority.pem", "ca");
    let followed = TlsOptions {
        directory: Some(directory.path().to_owned()),
        client_authorities: Some(directory.path().join("ca")),
        reload_every: RELOAD_EVERY,
        ..Default::default()
    };
    let port = Port::open_tls(&a, Tls::load(followed).unwrap()).await;
    let client = connector(&[], Some("client"));
    let shown = async || {
        let stream = shake(&port, &client, "site.test").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let reloads = |outcome: &str, count: u32| {
        a.metrics().contains(&format!("certificate_reloads_total{{outcome=\"{outcome}\"}} {count}\n"))
    };
    assert_eq!(shown().await, certificate("site"));
    assert!(a.metrics().contains("certificates_expire_seconds 49"), "{}", a.metrics());
    // A key that is not the certificate's, and then it is.
    put("renewed.pem", "x.pem");
    eventually("a refusal", || reloads("refused", 1)).await;
    assert_eq!(shown().await, certificate("site"));
    put("renewed.key", "x.key");
    eventually("the new certificate", || reloads("taken", 1)).await;
    assert_eq!(shown().await, certificate("renewed"));
    // Nonsense, and nothing at all.
    std::fs::write(directory.path().join("x.key"), "nonsense").unwrap();
    eventually("a refusal", || reloads("refused", 2)).await;
    std::fs::remove_file(directory.path().join("x.pem")).unwrap();
    eventually("a refusal", || reloads("refused", 3)).await;
    assert_eq!(shown().await, certificate("renewed"));
    // Other authorities: who was let in before is not any more.
    put("renewed.pem", "x.pem");
    put("renewed.key", "x.key");
    put("stranger.pem", "ca");
    eventually("new authorities", || reloads("taken", 2)).await;
    let answer = match shake(&port, &client, "w.test").await {
        Ok(mut stream) => get(&mut stream, "w.test").await,
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    let check = |options: TlsOptions, expect: &str| {
        let error = Tls::load(options).err().expect(expect).to_string();
        assert!(error.contains(expect), "{error}");
    };
    let pair = |chain: &str, key: &str| TlsOptions {
        certificates: vec![(file(chain), Some(file(key)))],
        ..Default::default()
    };
    check(TlsOptions::default(), "no certificate is given");
    check(pair("missing.pem", "site.key"), "missing.pem: ");
    check(pair("site.pem", "site.pem"), "site.pem: there is no key in it");
    check(pair("site.key", "site.key"), "site.key: there is no certificate in it");
    check(pair("site.pem", "wild.key"), "wild.key: ");
    let empty = tempfile::tempdir().unwrap();
    let directory = TlsOptions { directory: Some(empty.path().to_owned()), ..Default::default() };
    check(directory, "there is no NAME.pem or NAME.crt in it");
    let authorities = TlsOptions { client_authorities: Some(file("site.key")), ..options(&["site"]) };
    check(authorities, "site.key: there is no certificate in it");
    assert!(matches!(Tls::load(TlsOptions::default()), Err(TlsError::None)));
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let (_world, a) = telling(|options| options.head_timeout = Duration::from_millis(200)).await;
    let port = Port::open_tls(&a, Tls::load(options(&["site"])).unwrap()).await;
    // Nothing; the beginning of a record; a handshake and then nothing, nor half of a head.
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = port.connect().await;
        stream.write_all(sent).await.unwrap();
        rest(&mut stream).await;
    }
    assert!(a.metrics().contains("tls_handshakes_total{outcome=\"late\"} 2\n"), "{}", a.metrics());
    for sent in [&b""[..], b"GET / HT"] {
        let mut stream =
            shake(&port, &connector(&["h2"][..usize::from(sent.is_empty())], None), "w.test").await.unwrap();
        stream.write_all(sent).await.unwrap();
        let _ = timeout(SOON, stream.read_to_end(&mut Vec::new())).await.expect("the connection was left open");
    }
    eventually("no connection", || a.metrics().contains("lattice_router_connections 0\n")).await;
}
