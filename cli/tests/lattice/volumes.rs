//! Volumes over a whole lattice: where they may be, and that nothing of them is left behind.

use crate::harness::{
    Lattice, Server,
    api::{holders, spec},
    eventually,
};
use lattice::ctl::ErrorCode;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_paths_decide_who_may_run_it_and_empty_volumes_leave_nothing() {
    let site = tempfile::Builder::new().prefix("lattice-test-site-").tempdir().unwrap();
    std::fs::write(site.path().join("index"), "moin").unwrap();
    let site = site.path().canonicalize().unwrap();
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    for id in ["n1", "n3"] {
        lattice.launch_node("default", id, &[]);
    }
    lattice.launch_node("default", "n2", &["--allow-host-path", site.to_str().unwrap()]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("files").await;
    let mut asked = spec("files", digest, 2);
    asked["volumes"] = json!([
        { "name": "site", "mount": "/site", "host": { "path": site } },
        { "name": "scratch", "mount": "/data", "empty": { "size": "1MiB" } },
        { "name": "conf", "mount": "/conf", "files": { "greeting": "hello" } },
    ]);
    api.put(&asked).await.unwrap();
    let status = api.ready("files").await;
    assert!(holders(&status).iter().all(|node| node.as_str() == "n2"), "{status:?}");
    for (path, expect) in [("/site/index", "moin"), ("/conf/greeting", "hello"), ("/data", "")] {
        let answer = lattice.node("n1").get("files.test", path).await.ok();
        assert_eq!(answer.text(), expect, "{path}");
    }

    // Nobody allows this one, and everybody says why.
    let mut elsewhere = spec("elsewhere", digest, 1);
    elsewhere["volumes"] = json!([{ "name": "etc", "mount": "/etc", "host": { "path": "/etc" } }]);
    api.put(&elsewhere).await.unwrap();
    eventually("it is refused everywhere", Duration::from_secs(30), async || {
        let status = api.status("elsewhere").await.map_err(|error| error.to_string())?;
        let refused = &status.slots[0].refused;
        let says_why = refused.len() == 3 && refused.iter().all(|refusal| refusal.reason.contains("volume etc"));
        if says_why { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    asked["volumes"] = json!([{ "name": "none", "mount": "/none" }]);
    let error = api.put(&asked).await.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Invalid, Some("volumes[0]")), "{error:?}");

    // A node that is killed cleans up when it is back.
    let volumes = lattice.data_of("n2").join("volumes");
    let made = || std::fs::read_dir(&volumes).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(made().len(), 2, "{:?}", made());
    lattice.node("n2").kill9().await;
    std::fs::create_dir_all(volumes.join("left.0.9/scratch")).unwrap();
    lattice.node_mut("n2").launch();
    lattice.all_ready().await;
    api.delete("files").await.unwrap();
    eventually("nothing is left", Duration::from_secs(30), async || match made() {
        made if made.is_empty() => Ok(()),
        made => Err(format!("{made:?}")),
    })
    .await;
}
