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
