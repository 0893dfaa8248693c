//! Small requests beside exchanges that stay open in a shared instance.

use super::*;
use futures_util::future::join_all;
use http_body::Frame;
use lattice::http::BodyError;
use tokio::sync::mpsc;

type Pieces = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

/// Longer than anything here takes, and shorter than the wall limit.
const PATIENCE: Duration = Duration::from_secs(10);

fn open(method: &str, path: &str) -> (Pieces, Request) {
    let (pieces, mut given) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| given.poll_recv(cx));
    (pieces, request(method, path, Body::new(http_body_util::StreamBody::new(frames))))
}

/// It may ask another, so nobody copies a POST to it to find out whether it can be used again.
async fn start_small(instances: u32) -> Unit {
    start("echo", |config| {
        (config.reuse.concurrency, config.reuse.max_instances) = (16, instances);
        config.grants = network::grants(&["http://a.test"]);
    })
    .await
}

async fn in_time<T>(what: &str, unit: &Unit, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what} has no answer: {:?}", unit.stats()),
    }
}

/// An exchange that goes on until its pieces are dropped. It has begun to answer.
async fn hold_open(unit: &Unit, method: &str, path: &str) -> (Pieces, Body) {
    let (pieces, request) = open(method, path);
    pieces.send(Ok(Frame::data(Bytes::from_static(b"first")))).unwrap();
    let mut body = in_time("an open one", unit, unit.call(request)).await.unwrap().into_body();
    let first = in_time("an open one's echo", unit, body.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    (pieces, body)
}

async fn end(unit: &Unit, (pieces, mut body): (Pieces, Body)) {
    pieces.send(Ok(Frame::data(Bytes::from_static(b"last")))).unwrap();
    let last = in_time("an open one's last echo", unit, body.frame()).await.unwrap().unwrap();
    assert_eq!(last.into_data().unwrap(), "last");
    drop(pieces);
    assert!(in_time("an open one's end", unit, body.frame()).await.is_none());
}

async fn small(unit: &Unit, method: &str, what: &str) {
    let request = request(method, "/", lattice::http::full(Bytes::from(what.to_owned())));
    assert_eq!(in_time(what, unit, text(unit, request)).await.unwrap(), (200, what.to_owned()));
}

/// Fewer instances than there are small requests at a time, so that some have to wait for a place.
async fn small_ones_beside_open_ones(method: &'static str, path: &str, is_proved: bool) {
    let unit = Arc::new(start_small(8).await);
    for _ in 0..if is_proved { 3 } else { 0 } {
        small(&unit, "GET", "to prove it").await;
    }
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(hold_open(&unit, method, path).await);
    }
    for n in 0..20 {
        small(&unit, method, &format!("small {n}")).await;
    }
    let many = (20..100).map(|n| {
        let unit = unit.clone();
        tokio::spawn(async move { small(&unit, method, &format!("small {n}")).await })
    });
    join_all(many.collect::<Vec<_>>()).await.into_iter().for_each(|done| done.unwrap());
    for one in held {
        end(&unit, one).await;
    }
    until("all seats are free", || unit.stats().in_flight == 0).await;
    let stats = unit.stats();
    assert_eq!((stats.failures, stats.collateral), (0, 0), "{method} {path}: {stats:?}");
    assert!(stats.instances_live <= 8, "{method} {path}: {stats:?}");
}

async fn each_beside_open_ones() {
    for (method, path) in [("GET", "/"), ("POST", "/"), ("POST", "/pipe")] {
        for is_proved in [false, true] {
            small_ones_beside_open_ones(method, path, is_proved).await;
        }
    }
}

#[tokio::test]
async fn nobody_waits_for_the_end_of_another_exchange() {
    each_beside_open_ones().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_for_the_end_of_another_exchange_on_threads() {
    each_beside_open_ones().await;
}

/// The only instance has an exchange without an end, and a POST is never what shows that it can be used again.
#[tokio::test]
async fn one_that_waits_for_a_proof_is_told_of_it_and_is_in_nobodys_way() {
    let unit = start_small(1).await;
    let held = hold_open(&unit, "POST", "/").await;
    let waits = small(&unit, "POST", "waits");
    let proves = async {
        until("both are there", || unit.stats().in_flight == 2).await;
        small(&unit, "GET", "proves").await;
    };
    tokio::join!(waits, proves);
    end(&unit, held).await;
    assert_eq!(unit.stats().instances_created, 1);
}
