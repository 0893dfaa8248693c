//! Requests and responses, and what surrounds them.

use super::*;
use http_body::Frame;
use lattice::http::BodyError;
use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Wake},
};

/// A body of `total` bytes in chunks of 64 KiB, made as it is read; counts how far it was read.
fn made_body(total: usize, read: Arc<AtomicUsize>) -> Body {
    const CHUNK: usize = 64 << 10;
    let chunks = (0..total.div_ceil(CHUNK)).map(move |at| {
        let length = CHUNK.min(total - at * CHUNK);
        read.fetch_add(length, SeqCst);
        Ok(Frame::data(Bytes::from(vec![at as u8; length])))
    });
    Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(chunks)))
}

#[tokio::test]
async fn bodies_stream_both_ways_in_bounded_memory() {
    const TOTAL: usize = 20 << 20;
    for version in BOTH {
        for path in ["/", "/pipe"] {
            let unit = start(echo(version), |config| config.limits.body_bytes = TOTAL as u64).await;
            let read = Arc::new(AtomicUsize::new(0));
            let response = unit.call(request("POST", path, made_body(TOTAL, read.clone()))).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            let (mut received, mut ahead_max) = (0, 0);
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                assert!(data.iter().enumerate().all(|(i, byte)| *byte == ((received + i) / (64 << 10)) as u8));
                received += data.len();
                ahead_max = ahead_max.max(read.load(SeqCst) - received);
            }
            assert_eq!(received, TOTAL, "{version} {path}");
            assert!(ahead_max <= 4 << 20, "{version} {path}: {ahead_max} bytes were buffered");
            until("the guest is done", || unit.stats().in_flight == 0).await;
            let stats = unit.stats();
            assert_eq!((stats.failures, stats.instances_live), (0, 1), "{version} {path}: {stats:?}");
        }
    }
}

#[tokio::test]
async fn trailers_pass_through() {
    for version in BOTH {
        for path in ["/", "/pipe"] {
            let unit = start(echo(version), |_| ()).await;
            let trailers = http::HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
            let body = http_body_util::Full::new(Bytes::from_static(b"abc"))
                .map_err(|never| match never {})
                .with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
            let response = unit.call(request("POST", path, Body::new(body))).await.unwrap();
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers(), Some(&trailers), "{version} {path}");
            assert_eq!(collected.to_bytes(), "abc", "{version} {path}");
        }
    }
}

/// The request's own body as the response's, whole within one poll, and broken.
#[tokio::test]
async fn a_short_body_is_handed_through() {
    for version in BOTH {
        let unit = start(echo(version), |_| ()).await;
        for _ in 0..3 {
            let answer = text(&unit, request("POST", "/pipe", lattice::http::full("abc"))).await.unwrap();
            assert_eq!(answer, (200, "abc".into()), "{version}");
        }
        let gone = BodyError::Aborted("the client went away".into());
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(gone.clone())];
        let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
        let error = text(&unit, request("POST", "/pipe", body)).await.unwrap_err();
        assert_eq!(error, CallError::Body(gone), "{version}");
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A guest of 0.3 yields while it answers. Who polls it would be scheduled once more for each time.
#[tokio::test]
async fn an_answer_that_is_there_at_once_wakes_nobody() {
    for version in BOTH {
        let unit = start(&hello(version), |_| ()).await;
        text(&unit, get("/quiet")).await.unwrap();
        // By chance an epoch comes in between, and then it does not come at once.
        let at_once = (0..50).any(|_| {
            let woken = Arc::<Woken>::default();
            let mut call = std::pin::pin!(unit.call(get("/quiet")));
            let polled = call.as_mut().poll(&mut Context::from_waker(&woken.clone().into()));
            polled.is_ready() && woken.0.load(SeqCst) == 0
        });
        assert!(at_once, "{version}");
    }
}

#[tokio::test]
async fn a_short_answer_has_a_size() {
    use http_body::Body as _;
    for version in BOTH {
        let unit = start(faults(version), |_| ()).await;
        let response = unit.call(get("/")).await.unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(3), "{version}");
    }
}

/// Tokio lets a task do so much before its channels say "not now". A guest's whole answer is whole even then.
#[tokio::test]
async fn many_requests_in_one_turn_of_a_task() {
    for version in BOTH {
        let unit = start(&hello(version), |_| ()).await;
        for n in 1..=500 {
            let (_, body) = text(&unit, get("/quiet")).await.unwrap();
            assert!(body.contains(&format!("request {n} ")), "{version}: {body}");
        }
        assert_eq!(unit.stats().failures, 0, "{version}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    const LIMIT: u64 = 100_000;
    for version in BOTH {
        let unit = start(echo(version), |config| config.limits.body_bytes = LIMIT).await;
        let too_large = CallError::Body(BodyError::TooLarge { limit: LIMIT });
        // Known before it is read, and found while it is read.
        let announced = request("POST", "/count", lattice::http::full(vec![0; 100_001]));
        assert_eq!(text(&unit, announced).await.unwrap_err(), too_large, "{version}");
        let read = Arc::new(AtomicUsize::new(0));
        let streamed = request("POST", "/count", made_body(1 << 20, read.clone()));
        assert_eq!(text(&unit, streamed).await.unwrap_err(), too_large, "{version}");
        assert!(read.load(SeqCst) <= 4 << 16, "{version}: it was read on");
        // The echo has its head out already: the body carries the error.
        let echoed = request("POST", "/", made_body(1 << 20, Arc::default()));
        assert_eq!(text(&unit, echoed).await.unwrap_err(), too_large, "{version}");
        let whole = request("POST", "/count", lattice::http::full(vec![1; 100_000]));
        assert_eq!(text(&unit, whole).await.unwrap().1, "100000 100000\n", "{version}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_fails_its_own_request_only() {
    for version in BOTH {
        let unit = start(echo(version), |_| ()).await;
        let gone = BodyError::Aborted("the client went away".into());
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(gone.clone())];
        let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
        let error = text(&unit, request("POST", "/count", body)).await.unwrap_err();
        assert_eq!(error, CallError::Body(gone), "{version}");
        assert_eq!(text(&unit, request("POST", "/count", lattice::http::empty())).await.unwrap().1, "0 0\n");
    }
}

#[tokio::test]
async fn environment_reaches_the_guest_and_output_the_log() {
    for version in BOTH {
        let log = Arc::new(Kept::default());
        let unit = start(&hello(version), |config| config.logs = log.clone()).await;
        assert_eq!(text(&unit, get("/env/GREETING")).await.unwrap(), (200, "moin\n".into()));
        assert_eq!(text(&unit, get("/env/PATH")).await.unwrap().0, 404, "the node's environment is its own");
        let lines = log.0.lock().unwrap().clone();
        assert_eq!(
            lines.first().unwrap(),
            &(Some(1), LogStream::Stdout, "request 1: /env/GREETING".into()),
            "{version}"
        );
        assert_eq!(lines.len(), 2, "{version}");
    }
}

#[tokio::test]
async fn configuration_reaches_the_guest() {
    let unit = start("config", |_| ()).await;
    assert_eq!(text(&unit, get("/currency")).await.unwrap(), (200, "eur\n".into()));
    assert_eq!(text(&unit, get("/")).await.unwrap(), (200, "currency=eur\n".into()));
    assert_eq!(text(&unit, get("/GREETING")).await.unwrap().0, 404, "the environment is another thing");
}

#[tokio::test]
async fn a_guest_may_ask_who_it_is() {
    let me = |config: &mut UnitConfig| (config.workload, config.replica) = (WorkloadName::new("me").unwrap(), 7);
    let unit = start("whoami", me).await;
    assert_eq!(text(&unit, get("/")).await.unwrap(), (200, "me.7\n".into()));
}

#[tokio::test]
async fn a_body_may_be_left_unread() {
    for version in BOTH {
        let unit = start(echo(version), |_| ()).await;
        let response = unit.call(request("HEAD", "/bytes/1000000", lattice::http::empty())).await.unwrap();
        assert_eq!(response.headers()["content-length"], "1000000");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        until("the guest is done", || unit.stats().in_flight == 0).await;
        assert_eq!(unit.stats().instances_live, 1, "{version}: an answer to HEAD costs no instance");
    }
}

#[tokio::test]
async fn dropping_the_call_or_the_body_stops_the_guest() {
    for version in BOTH {
        let unit = start(faults(version), |_| ()).await;
        let mut call = Box::pin(unit.call(get("/sleep/60000")));
        assert!(futures_util::poll!(call.as_mut()).is_pending());
        assert_eq!(unit.stats().in_flight, 1);
        drop(call);
        let stats = unit.stats();
        assert_eq!((stats.in_flight, stats.instances_live, stats.failures), (0, 0, 0), "{version}: dropped call");

        let unit = start(echo(version), |_| ()).await;
        let response = unit.call(get("/bytes/100000000")).await.unwrap();
        assert_eq!(unit.stats().in_flight, 1, "{version}");
        drop(response);
        until("the guest is gone", || unit.stats().in_flight == 0).await;
        let retired = unit.stats().instances_retired;
        assert_eq!(retired, [(lattice_runtime::Retirement::Cancelled, 1)].into(), "{version}: dropped body");
    }
}

#[tokio::test]
async fn a_drain_waits_for_what_is_under_way() {
    for version in BOTH {
        let unit = start(faults(version), |_| ()).await;
        let call = tokio::spawn(unit.call(get("/sleep/200")));
        until("the guest has the request", || unit.stats().in_flight == 1).await;
        assert!(unit.drain(Duration::from_secs(30)).await, "{version}");
        assert_eq!(call.await.unwrap().unwrap().status(), 200, "{version}");
        assert_eq!(unit.call(get("/")).await.unwrap_err(), CallError::NotHere);
        assert!(!unit.is_ready());

        let unit = start(faults(version), |_| ()).await;
        let call = tokio::spawn(unit.call(get("/sleep/60000")));
        until("the guest has the request", || unit.stats().in_flight == 1).await;
        assert!(!unit.drain(Duration::from_millis(10)).await, "{version}");
        assert!(matches!(call.await.unwrap().unwrap_err(), CallError::Failed { .. }), "{version}");
    }
}

#[tokio::test]
async fn a_stopped_unit_never_passes_a_cut_body_for_a_whole_one() {
    for version in BOTH {
        let unit = start(faults(version), |_| ()).await;
        let response = unit.call(get("/stall")).await.unwrap();
        let reader = tokio::spawn(response.into_body().collect());
        drop(unit);
        assert!(matches!(reader.await.unwrap().unwrap_err(), BodyError::Aborted(_)), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_never_cross() {
    for version in BOTH {
        let unit = Arc::new(start(echo(version), |_| ()).await);
        let workers = (0..16).map(|worker| {
            let unit = unit.clone();
            tokio::spawn(async move {
                for n in 0..200 {
                    let mine = format!("{worker}-{n}");
                    // Every size: answered within one poll, and handed over.
                    let length = if n % 7 == 0 { 300_000 } else { 10 };
                    let body = mine.repeat(length / mine.len() + 1);
                    let made = made_body_of(body.clone());
                    let (_, answer) = text(&unit, request("POST", "/", made)).await.unwrap();
                    assert!(answer == body, "worker {worker} got another's answer");
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        assert_eq!(unit.stats().failures, 0, "{version}");
    }
}

/// In chunks, with a wait before each.
fn made_body_of(text: String) -> Body {
    let chunks = text.into_bytes().chunks(40_000).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let frames = futures_util::stream::unfold(chunks.into_iter(), |mut chunks| async move {
        tokio::task::yield_now().await;
        chunks.next().map(|chunk| (Ok(Frame::data(chunk)), chunks))
    });
    Body::new(http_body_util::StreamBody::new(frames))
}
