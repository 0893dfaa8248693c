//! Clients that take or give too little.

use super::*;
use lattice::http::{Body, Request};

fn quick(options: &mut lattice_router::RouterOptions) {
    options.stall_timeout = Duration::from_millis(500);
    options.body_grace = Duration::from_millis(300);
    options.body_rate_min = 1000;
}

fn post(host: &str, body: Body) -> Request {
    request("POST", &format!("http://{host}.test/"), body)
}

#[tokio::test]
async fn a_stream_whose_client_does_not_read_ends_alone() {
    let (world, a, b) = counting(quick).await;
    for (workload, node, id) in [("flood-here", &a, "a"), ("flood-there", &b, "b")] {
        node.guests.run(workload, |_| std::future::ready(ok(pattern(32 << 20))));
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    let port = Port::open(&a, Duration::ZERO).await;
    for (host, flood) in [("here", "flood-here"), ("there", "flood-there")] {
        let io = hyper_util::rt::TokioIo::new(port.connect().await);
        let mut builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW as u32).initial_connection_window_size(16 << 20);
        let (mut client, connection) = builder.handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let get = request("GET", &format!("http://{flood}.test/"), empty());
        let unread = timeout(SOON, client.send_request(get)).await.unwrap().unwrap();
        // The others go on meanwhile and after.
        let mut sent = 0;
        while a.router.in_flight() > 0 || sent < 10 {
            let response = timeout(SOON, client.send_request(post(host, full(pattern(100_000))))).await.unwrap();
            let length = timeout(SOON, response.unwrap().into_body().collect()).await.unwrap().unwrap();
            assert_eq!(length.to_bytes(), "100000");
            sent += 1;
        }
        let read = timeout(SOON, unread.into_body().collect()).await.unwrap();
        assert!(read.is_err(), "a response that was given up looks whole");
        assert!(!connection.is_finished(), "the connection ended too");
        let response = timeout(SOON, client.send_request(post(host, full("abc")))).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
    }
    assert!(a.metrics().contains("lattice_router_slow_readers_total 2\n"), "{}", a.metrics());
}

#[tokio::test]
async fn a_component_that_does_not_read_holds_up_no_other_stream() {
    let (world, a, b) = counting(|_| ()).await;
    for (workload, node, id) in [("stuck-here", &a, "a"), ("stuck-there", &b, "b")] {
        node.guests.run(workload, |request| async move {
            let _body = request.into_body();
            std::future::pending().await
        });
        world.ready(workload, &[id]);
        table_knows(&a, workload).await;
    }
    let port = Port::open(&a, Duration::ZERO).await;
    let (client, _connection) = http2(&port, WINDOW as u32).await;
    for stuck in ["stuck-here", "stuck-there"] {
        for _ in 0..2 {
            let mut client = client.clone();
            tokio::spawn(async move { client.send_request(post(stuck, full(pattern(4 << 20)))).await.map(drop) });
        }
    }
    eventually("requests that are stuck", || a.router.in_flight() == 4).await;
    for host in ["here", "there"] {
        let response = timeout(SOON, client.clone().send_request(post(host, full(pattern(4 << 20))))).await;
        let length = response.expect("it was held up").unwrap().into_body().collect().await.unwrap();
        assert_eq!(length.to_bytes(), (4 << 20).to_string());
    }
}

#[tokio::test]
async fn a_socket_that_is_not_read_fills_no_memory() {
    const STREAMS: u32 = 20;
    let world = World::new();
    let a = world.node("a").await;
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = taken.clone();
    a.guests.run("endless", move |_| {
        let count = count.clone();
        let frames = futures_util::stream::repeat_with(move || {
            count.fetch_add(64 * 1024, Ordering::SeqCst);
            Ok(Frame::data(Bytes::from_static(&[0; 64 * 1024])))
        });
        std::future::ready(Ok(http::Response::new(http_body_util::StreamBody::new(frames).boxed_unsync())))
    });
    world.ready("endless", &["a"]);
    table_knows(&a, "endless").await;
    let port = Port::open(&a, Duration::ZERO).await;
    let mut stream = h2::open_wide(&port).await;
    for number in 0..STREAMS {
        stream.write_all(&h2::get(2 * number + 1, "endless.test")).await.unwrap();
    }
    eventually("all streams", || a.router.in_flight() == STREAMS as usize).await;
    // It stops, whatever the client gave leave for.
    let mut before = 0;
    let stopped = async {
        while std::mem::replace(&mut before, taken.load(Ordering::SeqCst)) != taken.load(Ordering::SeqCst)
            || before == 0
        {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    timeout(SOON, stopped).await.expect("it goes on");
    // What the socket's buffers took, and then two or three pieces a stream.
    assert!(before < (16 << 20), "{before} bytes were taken");
    assert_eq!(a.router.in_flight(), STREAMS as usize);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let (_world, a, b) = counting(quick).await;
    let port = Port::open(&a, Duration::ZERO).await;
    for host in ["here", "there"] {
        for (length, sent) in [("content-length: 100000", "x"), ("transfer-encoding: chunked", "1\r\nx\r\n")] {
            let mut stream = port.connect().await;
            let head = format!("POST / HTTP/1.1\r\nhost: {host}.test\r\n{length}\r\n\r\n{sent}");
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = rest(&mut stream).await;
            assert_eq!(status(&answer), 408, "{host} {length}: {answer}");
            assert!(answer.contains("lattice-error: body-too-slow\r\n"), "{answer}");
        }
        // Only its stream, where there are several.
        let (mut client, _connection) = http2(&port, WINDOW as u32).await;
        let (frames, body) = written();
        frames.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
        let slow = client.send_request(post(host, body));
        let response = timeout(SOON, slow).await.unwrap().unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["lattice-error"]),
            (408, &"body-too-slow".parse().unwrap())
        );
        let response = timeout(SOON, client.send_request(post(host, full("abc")))).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        // As slow as is allowed: 1000 bytes in half a second.
        let (frames, body) = written();
        tokio::spawn(async move {
            for _ in 0..4 {
                let _ = frames.send(Ok(Frame::data(Bytes::from(vec![0; 500])))).await;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        let response = timeout(SOON, client.send_request(post(host, body))).await.unwrap().unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "2000", "{host}");
    }
    assert!(a.metrics().contains("lattice_router_slow_writers_total 6\n"), "{}", a.metrics());
    eventually("no request", || a.router.in_flight() == 0).await;
    eventually("the end of the exchanges", || b.metrics().contains(crate::NO_EXCHANGES)).await;
}

#[tokio::test]
async fn who_was_answered_may_be_slow() {
    let world = World::new();
    let a = world.node_with("a", quick).await;
    a.guests.run("echo", |request| async move { Ok(lattice::http::Response::new(request.into_body())) });
    world.ready("echo", &["a"]);
    table_knows(&a, "echo").await;
    let port = Port::open(&a, Duration::ZERO).await;
    let (mut client, _connection) = http2(&port, WINDOW as u32).await;
    let (frames, body) = written();
    let mut answer = timeout(SOON, client.send_request(post("echo", body))).await.unwrap().unwrap().into_body();
    for _ in 0..2 {
        frames.send(Ok(Frame::data(Bytes::from_static(b"ping")))).await.unwrap();
        assert_eq!(timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap(), "ping");
        tokio::time::sleep(Duration::from_millis(800)).await; // longer than a body may be waited for
    }
    drop(frames);
    assert_eq!(timeout(SOON, answer.collect()).await.unwrap().unwrap().to_bytes(), "");
}
