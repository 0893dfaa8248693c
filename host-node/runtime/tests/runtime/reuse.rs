//! Which instance gets a request.

use super::*;
use lattice_runtime::Retirement;

#[tokio::test]
async fn an_instance_is_reused() {
    for version in BOTH {
        let unit = start(&hello(version), |_| ()).await;
        for n in 1..=5 {
            let expect = format!("Hello from lattice, request {n} on this instance\n");
            assert_eq!(text(&unit, get("/")).await.unwrap(), (200, expect), "{version}");
        }
        let stats = unit.stats();
        assert_eq!((stats.requests, stats.failures, stats.reuse_hits), (5, 0, 4), "{version}");
        assert_eq!((stats.instances_created, stats.instances_live, stats.in_flight), (1, 1, 0), "{version}");
    }
}

#[tokio::test]
async fn reuse_off_gives_each_request_an_instance() {
    for version in BOTH {
        let unit = start(&hello(version), |config| config.reuse.enabled = false).await;
        for _ in 0..3 {
            let (_, body) = text(&unit, get("/")).await.unwrap();
            assert_eq!(body, "Hello from lattice, request 1 on this instance\n", "{version}");
        }
        assert_eq!(unit.stats().reuse_hits, 0);
    }
}

#[tokio::test]
async fn an_instance_serves_so_many_requests() {
    let unit = start("hello-http02", |config| config.reuse.requests = 2).await;
    for n in [1, 2, 1, 2, 1] {
        let (_, body) = text(&unit, get("/")).await.unwrap();
        assert!(body.contains(&format!("request {n} ")), "{body}");
    }
    assert_eq!(unit.stats().instances_retired, [(Retirement::Spent, 2)].into());
    assert_eq!(unit.stats().failures, 0);
}

#[tokio::test]
async fn a_post_is_never_the_first_second_use() {
    for version in BOTH {
        // Who asks another may have asked for something that is not to be done twice.
        let unit = start(&hello(version), |config| config.grants = network::grants(&["http://a.test"])).await;
        let post = || request("POST", "/", lattice::http::full("x"));
        for _ in 0..3 {
            assert!(text(&unit, post()).await.unwrap().1.contains("request 1 "), "{version}");
        }
        assert!(text(&unit, get("/")).await.unwrap().1.contains("request 2 "), "{version}");
        assert!(text(&unit, post()).await.unwrap().1.contains("request 3 "), "{version}");
    }
}

#[tokio::test]
async fn a_guest_that_reaches_nothing_is_reused_though_it_is_only_asked_to_post() {
    for version in BOTH {
        let unit = start(&hello(version), |_| ()).await;
        for n in 1..=4 {
            let (status, body) = text(&unit, request("POST", "/", lattice::http::full("x"))).await.unwrap();
            assert_eq!(
                (status, body),
                (200, format!("Hello from lattice, request {n} on this instance\n")),
                "{version}"
            );
        }
        assert_eq!((unit.stats().instances_created, unit.stats().retries), (1, 0), "{version}");
        let unit = start(echo(version), |_| ()).await;
        for _ in 0..3 {
            let (status, body) = text(&unit, request("POST", "/", lattice::http::full("as it was"))).await.unwrap();
            assert_eq!((status, body.as_str()), (200, "as it was"), "{version}");
        }
        assert_eq!(unit.stats().instances_created, 1, "{version}");
    }
    // As well where instances have several requests at a time.
    let unit = start("hello-http03", |config| config.reuse.concurrency = 16).await;
    for n in 1..=4 {
        until("the instance is idle", || unit.stats().instances_idle == 1).await;
        let (_, body) = text(&unit, request("POST", "/", lattice::http::full("x"))).await.unwrap();
        assert_eq!(body, format!("Hello from lattice, request {n} on this instance\n"));
    }
    assert_eq!((unit.stats().instances_created, unit.stats().retries), (1, 0));
    // What cannot be reused is found out by them as well, unharmed.
    let unit = start("hello-js-fetch", |_| ()).await;
    for _ in 0..4 {
        assert_eq!(text(&unit, request("POST", "/", lattice::http::full("x"))).await.unwrap().0, 200);
    }
    assert_eq!((unit.stats().retries, unit.stats().strikes), (1, 1));
}

#[tokio::test]
async fn idle_instances_expire_but_the_warm_ones() {
    let unit = start("faults03", |config| {
        config.reuse.idle = Duration::from_millis(50);
        config.reuse.min_warm = 1;
    })
    .await;
    let three = futures_util::future::join_all((0..3).map(|_| text(&unit, get("/sleep/50")))).await;
    assert!(three.iter().all(Result::is_ok));
    assert_eq!(unit.stats().instances_created, 3);
    until("one instance is left", || unit.stats().instances_live == 1).await;
    assert_eq!(unit.stats().instances_retired, [(Retirement::Idle, 2)].into());
}

/// Interpreters hold on to handles until they collect garbage: that is no leak, and their instances live on.
#[tokio::test]
async fn instances_of_other_languages_are_reused() {
    for name in ["hello-js", "hello-python", "hello-c"] {
        let unit = start(name, |_| ()).await;
        for n in 0..20 {
            assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{name} {n}");
        }
        let stats = unit.stats();
        assert_eq!((stats.reuse_hits, stats.failures, stats.instances_created), (19, 0, 1), "{name}: {stats:?}");
    }
}

/// A guest that answers once only. Its second use fails without a trap: the request is repeated on a fresh instance,
/// and reuse ends for the unit.
#[tokio::test]
async fn a_guest_that_cannot_be_reused_is_found_out_unharmed() {
    let unit = start("hello-js-fetch", |_| ()).await;
    for n in 0..4 {
        let (status, body) = text(&unit, get("/")).await.unwrap();
        assert_eq!(status, 200, "request {n}: {body}");
    }
    let stats = unit.stats();
    assert_eq!((stats.retries, stats.strikes, stats.reuse_hits), (1, 1, 1), "{stats:?}");
    assert!(stats.reuse_disabled.unwrap().contains("without a response"));
    assert!(stats.reuse_disabled_at.is_some());
}

/// What one replica finds out, the others of its workload need not: those beside it and those after it.
#[tokio::test]
async fn a_guest_that_cannot_be_reused_is_found_out_once() {
    let name = WorkloadName::new("found-out").unwrap();
    let replica = |index| {
        start("hello-js-fetch", {
            let name = name.clone();
            move |config| (config.workload, config.replica) = (name, index)
        })
    };
    let (first, second) = (replica(0).await, replica(1).await);
    assert_eq!(text(&second, get("/")).await.unwrap().0, 200);
    assert_eq!(second.stats().instances_idle, 1);
    for _ in 0..2 {
        assert_eq!(text(&first, get("/")).await.unwrap().0, 200);
    }
    assert_eq!(first.stats().strikes, 1);
    drop(first);
    let third = replica(0).await;
    for unit in [&second, &third] {
        for _ in 0..3 {
            assert_eq!(text(unit, get("/")).await.unwrap().0, 200);
        }
        let stats = unit.stats();
        assert!(stats.reuse_disabled.unwrap().contains("without a response"));
        assert_eq!((stats.retries, stats.strikes, stats.reuse_hits), (0, 0, 0), "nobody tries again");
    }
    // Callers of one workload decide nothing for another.
    let other = start("hello-js-fetch", |_| ()).await;
    assert_eq!(other.stats().reuse_disabled, None);
}
