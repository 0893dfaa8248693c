//! Guests that call other workloads by their names, with a router that is a closure.

use super::{
    network::{NAMES, OUTSIDE, VERSIONS, grants},
    *,
};
use lattice::{
    Fut,
    http::Response,
    mesh::{Call, HOPS_MAX, Mesh, MeshError},
};
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
    let bytes = guest(guest_name);
    let component = OUTSIDE.load(Digest::of(&bytes), bytes).await.unwrap();
    let logs = Arc::new(Kept::default());
    let mut config = UnitConfig { grants: grants(http_out), logs: logs.clone(), ..config() };
    change(&mut config);
    (Unit::start(&OUTSIDE, alone(&OUTSIDE, component), config).await.unwrap(), logs)
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
