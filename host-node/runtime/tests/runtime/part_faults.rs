//! Parts that misbehave, and callers that do: what it costs, and whom.

use super::{
    parts::{INTERFACES, assembly, body, edges, lazy, name, part, service, unit},
    *,
};
use lattice_runtime::{
    Edge, EdgeError, LoadError, Part, PartRole, PartState, Restart, Retirement, Uncrossable, crossing,
};
use std::time::Instant;

/// Restarts at once, and not often.
fn quick(restarts_max: u32) -> PartRole {
    let (backoff_min, backoff_max) = (Duration::from_millis(1), Duration::from_millis(2));
    PartRole::Service { restart: Restart { backoff_min, backoff_max, restarts_max, ..Restart::default() } }
}

async fn started(role: PartRole, change: impl FnOnce(&mut Part), config: UnitConfig) -> Unit {
    Unit::start(&RUNTIME, assembly(role, change).await, config).await.unwrap()
}

fn with_limits(wall: u64, cpu: u64) -> UnitConfig {
    let limits = Limits { wall: Duration::from_millis(wall), cpu: Duration::from_millis(cpu), ..Limits::default() };
    UnitConfig { limits, ..config() }
}

/// A component of text.
async fn made_of(text_form: &str) -> Component {
    let bytes = Bytes::from(wat::parse_str(text_form).unwrap());
    RUNTIME.load(Digest::of(&bytes), bytes).await.unwrap()
}

async fn made_of_text(text_form: String) -> Component {
    made_of(&text_form).await
}

/// A program of WASI 0.2 whose `run` is that.
async fn program(run: &str) -> Component {
    made_of(&format!(
        r#"(component
            (core module $m (func (export "run") (result i32) {run}))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $exported (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    ))
    .await
}

/// `hello-http02` beside a service that nobody calls.
async fn beside(program: Component, role: PartRole) -> Unit {
    let parts = vec![Part::new(name("worker"), program, role)];
    let assembly = RUNTIME.assemble(component("hello-http02").await, parts, Vec::new()).unwrap();
    Unit::start(&RUNTIME, assembly, config()).await.unwrap()
}

#[tokio::test]
async fn a_trap_in_a_part_fails_the_call_and_retires_one_instance() {
    for role in [lazy(), PartRole::Isolated] {
        let unit = unit(role.clone()).await;
        assert_eq!(body(&unit, "/add/5").await, "5");
        let error = text(&unit, get("/trap")).await.unwrap_err();
        assert!(matches!(error, CallError::Failed { .. }) && !error.nothing_ran(), "{error:?}");
        assert!(error.to_string().contains("its part part failed: wasm trap: wasm `unreachable`"), "{error}");
        assert_eq!(unit.stats().instances_retired, [(Retirement::Part, 1)].into(), "{role:?}");
        assert_eq!((part(&unit).failures, part(&unit).instances_created), (1, 1), "{role:?}");
        assert!(part(&unit).last_error.unwrap().contains("unreachable"));
        assert_eq!(body(&unit, "/add/2").await, "2", "{role:?}: a fresh instance");
    }
}

#[tokio::test]
async fn a_trap_in_a_service_starts_it_again() {
    let unit = unit(quick(10)).await;
    assert_eq!(body(&unit, "/add/5").await, "5");
    let error = text(&unit, get("/trap")).await.unwrap_err().to_string();
    assert!(error.contains("its part part failed: wasm trap"), "{error}");
    until("it is there again", || part(&unit).state == PartState::Ready).await;
    assert_eq!(body(&unit, "/add/2").await, "2", "what it held is gone");
    assert_eq!((part(&unit).restarts, part(&unit).instances_created), (1, 2));
}

/// Time that a part computes is time of the request that called it.
#[tokio::test]
async fn a_part_that_computes_without_end_ends_with_the_budget_of_its_caller() {
    for role in [lazy(), PartRole::Isolated, quick(10)] {
        for (wall, cpu) in [(60_000, 300), (500, 60_000)] {
            let unit = started(role.clone(), |_| (), with_limits(wall, cpu)).await;
            let began = Instant::now();
            let error = tokio::spawn(unit.call(get("/spin"))).await.unwrap().unwrap_err();
            assert!(matches!(error, CallError::Timeout { .. }), "{role:?}: {error:?}");
            assert!(began.elapsed() < Duration::from_secs(30), "{role:?}: {:?}", began.elapsed());
            until("it is gone, or there again", || {
                let part = part(&unit);
                part.state == PartState::Ready && part.in_flight == 0
            })
            .await;
            assert_eq!(body(&unit, "/add/2").await, "2", "{role:?}");
        }
    }
}

#[tokio::test]
async fn a_part_has_a_memory_limit_of_its_own() {
    for role in [lazy(), quick(10)] {
        let unit = started(role.clone(), |part| part.memory_bytes = Some(16 << 20), config()).await;
        let error = text(&unit, get("/devour")).await.unwrap_err().to_string();
        assert!(error.contains("its part part failed: needs more memory than its limit, 16MiB"), "{error}");
        until("it is there again", || part(&unit).state == PartState::Ready).await;
        assert_eq!(body(&unit, "/add/2").await, "2", "{role:?}");
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_call_along_but_leaves_a_service_whole() {
    for (role, expect) in [(PartRole::Isolated, "1"), (service(), "6")] {
        let unit = unit(role.clone()).await;
        assert_eq!(body(&unit, "/add/5").await, "5");
        let sleeping = tokio::spawn(unit.call(get("/sleep/300")));
        until("it is called", || part(&unit).in_flight == 1).await;
        sleeping.abort();
        assert!(sleeping.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(body(&unit, "/add/1").await, expect, "{role:?}");
        assert_eq!(part(&unit).restarts, 0, "{role:?}");
    }
}

#[tokio::test]
async fn a_wedged_call_of_a_service_ends_in_time_and_starts_it_again() {
    let unit = started(quick(10), |_| (), with_limits(400, 10_000)).await;
    let wedged = tokio::spawn(unit.call(get("/sleep/1000000")));
    until("it is called", || part(&unit).in_flight == 1).await;
    // Its own time is up at about the same moment, a little earlier or later.
    let waiting = unit.call(get("/add/1")).await.unwrap_err();
    let learns_why = waiting.to_string().contains("took longer than 400 ms");
    assert!(learns_why || matches!(waiting, CallError::Timeout { .. }), "{waiting:?}");
    assert!(matches!(wedged.await.unwrap().unwrap_err(), CallError::Timeout { .. }));
    until("nobody waits for that call any more", || part(&unit).restarts == 1).await;
    until("it is there again", || part(&unit).state == PartState::Ready).await;
    assert!(part(&unit).last_error.unwrap().contains("took longer than 400 ms"));
    assert_eq!(body(&unit, "/add/2").await, "2");
}

#[tokio::test]
async fn who_finds_the_queue_full_is_told_so() {
    let full = |part: &mut Part| (part.instances_max, part.queue_max) = (1, 0);
    for role in [lazy(), service()] {
        let unit = started(role, full, config()).await;
        let sleeping = tokio::spawn(unit.call(get("/sleep/500")));
        until("it is called", || part(&unit).in_flight == 1).await;
        let error = unit.call(get("/add/1")).await.unwrap_err();
        assert_eq!(error.to_string(), "the component failed: its part part is busy: too many calls wait for it");
        assert_eq!(part(&unit).refused, 1);
        assert_eq!(sleeping.await.unwrap().unwrap().status(), 200, "the one who was first");
    }
}

#[tokio::test]
async fn a_service_that_ends_at_once_is_started_again_and_then_given_up() {
    for (run, why) in [
        ("unreachable", Some("unreachable")),
        ("(i32.const 1)", Some("its run returned an error")),
        ("(i32.const 0)", None),
    ] {
        let unit = beside(program(run).await, quick(3)).await;
        let (service, last) = unit.until_service_given_up().await;
        assert_eq!(service, name("worker"));
        assert!(last.contains(why.unwrap_or("it ended")), "{run}: {last}");
        assert_eq!(part(&unit).state, PartState::GivenUp, "{run}");
        let stats = part(&unit);
        assert_eq!((stats.restarts, stats.instances_created, stats.instances_live), (3, 4, 0), "{run}");
        assert_eq!(stats.last_error.is_some(), why.is_some(), "{run}");
        assert!(stats.last_error.unwrap_or_default().contains(why.unwrap_or_default()), "{run}");
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200, "{run}: the unit goes on");
    }
}

#[tokio::test]
async fn a_service_that_is_given_up_fails_its_callers_with_the_reason() {
    let unit = unit(quick(0)).await;
    text(&unit, get("/trap")).await.unwrap_err();
    until("it is given up", || part(&unit).state == PartState::GivenUp).await;
    let error = unit.call(get("/add/1")).await.unwrap_err().to_string();
    assert!(error.contains("its part part ended too often and is not started again; it failed last: "), "{error}");
}

#[tokio::test]
async fn a_program_that_has_ended_well_may_rest() {
    let restart = Restart { after_success: false, ..Restart::default() };
    let unit = beside(program("(i32.const 0)").await, PartRole::Service { restart }).await;
    until("it is done", || part(&unit).state == PartState::Done).await;
    assert_eq!((part(&unit).restarts, part(&unit).last_error), (0, None));
}

/// On a runtime of one thread, a service that kept it would stop everything here.
#[tokio::test]
async fn a_service_that_computes_for_ever_starves_nobody_and_can_be_stopped() {
    let unit = beside(program("(loop (br 0)) unreachable").await, service()).await;
    for _ in 0..3 {
        assert_eq!(text(&unit, get("/")).await.unwrap().0, 200);
    }
    assert_eq!((part(&unit).state, part(&unit).instances_live), (PartState::Ready, 1));
    assert!(unit.drain(Duration::from_secs(30)).await);
    until("it has stopped", || part(&unit).instances_live == 0).await;
    assert_eq!(part(&unit).state, PartState::Stopped);
}

#[tokio::test]
async fn a_service_that_cannot_start_keeps_its_unit_from_starting() {
    let starts_badly = r#"(component (core module $m (func $start unreachable) (start $start))
        (core instance (instantiate $m))
        (core module $r (func (export "run") (result i32) (i32.const 0)))
        (core instance $i (instantiate $r))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $exported (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exported)))"#;
    let parts = vec![Part::new(name("worker"), made_of(starts_badly).await, service())];
    let assembly = RUNTIME.assemble(component("hello-http02").await, parts, Vec::new()).unwrap();
    let error = Unit::start(&RUNTIME, assembly, config()).await.unwrap_err().to_string();
    assert!(error.contains(".0 does not start: the component needs worker, which failed: wasm trap"), "{error}");
}

/// `part-caller03` with `part03` in that role.
async fn both03(role: PartRole) -> Unit {
    let parts = vec![Part::new(name("part"), component("part03").await, role)];
    let edges = edges("part", &["counter", "faults", "slow"]);
    let assembly = RUNTIME.assemble(component("part-caller03").await, parts, edges).unwrap();
    Unit::start(&RUNTIME, assembly, config()).await.unwrap()
}

#[tokio::test]
async fn asynchronous_calls_cross_and_run_side_by_side() {
    for role in [lazy(), PartRole::Isolated, service()] {
        let unit = both03(role.clone()).await;
        let began = Instant::now();
        assert_eq!(body(&unit, "/both/1500").await, "3000", "{role:?}");
        assert!(began.elapsed() < Duration::from_millis(2900), "{role:?}: one after the other");
        assert_eq!(body(&unit, "/block/10").await, "10", "{role:?}");
    }
}

#[tokio::test]
async fn a_service_of_0_3_runs_and_is_called_meanwhile() {
    let unit = both03(quick(10)).await;
    let mut before = 0;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(30)).await; // of the service's own time, in which it counts
        let now: u32 = body(&unit, "/add/0").await.parse().unwrap();
        assert!(now > before, "{now}");
        before = now;
    }
    // A trap answers all who are inside.
    let sleeping = tokio::spawn(unit.call(get("/sleep/1000000")));
    until("it is called", || part(&unit).in_flight == 1).await;
    for error in [unit.call(get("/trap")).await.unwrap_err(), sleeping.await.unwrap().unwrap_err()] {
        assert!(error.to_string().contains("wasm trap"), "{error}");
    }
    until("it is there again", || part(&unit).state == PartState::Ready).await;
    assert!(body(&unit, "/add/0").await.parse::<u32>().unwrap() <= before + 1000, "it begins anew");
    assert_eq!(part(&unit).restarts, 1);
}

/// Callers drive the service's loop, on several threads: none may be forgotten, nor keep its unit from ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_call_a_service_of_0_3_at_a_time() {
    let unit = both03(service()).await;
    let calls: Vec<_> = (0..16).map(|_| tokio::spawn(unit.call(get("/loop/add/100")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    let after = part(&unit);
    assert_eq!((after.calls, after.failures, after.restarts, after.in_flight), (1600, 0, 0, 0));
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(unit.call(get("/loop/add/100000000")))).collect();
    until("they call", || part(&unit).calls > 1700).await;
    drop(unit);
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn what_cannot_be_linked_is_refused_with_the_reason() {
    let part_of = |component: Component, role| Part::new(name("part"), component, role);
    let caller = component("part-caller").await;
    let refused = |parts: Vec<Part>, edges: Vec<Edge>| match RUNTIME.assemble(caller.clone(), parts, edges).unwrap_err()
    {
        LoadError::Edge(error) => error,
        other => panic!("{other}"),
    };
    let part = component("part").await;
    let all = || edges("part", &INTERFACES);
    assert_eq!(refused(Vec::new(), all()), EdgeError::UnknownPart(name("part")));
    let twice = vec![part_of(part.clone(), lazy()), part_of(part.clone(), lazy())];
    assert_eq!(refused(twice, all()), EdgeError::SameName(name("part")));
    let mut wrong = all();
    wrong[0].import = "example:parts/none@0.1.0".into();
    let error = refused(vec![part_of(part.clone(), lazy())], wrong).to_string();
    assert_eq!(error, "the main component does not import example:parts/none@0.1.0");
    let error = refused(vec![part_of(component("part03").await, lazy())], all()).to_string();
    assert_eq!(error, "part does not export example:parts/text@0.1.0");
    let mut wrong = all();
    wrong[0].export = "example:parts/text@0.1.0".into();
    assert!(matches!(refused(vec![part_of(part.clone(), lazy())], wrong), EdgeError::Mismatch { .. }));
    let error = RUNTIME.assemble(caller.clone(), Vec::new(), Vec::new()).unwrap_err();
    assert!(matches!(error, LoadError::MissingImport { .. }), "{error}");

    // Resources stay where they are.
    let types =
        caller.inspection().imports.iter().find(|name| name.starts_with("wasi:http/types@0.2")).unwrap().clone();
    let bytes = guest("part-caller");
    let found = crossing(&bytes, &types, true).unwrap().unwrap_err();
    assert_eq!(found.what, Uncrossable::Resource, "{found}");
    assert_eq!(crossing(&bytes, "example:parts/text@0.1.0", false).unwrap(), Ok(Vec::new()));
    let slow = crossing(&bytes, "example:parts/values@0.1.0", false).unwrap();
    assert_eq!(slow, Ok(vec!["turn".to_owned()]), "it has bytes in a record");

    // Each of two parts passes on what the other one exports.
    let relay = |imported: &str, exported: &str| {
        made_of_text(format!(
            r#"(component (import "t:t/{imported}" (instance $i (export "f" (func))))
                (alias export $i "f" (func $f))
                (core func $lowered (canon lower (func $f)))
                (core module $m (import "" "f" (func $f)) (func (export "f") (call $f)))
                (core instance $m (instantiate $m (with "" (instance (export "f" (func $lowered))))))
                (func $lifted (canon lift (core func $m "f")))
                (instance $o (export "f" (func $lifted)))
                (export "t:t/{exported}" (instance $o)))"#
        ))
    };
    let (a, b) = (relay("b", "a").await, relay("a", "b").await);
    let edge = |from: &str, to: &str| Edge {
        from: Some(name(from)),
        import: format!("t:t/{to}"),
        to: name(to),
        export: format!("t:t/{to}"),
    };
    let parts = vec![Part::new(name("a"), a, lazy()), Part::new(name("b"), b, lazy())];
    let error = refused(parts, vec![edge("a", "b"), edge("b", "a")]).to_string();
    assert_eq!(error, "parts call each other in a circle, so a call may wait for itself: a → b → a");

    // A service of 0.2 can run or be called; with neither it has nothing to do.
    let hello = component("hello-http02").await;
    let idle = RUNTIME.assemble(hello.clone(), vec![part_of(part, service())], Vec::new()).unwrap_err();
    assert_eq!(idle, LoadError::Edge(EdgeError::Idle(name("part"))));
    let both = made_of(
        r#"(component
            (core module $m (func (export "run") (result i32) (i32.const 0)) (func (export "add") (param i32) (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (func $add (param "by" u32) (result u32) (canon lift (core func $i "add")))
            (instance $runs (export "run" (func $run)))
            (instance $counts (export "add" (func $add)))
            (export "example:parts/counter@0.1.0" (instance $counts))
            (export "wasi:cli/run@0.2.0" (instance $runs)))"#,
    )
    .await;
    let mut to_both = edges("both", &["counter"]);
    to_both.extend(edges("part", &["text", "values", "faults"]));
    let parts = vec![part_of(component("part").await, lazy()), Part::new(name("both"), both, service())];
    assert_eq!(refused(parts, to_both), EdgeError::Busy(name("both")));
}

/// `hello-http02` beside a service that calls `helper` so many times and then is done.
async fn calling(times: u32, helper: &str, role: PartRole, config: UnitConfig) -> Unit {
    let caller = made_of_text(format!(
        r#"(component
            (import "example:parts/helper" (instance $helper (export "help" (func))))
            (core func $help (canon lower (func $helper "help")))
            (core module $m
                (import "" "help" (func $help))
                (func (export "run") (result i32) (local $n i32)
                    (loop
                        call $help
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if 0 (i32.lt_u (local.get $n) (i32.const {times}))))
                    (i32.const 0)))
            (core instance $i (instantiate $m (with "" (instance (export "help" (func $help))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $exported (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    ));
    let helper = made_of_text(format!(
        r#"(component
            (core module $m (func (export "help") (local $n i32) {helper}))
            (core instance $i (instantiate $m))
            (func $help (canon lift (core func $i "help")))
            (instance $exported (export "help" (func $help)))
            (export "example:parts/helper" (instance $exported)))"#
    ));
    let restart = Restart { after_success: false, restarts_max: 0, ..Restart::default() };
    let parts = vec![
        Part::new(name("caller"), caller.await, PartRole::Service { restart }),
        Part::new(name("helper"), helper.await, role),
    ];
    let (import, export) = ("example:parts/helper".to_owned(), "example:parts/helper".to_owned());
    let edge = Edge { from: Some(name("caller")), import, to: name("helper"), export };
    let assembly = RUNTIME.assemble(component("hello-http02").await, parts, vec![edge]).unwrap();
    Unit::start(&RUNTIME, assembly, config).await.unwrap()
}

/// Each call some 100 ms, and all of them more than the limit of one.
#[tokio::test]
async fn calls_by_a_service_have_a_budget_each() {
    let computes = "(loop (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get $n) (i32.const 250000000))))";
    for role in [lazy(), PartRole::Isolated] {
        let unit = calling(20, computes, role.clone(), with_limits(60_000, 900)).await;
        until("it has ended", || matches!(part(&unit).state, PartState::Done | PartState::GivenUp)).await;
        assert_eq!((part(&unit).state, part(&unit).last_error), (PartState::Done, None), "{role:?}");
    }
}

#[tokio::test]
async fn calls_by_a_service_end_in_time() {
    for role in [lazy(), PartRole::Isolated, quick(10)] {
        let unit = calling(1, "(loop (br 0))", role.clone(), with_limits(300, 60_000)).await;
        until("it has ended", || part(&unit).state == PartState::GivenUp).await;
        let why = part(&unit).last_error.unwrap();
        assert!(why.contains("its part helper failed: took longer than 300 ms"), "{role:?}: {why}");
    }
}

/// Each call some 100 ms. `/loop/sleep/N` makes N of them, one after the other.
#[tokio::test]
async fn asynchronous_calls_cost_their_request_its_time() {
    let computes = made_of(
        r#"(component
            (core module $m
                (func (export "none"))
                (func (export "same") (param i32) (result i32) (local.get 0))
                (func (export "compute") (param i32) (result i32) (local $n i32)
                    (loop (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if 0 (i32.lt_u (local.get $n) (i32.const 250000000))))
                    (local.get 0)))
            (core instance $i (instantiate $m))
            (func $none (canon lift (core func $i "none")))
            (func $add (param "by" u32) (result u32) (canon lift (core func $i "same")))
            (func $rest (param "millis" u32) (result u32) (canon lift (core func $i "same")))
            (func $sleep async (param "millis" u32) (result u32) (canon lift (core func $i "compute")))
            (instance $counter (export "add" (func $add)))
            (instance $faults (export "trap" (func $none)) (export "spin" (func $none)) (export "devour" (func $none))
                (export "sleep" (func $rest)))
            (instance $slow (export "sleep" (func $sleep)))
            (export "example:parts/counter@0.1.0" (instance $counter))
            (export "example:parts/faults@0.1.0" (instance $faults))
            (export "example:parts/slow@0.1.0" (instance $slow)))"#,
    )
    .await;
    let parts = vec![Part::new(name("part"), computes, lazy())];
    let edges = edges("part", &["counter", "faults", "slow"]);
    let assembly = RUNTIME.assemble(component("part-caller03").await, parts, edges).unwrap();
    let unit = Unit::start(&RUNTIME, assembly, with_limits(60_000, 900)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(body(&unit, "/loop/sleep/3").await, "0", "each request has its own");
    }
    let error = unit.call(get("/loop/sleep/40")).await.unwrap_err();
    assert_eq!(error, CallError::Timeout { limit: Duration::from_millis(900) });
    assert!(part(&unit).calls < 46, "{:?}", part(&unit));
}

/// The same for calls of a service that answers one at a time: each has a budget of its own, and counts for its request.
#[tokio::test]
async fn calls_of_a_service_cost_their_request_its_time() {
    let computes = made_of(
        r#"(component
            (core module $m
                (func (export "add") (param i32) (result i32) (local $n i32)
                    (loop (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if 0 (i32.lt_u (local.get $n) (i32.const 250000000))))
                    (local.get 0)))
            (core instance $i (instantiate $m))
            (func $add (param "by" u32) (result u32) (canon lift (core func $i "add")))
            (instance $counter (export "add" (func $add)))
            (export "example:parts/counter@0.1.0" (instance $counter)))"#,
    )
    .await;
    let parts = vec![
        Part::new(name("computes"), computes, service()),
        Part::new(name("part"), component("part").await, lazy()),
    ];
    let edges = [edges("computes", &["counter"]), edges("part", &["text", "values", "faults"])].concat();
    let assembly = RUNTIME.assemble(component("part-caller").await, parts, edges).unwrap();
    let unit = Unit::start(&RUNTIME, assembly, with_limits(60_000, 900)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(text(&unit, get("/loop/add/0/3")).await.unwrap().0, 200, "each request has its own");
    }
    let error = unit.call(get("/loop/add/0/40")).await.unwrap_err();
    assert_eq!(error, CallError::Timeout { limit: Duration::from_millis(900) });
    let service = part(&unit);
    assert!(service.calls < 46 && service.restarts == 0, "{service:?}");
}

/// A service that reads its stdin hears of the end of its unit, and has time for it. One that does not costs none.
#[tokio::test]
async fn a_service_is_told_before_it_is_stopped() {
    for listens in [true, false] {
        let mut part = Part::new(name("part"), component("part03").await, service());
        if listens {
            part.env = [("LISTEN".to_owned(), "1".to_owned())].into();
        }
        let edges = edges("part", &["counter", "faults", "slow"]);
        let assembly = RUNTIME.assemble(component("part-caller03").await, vec![part], edges).unwrap();
        let log = Arc::new(Kept::default());
        let unit = Unit::start(&RUNTIME, assembly, UnitConfig { logs: log.clone(), ..config() }).await.unwrap();
        assert_eq!(body(&unit, "/sleep/1").await, "1", "it runs, and is called meanwhile");
        let began = Instant::now();
        assert!(unit.drain(Duration::from_secs(60)).await);
        assert!(began.elapsed() < Duration::from_secs(9), "listens: {listens}, {:?}", began.elapsed());
        let said = log.0.lock().unwrap().iter().any(|(_, _, line)| line == "told to end");
        assert_eq!(said, listens);
        until("it is stopped", || super::parts::part(&unit).state == PartState::Stopped).await;
        assert_eq!(super::parts::part(&unit).restarts, 0, "it ended as it was told to");
    }
}
