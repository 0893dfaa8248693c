//! Components on GPUs, as people meet them. On a driver that computes on the processor: `apt-get install
//! mesa-vulkan-drivers libvulkan1`; with `LATTICE_WITHOUT_GPU=1` these tests are skipped, and say so.

use crate::harness::{Lattice, PATIENCE, Server, api::spec, eventually};
use serde_json::Value;
use std::path::{Path, PathBuf};

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
    let offers: Value = serde_json::from_str(&lattice.cli_ok(&["gpus", "-o", "json"]).await).unwrap();
    let speed = &offers[0]["speed"];
    let measured = ["gemm-gflops", "copy-mbps", "dispatch-us"].map(|what| speed[what].as_u64().unwrap_or(0));
    assert!(measured.iter().all(|figure| *figure > 0), "{offers}");
    let log = lattice.node("n1").process().log();
    assert!(!log.contains("XDG_RUNTIME_DIR"), "no driver looks for a display: {log}");
}

/// What tells Vulkan where the driver of the machine's processor is.
fn driver() -> PathBuf {
    let dirs = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"].map(Path::new);
    let files = dirs.iter().filter_map(|dir| dir.read_dir().ok()).flatten().flatten().map(|entry| entry.path());
    let mut files =
        files.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_")));
    files.next().expect("lavapipe is installed: apt-get install mesa-vulkan-drivers")
}

/// Until the GPU of `n1` is well, or is not: what it says of that.
async fn offered(lattice: &Lattice, is_well: bool) -> String {
    eventually("its offer says so", PATIENCE, async || {
        let text = lattice.cli_ok(&["gpus", "n1", "-o", "json"]).await;
        let offers: Value = serde_json::from_str(&text).unwrap();
        let is = offers[0].is_object() && offers[0]["failing"].is_null();
        if is == is_well { Ok(offers[0]["failing"].to_string()) } else { Err(text) }
    })
    .await
}

/// The driver of a node is uninstalled while it runs, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_a_gpu_that_fails_moves_to_another_and_it_comes_back_when_it_passes_again() {
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("driver.json");
    std::fs::copy(driver(), &own).unwrap();
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let arguments = ["--gpu", "cpu", "--gpu-check", "1s"];
    lattice.launch_node_with("n1", &arguments, &[("VK_DRIVER_FILES", own.to_str().unwrap())]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("gpu-double").await;
    api.put(&spec("gpu-double", digest, 1)).await.unwrap();
    api.ready("gpu-double").await;

    // From then on its device is open.
    assert_eq!(lattice.node("n1").get("gpu-double.test", "/4").await.ok().text().trim(), "[8.0]");

    std::fs::remove_file(&own).unwrap();
    let why = offered(&lattice, false).await;
    assert!(why.contains("is not there any more"), "{why}");
    // There is nowhere to go yet: it goes on.
    let answer = lattice.node("n1").get("gpu-double.test", "/5").await.ok();
    assert_eq!(answer.text().trim(), "[10.0]");
    let refused = lattice.cli_ok(&["explain", "gpu-double"]).await;
    assert!(refused.contains("gpu-health"), "{refused}");

    lattice.launch_node("default", "n2", &["--gpu", "cpu"]);
    eventually("it runs on the other node", PATIENCE, async || {
        let status = api.status("gpu-double").await.map_err(|error| error.to_string())?;
        let is_there = status.slots.iter().any(|slot| slot.node.as_ref().is_some_and(|node| node.as_str() == "n2"));
        if is_there { Ok(()) } else { Err(format!("{:?}", status.slots)) }
    })
    .await;
    api.ready("gpu-double").await;
    let answer = lattice.node("n1").get("gpu-double.test", "/6").await.ok();
    assert_eq!(answer.text().trim(), "[12.0]");

    std::fs::copy(driver(), &own).unwrap();
    offered(&lattice, true).await;
}

/// A driver that ends the process as soon as it is loaded.
fn crashing_driver(dir: &Path) -> PathBuf {
    let (source, library, manifest) = (dir.join("crash.c"), dir.join("libcrash.so"), dir.join("crash.json"));
    let code = "#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { abort(); }\n";
    std::fs::write(&source, code).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built =
        std::process::Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.unwrap().success());
    let driver = serde_json::json!({
        "file_format_version": "1.0.0", "ICD": {"library_path": library, "api_version": "1.3.0"}
    });
    std::fs::write(&manifest, driver.to_string()).unwrap();
    manifest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_crashes_costs_a_node_its_gpus_and_nothing_else() {
    if std::env::var_os("LATTICE_WITHOUT_GPU").is_some() {
        eprintln!("SKIPPED: LATTICE_WITHOUT_GPU is set, so nothing is known of GPUs");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let driver = crashing_driver(dir.path());
    let environment = [("VK_DRIVER_FILES", driver.to_str().unwrap())];
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node_with("n1", &["--gpu", "auto"], &environment);
    lattice.all_ready().await;
    lattice.node("n1").process().wait_line("a GPU driver crashed (signal 6)", PATIENCE).await;
    assert_eq!(lattice.cli_ok(&["gpus", "-o", "json"]).await.trim(), "[]");
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    api.put(&spec("hello-http02", digest, 1)).await.unwrap();
    api.ready("hello-http02").await;
    lattice.node("n1").get("hello-http02.test", "/").await.ok();

    // Who asks for a certain one is told that it can't be had.
    lattice.launch_node_with("n2", &["--gpu", "cpu"], &environment);
    let second = lattice.node("n2").process();
    assert!(!second.wait_exit(PATIENCE).await.success());
    assert!(second.log().contains("a GPU driver crashed (signal 6) when it was tried"), "{}", second.log());
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
