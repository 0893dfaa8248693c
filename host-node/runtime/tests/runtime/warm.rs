//! What an instance that is made ahead does before it counts as ready.

use super::*;
use lattice_runtime::StartError;
use std::time::Instant;

async fn warmed(name: &str, path: &str, change: impl FnOnce(&mut UnitConfig)) -> Result<Unit, StartError> {
    let mut config = config();
    config.reuse.warm_up = Some(path.parse().unwrap());
    change(&mut config);
    Unit::start(&RUNTIME, alone(&RUNTIME, component(name).await), config).await
}

#[tokio::test]
async fn an_instance_answers_its_warm_up_before_anybody_else() {
    for version in BOTH {
        let unit = warmed(&hello(version), "/warm", |config| config.reuse.min_warm = 3).await.unwrap();
        let stats = unit.stats();
        assert_eq!((stats.instances_idle, stats.requests, stats.failures), (3, 0, 0), "{version}");
        for n in 2..=4 {
            assert!(text(&unit, get("/")).await.unwrap().1.contains(&format!("request {n} ")), "{version}");
        }
        // Those that come in the place of others as well. It is none of the requests that an instance may serve.
        let short = |config: &mut UnitConfig| {
            (config.reuse.requests, config.reuse.idle) = (1, Duration::from_millis(80));
        };
        let unit = warmed(&hello(version), "/warm", short).await.unwrap();
        for n in [3, 2, 2] {
            assert!(text(&unit, get("/")).await.unwrap().1.contains(&format!("request {n} ")), "{version}");
            until("there is another one", || unit.stats().instances_idle == 1).await;
        }
        assert_eq!(unit.stats().instances_created, 4, "{version}");
    }
}

/// The first instance is asked twice, so that nobody's request has to find out what a second one comes to.
#[tokio::test]
async fn who_only_posts_gets_the_instance_that_was_warmed_up() {
    for version in BOTH {
        let unit = warmed(&hello(version), "/warm", |_| ()).await.unwrap();
        for n in 3..=6 {
            let body = text(&unit, request("POST", "/", lattice::http::full("x"))).await.unwrap().1;
            assert!(body.contains(&format!("request {n} ")), "{version}: {body}");
        }
        let stats = unit.stats();
        assert_eq!((stats.instances_created, stats.strikes, stats.failures), (1, 0, 0), "{version}");
    }
}

#[tokio::test]
async fn a_guest_that_cannot_be_reused_is_found_out_by_its_warm_up() {
    let unit = warmed("hello-js-fetch", "/", |_| ()).await.unwrap();
    let stats = unit.stats();
    assert!(stats.reuse_disabled.unwrap().contains("without a response"));
    assert_eq!((stats.instances_idle, stats.instances_created, stats.strikes), (1, 2, 1));
    for _ in 0..3 {
        assert_eq!(text(&unit, request("POST", "/", lattice::http::full("x"))).await.unwrap().0, 200);
    }
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.retries, stats.reuse_hits), (0, 0, 0));
}

#[tokio::test]
async fn what_a_warm_up_computes_shows() {
    for version in BOTH {
        let unit = warmed(faults(version), "/compute/300", |_| ()).await.unwrap();
        let stats = unit.stats();
        assert!(stats.requests == 0 && stats.tally.cpu_peak >= Duration::from_millis(20), "{version}: {stats:?}");
    }
}

/// It has one request to serve, and that is a client's.
#[tokio::test]
async fn without_reuse_nothing_is_warmed_up() {
    let unit = warmed("hello-http02", "/warm", |config| config.reuse.enabled = false).await.unwrap();
    assert!(text(&unit, get("/")).await.unwrap().1.contains("request 1 "));
}

#[tokio::test]
async fn an_answer_of_any_length_is_read_to_its_end() {
    for version in BOTH {
        let unit = warmed(echo(version), "/bytes/3000000", |_| ()).await.unwrap();
        assert_eq!((unit.stats().instances_idle, unit.stats().failures), (1, 0), "{version}");
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{version}");
    }
}

#[tokio::test]
async fn a_unit_whose_instances_fail_their_warm_up_does_not_start() {
    for version in BOTH {
        let shows = |error: StartError, why: &str| {
            let text = error.to_string();
            assert!(
                text.contains("the component failed its warm-up: GET /") && text.contains(why),
                "{version}: {text}"
            );
        };
        for (path, why) in [
            ("/trap", "/trap wasm trap"),
            ("/exit", "exited with status 1"),
            ("/refuse", "answered with the error"),
            ("/short", "GET /short "),
        ] {
            shows(warmed(faults(version), path, |_| ()).await.unwrap_err(), why);
        }
        shows(
            warmed(&hello(version), "/env/NONE?x", |_| ()).await.unwrap_err(),
            "/env/NONE?x was answered with the status 404",
        );
        let (began, wall) = (Instant::now(), Duration::from_millis(300));
        let late = |config: &mut UnitConfig| config.limits.wall = wall;
        shows(warmed(faults(version), "/stall", late).await.unwrap_err(), "took longer than 300 ms");
        let busy = |config: &mut UnitConfig| config.limits.cpu = Duration::from_millis(100);
        shows(warmed(faults(version), "/loop", busy).await.unwrap_err(), "computed for more than 100 ms");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
