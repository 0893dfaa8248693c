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
        // Those that come in the place of others as well.
        let short = |config: &mut UnitConfig| {
            (config.reuse.requests, config.reuse.idle) = (2, Duration::from_millis(80));
        };
        let unit = warmed(&hello(version), "/warm", short).await.unwrap();
        for _ in 0..3 {
            assert!(text(&unit, get("/")).await.unwrap().1.contains("request 2 "), "{version}");
            until("there is another one", || unit.stats().instances_idle == 1).await;
        }
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
