//! Guests that call other workloads by their names, with a router that is a closure.

use super::{
    network::{NAMES, OUTSIDE, VERSIONS, grants},
    parts::{INTERFACES, edges, lazy, name, service},
    *,
};
use lattice::{
    Fut,
    http::Response,
    mesh::{Call, HOPS_MAX, Mesh, MeshError},
};
use lattice_runtime::{Part, PartRole};
use std::collections::BTreeMap;

type Callee = Arc<dyn Fn(Call) -> Fut<'static, Result<Response, MeshError>> + Send + Sync>;

/// Workloads by their names. One for all tests: a runtime is joined once.
#[derive(Default)]
struct Workloads(Mutex<BTreeMap<String, Callee>>);

impl Workloads {
    fn run<F, A>(&self, name: &str, callee: F)
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, MeshError>> + Send + 'static,
    {
        let callee: Callee = Arc::new(move |call| Box::pin(callee(call)));
        self.0.lock().unwrap().insert(name.to_owned(), callee);
    }
}

impl Mesh for Workloads {
    fn call(&self, call: Call) -> Fut<'static, Result<Response, MeshError>> {
        match self.0.lock().unwrap().get(call.callee.as_str()) {
            Some(callee) => callee(call),
            None => Box::pin(async { Err(MeshError::NoWorkload) }),
        }
    }
}

static WORKLOADS: LazyLock<Arc<Workloads>> = LazyLock::new(|| {
    let workloads = Arc::<Workloads>::default();
    OUTSIDE.join(workloads.clone());
    workloads
});

async fn fetcher(guest_name: &str, http_out: &[&str], change: impl FnOnce(&mut UnitConfig)) -> (Unit, Arc<Kept>) {
    LazyLock::force(&WORKLOADS);
    let component = outside(guest_name).await;
    let logs = Arc::new(Kept::default());
    let mut config = UnitConfig { grants: grants(http_out), logs: logs.clone(), ..config() };
    change(&mut config);
    (Unit::start(&OUTSIDE, alone(&OUTSIDE, component), config).await.unwrap(), logs)
}

async fn outside(guest_name: &str) -> Component {
    let bytes = guest(guest_name);
    OUTSIDE.load(Digest::of(&bytes), bytes).await.unwrap()
}

fn ask(target: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = get("/");
    for (name, value) in headers.iter().chain(&[("x-target", target)]) {
        request.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

fn said(text: impl Into<Bytes>) -> Result<Response, MeshError> {
    Ok(Response::new(lattice::http::full(text)))
}

#[tokio::test]
async fn a_call_says_whose_it_is_and_stays_in_the_lattice() {
    for version in VERSIONS {
        let name = format!("{version}-whose");
        WORKLOADS.run(&name, |call| async move {
            let Call { caller, callee, hops, limit, request } = call;
            assert!(caller.as_str().starts_with("shop"), "{caller}");
            assert_eq!(request.uri().authority().unwrap().as_str(), format!("{callee}.lattice"));
            assert!(!request.headers().contains_key("host") && limit <= Duration::from_secs(60));
            let trace = request.headers().get("traceparent").map_or("none", |trace| trace.to_str().unwrap());
            let text = format!("{hops} {} {trace}", request.uri().path_and_query().unwrap());
            said(text)
        });
        let (unit, _) = fetcher(version, &["http://*.lattice"], |_| ()).await;
        let url = format!("http://{name}.lattice./a/../b?c");
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (headers, expect) in [
            (&[][..], "1 /a/../b?c none".to_owned()),
            (&[("traceparent", trace), ("lattice-hops", "4")][..], format!("5 /a/../b?c {trace}")),
        ] {
            assert_eq!(text(&unit, ask(&url, headers)).await.unwrap(), (200, expect), "{version}");
        }
        assert_eq!(NAMES.asked(&format!("{name}.lattice")), 0, "{version}: no resolver was asked");
        assert_eq!(unit.stats().network.connections, 0);
    }
}

#[tokio::test]
async fn requests_in_one_instance_have_a_trace_each() {
    WORKLOADS.run("traces", |call| async move {
        // Long enough that all are inside at a time.
        tokio::time::sleep(Duration::from_millis(100)).await;
        said(call.request.headers()["traceparent"].as_bytes().to_vec())
    });
    let (unit, _) = fetcher("fetcher03", &["http://traces.lattice"], |config| {
        config.reuse.concurrency = 16;
        config.reuse.max_instances = 1;
    })
    .await;
    let traces: Vec<_> =
        (1..=16).map(|i| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033{i:02}-01")).collect();
    let answers = traces.iter().map(|trace| text(&unit, ask("http://traces.lattice/", &[("traceparent", trace)])));
    let answers = futures_util::future::join_all(answers).await;
    for (trace, answer) in traces.iter().zip(answers) {
        assert_eq!(answer.unwrap(), (200, trace.clone()));
    }
    assert_eq!(unit.stats().instances_created, 1);
}

/// A main component that may send nothing, with parts that may: `asker` for numbers, and where `main` is of WASI 0.3
/// `asker03` for what is slow.
async fn with_askers(main: &str, role: &PartRole) -> Unit {
    LazyLock::force(&WORKLOADS);
    let (others, slow) = match main {
        "part-caller03" => ("part03", Some("asker03")),
        _ => ("part", None),
    };
    let mut parts = vec![Part::new(name("others"), outside(others).await, lazy())];
    let mut all_edges = match slow {
        Some(_) => edges("others", &["faults"]),
        None => edges("others", &INTERFACES[1..]),
    };
    for (guest_name, interface) in [Some(("asker", "counter")), slow.map(|slow| (slow, "slow"))].into_iter().flatten() {
        let mut part = Part::new(name(guest_name), outside(guest_name).await, role.clone());
        part.grants = Some(grants(&["http://asked.lattice"]));
        parts.push(part);
        all_edges.extend(edges(guest_name, &[interface]));
    }
    let assembly = OUTSIDE.assemble(outside(main).await, parts, all_edges).unwrap();
    let mut config = config();
    (config.reuse.concurrency, config.reuse.max_instances) = (4, 1);
    config.limits.wall = Duration::from_secs(30);
    Unit::start(&OUTSIDE, assembly, config).await.unwrap()
}

#[tokio::test]
async fn what_a_part_sends_belongs_to_the_request_that_it_is_called_for() {
    let heard = Arc::new(Mutex::new(BTreeMap::new()));
    let (hearing, all_inside) = (heard.clone(), Arc::new(tokio::sync::Barrier::new(4)));
    WORKLOADS.run("asked", move |call| {
        let path = call.request.uri().path().trim_start_matches('/').to_owned();
        let trace = call.request.headers().get("traceparent").map(|trace| trace.to_str().unwrap().to_owned());
        hearing.lock().unwrap().insert(path.clone(), (call.hops, trace));
        let all_inside = all_inside.clone();
        async move {
            assert!(call.limit <= Duration::from_secs(30), "what is left to the request: {:?}", call.limit);
            if path.starts_with('9') {
                all_inside.wait().await;
            }
            said("")
        }
    });
    for (main, calls) in
        [("part-caller", &[("add", 1_u8)][..]), ("part-caller03", &[("add", 1), ("add", 11), ("sleep", 91)])]
    {
        for role in [lazy(), PartRole::Isolated, service()] {
            let unit = with_askers(main, &role).await;
            for (what, first) in calls {
                heard.lock().unwrap().clear();
                let asked: Vec<_> = (*first..first + 4)
                    .map(|n| (n, format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033{n:02}-01")))
                    .collect();
                let answers = asked.iter().map(|(n, trace)| {
                    let mut request = get(&format!("/{what}/{n}"));
                    for (header, value) in [("traceparent", trace.clone()), ("lattice-hops", (n % 8).to_string())] {
                        request.headers_mut().insert(header, value.parse().unwrap());
                    }
                    text(&unit, request)
                });
                for answer in futures_util::future::join_all(answers).await {
                    assert_eq!(answer.unwrap(), (200, "200".into()), "{main} {role:?} {what}");
                }
                let expect = asked.into_iter().map(|(n, trace)| (n.to_string(), (n % 8 + 1, Some(trace)))).collect();
                assert_eq!(*heard.lock().unwrap(), expect, "{main} {role:?} {what}");

                let mut one_too_many = get(&format!("/{what}/99"));
                one_too_many.headers_mut().insert("lattice-hops", u16::from(HOPS_MAX).into());
                assert_eq!(text(&unit, one_too_many).await.unwrap(), (200, "0".into()), "{main} {role:?} {what}");
                assert!(!heard.lock().unwrap().contains_key("99"), "{main} {role:?} {what}");
            }
            assert_eq!(unit.stats().instances_created, 1, "{main} {role:?}");
        }
    }
}

#[tokio::test]
async fn calls_need_a_grant_and_fail_by_name() {
    for (name, error) in [
        ("refused", MeshError::Refused),
        ("asleep", MeshError::NotReady),
        ("busy", MeshError::Overloaded),
        ("slow", MeshError::Timeout),
        ("broken", MeshError::Failed),
        ("lost", MeshError::PeerLost),
    ] {
        WORKLOADS.run(name, move |_| std::future::ready(Err(error.clone())));
    }
    WORKLOADS.run("granted", |_| async { said("hello") });
    for version in VERSIONS {
        let (unit, logs) = fetcher(version, &["*", "http://granted.lattice"], |_| ()).await;
        let (status, why) = text(&unit, ask("http://broken.lattice/", &[])).await.unwrap();
        assert!(status == 502 && why.contains("HttpRequestDenied"), "{version}: * is about what is outside: {why}");
        assert_eq!(text(&unit, ask("http://granted.lattice/", &[])).await.unwrap(), (200, "hello".into()), "{version}");
        let line = r#"grants: {http-out: ["http://broken.lattice"]}"#;
        assert!(logs.0.lock().unwrap().iter().any(|(_, _, told)| told.contains(line)), "{version}");

        let (unit, logs) = fetcher(version, &["http://*.lattice"], |_| ()).await;
        let last = HOPS_MAX.to_string();
        for (url, headers, code) in [
            ("http://refused.lattice/", &[][..], "HttpRequestDenied"),
            ("http://asleep.lattice/", &[], "DestinationUnavailable"),
            ("http://busy.lattice/", &[], "ConnectionLimitReached"),
            ("http://slow.lattice/", &[], "HttpResponseTimeout"),
            ("http://broken.lattice/", &[], "HttpResponseIncomplete"),
            ("http://lost.lattice/", &[], "ConnectionTerminated"),
            ("http://nobody.lattice/", &[], "DestinationNotFound"),
            ("http://a.granted.lattice/", &[], "DestinationNotFound"),
            ("https://granted.lattice/", &[], "HttpRequestUriInvalid"),
            ("http://granted.lattice:81/", &[], "HttpRequestUriInvalid"),
            ("http://granted.lattice/", &[("lattice-hops", last.as_str())], "LoopDetected"),
        ] {
            let (status, why) = text(&unit, ask(url, headers)).await.unwrap();
            assert!(status == 502 && why.contains(code), "{version} {url}: {status} {why}");
        }
        let lines = logs.0.lock().unwrap().clone();
        assert!(lines.iter().any(|(_, _, line)| line.contains("http.callers of refused has no shop")), "{lines:?}");
    }
}

#[tokio::test]
async fn bodies_pass_both_ways_and_calls_end_with_their_instance() {
    // As a whole: a guest of 0.2 that sends all of its body before it reads has nobody that buffers for it.
    WORKLOADS.run("echo", |call| async move {
        let body = call.request.into_body().collect().await.map_err(|_| MeshError::BodyBroken)?;
        said(body.to_bytes())
    });
    let under_way = Arc::new(());
    let counted = under_way.clone();
    WORKLOADS.run("never", move |_| {
        let counted = counted.clone();
        async move {
            let _counted = counted;
            std::future::pending().await
        }
    });
    for version in VERSIONS {
        let (unit, _) = fetcher(version, &["http://*.lattice"], |_| ()).await;
        let sent: Vec<u8> = (0..(1 << 20)).map(|i| (i % 251) as u8).collect();
        let mut request = request("POST", "/", lattice::http::full(sent.clone()));
        request.headers_mut().insert("x-target", "http://echo.lattice/".parse().unwrap());
        let response = unit.call(request).await.unwrap();
        assert!(response.into_body().collect().await.unwrap().to_bytes() == sent, "{version}");

        let unit = Arc::new(unit);
        let calling = {
            let (unit, request) = (unit.clone(), ask("http://never.lattice/", &[]));
            tokio::spawn(async move { unit.call(request).await.map(drop) })
        };
        until("it is called", || Arc::strong_count(&under_way) == 3).await;
        calling.abort();
        until("the call is over", || Arc::strong_count(&under_way) == 2).await;
    }
}
