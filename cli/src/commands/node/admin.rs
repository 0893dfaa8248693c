//! The admin address: `/livez`, `/readyz`, `/metrics`. For probes and scrapers on a private network; it has no login.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lattice::{
    id::{LatticeId, NodeId},
    record::Phase,
    view::LatticeView,
};
use lattice_control_plane::Health;
use lattice_router::Reach;
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// What the answers are made of.
pub(super) struct Admin {
    node: NodeId,
    lattice: LatticeId,
    parts: OnceLock<Parts>,
}

/// What is there once the node has found its NATS.
pub(super) struct Parts {
    pub(super) health: watch::Receiver<Health>,
    /// Whether what it sends to other nodes gets there.
    pub(super) reach: Reach,
    pub(super) view: watch::Receiver<Arc<LatticeView>>,
    /// What router and host count.
    pub(super) metrics: Registry,
}

/// Answer until `stop`.
pub(super) async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule: accepting again at once would spin.
                tracing::warn!(%error, "admin: can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (admin, stop) = (admin.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let response = admin.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // A prober that went away in mid-request is no news.
                _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection) => {}
            }
        });
    }
}

impl Admin {
    pub(super) fn new(node: NodeId, lattice: LatticeId) -> Self {
        Self { node, lattice, parts: OnceLock::new() }
    }

    /// To be called once.
    pub(super) fn joined(&self, parts: Parts) {
        let _ = self.parts.set(parts);
    }

    /// The metrics, for whoever exports them.
    pub(super) fn source(self: Arc<Self>) -> lattice_telemetry::Source {
        Arc::new(move || self.metrics().unwrap_or_default())
    }

    fn health(&self) -> (Health, Heard) {
        let Some(parts) = self.parts.get() else { return (Health::default(), Heard(true)) };
        (*parts.health.borrow(), Heard(parts.reach.is_open()))
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => {
                let (health, heard) = self.health();
                let is_ready = health.is_ready() && heard.0;
                let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, readiness(health, heard))
            }
            "/metrics" => match self.metrics() {
                Ok(body) => {
                    let mut response = text(StatusCode::OK, body);
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
                    response
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n".to_owned()),
        }
    }

    /// Computed when asked for: nothing is counted that nobody reads.
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct PhaseLabel {
            phase: &'static str,
        }
        let mut registry = Registry::with_prefix("lattice");
        let gauge = |registry: &mut Registry, name: &str, help: &str, value: i64| {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("node", self.node.to_string()),
            ("lattice", self.lattice.to_string()),
        ];
        registry.register("build", "What runs here", Info::new(build));
        let (health, Heard(is_heard)) = self.health();
        gauge(&mut registry, "ready", "1 if /readyz answers 200", i64::from(health.is_ready() && is_heard));
        let help = "1 if connected to NATS, and what is sent to it comes back";
        gauge(&mut registry, "nats_connected", help, i64::from(health.connected && is_heard));
        gauge(&mut registry, "draining", "1 if this node is leaving", i64::from(health.draining));
        let view = self.parts.get().map(|parts| parts.view.borrow().clone()).unwrap_or_default();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        gauge(&mut registry, "nodes", "Nodes that this node knows to be alive", count(view.sessions.len()));
        gauge(&mut registry, "workloads", "Workloads of the lattice", count(view.specs.len()));
        gauge(&mut registry, "corrupt_records", "Records in the store that do not parse", count(view.corrupt.len()));
        let slots = Family::<PhaseLabel, Gauge>::default();
        for (phase, word) in [(Phase::Starting, "starting"), (Phase::Ready, "ready"), (Phase::Failed, "failed")] {
            let here = view.slots.values().map(|slot| &slot.record);
            let here = here.filter(|slot| slot.holder.node == self.node && slot.phase == phase).count();
            slots.get_or_create(&PhaseLabel { phase: word }).set(count(here));
        }
        registry.register("slots", "Replicas that this node holds", slots);
        if let Some(bytes) = resident_memory() {
            let memory: Gauge = Gauge::default();
            memory.set(bytes);
            registry.register_with_unit("process_resident_memory", "Memory of this process", Unit::Bytes, memory);
        }
        let mut body = String::new();
        encode_registry(&mut body, &registry)?;
        if let Some(parts) = self.parts.get() {
            encode_registry(&mut body, &parts.metrics)?;
        }
        encode_eof(&mut body)?;
        Ok(body)
    }
}

/// Whether what this node sends over its connection to NATS comes back.
#[derive(Debug, Clone, Copy)]
struct Heard(bool);

/// One line for each thing that must hold.
fn readiness(health: Health, Heard(is_heard): Heard) -> String {
    let mut lines = vec![if health.is_ready() && is_heard { "ready" } else { "not ready" }];
    let Health { connected, loaded, member, draining } = health;
    if !connected {
        lines.push("not connected to NATS; what runs here goes on serving");
    }
    if connected && !is_heard {
        lines.push("connected to NATS, but nothing that is sent to it comes back; what runs here goes on serving");
    }
    if !loaded {
        lines.push("the routing table is not loaded yet");
    }
    if connected && !member {
        lines.push("the node's session is not renewed");
    }
    if draining {
        lines.push("the node is draining");
    }
    lines.join("\n") + "\n"
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_missing() {
        let ready = Health { connected: true, loaded: true, member: true, draining: false };
        let heard = Heard(true);
        assert_eq!(readiness(ready, heard), "ready\n");
        for lost in [readiness(Health { connected: false, ..ready }, heard), readiness(ready, Heard(false))] {
            assert!(lost.starts_with("not ready\n") && lost.contains("goes on serving"), "{lost}");
        }
        assert!(readiness(ready, Heard(false)).contains("nothing that is sent to it comes back"));
        assert!(readiness(Health { draining: true, ..ready }, heard).contains("draining"));
        assert!(readiness(Health { loaded: false, ..ready }, heard).contains("table"));
    }

    #[test]
    fn metrics_are_openmetrics() {
        let admin = Admin::new(NodeId::new("n1").unwrap(), LatticeId::new("default").unwrap());
        assert!(admin.metrics().unwrap().contains("lattice_nats_connected 0\n"));
        let mut metrics = Registry::default();
        metrics.register("of_the_router", "A count", Gauge::<i64>::default());
        let health = Health { connected: true, ..Health::default() };
        let (health, view) = (watch::channel(health).1, watch::channel(Arc::default()).1);
        admin.joined(Parts { health, reach: Reach::default(), view, metrics });
        let text = admin.metrics().unwrap();
        assert!(text.contains("lattice_ready 0\n"), "{text}");
        assert!(text.contains("lattice_nats_connected 1\n") && text.contains("of_the_router 0\n"), "{text}");
        assert!(text.contains("lattice_slots{phase=\"ready\"} 0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
