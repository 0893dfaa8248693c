//! Sockets of guests: the private loopback of a replica, and what the grants let out, against real servers.

use super::{
    network::{ELSEWHERE, NAMES, OUTSIDE},
    *,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, UdpSocket},
};

const VERSIONS: [&str; 2] = ["sockets", "sockets03"];

/// Of this machine, and allowed by the operator.
const ALLOWED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

fn grants(connect: &[&str]) -> Grants {
    Grants { connect: connect.iter().map(|grant| grant.parse().unwrap()).collect(), ..Grants::default() }
}

async fn sockets(guest_name: &str, connect: &[&str], change: impl FnOnce(&mut UnitConfig)) -> Arc<Unit> {
    let bytes = guest(guest_name);
    let component = OUTSIDE.load(Digest::of(&bytes), bytes).await.unwrap();
    let mut config = UnitConfig { grants: grants(connect), ..config() };
    change(&mut config);
    Arc::new(Unit::start(&OUTSIDE, alone(&OUTSIDE, component), config).await.unwrap())
}

async fn ask(unit: &Unit, path: &str) -> (u16, String) {
    text(unit, get(path)).await.unwrap()
}

/// Asks until somebody listens: a guest gives no sign of it.
async fn ask_until_heard(unit: &Unit, path: &str) -> String {
    for _ in 0..3000 {
        let (status, text) = ask(unit, path).await;
        if status == 200 {
            return text;
        }
        assert!(text.contains("ConnectionRefused"), "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody listens after 30 s: {path}");
}

fn serving(unit: &Arc<Unit>, port: u16) -> tokio::task::JoinHandle<(u16, String)> {
    let unit = unit.clone();
    tokio::spawn(async move { ask(&unit, &format!("/serve/{port}")).await })
}

/// Answers one line with `pong`, and counts who comes; datagrams as well.
async fn server(ip: IpAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let datagrams = UdpSocket::bind(address).await.unwrap();
    let count = Arc::<AtomicUsize>::default();
    let (counted, also) = (count.clone(), count.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            let mut line = String::new();
            let _ = BufReader::new(&mut stream).read_line(&mut line).await;
            let _ = stream.write_all(b"pong\n").await;
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = datagrams.recv_from(&mut buffer).await {
            also.fetch_add(1, SeqCst);
            let _ = datagrams.send_to(b"pong", from).await;
        }
    });
    (address, count)
}

#[tokio::test]
async fn an_instance_reaches_its_own_ports_by_their_names() {
    for version in VERSIONS {
        let unit = sockets(version, &[], |_| ()).await;
        for _ in 0..3 {
            let (status, text) = ask(&unit, "/self/8080").await;
            let expect = "listens on 127.0.0.1:8080, connected to 127.0.0.1:8080, as itself: true; ping and pong\n";
            assert_eq!((status, text.as_str()), (200, expect), "{version}");
        }
        let (status, text) = ask(&unit, "/udp/53").await;
        assert!(status == 200 && text.starts_with("ping came to 127.0.0.1:53, and back from 127.0.0.1:53"), "{text}");
        assert_eq!(unit.stats().network.denied, 0, "{version}");
    }
}

#[tokio::test]
async fn replicas_have_the_same_ports_and_do_not_see_each_other() {
    for version in VERSIONS {
        let [one, other, third] = [
            sockets(version, &[], |_| ()).await,
            sockets(version, &[], |_| ()).await,
            sockets(version, &["tcp://*:*"], |_| ()).await,
        ];
        let (first, second) = (serving(&one, 8080), serving(&other, 8080));
        // Another instance of the same replica finds it.
        assert_eq!(ask_until_heard(&one, "/ask/127.0.0.1/8080").await, "ping from 127.0.0.1:8080\n", "{version}");
        assert_eq!(first.await.unwrap(), (200, "ping\n".into()), "{version}");
        // The port of the one is closed now, and that of the other is open: nobody else is led there.
        for unit in [&one, &third] {
            let (status, text) = ask(unit, "/ask/127.0.0.1/8080").await;
            assert!(status == 502 && text.contains("ConnectionRefused"), "{version}: {text}");
        }
        assert!(!second.is_finished());
        assert_eq!(ask_until_heard(&other, "/ask/localhost/8080").await, "ping from 127.0.0.1:8080\n", "{version}");
        assert_eq!(second.await.unwrap(), (200, "ping\n".into()), "{version}");
    }
}

#[tokio::test]
async fn the_ports_of_the_node_are_not_those_of_a_guest() {
    let (address, count) = server(Ipv4Addr::LOCALHOST.into()).await;
    let (everywhere, also) = server(Ipv4Addr::UNSPECIFIED.into()).await;
    for version in VERSIONS {
        // Neither a grant nor the operator's leave changes what 127.0.0.1 is.
        let unit = sockets(version, &["tcp://*:*", "udp://*:*"], |_| ()).await;
        for port in [address.port(), everywhere.port()] {
            for host in ["127.0.0.1", "localhost"] {
                let (status, text) = ask(&unit, &format!("/ask/{host}/{port}")).await;
                assert!(status == 502 && text.contains("ConnectionRefused"), "{version} {host}: {text}");
                let (status, text) = ask(&unit, &format!("/send/{host}/{port}")).await;
                assert!(status == 502 && text.contains("ConnectionRefused"), "{version} {host}: {text}");
            }
            for host in ["127.0.0.2", "10.0.0.1", "169.254.169.254"] {
                let (status, text) = ask(&unit, &format!("/ask/{host}/{port}")).await;
                assert!(status == 502 && is_denied(&text), "{version} {host}: {text}");
            }
        }
        // The port of a listener is not the node's port of the same number.
        let (status, text) = ask(&unit, &format!("/self/{}", address.port())).await;
        assert!(status == 200 && text.contains("ping and pong"), "{version}: {text}");
    }
    assert_eq!((count.load(SeqCst), also.load(SeqCst)), (0, 0));
}

fn is_denied(text: &str) -> bool {
    text.contains("PermissionDenied") || text.contains("AccessDenied")
}

#[tokio::test]
async fn names_and_ports_are_granted_and_remembered() {
    let (address, count) = server(ALLOWED).await;
    let port = address.port();
    for version in VERSIONS {
        let name = format!("{version}-db.test");
        NAMES.set(&name, &[&[ALLOWED]]);
        let unit = sockets(version, &[&format!("tcp://{name}:{port}")], |_| ()).await;
        let before = count.load(SeqCst);
        // By the address alone nothing is granted, before the name led there.
        let (status, text) = ask(&unit, &format!("/ask/{ALLOWED}/{port}")).await;
        assert!(status == 502 && is_denied(&text), "{version}: {text}");
        assert_eq!(ask(&unit, &format!("/ask/{name}/{port}")).await, (200, "pong\n".into()), "{version}");
        assert_eq!(ask(&unit, &format!("/ask/{ALLOWED}/{port}")).await, (200, "pong\n".into()), "{version}");
        assert_eq!(count.load(SeqCst) - before, 2, "{version}");
        // Neither another port, nor datagrams, nor other names.
        for path in [format!("/ask/{name}/{}", port ^ 1), format!("/send/{name}/{port}")] {
            let (status, text) = ask(&unit, &path).await;
            assert!(status == 502 && is_denied(&text), "{version} {path}: {text}");
        }
        let asked = NAMES.asked("other.test");
        let (status, text) = ask(&unit, "/lookup/other.test").await;
        assert_eq!((status, NAMES.asked("other.test")), (502, asked), "{version}: {text}");
        assert!(unit.stats().network.denied >= 4, "{version}");
        assert_eq!(count.load(SeqCst) - before, 2, "{version}");

        let unit = sockets(version, &[&format!("udp://{name}:{port}")], |_| ()).await;
        assert_eq!(ask(&unit, &format!("/send/{name}/{port}")).await, (200, "pong\n".into()), "{version}");
        let (status, text) = ask(&unit, &format!("/ask/{name}/{port}")).await;
        assert!(status == 502 && is_denied(&text), "{version}: {text}");
    }
}

/// A name that leads somewhere else the second time.
#[tokio::test]
async fn a_rebound_name_opens_nothing() {
    let (secret, count) = server(ELSEWHERE).await;
    let port = secret.port();
    for version in VERSIONS {
        let name = format!("{version}-rebound.test");
        NAMES.set(&name, &[&[ALLOWED], &[ELSEWHERE]]);
        let unit = sockets(version, &[&format!("tcp://{name}:*")], |_| ()).await;
        assert_eq!(ask(&unit, &format!("/lookup/{name}")).await.0, 200, "{version}");
        for path in [format!("/ask/{name}/{port}"), format!("/lookup/{name}"), format!("/ask/{ELSEWHERE}/{port}")] {
            let (status, text) = ask(&unit, &path).await;
            assert!(status == 502, "{version} {path}: {text}");
        }
    }
    assert_eq!(count.load(SeqCst), 0);
}

#[tokio::test]
async fn sockets_of_an_instance_are_bounded_and_given_back() {
    for version in VERSIONS {
        let unit = sockets(version, &[], |_| ()).await;
        for _ in 0..3 {
            assert_eq!(ask(&unit, "/many/500").await, (200, "128\n".into()), "{version}");
        }
    }
}

/// In 0.3 what a socket sends, receives and lets in goes on without its handle, and so does the system's socket.
#[tokio::test]
async fn a_socket_counts_for_as_long_as_one_of_its_streams() {
    let (address, _) = server(ALLOWED).await;
    let place = format!("{ALLOWED}/{}", address.port());
    let unit = sockets("sockets03", &[&format!("tcp://{address}")], |_| ()).await;
    for _ in 0..3 {
        assert_eq!(ask(&unit, "/listen-on/500").await, (200, "128\n".into()));
        for stream in ["receive-on", "send-on"] {
            assert_eq!(ask(&unit, &format!("/{stream}/500/{place}")).await, (200, "128\n".into()), "{stream}");
        }
    }
    let stats = unit.stats();
    assert_eq!((stats.instances_created, stats.failures), (1, 0), "one instance got all of them back: {stats:?}");
}

/// A connection that was let in and that nobody took is gone with its listener, and so is its place.
#[tokio::test]
async fn connections_that_nobody_takes_give_their_places_back() {
    let unit = sockets("sockets03", &[], |_| ()).await;
    assert_eq!(ask(&unit, "/ready-on/400").await, (200, "400\n".into()));
    assert_eq!(ask(&unit, "/many/500").await, (200, "128\n".into()));
    // One that waits at a listener that is there has its place.
    let (status, text) = ask(&unit, "/self/8080").await;
    assert!(status == 200 && text.contains("ping and pong"), "{text}");
    assert_eq!((unit.stats().instances_created, unit.stats().failures), (1, 0), "one instance got all of them back");
}

/// A port is open for as long as its instance lives, and no longer.
#[tokio::test]
async fn ports_end_with_their_instance() {
    let kept = sockets("sockets", &[], |_| ()).await;
    assert_eq!(ask(&kept, "/open/9000").await, (200, "127.0.0.1:9000\n".into()));
    let (status, text) = ask(&kept, "/open/9000").await;
    assert!(status == 502 && text.contains("AddrInUse"), "{text}");
    let dropped = sockets("sockets", &[], |config| config.reuse.enabled = false).await;
    for _ in 0..3 {
        assert_eq!(ask(&dropped, "/open/9000").await, (200, "127.0.0.1:9000\n".into()));
        until("the instance is gone", || dropped.stats().instances_live == 0).await;
    }
}

/// A service and the unit share one loopback, whatever each is granted: over a socket, and over HTTP.
#[tokio::test]
async fn a_service_is_reached_over_the_loopback_of_its_replica() {
    let load = |name: &'static str| async move {
        let bytes = guest(name);
        OUTSIDE.load(Digest::of(&bytes), bytes).await.unwrap()
    };
    for (main, path) in
        [("sockets", "/ask/localhost/7000"), ("sockets03", "/ask/127.0.0.1/7000"), ("fetcher", "/"), ("fetcher03", "/")]
    {
        let mut service = lattice_runtime::Part::new(parts::name("pong"), load("pong").await, parts::service());
        service.grants = Some(grants(&["udp://*:53"]));
        let assembly = OUTSIDE.assemble(load(main).await, vec![service], vec![]).unwrap();
        let unit = Unit::start(&OUTSIDE, assembly, config()).await.unwrap();
        let mut request = get(path);
        request.headers_mut().insert("x-target", "http://localhost:7000/".parse().unwrap());
        let (parts, ()) = request.map(drop).into_parts();
        let answer = async {
            loop {
                let request = Request::from_parts(parts.clone(), lattice::http::empty());
                let (status, text) = text(&unit, request).await.unwrap();
                if status == 200 {
                    return text;
                }
                assert!(text.contains("ConnectionRefused"), "{main}: {text}");
                tokio::time::sleep(Duration::from_millis(10)).await; // the service has not begun to listen
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap();
        assert_eq!(answer, "pong\n", "{main}");
        // Others do not reach it.
        let stranger = sockets("sockets", &["tcp://*:*"], |_| ()).await;
        let (status, text) = ask(&stranger, "/ask/127.0.0.1/7000").await;
        assert!(status == 502 && text.contains("ConnectionRefused"), "{text}");
    }
}
