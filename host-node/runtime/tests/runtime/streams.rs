//! Streams of bytes between a component and a service, each in a store of its own.

use super::{
    parts::{body, lazy, name, part},
    *,
};
use lattice_runtime::{EdgeError, Limit, LoadError, Part, PartRole, PartState, Restart, Uncrossable, crossing};

const INTERFACE: &str = "example:flow/streams@0.1.0";

async fn assembled(role: PartRole) -> Result<Assembly, LoadError> {
    let edge = lattice_runtime::Edge {
        from: None,
        import: INTERFACE.to_owned(),
        to: name("flow"),
        export: INTERFACE.to_owned(),
    };
    let part = Part::new(name("flow"), component("flow").await, role);
    RUNTIME.assemble(component("flow-caller").await, vec![part], vec![edge])
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
    assert_eq!(crossing(&bytes, INTERFACE, true).unwrap(), Ok(()));
    assert_eq!(crossing(&bytes, INTERFACE, false).unwrap().unwrap_err().what, Uncrossable::Stream);
}
