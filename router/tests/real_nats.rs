#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[allow(dead_code)]
mod world;
use world::*;
use http_body_util::BodyExt as _;
use lattice::http::{Response, full, empty};
use std::{sync::Arc, time::{Duration, Instant}};
use lattice::store::Bus;

async fn bus(url: &str) -> Arc<dyn Bus> {
    let options = lattice_nats::ConnectOptions { servers: vec![url.into()], name: "t".into(), ..Default::default() };
    lattice_nats::connect(options).await.unwrap().bus()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real() {
    let url = std::env::var("NATS").unwrap();
    let world = World::new();
    let a = world.node_on("a", |_| {}, bus(&url).await).await;
    let b = world.node_on("b", |_| {}, bus(&url).await).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.ready("echo", &["b"]);
    world.ready("gone", &["zz", "b"]);
    world.ready("nobody", &["zz"]);
    for w in ["echo", "gone"] { b.guests.run(w, |request| async move { Ok(Response::new(request.into_body())) }); }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..20 {
        let t = Instant::now();
        let r = a.send(request("POST", "http://gone.test/", full("x"))).await;
        println!("gone {} {:?} {:?}", r.status(), header(&r, "lattice-node"), t.elapsed());
    }
    let t = Instant::now();
    for _ in 0..2000 { let r = a.get("http://echo.test/").await; assert_eq!(r.status(), 200); text(r).await; }
    println!("sequential {:?} each", t.elapsed() / 2000);
    let t = Instant::now();
    let sent = pattern(100 << 20);
    let router = a.router.clone();
    let response = router.handle(request("POST", "http://echo.test/", full(sent.clone())), PEER).await;
    let mut body = response.into_body(); let mut n = 0; let mut out = Vec::with_capacity(sent.len());
    while let Some(f) = body.frame().await { let d = f.unwrap().into_data().unwrap(); n += d.len(); out.extend_from_slice(&d); }
    assert!(out == sent);
    println!("100 MiB echo: {n} in {:?}", t.elapsed());
    let mut set = tokio::task::JoinSet::new();
    for i in 0..64 { let router = a.router.clone(); set.spawn(async move {
        let sent = pattern((4 << 20) + i);
        let r = router.handle(request("POST", "http://echo.test/", full(sent.clone())), PEER).await;
        r.into_body().collect().await.map(|b| b.to_bytes() == sent) }); }
    let t = Instant::now();
    let all = set.join_all().await;
    println!("64 x 4 MiB: {:?} {:?}", t.elapsed(), all.iter().map(|r| format!("{r:?}")).collect::<std::collections::BTreeSet<_>>());
    let t = Instant::now();
    let r = a.get("http://nobody.test/").await;
    println!("nobody {} {:?} {:?}", r.status(), header(&r, "lattice-error"), t.elapsed());
    let _ = empty();
}
