//! Components on GPUs, as people meet them. On a driver that computes on the processor: `apt-get install
//! mesa-vulkan-drivers libvulkan1`; with `LATTICE_WITHOUT_GPU=1` these tests are skipped, and say so.

use crate::harness::{Lattice, PATIENCE, Server, api::spec, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_computes_on_the_gpu_of_its_node() {
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return;
    }
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &["--gpu", "cpu"]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("gpu-double").await;
    api.put(&spec("gpu-double", digest, 1)).await.unwrap();
    api.ready("gpu-double").await;
    let answer = lattice.node("n1").get("gpu-double.test", "/1,2,3,4").await.ok();
    assert_eq!(answer.text().trim(), "[2.0, 4.0, 6.0, 8.0]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_gpu_says_why_it_does_not_run_one() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &["--gpu", "off"]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("gpu-double").await;
    api.put(&spec("gpu-double", digest, 1)).await.unwrap();
    eventually("its state says why", PATIENCE, async || {
        let status = api.status("gpu-double").await.map_err(|error| error.to_string())?;
        // Not placed at all, or placed and not started: the text is for people.
        let says_why = format!("{status:?}").contains("GPU");
        if says_why { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}
