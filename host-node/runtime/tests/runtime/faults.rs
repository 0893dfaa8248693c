//! Guests that misbehave: what it costs, and whom.

use super::*;
use lattice::http::BodyError;
use lattice_runtime::{FailureKind, Limit, Retirement};
use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    task::Poll,
    time::Instant,
};

#[tokio::test]
async fn a_trap_fails_one_request() {
    for version in BOTH {
        for path in ["/trap", "/panic", "/exit"] {
            let unit = start(faults(version), |_| ()).await;
            assert!(matches!(text(&unit, get(path)).await.unwrap_err(), CallError::Failed { .. }), "{version} {path}");
            assert_eq!(text(&unit, get("/")).await.unwrap(), (200, "ok\n".into()), "{version} {path}");
            let stats = unit.stats();
            assert_eq!(stats.instances_retired, [(Retirement::Trap, 1)].into(), "{version} {path}");
            assert_eq!((stats.failures, stats.instances_live), (1, 1), "{version} {path}");
        }
    }
}

#[tokio::test]
async fn an_operator_can_read_what_went_wrong() {
    let log = Arc::new(Kept::default());
    let unit = start("faults", |config| config.logs = log.clone()).await;
    let error = text(&unit, get("/panic")).await.unwrap_err().to_string();
    assert!(error.contains("unreachable"), "{error}");
    assert!(!error.contains('\n'), "one line: {error}");
    let said = log.0.lock().unwrap().iter().any(|(_, _, line)| line.contains("asked to panic"));
    assert!(said, "the guest's last words are in its log");
}

#[tokio::test]
async fn a_trap_of_a_kept_instance_is_not_held_against_reuse() {
    let unit = start("faults", |_| ()).await;
    text(&unit, get("/")).await.unwrap();
    text(&unit, get("/trap")).await.unwrap_err();
    let stats = unit.stats();
    assert_eq!((stats.strikes, stats.retries, stats.reuse_disabled), (0, 0, None));
}

/// A request that gets no answer from a fresh instance either is not held against reuse, so nobody can end it from
/// outside by asking for that.
#[tokio::test]
async fn a_request_without_an_answer_is_not_held_against_reuse() {
    let unit = start("faults", |_| ()).await;
    text(&unit, get("/")).await.unwrap();
    text(&unit, get("/no-response")).await.unwrap_err();
    let stats = unit.stats();
    assert_eq!((stats.retries, stats.strikes, stats.reuse_disabled), (1, 0, None));
    assert_eq!(stats.instances_retired, [(Retirement::NoResponse, 2)].into());
    // One that may not be repeated proves nothing, but it is all there is to go by.
    for _ in 0..2 {
        text(&unit, get("/")).await.unwrap();
    }
    text(&unit, request("POST", "/no-response", lattice::http::empty())).await.unwrap_err();
    assert!(unit.stats().reuse_disabled.unwrap().contains("returned without a response"));
}

#[tokio::test]
async fn no_answer_is_a_failure_that_says_so() {
    let unit = start("faults", |_| ()).await;
    let error = text(&unit, get("/no-response")).await.unwrap_err();
    assert_eq!(error.to_string(), "the component failed: returned without a response");
    for version in BOTH {
        let unit = start(faults(version), |_| ()).await;
        let error = text(&unit, get("/refuse")).await.unwrap_err();
        assert!(error.to_string().contains("asked to refuse"), "{version}: {error}");
    }
}

/// To the end of the line of tasks. (`yield_now` waits for the next look at timers and sockets.)
async fn next_turn() {
    let mut waited = false;
    std::future::poll_fn(|cx| match std::mem::replace(&mut waited, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// On a runtime of one thread, a guest that kept it would stop everything here.
#[tokio::test]
async fn an_endless_loop_ends_in_time_and_blocks_nobody() {
    for version in BOTH {
        for (wall, cpu, expect) in [(1500, 60_000, 1500), (60_000, 300, 300)] {
            let limits =
                Limits { wall: Duration::from_millis(wall), cpu: Duration::from_millis(cpu), ..Limits::default() };
            let unit = start(faults(version), |config| config.limits = limits).await;
            let other = start(&hello(version), |_| ()).await;
            text(&other, get("/")).await.unwrap();
            let began = Instant::now();
            // A task of its own, since tokio polls the test itself, as it does timers, only once in sixty turns.
            let answers = Arc::new(AtomicU32::new(0));
            let count = answers.clone();
            let answering = tokio::spawn(async move {
                while text(&other, get("/")).await.is_ok() {
                    count.fetch_add(1, Relaxed);
                    next_turn().await;
                }
            });
            let error = tokio::spawn(unit.call(get("/loop"))).await.unwrap().unwrap_err();
            let answers = answers.load(Relaxed);
            answering.abort();
            assert_eq!(error, CallError::Timeout { limit: Duration::from_millis(expect) }, "{version}");
            assert!(began.elapsed() < Duration::from_secs(20), "{version}: {:?}", began.elapsed());
            assert!(answers >= 10, "{version}: {answers} answers meanwhile");
            let stats = unit.stats();
            assert_eq!(stats.instances_retired, [(Retirement::Timeout, 1)].into());
            let (limit, kind) =
                if cpu < wall { (Limit::Cpu, FailureKind::Cpu) } else { (Limit::Wall, FailureKind::Wall) };
            assert_eq!((stats.tally.limits, stats.tally.failures), ([(limit, 1)].into(), [(kind, 1)].into()));
            // By the clock a busy machine gives it as little as it likes.
            let computed = if cpu < wall { Duration::from_millis(100) } else { Duration::from_nanos(1) };
            assert!(stats.tally.cpu_peak >= computed, "{version}: {:?}", stats.tally.cpu_peak);
            assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
        }
    }
}

#[tokio::test]
async fn waiting_costs_no_processor_time() {
    for version in BOTH {
        let unit = start(faults(version), |config| config.limits.cpu = Duration::from_millis(50)).await;
        assert_eq!(text(&unit, get("/sleep/400")).await.unwrap().0, 200, "{version}");
    }
}

#[tokio::test]
async fn a_memory_hog_is_refused() {
    for version in BOTH {
        let unit = start(faults(version), |config| config.limits.memory_bytes = 16 << 20).await;
        let error = text(&unit, get("/memory")).await.unwrap_err();
        assert!(
            error.to_string().contains("more memory than its limit, 16MiB: see limits.memory"),
            "{version}: {error}"
        );
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{version}");
        let stats = unit.stats();
        assert_eq!(stats.instances_retired, [(Retirement::Memory, 1)].into(), "{version}");
        assert!(stats.tally.limits[&Limit::Memory] >= 1, "{version}: {stats:?}");
        assert_eq!(stats.tally.failures, [(FailureKind::Memory, 1)].into(), "{version}");
        let peak = stats.tally.memory_peak;
        assert!((8 << 20..=16 << 20).contains(&peak), "{version}: {peak}");
    }
}

/// What a guest makes the host keep is no part of its own memory, and bounded all the same.
#[tokio::test]
async fn a_guest_can_make_the_host_keep_so_much_and_no_more() {
    let attacks = [("02", "/handles"), ("02", "/fields"), ("03", "/fields"), ("03", "/tasks"), ("03", "/streams")];
    for (version, path) in attacks {
        let unit = start(faults(version), |_| ()).await;
        let error = text(&unit, get(path)).await.unwrap_err();
        assert!(matches!(error, CallError::Failed { .. }), "{version} {path}: {error}");
        assert_eq!(text(&unit, get("/")).await.unwrap(), (200, "ok\n".into()), "{version} {path}");
        let stats = unit.stats();
        assert_eq!(stats.instances_retired, [(Retirement::Trap, 1)].into(), "{version} {path}");
        assert_eq!(stats.tally.limits, [(Limit::Handles, 1)].into(), "{version} {path}: {error}");
        assert_eq!(stats.tally.last_failure.map(|last| last.kind), Some(FailureKind::Trap), "{version} {path}");
    }
}

#[tokio::test]
async fn headers_of_a_response_are_bounded() {
    let unit = start("faults", |_| ()).await;
    assert_eq!(text(&unit, get("/big-headers/16")).await.unwrap().0, 200);
    let error = text(&unit, get("/big-headers/100")).await.unwrap_err();
    assert!(error.to_string().contains("total size of fields exceeds limit"), "{error}");
    assert_eq!(text(&unit, get("/")).await.unwrap(), (200, "ok\n".into()));
}

#[tokio::test]
async fn tables_are_counted_together() {
    // Five instances, each with a table of nearly a hundred thousand elements: one more than the limit holds. The last
    // one must not get its own; if all do, the guest traps.
    let greedy = r#"(core module $greedy
        (table 1 funcref)
        (func (export "grow") (result i32) (table.grow (ref.null func) (i32.const 99000))))"#;
    let instances: String = (0..5).map(|n| format!("(core instance $g{n} (instantiate $greedy))")).collect();
    let imports: String = (0..5).map(|n| format!("(import \"g{n}\" \"grow\" (func $g{n} (result i32)))")).collect();
    let with: String = (0..5).map(|n| format!("(with \"g{n}\" (instance $g{n}))")).collect();
    let granted: String =
        (0..4).map(|n| format!("(if (i32.lt_s (call $g{n}) (i32.const 0)) (then unreachable))")).collect();
    let text_form = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            {greedy} {instances}
            (core module $main {imports}
                (func (export "handle") (param i32 i32)
                    {granted}
                    (if (i32.ge_s (call $g4) (i32.const 0)) (then unreachable))))
            (core instance $main (instantiate $main {with}))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $main "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    let bytes = Bytes::from(wat::parse_str(text_form).unwrap());
    let component = RUNTIME.load(Digest::of(&bytes), bytes).await.unwrap();
    let unit = Unit::start(&RUNTIME, alone(&RUNTIME, component), config()).await.unwrap();
    // It returns without an answer, and did not trap.
    text(&unit, get("/")).await.unwrap_err();
    let stats = unit.stats();
    assert_eq!(stats.instances_retired, [(Retirement::NoResponse, 1)].into());
    assert_eq!(stats.tally.limits, [(Limit::Tables, 1)].into(), "a limit is counted where the guest goes on as well");
}

#[tokio::test]
async fn a_unit_that_cannot_start_says_why() {
    let mut config = config();
    config.limits.memory_bytes = 64 << 10;
    let error =
        Unit::start(&RUNTIME, alone(&RUNTIME, component("faults").await), config).await.unwrap_err().to_string();
    assert!(error.contains(".0 does not start: the component needs more memory than its limit, 64KiB"), "{error}");
}

#[tokio::test]
async fn a_full_queue_refuses() {
    for version in BOTH {
        let unit = start(faults(version), |config| {
            config.limits.concurrency = 1;
            config.limits.queue = 1;
        })
        .await;
        let first = tokio::spawn(unit.call(get("/sleep/300")));
        until("the first is at work", || unit.stats().in_flight == 1).await;
        let second = tokio::spawn(unit.call(get("/")));
        until("the second waits", || unit.stats().queued == 1).await;
        let refused = unit.call(get("/")).await.unwrap_err();
        assert!(matches!(refused, CallError::Overloaded { .. }) && refused.nothing_ran(), "{version}");
        assert_eq!(first.await.unwrap().unwrap().status(), 200, "{version}");
        assert_eq!(second.await.unwrap().unwrap().status(), 200, "{version}");
        let stats = unit.stats();
        assert_eq!((stats.refused, stats.tally.limits), (1, [(Limit::Queue, 1)].into()), "{version}");
    }
}

#[tokio::test]
async fn a_cut_body_never_reads_like_a_whole_one() {
    for version in BOTH {
        for path in ["/partial", "/short"] {
            let unit = start(faults(version), |_| ()).await;
            let error = text(&unit, get(path)).await.unwrap_err();
            assert!(
                matches!(error, CallError::Failed { .. } | CallError::Body(BodyError::Aborted(_))),
                "{version} {path}: {error:?}"
            );
        }
        let unit = start(faults(version), |config| config.limits.wall = Duration::from_millis(300)).await;
        let error = text(&unit, get("/stall")).await.unwrap_err();
        assert_eq!(error, CallError::Body(BodyError::Timeout), "{version}");
        until("the guest is gone", || unit.stats().in_flight == 0).await;
        assert_eq!(unit.stats().instances_retired, [(Retirement::Timeout, 1)].into(), "{version}");
    }
}

/// The limit is on silence: what keeps moving may last longer.
#[tokio::test]
async fn a_body_that_keeps_moving_may_outlast_the_limit() {
    for version in BOTH {
        let wall = Duration::from_millis(400);
        let unit = start(echo(version), |config| config.limits.wall = wall).await;
        let begun = Instant::now();
        let pieces = futures_util::stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_millis(100)).await; // the slow sender that this is about
            (sent < 15).then(|| (Ok(http_body::Frame::data(Bytes::from_static(b"0123456789"))), sent + 1))
        });
        let body = lattice::http::Body::new(http_body_util::StreamBody::new(pieces));
        let (status, text) = text(&unit, request("POST", "/", body)).await.unwrap();
        assert_eq!((status, text.len()), (200, 150), "{version}");
        assert!(begun.elapsed() > 3 * wall, "{version}: the test is about a body that takes longer than the limit");
    }
}

#[tokio::test]
async fn a_guest_that_goes_on_after_its_answer_has_the_same_limits() {
    let unit = start("faults03", |config| config.limits.cpu = Duration::from_millis(200)).await;
    assert_eq!(text(&unit, get("/loop-later")).await.unwrap(), (200, "ok\n".into()));
    until("the guest is gone", || unit.stats().in_flight == 0).await;
    assert_eq!(unit.stats().instances_retired, [(Retirement::Timeout, 1)].into());
    assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
}

/// Both streams together are cut to so many lines a second, and whoever shares the node does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_output_is_cut_and_harms_nobody() {
    const LINES_PER_SECOND: u64 = 1000;
    for version in BOTH {
        let log = Arc::new(Kept::default());
        let flooding = Arc::new(start(faults(version), |config| config.logs = log.clone()).await);
        let quiet = Arc::new(start(&hello(version), |_| ()).await);
        let over = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let flood = |unit: Arc<Unit>, over: Arc<AtomicBool>| async move {
            while !over.load(Relaxed) {
                assert_eq!(text(&unit, get("/log/5000")).await.unwrap().0, 200, "{version}: it is cut, not stopped");
            }
        };
        let floods: Vec<_> = (0..4).map(|_| tokio::spawn(flood(flooding.clone(), over.clone()))).collect();
        until("the flood is there", || !log.0.lock().unwrap().is_empty()).await;
        for _ in 0..20 {
            let quiet = quiet.clone();
            // A task of its own, as a connection is.
            let answer = tokio::spawn(async move { text(&quiet, get("/")).await }).await.unwrap();
            assert_eq!(answer.unwrap().0, 200, "{version}");
        }
        // What was dropped is told once its second is over.
        until("the drops are told", || flooding_tells(&log) > 0).await;
        over.store(true, Relaxed);
        for flood in floods {
            flood.await.unwrap();
        }
        // The first of these seconds began with the unit, and the last one is not over.
        let seconds = begun.elapsed().as_secs() + 2;
        let passed = log.0.lock().unwrap().len() as u64;
        assert!(passed <= (LINES_PER_SECOND + 1) * seconds, "{version}: {passed} lines in {seconds} s");
        assert!(flooding.stats().tally.limits[&Limit::LogLines] >= 1, "{version}");
        assert_eq!(quiet.stats().tally.limits, [].into(), "{version}");
    }
}

fn flooding_tells(log: &Kept) -> usize {
    log.0.lock().unwrap().iter().filter(|(instance, _, line)| instance.is_none() && line.contains("dropped")).count()
}
