//! Secrets by name, over real nodes: they reach the guests whose specs name them, a change reaches what runs without a failed
//! request, and what they are shows nowhere.

use crate::harness::{
    Api, Lattice, PATIENCE,
    api::{spec, to_headers},
    eventually,
    load::Load,
};
use lattice::{
    ctl::{ConditionKind, CtlError, ErrorCode, Reason, SecretItem},
    id::ConfigName,
    store::{Bucket, Headers},
    subject::{SecretVerb, Topic},
};
use serde_json::json;
use std::sync::{Arc, Mutex};

pub(crate) async fn put(api: &Api, name: &str, value: &str) -> Result<SecretItem, CtlError> {
    let topic = Topic::Secret(SecretVerb::Put, ConfigName::new(name).unwrap());
    api.ask(topic, Headers::new(), value.as_bytes()).await
}

/// What a client of the account sees of everything that nodes send, but the requests in which values are put.
async fn overheard(api: &Api) -> Arc<Mutex<Vec<String>>> {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut messages = api.bus().subscribe("lattice.>".into(), None).await.unwrap();
    api.bus().flush().await.unwrap();
    let keep = heard.clone();
    tokio::spawn(async move {
        use futures_util::StreamExt as _;
        while let Some(message) = messages.next().await {
            if !message.subject.contains(".ctl.secret.put.") {
                keep.lock().unwrap().push(format!("{} {:?}", message.subject, message));
            }
        }
    });
    heard
}

fn assert_silent(what: &str, text: &str) {
    assert!(!text.contains("c4nary"), "{what} shows the value of a secret:\n{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_reach_who_names_them_and_show_nowhere() {
    let mut lattice = Lattice::start(0).await;
    for id in ["n1", "n2"] {
        lattice.launch_node("default", id, &["--log", "debug"]);
    }
    lattice.all_ready().await;
    let api = lattice.api().await;
    let heard = overheard(&api).await;
    let (source, dir) = (api.upload("keyring").await, tempfile::tempdir().unwrap());

    // The workload may come first: until there is the secret it says what is missing.
    let mut keyring = spec("keyring", source, 2);
    keyring["components"][0]["secrets"] = json!({ "door": "front", "old.door": "front@1" });
    api.put(&keyring).await.unwrap();
    eventually("it waits for its secret", PATIENCE, async || {
        let status = api.status("keyring").await.map_err(|error| error.to_string())?;
        let is_so = |kind, reason| status.conditions.iter().any(|found| (found.kind, found.reason) == (kind, reason));
        let says = status.conditions.iter().any(|found| found.message.contains("there is no secret front"));
        if is_so(ConditionKind::Ready, Reason::ConfigMissing) && says { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let file = dir.path().join("value");
    std::fs::write(&file, "c4nary-one\n").unwrap();
    lattice.cli_ok(&["secret", "put", "front", "--trim", "--file", file.to_str().unwrap()]).await;
    api.ready("keyring").await;
    lattice.serving("keyring.test", "/door/c4nary-one").await;
    let node = &lattice.nodes[0];
    for (path, status, text) in [
        ("/door", 200, "10 bytes\n"),
        ("/door/c4nary-two", 403, "no\n"),
        ("/old.door/c4nary-one", 200, "yes\n"),
        // By its key, and by no name of the lattice's.
        ("/front", 404, "no secret front\n"),
        ("/", 404, "no secret \n"),
    ] {
        let answer = node.get("keyring.test", path).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{path}");
    }
    // Another workload of the same component that names none has none.
    api.put(&spec("other", source, 1)).await.unwrap();
    api.ready("other").await;
    lattice.nodes[0].answers("other.test", "/door", (404, "")).await;

    // A change reaches what runs; what names a version by its number keeps it.
    let load = Load::start(lattice.nodes.iter().map(|node| node.http()), "keyring.test", "/old.door/c4nary-one");
    let item = put(&api, "front", "c4nary-two").await.unwrap();
    assert_eq!((item.version.0, item.changed), (2, Some(true)));
    lattice.serving("keyring.test", "/door/c4nary-two").await;
    api.ready("keyring").await;
    load.stop().await.assert_none_failed();

    // In use, it is not deleted.
    let delete = Topic::Secret(SecretVerb::Delete, ConfigName::new("front").unwrap());
    let refused = api.ask::<serde_json::Value>(delete.clone(), to_headers(&[]), b"").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);

    // Nothing shows what it is: commands, records, messages, logs, files of nodes.
    for command in [
        &["secret", "list"][..],
        &["status", "keyring", "--output", "json"],
        &["get", "keyring"],
        &["history", "keyring"],
        &["explain", "keyring"],
        &["list", "--output", "json"],
        &["logs", "keyring"],
        &["config", "list"],
    ] {
        assert_silent(&command.join(" "), &lattice.cli_ok(command).await);
    }
    let listed = lattice.cli_ok(&["secret", "list", "--output", "json"]).await;
    assert!(listed.contains("\"front\"") && listed.contains("keyring"), "{listed}");
    for bucket in Bucket::ALL {
        for entry in api.snapshot(bucket).await.entries {
            for change in api.platform.store.history(bucket, &entry.key).await.unwrap() {
                assert_silent(&entry.key, &String::from_utf8_lossy(&change.value.unwrap_or_default()));
            }
        }
    }
    assert_silent("a message", &heard.lock().unwrap().join("\n"));
    assert!(heard.lock().unwrap().iter().any(|message| message.contains("secret-changed")), "they were listened to");
    for node in &lattice.nodes {
        assert_silent(&format!("the log of {}", node.id), &node.process().log());
        let mut folders = vec![lattice.data_of(&node.id)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => assert_silent(
                        &entry.path().display().to_string(),
                        &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()),
                    ),
                }
            }
        }
    }

    // Deleted by force it is gone from the server as well; what runs goes on.
    let bytes = async || {
        let info = api.request("$JS.API.STREAM.INFO.KV_lattice-default-secrets", Headers::new(), b"").await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&info.payload).unwrap()["state"]["messages"].clone()
    };
    assert_eq!(bytes().await, 2);
    api.ask::<serde_json::Value>(delete, Headers::new(), br#"{"force": true}"#).await.unwrap();
    assert_eq!(bytes().await, 0);
    lattice.nodes[0].answers("keyring.test", "/door/c4nary-two", (200, "")).await;
}
