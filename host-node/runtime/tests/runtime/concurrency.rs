//! Several requests at a time in one instance: what they share, and what they must not.

use super::*;
use futures_util::future::join_all;
use http_body::Frame;
use lattice::http::BodyError;
use lattice_runtime::Retirement;
use std::time::Instant;

const SEATS: u32 = 16;

async fn start_shared(name: &str, change: impl FnOnce(&mut UnitConfig)) -> Unit {
    start(name, |config| {
        config.reuse.concurrency = SEATS;
        change(config);
    })
    .await
}

/// With one instance at most, so that whoever comes while it computes waits for it instead of having another one.
async fn start_one(name: &str, change: impl FnOnce(&mut UnitConfig)) -> Unit {
    start_shared(name, |config| {
        config.reuse.max_instances = 1;
        change(config);
    })
    .await
}

/// Since a POST is never what shows that an instance can be used again. The guest may have work left when its answer is
/// there, and keeps its turn meanwhile: who counts turns afterwards is to count its own.
async fn proved(unit: &Unit, path: &str) {
    for _ in 0..2 {
        assert_eq!(text(unit, get(path)).await.unwrap().0, 200);
    }
    until("the guest is done", || unit.stats().in_flight == 0).await;
}

fn post(path: &str) -> Request {
    request("POST", path, lattice::http::empty())
}

#[tokio::test]
async fn requests_that_wait_do_so_together() {
    let unit = start_shared("faults03", |_| ()).await;
    let began = Instant::now();
    let answers = join_all((0..SEATS).map(|_| text(&unit, get("/sleep/300")))).await;
    assert!(answers.iter().all(|answer| *answer == Ok((200, "ok\n".into()))), "{answers:?}");
    assert!(began.elapsed() < Duration::from_millis(300 * u64::from(SEATS) / 2), "{:?}", began.elapsed());
    until("all seats are free", || unit.stats().in_flight == 0).await;
    let stats = unit.stats();
    // One is enough; one that is just computing is passed over.
    assert!(stats.instances_created <= 3 && stats.failures == 0, "{stats:?}");
    assert!(stats.reuse_hits >= u64::from(SEATS) - 3, "{stats:?}");
}

#[tokio::test]
async fn an_instance_has_so_many_seats() {
    let unit = start_shared("faults03", |config| config.reuse.concurrency = 4).await;
    let answers = join_all((0..10).map(|_| text(&unit, get("/sleep/200")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // Three are enough, and one that is just computing is passed over.
    let created = unit.stats().instances_created;
    assert!((3..=5).contains(&created), "{created}");

    // One that is full keeps others waiting, and nobody is refused.
    let unit = start_shared("faults03", |config| {
        config.reuse.concurrency = 4;
        config.reuse.max_instances = 1;
    })
    .await;
    let answers = join_all((0..10).map(|_| text(&unit, get("/sleep/50")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(unit.stats().instances_created, 1);
}

#[tokio::test]
async fn what_is_not_03_runs_one_at_a_time() {
    let unit = start_shared("faults", |config| config.reuse.max_instances = 2).await;
    let began = Instant::now();
    join_all((0..4).map(|_| text(&unit, get("/sleep/100")))).await.into_iter().for_each(|answer| {
        answer.unwrap();
    });
    assert!(began.elapsed() >= Duration::from_millis(200));
}

/// Bodies of their own, in pieces, many at a time: nobody gets another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_do_not_cross() {
    let unit = Arc::new(start_shared("echo", |_| ()).await);
    let workers = (0..24).map(|worker| {
        let unit = unit.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                let body = format!("{worker} {round} ").repeat(1 + (worker * 997 + round * 131) % 20_000);
                let chunks = body.clone().into_bytes().chunks(40_000).map(Bytes::copy_from_slice).collect::<Vec<_>>();
                let frames = futures_util::stream::unfold(chunks.into_iter(), |mut chunks| async move {
                    tokio::task::yield_now().await;
                    chunks.next().map(|chunk| (Ok(Frame::data(chunk)), chunks))
                });
                let made = Body::new(http_body_util::StreamBody::new(frames));
                let method = if round % 2 == 0 { "GET" } else { "POST" };
                let (_, answer) = text(&unit, request(method, "/", made)).await.unwrap();
                assert!(answer == body, "worker {worker} got another's answer");
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.collateral), (0, 0), "{stats:?}");
    until("all seats are free", || unit.stats().in_flight == 0).await;
}

/// Sooner or later an answer has a size: where a busy machine takes the processor from the guest between the head and the
/// body, it rightly has none.
async fn answers_with_a_size(unit: &Unit) {
    use http_body::Body as _;
    for _ in 0..100 {
        let response = unit.call(get("/")).await.unwrap();
        let size = response.body().size_hint().exact();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok\n");
        if let Some(size) = size {
            return assert_eq!(size, 3);
        }
    }
    panic!("none of 100 short answers has a size");
}

#[tokio::test]
async fn short_answers_have_a_size_and_heads_no_body() {
    let unit = start_shared("faults03", |_| ()).await;
    answers_with_a_size(&unit).await;
    let beside = tokio::spawn(unit.call(get("/sleep/4000")));
    until("it is inside", || unit.stats().in_flight == 1).await;
    answers_with_a_size(&unit).await;
    assert!(!beside.is_finished(), "beside another one too");
    beside.await.unwrap().unwrap();

    let unit = start_shared("echo", |_| ()).await;
    let response = unit.call(request("HEAD", "/bytes/1000000", lattice::http::empty())).await.unwrap();
    assert_eq!(response.headers()["content-length"], "1000000");
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    until("the guest is done", || unit.stats().in_flight == 0).await;
    assert_eq!((unit.stats().instances_live, unit.stats().failures), (1, 0));
}

#[tokio::test]
async fn a_trap_ends_one_instance_and_what_can_be_is_repeated() {
    let unit = start_one("faults03", |_| ()).await;
    proved(&unit, "/").await;
    let elsewhere = start_shared("faults03", |_| ()).await;
    let neighbours = join_all((0..3).map(|_| text(&unit, get("/sleep/1500"))));
    let unrepeatable = text(&unit, post("/sleep/1500"));
    let trap = async {
        until("they are inside", || unit.stats().in_flight == 4).await;
        text(&unit, post("/trap")).await
    };
    let other = text(&elsewhere, get("/sleep/1500"));
    let (neighbours, unrepeatable, trap, other) = tokio::join!(neighbours, unrepeatable, trap, other);
    assert!(neighbours.iter().all(|answer| *answer == Ok((200, "ok\n".into()))), "{neighbours:?}");
    let error = unrepeatable.unwrap_err();
    assert!(matches!(error, CallError::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains("with the other requests of its instance"), "{error}");
    assert!(matches!(trap.unwrap_err(), CallError::Failed { .. }));
    assert_eq!(other.unwrap().0, 200);
    let stats = unit.stats();
    assert_eq!((stats.collateral, stats.retries, stats.failures), (4, 3, 5), "{stats:?}");
    assert_eq!(stats.instances_retired.get(&Retirement::Trap), Some(&1), "{stats:?}");
    assert_eq!((stats.strikes, stats.reuse_disabled), (0, None));
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
}

/// Alone in its instance it is known who it was, so nobody is repeated.
#[tokio::test]
async fn a_trap_of_the_only_one_is_its_own() {
    for path in ["/trap", "/panic", "/exit", "/memory"] {
        let unit = start_shared("faults03", |config| config.limits.memory_bytes = 16 << 20).await;
        proved(&unit, "/").await;
        let error = text(&unit, get(path)).await.unwrap_err();
        assert!(!error.to_string().contains("other requests"), "{path}: {error}");
        let stats = unit.stats();
        assert_eq!((stats.collateral, stats.retries, stats.failures), (0, 0, 1), "{path}: {stats:?}");
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_wedged_guest_frees_its_seat_and_harms_nobody() {
    for path in ["/no-response", "/stall"] {
        let wall = Duration::from_millis(600);
        let unit = start_one("faults03", |config| config.limits.wall = wall).await;
        proved(&unit, "/").await;
        let began = Instant::now();
        let wedged = text(&unit, get(path));
        let later = async {
            tokio::time::sleep(wall / 2).await; // so that it outlasts the wedged one, and is not late itself
            text(&unit, get("/sleep/500")).await
        };
        let (wedged, later) = tokio::join!(wedged, later);
        let expected = match path {
            "/stall" => CallError::Body(BodyError::Timeout),
            _ => CallError::Timeout { limit: wall },
        };
        assert_eq!(wedged.unwrap_err(), expected);
        assert_eq!(later, Ok((200, "ok\n".into())), "{path}");
        assert!(began.elapsed() < 4 * wall, "{path}: {:?}", began.elapsed());
        until("the wedged instance is gone", || unit.stats().in_flight == 0).await;
        let stats = unit.stats();
        assert_eq!((stats.failures, stats.collateral), (1, 0), "{path}: {stats:?}");
        assert_eq!(stats.instances_retired.get(&Retirement::Timeout), Some(&1), "{path}: {stats:?}");
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{path}");
    }
}

/// The instance that is on its way out does not count: with one instance at most there is another one meanwhile.
#[tokio::test]
async fn requests_do_not_wait_for_an_instance_that_is_on_its_way_out() {
    let wall = Duration::from_secs(5);
    let unit = start_one("faults03", |config| config.limits.wall = wall).await;
    proved(&unit, "/").await;
    // What it answered is whole before it is refused: the instance goes, its neighbour stays in it.
    let neighbour = tokio::spawn(unit.call(get("/sleep/1500")));
    until("it is inside", || unit.stats().in_flight == 1).await;
    text(&unit, get("/refuse")).await.unwrap_err();
    let began = Instant::now();
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(unit.stats().instances_live, 2);
    assert_eq!(neighbour.await.unwrap().unwrap().status(), 200);
    until("the old one is gone", || unit.stats().instances_live == 1).await;
    assert_eq!(unit.stats().collateral, 0);
}

#[tokio::test]
async fn processor_time_is_charged_to_the_one_that_computes() {
    let unit = start_one("faults03", |config| config.limits.cpu = Duration::from_millis(200)).await;
    proved(&unit, "/").await;
    let neighbours = join_all((0..3).map(|_| text(&unit, get("/sleep/1000"))));
    let computing = async {
        until("they are inside", || unit.stats().in_flight == 3).await;
        text(&unit, get("/loop")).await
    };
    let (neighbours, computing) = tokio::join!(neighbours, computing);
    assert_eq!(computing.unwrap_err(), CallError::Timeout { limit: Duration::from_millis(200) });
    assert!(neighbours.iter().all(|answer| *answer == Ok((200, "ok\n".into()))), "{neighbours:?}");
    let stats = unit.stats();
    assert_eq!((stats.collateral, stats.retries), (3, 3), "{stats:?}");
    assert_eq!(stats.instances_retired.get(&Retirement::Timeout), Some(&1), "{stats:?}");

    // Waiting costs none, however many do so.
    let answers = join_all((0..SEATS).map(|_| text(&unit, get("/sleep/400")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

/// A guest that computes takes no requests; they find another instance instead of waiting for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_computes_is_not_joined() {
    let unit = start_shared("faults03", |config| config.limits.cpu = Duration::from_secs(2)).await;
    proved(&unit, "/").await;
    let computing = tokio::spawn(unit.call(get("/loop")));
    until("it is inside", || unit.stats().in_flight == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await; // past its first interruption
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    computing.await.unwrap().unwrap_err();
    let stats = unit.stats();
    assert_eq!((stats.collateral, stats.failures), (0, 1), "{stats:?}");
}

#[tokio::test]
async fn callers_that_go_away_end_their_own_request_only() {
    let unit = start_one("faults03", |_| ()).await;
    proved(&unit, "/").await;
    // Alone: the guest is ended.
    let mut call = Box::pin(unit.call(get("/sleep/60000")));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    drop(call);
    let stats = unit.stats();
    assert_eq!((stats.in_flight, stats.instances_live, stats.failures), (0, 0, 0), "{stats:?}");
    assert_eq!(stats.instances_retired, [(Retirement::Cancelled, 1)].into());

    // The one that began the instance's work, and runs it: it goes on without it.
    proved(&unit, "/").await;
    let first = tokio::spawn(unit.call(get("/sleep/300")));
    until("it is inside", || unit.stats().in_flight == 1).await;
    let second = tokio::spawn(unit.call(get("/sleep/600")));
    until("both are inside", || unit.stats().in_flight == 2).await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    until("all seats are free", || unit.stats().in_flight == 0).await;
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.collateral), (0, 0), "{stats:?}");

    // In the middle of a body.
    let unit = start_shared("echo", |_| ()).await;
    let response = unit.call(get("/bytes/100000000")).await.unwrap();
    assert_eq!(unit.stats().in_flight, 1);
    drop(response);
    until("the guest is gone", || unit.stats().in_flight == 0).await;
    assert_eq!(unit.stats().instances_retired, [(Retirement::Cancelled, 1)].into());
}

/// A guest that outlives its request is told that the body broke off.
#[tokio::test]
async fn a_client_that_breaks_off_fails_its_own_request_only() {
    let unit = start_one("echo", |_| ()).await;
    let beside_body = futures_util::stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_millis(50)).await; // slow, so that it is inside all the time
        (sent < 10).then(|| (Ok(Frame::data(Bytes::from_static(b"0123456789"))), sent + 1))
    });
    let beside =
        tokio::spawn(unit.call(request("GET", "/count", Body::new(http_body_util::StreamBody::new(beside_body)))));
    until("it is inside", || unit.stats().in_flight == 1).await;
    let gone = BodyError::Aborted("the client went away".into());
    let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(gone.clone())];
    let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
    let error = text(&unit, request("GET", "/count", body)).await.unwrap_err();
    assert_eq!(error, CallError::Body(gone));
    let answer = beside.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(answer.starts_with(b"100 "), "{answer:?}");
    let stats = unit.stats();
    assert_eq!((stats.collateral, stats.instances_created), (0, 1), "{stats:?}");
}

#[tokio::test]
async fn bodies_stream_both_ways_beside_each_other() {
    const TOTAL: usize = 4 << 20;
    let unit = start_shared("echo", |config| config.limits.body_bytes = TOTAL as u64).await;
    proved(&unit, "/count").await;
    let one = |path: &'static str, byte: u8| {
        let chunks =
            futures_util::stream::iter((0..64).map(move |_| Ok(Frame::data(Bytes::from(vec![byte; TOTAL / 64])))));
        let call = unit.call(request("POST", path, Body::new(http_body_util::StreamBody::new(chunks))));
        async move {
            let body = call.await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert!(body.len() == TOTAL && body.iter().all(|found| *found == byte), "{path} {byte}: {}", body.len());
        }
    };
    join_all((0..8).map(|n| one(if n % 2 == 0 { "/" } else { "/pipe" }, n))).await;
    until("all seats are free", || unit.stats().in_flight == 0).await;
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.collateral), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn a_post_is_never_the_first_second_use() {
    let unit = start_shared("faults03", |_| ()).await;
    let answers = join_all((0..3).map(|_| text(&unit, post("/sleep/50")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(unit.stats().reuse_hits, 0, "each had an instance of its own");
    proved(&unit, "/").await;
    let hits = unit.stats().reuse_hits;
    let answers = join_all((0..8).map(|_| text(&unit, post("/sleep/50")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(unit.stats().reuse_hits > hits, "now they share");

    // Nobody waits for ever where there may be one instance only.
    let unit = start_one("faults03", |_| ()).await;
    let answers = join_all((0..5).map(|_| text(&unit, post("/sleep/20")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn an_instance_serves_so_many_requests() {
    let unit = start_shared("hello-http03", |config| config.reuse.requests = 3).await;
    for n in [1, 2, 3, 1, 2, 3, 1] {
        let (_, body) = text(&unit, get("/")).await.unwrap();
        assert!(body.contains(&format!("request {n} ")), "{body}");
        until("the guest is done", || unit.stats().in_flight == 0).await;
    }
    assert_eq!(unit.stats().instances_retired, [(Retirement::Spent, 2)].into());

    // The one that is done with its three does not stand in the way of the next.
    let unit = start_one("faults03", |config| config.reuse.requests = 3).await;
    let answers = join_all((0..9).map(|_| text(&unit, get("/sleep/100")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    until("all are spent", || unit.stats().instances_live == 0).await;
    assert_eq!(unit.stats().instances_retired, [(Retirement::Spent, 3)].into());
}

#[tokio::test]
async fn idle_instances_go_and_a_drain_waits() {
    let unit = start_shared("faults03", |config| {
        config.reuse.concurrency = 2;
        config.reuse.idle = Duration::from_millis(100);
    })
    .await;
    let answers = join_all((0..6).map(|_| text(&unit, get("/sleep/50")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    until("one instance is left", || unit.stats().instances_live == 1).await;

    let under_way = tokio::spawn(unit.call(get("/sleep/300")));
    until("it is inside", || unit.stats().in_flight == 1).await;
    assert!(unit.drain(Duration::from_secs(30)).await);
    assert_eq!(under_way.await.unwrap().unwrap().status(), 200);
    assert_eq!(unit.call(get("/")).await.unwrap_err(), CallError::NotHere);

    // One that does not end in time is cut, and its caller hears of it.
    let unit = start_shared("faults03", |_| ()).await;
    let under_way = tokio::spawn(unit.call(get("/no-response")));
    until("it is inside", || unit.stats().in_flight == 1).await;
    assert!(!unit.drain(Duration::from_millis(50)).await);
    assert!(matches!(under_way.await.unwrap().unwrap_err(), CallError::Failed { .. }));
    until("nothing is left", || unit.stats().instances_live == 0).await;
}

/// A guest with an event loop of its own in the way of it all.
#[tokio::test]
async fn an_interpreter_may_share_too() {
    let unit = start_shared("hello-python", |_| ()).await;
    for _ in 0..3 {
        let answers = join_all((0..SEATS).map(|_| text(&unit, get("/")))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|(status, _)| *status == 200)), "{answers:?}");
    }
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.collateral, stats.strikes), (0, 0, 0), "{stats:?}");
}

/// The component, with one more core module in it.
fn with_module(component: &[u8], module: &str) -> Bytes {
    const CORE_MODULE: u8 = 1;
    const CORE_INSTANCE: u8 = 2;
    fn number(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    let (mut at, mut modules) = (8, 0); // behind magic number and version
    while at < component.len() {
        modules += usize::from(component[at] == CORE_MODULE);
        let (mut length, mut shift) = (0, 0);
        loop {
            at += 1;
            length |= usize::from(component[at] & 0x7f) << shift;
            shift += 7;
            if component[at] < 0x80 {
                break;
            }
        }
        at += 1 + length;
    }
    let module = wat::parse_str(module).unwrap();
    let instance = [vec![1, 0], number(modules), vec![0]].concat(); // one, made of that module, with no imports
    let section = |id: u8, content: &[u8]| [&[id], number(content.len()).as_slice(), content].concat();
    [component, &section(CORE_MODULE, &module), &section(CORE_INSTANCE, &instance)].concat().into()
}

#[tokio::test]
async fn what_is_refused_memory_at_its_start_and_goes_on_is_served() {
    let greedy = "(module (memory 1) (func $start (drop (memory.grow (i32.const 40000)))) (start $start))";
    let bytes = with_module(&guest("faults03"), greedy);
    let component = RUNTIME.load(Digest::of(&bytes), bytes).await.unwrap();
    let mut config = config();
    (config.reuse.concurrency, config.reuse.max_instances) = (SEATS, 2);
    let unit = Unit::start(&RUNTIME, alone(&RUNTIME, component), config).await.unwrap();
    for _ in 0..3 {
        assert_eq!(text(&unit, get("/sleep/1")).await.unwrap().0, 200);
    }
    let stats = unit.stats();
    assert_eq!(stats.tally.limits.len(), 1, "it was refused memory: {stats:?}");
    assert_eq!((stats.instances_created, stats.failures), (1, 0), "{stats:?}");
}
