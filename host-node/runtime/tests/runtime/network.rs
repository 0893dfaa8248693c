//! What guests reach outside, against real servers on this machine's loopback, which the operator's option allows here.
//! Names are resolved by a table, so that it can answer as an attacker would.

use super::*;
use lattice::address::AddressPolicy;
use lattice_runtime::{Lookup, LookupError, NetworkOptions, Resolver};
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::net::TcpListener;

pub(crate) const VERSIONS: [&str; 2] = ["fetcher", "fetcher03"];

/// Names and what is answered for them, one answer after the other; the last one stays.
#[derive(Debug, Default)]
pub(crate) struct Names {
    answers: Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<BTreeMap<String, usize>>,
}

impl Names {
    pub(crate) fn set(&self, name: &str, answers: &[&[IpAddr]]) {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers);
    }
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Table;

impl Resolver for Table {
    fn lookup(&self, name: &str, _: (tokio::sync::OwnedSemaphorePermit, tokio::sync::OwnedSemaphorePermit)) -> Lookup {
        *NAMES.asked.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        let mut answers = NAMES.answers.lock().unwrap();
        let answer = answers.get_mut(name).and_then(|answers| match answers.len() {
            0 => None,
            1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        let answer = answer.ok_or_else(|| LookupError::NotFound(format!("{name} is in no table")));
        Box::pin(std::future::ready(answer))
    }
}

pub(crate) static NAMES: LazyLock<Names> = LazyLock::new(Names::default);

pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Also of this machine, and not allowed.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A node whose operator allows 127.0.0.1 and 127.0.0.3, and the authority of the tests.
pub(crate) static OUTSIDE: LazyLock<Runtime> = LazyLock::new(|| {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-code");
    let mut options = RuntimeOptions::new(cache);
    options.network = NetworkOptions {
        addresses: AddressPolicy::new(["127.0.0.1", "127.0.0.3"].map(|range| range.parse().unwrap()).into()),
        authorities_pem: include_bytes!("../certificates/authority.pem").to_vec(),
        resolver: Arc::new(Table),
        ..NetworkOptions::default()
    };
    Runtime::new(options).unwrap()
});

pub(crate) fn grants(http_out: &[&str]) -> Grants {
    Grants { http_out: http_out.iter().map(|grant| grant.parse().unwrap()).collect(), ..Grants::default() }
}

async fn fetcher(guest_name: &str, http_out: &[&str]) -> (Unit, Arc<Kept>) {
    let bytes = guest(guest_name);
    let component = OUTSIDE.load(Digest::of(&bytes), bytes).await.unwrap();
    let logs = Arc::new(Kept::default());
    let config = UnitConfig { grants: grants(http_out), logs: logs.clone(), ..config() };
    (Unit::start(&OUTSIDE, alone(&OUTSIDE, component), config).await.unwrap(), logs)
}

fn fetch(target: &str, options: &[(&str, &str)]) -> Request {
    let mut request = get("/");
    request.headers_mut().insert("x-target", target.parse().unwrap());
    for (name, value) in options {
        request.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

/// A server that counts its connections and remembers the heads of its requests.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    heads: Heads,
    /// Requests for `/slow` that the client gave up.
    given_up: Arc<AtomicUsize>,
}

type Heads = Arc<Mutex<Vec<http::request::Parts>>>;

/// Counts its end.
struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Server {
    async fn start(ip: IpAddr, port: u16) -> Self {
        Self::over(ip, port, None).await
    }

    async fn over(ip: IpAddr, port: u16, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, given_up, heads) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Heads::default());
        let (counted, ended, kept) = (connections.clone(), given_up.clone(), heads.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                let (kept, ended, tls) = (kept.clone(), ended.clone(), tls.clone());
                tokio::spawn(async move {
                    let service =
                        hyper::service::service_fn(move |request| answer(request, kept.clone(), ended.clone()));
                    let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let served = match tls {
                        None => builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await
                        }
                    };
                    drop(served); // tests look at what the guest saw
                });
            }
        });
        Self { address, connections, heads, given_up }
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
    fn last(&self) -> http::request::Parts {
        self.heads.lock().unwrap().last().unwrap().clone()
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    heads: Heads,
    given_up: Arc<AtomicUsize>,
) -> Result<http::Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    heads.lock().unwrap().push(head.clone());
    let response = http::Response::builder();
    let broken = |error: hyper::Error| lattice::http::BodyError::Aborted(error.to_string());
    Ok(match head.uri.path() {
        "/echo" => response.body(Body::new(body.map_err(broken))),
        "/redirect" => response.status(302).header("location", "/elsewhere").body(lattice::http::full("moved")),
        "/bye" => response.header("connection", "close").body(lattice::http::full("bye")),
        "/slow" => {
            let _ends = Ends(given_up);
            std::future::pending().await
        }
        "/many-headers" => {
            let headers = (0..200).fold(response, |response, i| response.header(format!("x-{i}"), "1"));
            headers.body(lattice::http::empty())
        }
        "/stall" => {
            let first = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"half")))]);
            let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
            response.body(Body::new(http_body_util::StreamBody::new(stream)))
        }
        _ => response.header("x-one", "1").header("keep-alive", "1").body(lattice::http::full("hello from outside")),
    }
    .unwrap())
}

#[tokio::test]
async fn nothing_is_reached_without_a_grant() {
    let server = Server::start(HERE, 0).await;
    NAMES.set("open.test", &[&[HERE]]);
    let port = server.address.port();
    for version in VERSIONS {
        let other = format!("http://other.test:{port}");
        for granted in [&[][..], &["https://open.test"][..], &[other.as_str()][..]] {
            let (unit, logs) = fetcher(version, granted).await;
            let target = format!("http://open.test:{port}/");
            let (status, text) = text(&unit, fetch(&target, &[])).await.unwrap();
            assert_eq!((status, text.as_str()), (502, "ErrorCode::HttpRequestDenied\n"), "{version} {granted:?}");
            assert_eq!(unit.stats().network.denied, 1);
            let lines = logs.0.lock().unwrap().clone();
            let remedy = format!("grants: {{http-out: [\"http://open.test:{port}\"]}}");
            assert!(lines.iter().any(|(_, _, line)| line.contains(&remedy)), "{lines:?}");
        }
    }
    assert_eq!((server.connections(), NAMES.asked("other.test")), (0, 0));
}

#[tokio::test]
async fn a_granted_request_is_sent_and_its_connection_kept() {
    for version in VERSIONS {
        let server = Server::start(HERE, 0).await;
        let port = server.address.port();
        let name = format!("{version}-kept.test");
        NAMES.set(&name, &[&[HERE]]);
        let (unit, _) = fetcher(version, &[&format!("http://{name}:{port}")]).await;
        for _ in 0..20 {
            let url = format!("http://{}.:{port}/x?y=1", name.to_uppercase());
            let answer = text(&unit, fetch(&url, &[("x-cargo", "7")])).await.unwrap();
            assert_eq!(answer, (200, "hello from outside".into()), "{version}");
        }
        assert_eq!((server.connections(), NAMES.asked(&name)), (1, 1), "{version}: connections are reused");
        let network = unit.stats().network;
        assert_eq!((network.requests, network.failures, network.connections), (20, 0, 1), "{version}");
        let head = server.last();
        assert_eq!(head.headers.get("host").unwrap(), &format!("{name}:{port}"), "{version}: as it was judged");
        assert_eq!(head.headers.get_all("host").iter().count(), 1);
        assert_eq!(
            (head.uri.to_string().as_str(), head.headers.get("x-cargo").unwrap().as_bytes()),
            ("/x?y=1", &b"7"[..])
        );
    }
}

/// A 0.2 instance answers one request at a time, so what it sends belongs to that one.
#[tokio::test]
async fn what_a_guest_sends_belongs_to_the_trace_that_it_answers() {
    let server = Server::start(HERE, 0).await;
    NAMES.set("trace.test", &[&[HERE]]);
    let (unit, _) = fetcher("fetcher", &["http://trace.test:*"]).await;
    let url = format!("http://trace.test:{}/", server.address.port());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for traced in [Some(trace), None] {
        let options: Vec<_> = traced.iter().map(|trace| ("traceparent", *trace)).collect();
        assert_eq!(text(&unit, fetch(&url, &options)).await.unwrap().0, 200);
        assert_eq!(server.last().headers.get("traceparent").map(|value| value.to_str().unwrap()), traced);
    }
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let server = Server::start(HERE, 0).await;
    NAMES.set("echo.test", &[&[HERE]]);
    for version in VERSIONS {
        let (unit, _) = fetcher(version, &["http://echo.test:*"]).await;
        let url = format!("http://echo.test:{}/echo", server.address.port());
        let sent: Vec<u8> = (0..(1 << 20)).map(|i| (i % 251) as u8).collect();
        let mut request = request("POST", "/", lattice::http::full(sent.clone()));
        request.headers_mut().insert("x-target", url.parse().unwrap());
        // 0.2 sends the whole body before it reads: what the two sides buffer is enough for this.
        let response = unit.call(request).await.unwrap();
        assert_eq!(response.status(), 200, "{version}");
        let received = response.into_body().collect().await.unwrap().to_bytes();
        assert!(received == sent, "{version}: {} bytes came back", received.len());
    }
}

/// The name leads to an allowed address first, then to one that is not: what was judged is what is used.
#[tokio::test]
async fn a_name_that_is_rebound_leads_nowhere() {
    for version in VERSIONS {
        let server = Server::start(HERE, 0).await;
        let port = server.address.port();
        let secret = Server::start(ELSEWHERE, port).await;
        let name = format!("{version}-rebind.test");
        NAMES.set(&name, &[&[HERE], &[ELSEWHERE]]);
        let (unit, logs) = fetcher(version, &["*"]).await;
        let ask = |path: &str| fetch(&format!("http://{name}:{port}{path}"), &[]);
        assert_eq!(text(&unit, ask("/")).await.unwrap().0, 200, "{version}");
        assert_eq!(text(&unit, ask("/bye")).await.unwrap(), (200, "bye".into()), "{version}: the same connection");
        assert_eq!(NAMES.asked(&name), 1);
        let (status, why) = text(&unit, ask("/")).await.unwrap();
        assert_eq!((status, why.as_str()), (502, "ErrorCode::DestinationIpProhibited\n"), "{version}");
        assert_eq!((secret.connections(), NAMES.asked(&name)), (0, 2), "{version}");
        let lines = logs.0.lock().unwrap().clone();
        assert!(lines.iter().any(|(_, _, line)| line.contains("--allow-egress 127.0.0.2")), "{lines:?}");
        // Among several addresses the allowed one is taken.
        NAMES.set(&name, &[&[ELSEWHERE, HERE, ELSEWHERE]]);
        assert_eq!(text(&unit, ask("/")).await.unwrap().0, 200, "{version}");
        assert_eq!(secret.connections(), 0, "{version}");
    }
}

#[tokio::test]
async fn special_addresses_are_not_reached_whatever_is_granted() {
    for version in VERSIONS {
        let (unit, _) = fetcher(version, &["*"]).await;
        for (url, code) in [
            ("http://10.0.0.1/", "DestinationIpProhibited"),
            ("http://169.254.169.254/latest/meta-data", "DestinationIpProhibited"),
            ("http://[::ffff:169.254.169.254]/", "DestinationIpProhibited"),
            ("http://[fd00:ec2::254]/", "DestinationIpProhibited"),
            ("http://[64:ff9b::a00:1]/", "DestinationIpProhibited"),
            ("http://0.0.0.0/", "DestinationIpProhibited"),
            ("http://127.0.0.9/", "DestinationIpProhibited"),
            ("http://127.1/", "HttpRequestUriInvalid"),
            ("http://2130706433/", "HttpRequestUriInvalid"),
            ("http://0x7f000001/", "HttpRequestUriInvalid"),
            ("http://user@open.test/", "HttpRequestUriInvalid"),
            ("http://no-such.test/", "DnsError"),
            // The replica's own loopback, on which nothing listens; not the node's.
            ("http://localhost/", "ConnectionRefused"),
            ("http://127.0.0.1/", "ConnectionRefused"),
            ("http://[::1]/", "ConnectionRefused"),
        ] {
            let (status, why) = text(&unit, fetch(url, &[])).await.unwrap();
            assert!(status == 502 && why.contains(code), "{version} {url}: {status} {why}");
        }
    }
}

#[tokio::test]
async fn the_loopback_of_the_node_is_not_that_of_a_guest() {
    let server = Server::start(HERE, 0).await;
    for version in VERSIONS {
        let (unit, _) = fetcher(version, &["*"]).await;
        for host in ["127.0.0.1", "localhost", "a.localhost", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{}/", server.address.port());
            let answer = text(&unit, fetch(&url, &[])).await.unwrap();
            assert_eq!(answer, (502, "ErrorCode::ConnectionRefused\n".into()), "{version} {url}");
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn failures_have_their_codes_and_times_their_ends() {
    let server = Server::start(HERE, 0).await;
    let closed = TcpListener::bind((HERE, 0)).await.unwrap().local_addr().unwrap().port();
    NAMES.set("codes.test", &[&[HERE]]);
    let port = server.address.port();
    for version in VERSIONS {
        let (unit, _) = fetcher(version, &["http://codes.test:*"]).await;
        let url = |path: &str| format!("http://codes.test:{port}{path}");
        for (url, options, code) in [
            (format!("http://codes.test:{closed}/"), &[][..], "ConnectionRefused"),
            (url("/slow"), &[("x-first-byte-ms", "50")][..], "ConnectionReadTimeout"),
            (url("/many-headers"), &[], "HttpResponseHeaderSectionSize"),
        ] {
            let (status, why) = text(&unit, fetch(&url, options)).await.unwrap();
            assert!(status == 502 && why.contains(code), "{version} {url}: {status} {why}");
        }
        let error = text(&unit, fetch(&url("/stall"), &[("x-between-bytes-ms", "50")])).await.unwrap_err();
        assert!(matches!(error, CallError::Body(_) | CallError::Failed { .. }), "{version}: {error:?}");
        let answer = text(&unit, fetch(&url("/redirect"), &[])).await.unwrap();
        assert_eq!(answer, (302, "moved".into()), "{version}: redirects are the guest's business");
        assert_eq!(server.last().uri.path(), "/redirect");
    }
}

/// One replica's guests have so many requests under way together, whatever waits at the other end.
#[tokio::test]
async fn requests_of_a_replica_are_bounded() {
    const REQUESTS_MAX: usize = 256;
    NAMES.set("busy.test", &[&[HERE]]);
    for version in VERSIONS {
        let server = Server::start(HERE, 0).await;
        let bytes = guest(version);
        let component = OUTSIDE.load(Digest::of(&bytes), bytes).await.unwrap();
        let mut config = UnitConfig { grants: grants(&["http://busy.test:*"]), ..config() };
        (config.reuse.max_instances, config.limits.concurrency) = (REQUESTS_MAX as u32 + 8, REQUESTS_MAX as u32 + 8);
        let unit = Arc::new(Unit::start(&OUTSIDE, alone(&OUTSIDE, component), config).await.unwrap());
        let url = |path: &str| format!("http://busy.test:{}{path}", server.address.port());
        let calls: Vec<_> = (0..REQUESTS_MAX)
            .map(|_| {
                let (unit, request) = (unit.clone(), fetch(&url("/slow"), &[]));
                tokio::spawn(async move { unit.call(request).await.map(drop) })
            })
            .collect();
        until("the server has the requests", || server.heads.lock().unwrap().len() == REQUESTS_MAX).await;
        let (status, why) = text(&unit, fetch(&url("/"), &[])).await.unwrap();
        assert_eq!((status, why.as_str()), (502, "ErrorCode::ConnectionLimitReached\n"), "{version}");
        for call in calls {
            call.abort();
        }
        until("their requests are gone", || server.given_up.load(SeqCst) == REQUESTS_MAX).await;
        assert_eq!(text(&unit, fetch(&url("/"), &[])).await.unwrap().0, 200, "{version}: there is room again");
    }
}

/// Connections that nobody uses count as well. One more waits until one of them ends.
#[tokio::test]
async fn connections_of_a_replica_are_bounded() {
    const CONNECTIONS_MAX: usize = 512;
    let server = Server::start(HERE, 0).await;
    // Each name has connections of its own.
    let name = |i: usize| format!("host-{i}.test");
    (0..=CONNECTIONS_MAX).for_each(|i| NAMES.set(&name(i), &[&[HERE]]));
    let (unit, _) = fetcher("fetcher", &["http://*:*"]).await;
    let ask = |i: usize, options: &[(&str, &str)]| {
        text(&unit, fetch(&format!("http://{}:{}/", name(i), server.address.port()), options))
    };
    let begun = std::time::Instant::now();
    for first in (0..CONNECTIONS_MAX).step_by(32) {
        let asked = futures_util::future::join_all((first..first + 32).map(|i| ask(i, &[]))).await;
        assert!(asked.iter().all(|answer| answer.as_ref().unwrap().0 == 200), "{asked:?}");
    }
    let (status, why) = ask(CONNECTIONS_MAX, &[("x-connect-ms", "100")]).await.unwrap();
    // On a machine that took so long the first ones have ended.
    if begun.elapsed() < Duration::from_secs(15) {
        assert_eq!((status, why.as_str()), (502, "ErrorCode::ConnectionTimeout\n"));
        assert_eq!(server.connections(), CONNECTIONS_MAX);
    }
    // Idle ones end after 15 s, so this one gets its place.
    assert_eq!(ask(CONNECTIONS_MAX, &[("x-connect-ms", "25000")]).await.unwrap().0, 200);
}

/// What a guest waits for ends with the guest.
#[tokio::test]
async fn requests_end_with_their_instance() {
    for version in VERSIONS {
        let server = Server::start(HERE, 0).await;
        NAMES.set("ends.test", &[&[HERE]]);
        let (unit, _) = fetcher(version, &["*"]).await;
        let unit = Arc::new(unit);
        let url = format!("http://ends.test:{}/slow", server.address.port());
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let (unit, request) = (unit.clone(), fetch(&url, &[]));
                tokio::spawn(async move { unit.call(request).await.map(drop) })
            })
            .collect();
        until("the server has the requests", || server.heads.lock().unwrap().len() == 4).await;
        for call in calls {
            call.abort();
        }
        until("their requests are gone", || server.given_up.load(SeqCst) == 4).await;
        assert_eq!(unit.stats().network.requests, 4, "{version}");
        let url = format!("http://ends.test:{}/", server.address.port());
        assert_eq!(text(&unit, fetch(&url, &[])).await.unwrap().0, 200, "{version}");
    }
}

fn tls(alpn: &[&str]) -> tokio_rustls::TlsAcceptor {
    use tokio_rustls::rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../certificates/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../certificates/server.key")).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config).into()
}

#[tokio::test]
async fn tls_is_checked_and_speaks_both_versions_of_http() {
    NAMES.set("secure.test", &[&[HERE]]);
    NAMES.set("impostor.test", &[&[HERE]]);
    for (alpn, expect) in
        [(&["h2", "http/1.1"][..], http::Version::HTTP_2), (&["http/1.1"][..], http::Version::HTTP_11)]
    {
        let server = Server::over(HERE, 0, Some(tls(alpn))).await;
        let port = server.address.port();
        for version in VERSIONS {
            let before = server.connections();
            let (unit, _) = fetcher(version, &["https://*:*"]).await;
            for _ in 0..3 {
                let answer = text(&unit, fetch(&format!("https://secure.test:{port}/"), &[])).await.unwrap();
                assert_eq!(answer, (200, "hello from outside".into()), "{version} {alpn:?}");
            }
            assert_eq!(server.connections() - before, 1, "{version} {alpn:?}");
            assert_eq!(server.last().version, expect, "{version}");
            let answer = text(&unit, fetch(&format!("https://impostor.test:{port}/"), &[])).await.unwrap();
            assert_eq!(answer, (502, "ErrorCode::TlsCertificateError\n".into()), "{version}");
        }
    }
}
