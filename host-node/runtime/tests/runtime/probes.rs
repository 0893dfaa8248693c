//! What the node asks a unit beside its clients.

use super::*;
use futures_util::StreamExt as _;
use lattice::http::BodyError;
use lattice_runtime::{Edge, Part, PartRole, PartState, Probed, Restart};

const LIMIT: Duration = Duration::from_secs(20);

fn answered(probed: &Probed) -> Option<u16> {
    match probed {
        Probed::Answered { status, .. } => Some(status.as_u16()),
        _ => None,
    }
}

#[tokio::test]
async fn a_probe_is_nobodys_request() {
    for version in BOTH {
        let unit = start(faults(version), |_| ()).await;
        let prober = unit.prober();
        let failed = prober.probe(|| get("/trap"), LIMIT).await;
        assert!(matches!(&failed, Probed::Failed(why) if why.contains("unreachable")), "{version} {failed:?}");
        let stats = unit.stats();
        assert_eq!((stats.requests, stats.failures, stats.in_flight), (0, 0, 0), "{version}");
        assert_eq!((stats.tally.failures, stats.tally.last_failure), Default::default(), "{version}");
        assert_eq!(answered(&prober.probe(|| get("/"), LIMIT).await), Some(200), "{version}");
    }
}

#[tokio::test]
async fn a_probe_waits_in_no_line_and_takes_nobodys_place() {
    for version in BOTH {
        let unit = start(faults(version), |config| {
            (config.limits.concurrency, config.limits.queue) = (1, 1);
            config.reuse.max_instances = 1;
        })
        .await;
        let asleep = tokio::spawn(unit.call(get("/sleep/60000")));
        until("the only turn is taken", || unit.stats().in_flight == 1).await;
        let in_line = tokio::spawn(unit.call(get("/")));
        until("the line is full", || unit.stats().queued == 1).await;
        let probed = unit.prober().probe(|| get("/"), LIMIT).await;
        assert_eq!(answered(&probed), Some(200), "{version}");
        let stats = unit.stats();
        assert_eq!((stats.in_flight, stats.queued, stats.refused), (1, 1, 0), "{version}");
        asleep.abort();
        drop(in_line);
    }
}

#[tokio::test]
async fn one_that_is_stuck_is_told_from_one_that_is_busy() {
    let unit = start(faults("02"), |_| ()).await;
    let (prober, short) = (unit.prober(), Duration::from_millis(300));
    let probed = prober.probe(|| get("/sleep/60000"), short).await;
    assert_eq!(probed, Probed::Late { busy: false });
    // A client that gives up has not been answered.
    let given_up = tokio::spawn(unit.call(get("/sleep/60000")));
    let slow = async { prober.probe(|| get("/sleep/60000"), short).await };
    let (probed, ()) = tokio::join!(slow, async {
        until("it has begun", || unit.stats().in_flight == 1).await;
        given_up.abort();
    });
    assert_eq!(probed, Probed::Late { busy: false });
    let slow = async { prober.probe(|| get("/sleep/60000"), Duration::from_secs(2)).await };
    let (probed, other) = tokio::join!(slow, text(&unit, get("/")));
    assert_eq!((probed, other.unwrap().0), (Probed::Late { busy: true }, 200));
    let stalled = prober.probe(|| get("/stall"), short).await;
    assert_eq!(stalled, Probed::Late { busy: false }, "half an answer is none");
    drop(unit);
    assert_eq!(prober.probe(|| get("/"), short).await, Probed::Stopped);
}

/// A body of which nothing comes until something is sent.
fn fed() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, Body) {
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx))
        .map(|bytes| Ok::<_, BodyError>(http_body::Frame::data(bytes)));
    (send, Body::new(http_body_util::StreamBody::new(frames)))
}

/// The answer of one that echoes its own body is late for as long as that has no end.
async fn late(unit: &Unit, fed: impl FnOnce(tokio::sync::mpsc::UnboundedSender<Bytes>)) -> Probed {
    let (send, body) = self::fed();
    fed(send.clone());
    let body = std::sync::Mutex::new(Some(body));
    let endless = || request("POST", "/", body.lock().unwrap().take().unwrap());
    unit.prober().probe(endless, Duration::from_millis(500)).await
}

#[tokio::test]
async fn one_whose_streams_go_on_is_busy() {
    for (version, concurrency) in [("02", 1), ("03", 1), ("03", 4)] {
        let unit = start(echo(version), |config| config.reuse.concurrency = concurrency).await;
        let (send, body) = fed();
        send.send("first".into()).unwrap();
        let mut stream = unit.call(request("POST", "/", body)).await.unwrap().into_body();
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        let probed = late(&unit, |own| own.send("of its own".into()).unwrap()).await;
        assert_eq!(probed, Probed::Late { busy: false }, "{version} {concurrency}: nothing of the stream moved");
        let fed = async { late(&unit, |_| ()).await };
        let (probed, ()) = tokio::join!(fed, async {
            send.send("second".into()).unwrap();
            assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "second");
        });
        assert_eq!(probed, Probed::Late { busy: true }, "{version} {concurrency}");
        assert_eq!(unit.stats().in_flight, 1, "no request ended");
    }
}

#[tokio::test]
async fn what_survives_one_request_only_is_alive() {
    let unit = start(faults("02"), |config| config.reuse.enabled = false).await;
    let prober = unit.prober();
    for _ in 0..3 {
        assert_eq!(answered(&prober.probe(|| get("/"), LIMIT).await), Some(200));
    }
}

fn name(text: &str) -> lattice::spec::FunctionName {
    format!("example:checkup/health#{text}").parse().unwrap()
}

#[tokio::test]
async fn a_function_says_how_it_does() {
    let unit = start("checkup", |config| {
        config.by_function = true;
        config.limits.cpu = Duration::from_millis(300);
        config.env.insert("READY".into(), "no".into());
    })
    .await;
    let prober = unit.prober();
    let ask = async |function: &str| prober.call(&name(function), LIMIT).await;
    assert_eq!(ask("ready").await, Probed::Returned(Err("the error the pool is cold".into())));
    assert_eq!(ask("alive").await, Probed::Returned(Ok(())));
    assert_eq!(ask("sick").await, Probed::Returned(Err("false".into())));
    for (function, why) in [("broken", "unreachable"), ("stuck", "computed for more than")] {
        let failed = ask(function).await;
        assert!(matches!(&failed, Probed::Failed(said) if said.contains(why)), "{function}: {failed:?}");
    }
    let unknown = ask("unheard-of").await;
    assert!(matches!(&unknown, Probed::Returned(Err(why)) if why.contains("is not exported as")), "{unknown:?}");
    let late = prober.call(&name("stuck"), Duration::from_millis(50)).await;
    assert_eq!(late, Probed::Late { busy: false });
    // It is nobody's request, and requests go on as ever.
    let stats = unit.stats();
    assert_eq!((stats.requests, stats.failures, stats.tally.last_failure), (0, 0, None));
    assert_eq!(text(&unit, get("/")).await.unwrap(), (200, "well".into()));
    drop(unit);
    assert_eq!(prober.call(&name("alive"), LIMIT).await, Probed::Stopped);
}

#[tokio::test]
async fn a_service_says_how_it_does() {
    let tally = || "tally".parse().unwrap();
    let function = |text: &str| -> lattice::spec::FunctionName { format!("example:tally/{text}").parse().unwrap() };
    let interface = "example:tally/tally@0.1.0".to_owned();
    let edge = Edge { from: None, import: interface.clone(), to: tally(), export: interface };
    let (main, service) = (component("visits").await, component("tally").await);
    let assemble = |probes| {
        let role = PartRole::Service { restart: Restart::default() };
        let part = Part { probes, ..Part::new(tally(), service.clone(), role) };
        RUNTIME.assemble(main.clone(), vec![part], vec![edge.clone()])
    };
    let refused = assemble(vec![function("tally#names")]).unwrap_err().to_string();
    assert!(refused.contains("tally does not export example:tally/tally#names as a `func() -> bool`"), "{refused}");

    let (alive, ready) = (function("health#alive"), function("health#ready"));
    let assembly = assemble(vec![alive.clone(), ready.clone()]).unwrap();
    let unit = Unit::start(&RUNTIME, assembly, config()).await.unwrap();
    let prober = unit.prober();
    let ask = async |function| prober.call_service(&tally(), function, LIMIT).await;
    assert_eq!((ask(&alive).await, ask(&ready).await), (Probed::Returned(Ok(())), Probed::Returned(Ok(()))));
    assert_eq!(text(&unit, get("/poison")).await.unwrap().0, 200);
    assert_eq!(ask(&alive).await, Probed::Returned(Err("false".into())));
    let other = function("tally#names");
    assert!(matches!(ask(&other).await, Probed::Failed(_)), "it is not one that is asked");
    assert_eq!(unit.stats().requests, 1);
    // It traps, and another life knows nothing of the poison.
    assert!(text(&unit, get("/-/reset")).await.is_err());
    until("it is there again", || unit.stats().parts[0].state == PartState::Ready).await;
    assert_eq!(ask(&alive).await, Probed::Returned(Ok(())));
    drop(unit);
    assert_eq!(ask(&alive).await, Probed::Stopped);
}
