//! Streams of bytes and futures between a component and a service, each in a store of its own.

use super::{
    parts::{body, lazy, name, part},
    *,
};
use lattice_runtime::{EdgeError, Limit, LoadError, Part, PartRole, PartState, Restart, Uncrossable, crossing};

const STREAMS: &str = "example:flow/streams@0.1.0";
const FUTURES: &str = "example:flow/futures@0.1.0";

async fn assembled(role: PartRole) -> Result<Assembly, LoadError> {
    let edge = |interface: &str| lattice_runtime::Edge {
        from: None,
        import: interface.to_owned(),
        to: name("flow"),
        export: interface.to_owned(),
    };
    let part = Part::new(name("flow"), component("flow").await, role);
    RUNTIME.assemble(component("flow-caller").await, vec![part], [STREAMS, FUTURES].map(edge).to_vec())
}

async fn unit() -> Arc<Unit> {
    let quick = Restart { backoff_min: Duration::from_millis(1), ..Restart::default() };
    let assembly = assembled(PartRole::Service { restart: quick }).await.unwrap();
    Arc::new(Unit::start(&RUNTIME, assembly, config()).await.unwrap())
}

#[tokio::test]
async fn streams_pass_both_ways() {
    let unit = unit().await;
    for _ in 0..3 {
        assert_eq!(body(&unit, "/make/1000000/1000000").await, "1000000");
        assert_eq!(body(&unit, "/make/0/0").await, "0");
        assert_eq!(body(&unit, "/sum/1000000").await, "1000000");
        assert_eq!(body(&unit, "/upper/stream").await, "STREAM");
        assert_eq!(body(&unit, "/upper/").await, "there was nothing");
        assert_eq!(body(&unit, "/through/300000").await.len(), 300_000);
    }
    assert_eq!((unit.stats().failures, part(&unit).failures, part(&unit).restarts), (0, 0, 0));
    assert_eq!(body(&unit, "/abandoned").await, "0");
}

/// Side by side, over one instance of the service.
#[tokio::test]
async fn many_streams_at_a_time_keep_apart() {
    let unit = unit().await;
    let sums =
        (1..=20).map(|i| {
            let unit = unit.clone();
            async move {
                (i, body(&unit, &format!("/sum/{}", i * 50_000)).await, body(&unit, &format!("/upper/a{i}b")).await)
            }
        });
    for (i, sum, upper) in futures_util::future::join_all(sums).await {
        assert_eq!((sum, upper), ((i * 50_000).to_string(), format!("A{i}B")));
    }
}

/// Who reads slowly is not waited for by a heap of bytes, and who stops reading is noticed.
#[tokio::test]
async fn a_writer_waits_for_its_reader_and_ends_with_it() {
    let unit = unit().await;
    let slow = body(&unit, "/slow/50000000/300").await;
    let (first, made) = slow.split_once(' ').unwrap();
    assert_eq!(first, "Some(1)");
    let made: u32 = made.parse().unwrap();
    assert!((1..=512 << 10).contains(&made), "{made} bytes ahead of the reader");
    for _ in 0..3000 {
        if body(&unit, "/abandoned").await == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // the service has not tried to write since
    }
    assert_eq!(body(&unit, "/abandoned").await, "1");
    // A client that goes away is such a reader, too.
    let response = unit.call(get("/through/50000000")).await.unwrap();
    drop(response);
    for _ in 0..3000 {
        if body(&unit, "/abandoned").await == "2" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(body(&unit, "/abandoned").await, "2");
    assert_eq!(part(&unit).restarts, 0);
}

/// What is in a stream is in no guest's memory, so there are so many of them and no more, whoever holds them.
#[tokio::test]
async fn streams_of_a_unit_are_bounded_and_given_back() {
    let bystander = unit().await;
    let unit = unit().await;
    for path in ["/hoard", "/push"] {
        assert_eq!(body(&unit, &format!("{path}/64/0")).await, "64");
        let error = text(&unit, get(&format!("{path}/65/0"))).await.unwrap_err().to_string();
        assert!(error.contains("its part flow: this replica has 64 open"), "{path}: {error}");
        // All are given back with the instance that had them; and together those of several are too many.
        until("the service has read to the end", || part(&unit).in_flight == 0).await;
        let calls = part(&unit).calls;
        let held = tokio::spawn(unit.call(get(&format!("{path}/40/60000"))));
        // The service's calls are over when it has made its streams, and go on while it reads those of others.
        let under_way = if path == "/push" { 40 } else { 0 };
        until("it has them", || part(&unit).calls == calls + 40 && part(&unit).in_flight == under_way).await;
        let error = text(&unit, get(&format!("{path}/40/0"))).await.unwrap_err().to_string();
        assert!(error.contains("64 open"), "{path}: {error}");
        assert_eq!(body(&bystander, &format!("{path}/64/0")).await, "64");
        held.abort();
        let _ = held.await;
        until("the service has read to the end", || part(&unit).in_flight == 0).await;
        assert_eq!(body(&unit, &format!("{path}/64/0")).await, "64");
    }
    let stats = unit.stats();
    assert!(stats.tally.limits.get(&Limit::Streams).is_some_and(|hits| *hits == 4), "{stats:?}");
    assert!(part(&unit).refused == 4 && part(&unit).restarts == 0, "{stats:?}");
}

/// A part of a stream never reads like the whole of it.
#[tokio::test]
async fn a_service_that_traps_in_the_middle_of_a_stream_fails_who_reads_it() {
    let unit = unit().await;
    for good in [0, 1000, 200_000] {
        let error = text(&unit, get(&format!("/make/1000000/{good}"))).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("its part flow"), "{good}: {error}");
        until("it is there again", || part(&unit).state == PartState::Ready).await;
    }
    assert_eq!(part(&unit).restarts, 3);
    assert_eq!(body(&unit, "/make/1000/1000").await, "1000");
    assert_eq!(unit.stats().instances_retired.values().sum::<u64>(), 3);
}

/// The caller's end is not the service's.
#[tokio::test]
async fn a_service_goes_on_when_a_caller_ends_in_the_middle_of_a_stream() {
    let unit = unit().await;
    for _ in 0..5 {
        let calling = tokio::spawn(unit.call(get("/sum/400000000")));
        until("it is called", || part(&unit).in_flight > 0).await;
        calling.abort();
        until("the call is over", || part(&unit).in_flight == 0).await;
    }
    assert_eq!(body(&unit, "/sum/1000").await, "1000");
    assert_eq!((part(&unit).restarts, part(&unit).instances_created), (0, 1));
}

/// The store of any other part rests when its call has returned, and its streams would with it.
#[tokio::test]
async fn streams_pass_to_services_alone() {
    for role in [lazy(), PartRole::Isolated] {
        let LoadError::Edge(EdgeError::CannotCross { source, .. }) = assembled(role).await.unwrap_err() else {
            panic!("linked");
        };
        assert_eq!(source.what, Uncrossable::Stream);
    }
    let bytes = guest("flow-caller");
    for (interface, what) in [(STREAMS, Uncrossable::Stream), (FUTURES, Uncrossable::Future)] {
        assert_eq!(crossing(&bytes, interface, true).unwrap(), Ok(Vec::new()));
        assert_eq!(crossing(&bytes, interface, false).unwrap().unwrap_err().what, what);
    }
}

#[tokio::test]
async fn futures_pass_both_ways() {
    let unit = unit().await;
    // More than there are places: each is given back when its value was read.
    for turn in 0..100 {
        assert_eq!(body(&unit, &format!("/later/{turn}/{}", turn % 3)).await, turn.to_string());
    }
    assert_eq!(body(&unit, "/hear/42").await, "number 42");
    assert_eq!(body(&unit, "/default").await, "error: the default");
    assert_eq!(body(&unit, "/desert/1").await, "error: nothing");
    assert_eq!(body(&unit, "/pass/word").await, "word");
    assert_eq!(body(&unit, "/parcel/0").await, "none");
    assert_eq!(body(&unit, "/parcel/200000").await, "7: 200000 bytes");
    assert_eq!((unit.stats().failures, part(&unit).failures, part(&unit).restarts), (0, 0, 0));
}

/// Its writer learns that it need not wait.
#[tokio::test]
async fn a_future_that_nobody_reads_is_settled() {
    let unit = unit().await;
    for dropped in 1..=100 {
        assert_eq!(body(&unit, "/unread/7").await, "dropped");
        for _ in 0..3000 {
            if body(&unit, "/settled").await == dropped.to_string() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await; // the service has not tried to write since
        }
        assert_eq!(body(&unit, "/settled").await, dropped.to_string());
    }
}

/// What was promised and will not come is not waited for.
#[tokio::test]
async fn a_service_that_traps_before_a_future_is_written_fails_who_reads_it() {
    let unit = unit().await;
    for turns in [0, 1, 20] {
        let error = text(&unit, get(&format!("/never/{turns}"))).await.unwrap_err().to_string();
        assert!(error.contains("its part flow"), "{turns}: {error}");
        until("it is there again", || part(&unit).state == PartState::Ready).await;
    }
    assert_eq!(part(&unit).restarts, 3);
    assert_eq!(body(&unit, "/later/1/1").await, "1");
}

/// It has an error for a future that its caller did not live to write, and goes on. As often as it takes calls at a time.
#[tokio::test]
async fn a_service_goes_on_when_a_caller_ends_before_a_future_is_written() {
    let unit = unit().await;
    for _ in 0..70 {
        let calling = tokio::spawn(unit.call(get("/desert/60000")));
        until("it is called", || part(&unit).in_flight > 0).await;
        calling.abort();
        until("the call is over", || part(&unit).in_flight == 0).await;
    }
    assert_eq!(body(&unit, "/heard").await, "error: its writer has ended");
    assert_eq!(body(&unit, "/hear/1").await, "number 1");
    assert_eq!((part(&unit).restarts, part(&unit).instances_created), (0, 1));
}

/// A value on its way is in no guest's memory.
#[tokio::test]
async fn the_value_of_a_future_is_bounded() {
    let unit = unit().await;
    let error = text(&unit, get("/parcel/300000")).await.unwrap_err().to_string();
    assert!(error.contains("its part flow") && error.contains("at most 256 KiB"), "{error}");
}

/// Which function, and why.
#[test]
fn futures_that_can_not_be_carried_are_refused() {
    let refused = |function: &str, to_service: bool| {
        let text = format!(
            r#"(component (import "t:t/x" (instance
                (type $point' (record (field "x" u32)))
                (export "point" (type $point (eq $point')))
                (type $word (future string))
                (type $f {function})
                (export "f" (func (type $f))))))"#
        );
        let bytes = wat::parse_str(text).unwrap();
        crossing(&bytes, "t:t/x", to_service).unwrap().map(drop).map_err(|refusal| {
            assert_eq!(refusal.item, "f");
            refusal.what
        })
    };
    for (function, to_service, expect) in [
        ("(func (result (future)))", true, Ok(())),
        ("(func (result (future string)))", true, Ok(())),
        ("(func (result (option (tuple u8 (future (result (list u8) (error string)))))))", true, Ok(())),
        (r#"(func (param "p" (future (result))))"#, true, Ok(())),
        (r#"(func (param "p" (future (result (error string)))))"#, true, Ok(())),
        (r#"(func (param "p" (future string)))"#, true, Err(Uncrossable::FutureWithoutEnd)),
        ("(func (result (future $point)))", true, Err(Uncrossable::FutureOfOther)),
        ("(func (result (future $word)))", true, Err(Uncrossable::FutureOfOther)),
        ("(func (result (list (future string))))", true, Err(Uncrossable::Future)),
        ("(func (result (future string)))", false, Err(Uncrossable::Future)),
    ] {
        assert_eq!(refused(function, to_service), expect, "{function}");
    }
}
