//! How many connections there are at a time, and what goes on where none can be taken.

use super::*;
use std::os::fd::AsFd as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: here.test\r\n\r\n";

#[tokio::test]
async fn connections_beyond_the_limit_wait_in_the_backlog() {
    let (_world, a, _b) = counting(|options| options.connections_max = 2).await;
    let ports = [Port::open(&a, Duration::ZERO).await, Port::open(&a, Duration::ZERO).await];
    let mut taken = Vec::new();
    for port in &ports {
        let mut stream = port.connect().await;
        stream.write_all(GET).await.unwrap();
        assert_eq!(status(&response(&mut stream).await), 200);
        taken.push(stream);
    }
    // All listeners share the limit. The kernel takes a third one, and what it sends; nobody answers.
    let mut third = ports[0].connect().await;
    third.write_all(GET).await.unwrap();
    assert!(timeout(Duration::from_millis(300), third.read_u8()).await.is_err(), "it was answered");
    assert!(a.metrics().contains("lattice_router_connections 2\n"), "{}", a.metrics());
    // On one that there is any number of requests is answered.
    for _ in 0..200 {
        taken[0].write_all(GET).await.unwrap();
        assert_eq!(status(&response(&mut taken[0]).await), 200);
    }
    drop(taken.pop());
    assert_eq!(status(&timeout(SOON, response(&mut third)).await.expect("there is a place")), 200);
}

#[tokio::test]
async fn who_can_take_no_connection_tries_again_and_not_in_a_hot_loop() {
    let (world, a, _b) = counting(|_| ()).await;
    // Taking one fails at once, as where the process has no file left: this socket does not listen.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = std::net::TcpListener::from(socket.as_fd().try_clone_to_owned().unwrap());
    let (router, stop) = (a.router.clone(), CancellationToken::new());
    let (listener, token) = (TcpListener::from_std(listener).unwrap(), stop.clone());
    let before = world.looks_at_clock();
    let serving = tokio::spawn(async move { router.serve(listener, token, Duration::ZERO).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let looks = world.looks_at_clock() - before;
    // One for each that failed, and those of all that else goes on in two nodes.
    assert!((3..=50).contains(&looks), "{looks} looks at the clock");
    assert!(!serving.is_finished(), "it gave up");
    stop.cancel();
    timeout(SOON, serving).await.unwrap().unwrap();
}

/// Says to the test's own program that it runs with few files.
const FEW_FILES: &str = "LATTICE_TEST_FEW_FILES";

/// In a process of its own, as the limit is one of a process.
#[test]
fn who_has_no_file_left_goes_on_accepting_once_there_is_one() {
    if std::env::var_os(FEW_FILES).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        return runtime.block_on(accepts_once_there_is_a_file());
    }
    // The path of this module without the name of the program.
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::who_has_no_file_left_goes_on_accepting_once_there_is_one");
    let child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(FEW_FILES, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&child.stderr));
}

async fn accepts_once_there_is_a_file() {
    let (_world, a, _b) = counting(|_| ()).await;
    let port = Port::open(&a, Duration::ZERO).await;
    let mut before = port.connect().await;
    before.write_all(GET).await.unwrap();
    assert_eq!(status(&response(&mut before).await), 200);

    let mut files: Vec<std::fs::File> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!((1..64).contains(&files.len()), "{} files: the limit is not in force", files.len());
    // The client's own; the one that the router needs is not there.
    files.pop();
    let mut waits = port.connect().await;
    waits.write_all(GET).await.unwrap();
    assert!(timeout(Duration::from_millis(300), waits.read_u8()).await.is_err(), "it was taken without a file");
    before.write_all(GET).await.unwrap();
    assert_eq!(status(&response(&mut before).await), 200, "who is connected is answered");

    files.clear();
    assert_eq!(status(&timeout(SOON, response(&mut waits)).await.expect("it is taken")), 200);
    let mut after = port.connect().await;
    after.write_all(GET).await.unwrap();
    assert_eq!(status(&timeout(SOON, response(&mut after)).await.expect("and others are")), 200);
}
