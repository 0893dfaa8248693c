//! `wasi:logging`: a component that knows the published WIT and nothing of the lattice.

use crate::harness::{Lattice, PATIENCE, api::spec, eventually, http};
use hyper::Method;
use lattice::ctl::{LogLevel, LogLine, LogStream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_logs_has_its_level_and_context() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    api.put(&spec("logger", api.upload("logger").await, 1)).await.unwrap();
    api.ready("logger").await;
    let node = lattice.node("n1").http();
    let kept = async || {
        let out = lattice.cli_ok(&["logs", "logger", "-o", "json"]).await;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<LogLine>>()
    };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for path in ["/trace/a.b?one", "/critical/?two~three", "/warn/db?four"] {
        let headers = [("traceparent", trace)];
        let response = http::send(&node, Method::GET, "logger.test", path, &headers, http::empty()).await.unwrap();
        assert_eq!(http::whole(response).await.unwrap().status, 200);
    }
    let lines = eventually("all lines are kept", PATIENCE, async || match kept().await {
        lines if lines.len() == 4 => Ok(lines),
        lines => Err(format!("{lines:?}")),
    })
    .await;
    let told: Vec<_> = lines.iter().map(|line| (line.level.unwrap(), line.context.as_deref(), &*line.line)).collect();
    let expect = [
        (LogLevel::Trace, Some("a.b"), "one"),
        (LogLevel::Critical, None, "two"),
        (LogLevel::Critical, None, "three"),
        (LogLevel::Warn, Some("db"), "four"),
    ];
    assert_eq!(told, expect);
    for line in &lines {
        assert_eq!((line.stream, line.instance.is_some()), (LogStream::Stderr, true), "{line:?}");
        assert_eq!(line.trace_id.as_deref(), trace.get(3..35), "{line:?}");
    }
    let shown = lattice.cli_ok(&["logs", "logger"]).await;
    assert!(shown.contains("warn db: four") && shown.contains("critical: three"), "{shown}");

    // A flood is bounded as what is printed is.
    assert_eq!(http::get(&node, "logger.test", "/flood?20000").await.status, 200);
    eventually("what was dropped is told", PATIENCE, async || match kept().await.last() {
        Some(line) if line.line.contains("lines dropped: more than 1000 in a second") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
