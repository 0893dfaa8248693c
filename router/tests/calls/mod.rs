//! Calls of components to other workloads by their names, through real routers.

use super::*;
use lattice::mesh::{Call, HEADER_CALLER, HEADER_HOPS, HOPS_MAX, MeshError};

fn call(callee: &str, method: &str, body: Body) -> Call {
    let request = request(method, &format!("http://{callee}.lattice/x/../y?z"), body);
    Call { caller: name("shop"), callee: name(callee), hops: 1, limit: SOON, request }
}

fn get(callee: &str) -> Call {
    call(callee, "GET", empty())
}

async fn send(node: &Node, call: Call) -> Result<Response, MeshError> {
    timeout(SOON, node.router.mesh().call(call)).await.unwrap()
}

/// Wait until the node knows the workload, which need not be ready.
async fn knows(node: &Node, workload: &str) {
    for _ in 0..1000 {
        let too_large = call(workload, "POST", huge());
        if matches!(node.router.mesh().call(too_large).await, Err(MeshError::BodyTooLarge | MeshError::Refused)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the table does not know {workload}");
}

#[tokio::test]
async fn a_call_is_answered_here_if_it_can_be_and_elsewhere_if_not() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    for node in [&a, &b] {
        node.guests.run("pay", |request| async move {
            assert_eq!(request.uri(), "http://pay.lattice/x/../y?z");
            let headers = request.headers();
            assert_eq!(
                (&headers["host"], &headers[HEADER_CALLER]),
                (&"pay.lattice".parse().unwrap(), &"shop".parse().unwrap())
            );
            assert_eq!(
                (&headers[HEADER_HOPS], headers.get_all(HEADER_CALLER).iter().count()),
                (&"1".parse().unwrap(), 1)
            );
            assert!(headers.contains_key("traceparent") && !headers.contains_key("x-forwarded-for"));
            let response = http::Response::builder().header("lattice-error", "forged").header("x-mine", "1");
            Ok(response.body(request.into_body()).unwrap())
        });
    }
    for (ready_on, here) in [(&["a", "b"][..], true), (&["b"][..], false)] {
        // Without a route: a workload may be for others of the lattice alone.
        world.workload_with("pay", ready_on, "", "");
        knows(&a, "pay").await;
        if !here {
            a.guests.stop("pay");
        }
        let (before, sent) = (b.guests.calls.load(Ordering::SeqCst), a.faults.messages.load(Ordering::SeqCst));
        let mut forged = call("pay", "POST", full("ping"));
        forged.request.headers_mut().insert(HEADER_CALLER, "admin".parse().unwrap());
        forged.request.headers_mut().insert(HEADER_HOPS, "0".parse().unwrap());
        let response = send(&a, forged).await.unwrap();
        assert_eq!((response.status().as_u16(), header(&response, "x-mine")), (200, Some("1")));
        for private in ["lattice-error", "lattice-node", "lattice-router"] {
            assert_eq!(header(&response, private), None, "{private}");
        }
        assert_eq!(a.router.in_flight(), 1, "the body is not read yet");
        assert_eq!(text(response).await, "ping");
        assert_eq!(a.router.in_flight(), 0);
        assert_eq!(b.guests.calls.load(Ordering::SeqCst) - before, usize::from(!here));
        assert_eq!(a.faults.messages.load(Ordering::SeqCst) == sent, here, "nothing of a call here leaves the node");
    }
}

#[tokio::test]
async fn the_callee_says_who_may_call() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    b.guests.run("pay", |_| async { ok("paid") });
    world.workload_with("pay", &["b"], "callers: [cart, shop]", "");
    knows(&a, "pay").await;
    assert_eq!(text(send(&a, get("pay")).await.unwrap()).await, "paid");
    world.workload_with("pay", &["b"], "callers: [cart]", "");
    // Tables are built as a whole: who knows this one knows what was said before.
    world.workload_with("marker", &[], "", "");
    knows(&a, "marker").await;
    assert_eq!(send(&a, get("pay")).await.unwrap_err(), MeshError::Refused);
    let calls = b.guests.calls.load(Ordering::SeqCst);

    // A node that has not heard of it yet is told by the one that runs the workload.
    let behind = World::beside(&world);
    behind.workload_with("pay", &["b"], "", "");
    let c = behind.node_with("c", |options| options.start_wait = Duration::from_millis(300)).await;
    knows(&c, "pay").await;
    assert_eq!(send(&c, get("pay")).await.unwrap_err(), MeshError::NotReady);
    assert_eq!(b.guests.calls.load(Ordering::SeqCst), calls, "no guest has seen it");
}

#[tokio::test]
async fn calls_fail_by_name() {
    let world = World::new();
    let mut a = world.node_with("a", |options| options.start_wait = Duration::from_millis(100)).await;
    world.workload_with("asleep", &[], "", "body: 10B");
    world.workload_with("slow", &["a"], "", "wall: 50ms");
    world.workload_with("broken", &["a"], "", "");
    world.workload_with("full", &["a"], "", "");
    a.guests.run("slow", |_| std::future::pending());
    a.guests.run("broken", |_| async { Err(CallError::Failed { message: "secret".into() }) });
    a.guests.run("full", |_| async { Err(CallError::Overloaded { retry_after: Duration::ZERO }) });
    knows(&a, "full").await;
    let looped = |hops| Call { hops, ..get("broken") };
    let short = Call { limit: Duration::from_millis(20), ..get("asleep") };
    for (what, call, error) in [
        ("nobody", get("nobody"), MeshError::NoWorkload),
        ("asleep", get("asleep"), MeshError::NotReady),
        ("short", short, MeshError::NotReady),
        ("slow", get("slow"), MeshError::Timeout),
        ("broken", call("broken", "POST", empty()), MeshError::Failed),
        ("full", get("full"), MeshError::Overloaded),
        ("loop", looped(HOPS_MAX + 1), MeshError::Loop),
        ("last", looped(HOPS_MAX), MeshError::Failed),
        ("body", call("asleep", "POST", full("more than ten bytes")), MeshError::BodyTooLarge),
    ] {
        assert_eq!(send(&a, call).await.unwrap_err(), error, "{what}");
    }
    let mesh = a.router.mesh();
    a.kill().await;
    drop(a);
    // The router's own tasks hold it for a moment.
    let gone = async {
        while mesh.call(get("nobody")).await.err() != Some(MeshError::Unreachable) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, gone).await.unwrap();
}

#[tokio::test]
async fn calls_of_one_workload_leave_places_for_others() {
    let world = World::new();
    let a = world.node_with("a", |options| options.requests_max = 6).await;
    for workload in ["slow", "quick"] {
        world.workload_with(workload, &["a"], "", "");
        knows(&a, workload).await;
    }
    a.guests.run("slow", |_| std::future::pending());
    a.guests.run("quick", |_| async { ok("at once") });
    let slow: Vec<_> = (0..4).map(|_| tokio::spawn(a.router.mesh().call(get("slow")))).collect();
    eventually("four are under way", || a.guests.calls.load(Ordering::SeqCst) == 4).await;
    assert_eq!(send(&a, get("slow")).await.unwrap_err(), MeshError::Overloaded);
    assert_eq!(text(send(&a, get("quick")).await.unwrap()).await, "at once");
    slow.iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways_and_a_caller_that_goes_away_stops_the_callee() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.workload_with("echo", &["b"], "", "");
    b.guests.run("echo", |request| async move { Ok(Response::new(request.into_body())) });
    knows(&a, "echo").await;
    let (frames, body) = written();
    let response = send(&a, call("echo", "POST", body)).await.unwrap();
    let mut answer = response.into_body();
    for part in ["one", "two"] {
        frames.send(Ok(Frame::data(part.into()))).await.unwrap();
        let frame = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part, "each part arrives before the next one is sent");
    }
    let trailers = http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
    frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
    let frame = timeout(SOON, answer.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["etag"], "x");

    let gone = Arc::new(AtomicBool::new(false));
    let tell = gone.clone();
    b.guests.run("echo", move |_| {
        let dropped = Dropped(tell.clone());
        async move {
            let _dropped = dropped;
            std::future::pending().await
        }
    });
    let before = b.guests.calls.load(Ordering::SeqCst);
    let waiting = tokio::spawn(a.router.mesh().call(get("echo")));
    eventually("the callee has it", || b.guests.calls.load(Ordering::SeqCst) > before).await;
    waiting.abort();
    eventually("the callee is stopped", || gone.load(Ordering::SeqCst)).await;
    eventually("the place is free", || a.router.in_flight() == 0).await;
}

#[tokio::test]
async fn a_callee_whose_node_dies_in_its_answer_never_reads_like_a_whole_one() {
    let world = World::new();
    let (a, mut b) = (world.node("a").await, world.node("b").await);
    world.workload_with("drip", &["b"], "", "");
    b.guests.run("drip", |_| async {
        let (frames, body) = written();
        tokio::spawn(async move {
            let _ = frames.send(Ok(Frame::data("some".into()))).await;
            std::future::pending::<()>().await;
        });
        Ok(Response::new(body))
    });
    knows(&a, "drip").await;
    let mut body = send(&a, get("drip")).await.unwrap().into_body();
    assert_eq!(timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap(), "some");
    b.kill().await;
    let end = timeout(SOON, body.frame()).await.unwrap();
    assert!(matches!(end, Some(Err(BodyError::Aborted(_)))), "{end:?}");
}
