//! Asks: at a steady rate, and as fast as it is answered. Each on a thread of its own, so that the flood's answers do not
//! keep the probe from its schedule.

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, runtime, task::JoinSet, time};
use tokio_util::sync::CancellationToken;

type Body = Empty<bytes::Bytes>;

/// Who is asked, and under which name.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
}

impl Server {
    async fn connect(&self) -> Result<SendRequest<Body>, hyper::Error> {
        let stream = loop {
            match TcpStream::connect(self.address).await {
                Ok(stream) => break stream,
                Err(_) => time::sleep(AFTER_REFUSAL).await,
            }
        };
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// True for an answer with a good status and a whole body.
    async fn ask(&self, sender: &mut SendRequest<Body>, path: &str) -> Result<bool, hyper::Error> {
        sender.ready().await?;
        let request = http::Request::get(path).header("host", &self.host).body(Body::new()).expect("a good request");
        let response = sender.send_request(request).await?;
        let is_good = response.status().is_success();
        response.into_body().collect().await?;
        Ok(is_good)
    }
}

/// A flood does not spin on refusals: that would measure who refuses faster.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// How long each request took from the moment at which it was due.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    sorted: Vec<Duration>,
    pub(crate) failed: u64,
}

impl Latencies {
    /// In milliseconds.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let at = ((self.sorted.len() as f64 * part).ceil() as usize).clamp(1, self.sorted.len().max(1)) - 1;
        self.sorted.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// Requests by a schedule that waits for no answer.
pub(crate) struct Probe {
    pub(crate) path: &'static str,
    pub(crate) rate: u32,
    pub(crate) duration: Duration,
}

/// Connections of a probe. Requests go over them in turns, and one that is late makes the next one on it late.
const PROBES: u32 = 16;

impl Probe {
    pub(crate) fn run(self, server: &Server) -> Latencies {
        let server = server.clone();
        on_own_thread(move || async move {
            let mut probes = JoinSet::new();
            let began = Instant::now() + Duration::from_millis(100);
            for number in 0..PROBES {
                probes.spawn(self.one(server.clone(), began, number));
            }
            let mut all = Latencies::default();
            while let Some(one) = probes.join_next().await {
                let one = one.expect("a probe does not panic");
                all.sorted.extend(one.sorted);
                all.failed += one.failed;
            }
            all.sorted.sort();
            all
        })
        .join()
        .expect("the probe does not panic")
    }

    fn one(&self, server: Server, began: Instant, number: u32) -> impl Future<Output = Latencies> + Send + 'static {
        let (path, step, duration) = (self.path, Duration::from_secs(1) / self.rate.max(1), self.duration);
        async move {
            let mut latencies = Latencies::default();
            let mut sender = None;
            let mut at = number;
            while step * at < duration {
                let due = began + step * at;
                at += PROBES;
                if sender.is_none() {
                    sender = server.connect().await.ok();
                }
                time::sleep_until(due.into()).await;
                // Timers go by milliseconds; what they are late by is not the server's.
                let asked = Instant::now();
                let due = if asked.saturating_duration_since(due) < Duration::from_millis(2) { asked } else { due };
                let Some(open) = &mut sender else {
                    latencies.failed += 1;
                    continue;
                };
                match server.ask(open, path).await {
                    Ok(true) => latencies.sorted.push(due.elapsed()),
                    Ok(false) => latencies.failed += 1,
                    Err(_) => {
                        latencies.failed += 1;
                        sender = None;
                    }
                }
            }
            latencies
        }
    }
}

/// Connections that ask again as soon as they are answered. Ends when it is dropped.
pub(crate) struct Flood {
    answers: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(server: &Server, path: &'static str, connections: u32) -> Self {
        let (answers, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let (server, counted, stopped) = (server.clone(), answers.clone(), stop.clone());
        let thread = on_own_thread(move || async move {
            let mut flood = JoinSet::new();
            for _ in 0..connections {
                flood.spawn(flooding(server.clone(), path, counted.clone()));
            }
            stopped.cancelled().await;
        });
        Self { answers, stop, thread: Some(thread) }
    }

    /// So far, refusals not counted.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn flooding(server: Server, path: &'static str, answers: Arc<AtomicU64>) {
    loop {
        let Ok(mut sender) = server.connect().await else { continue };
        while let Ok(is_good) = server.ask(&mut sender, path).await {
            match is_good {
                true => drop(answers.fetch_add(1, Relaxed)),
                false => time::sleep(AFTER_REFUSAL).await,
            }
        }
    }
}

fn on_own_thread<F, T>(work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work())
    })
}
