//! Claims on GPUs, with nodes that have none, and with a peer that says it has one: its session and its claim are written
//! as a node with that GPU would write them.

use crate::harness::{
    Lattice, PATIENCE, Peer,
    api::{spec, workload},
    eventually,
};
use lattice::{
    gpu::Offer,
    id::{Generation, SlotId},
    record::{Key, Phase, Record as _, Slot, SpecRecord},
    store::{Bucket, Precondition},
};
use serde_json::{Value, json};
use std::sync::Arc;

fn offer() -> Offer {
    serde_json::from_value(json!({
        "id": "vk-0", "name": "A GPU of a test", "class": "discrete", "backend": "vulkan",
        "memory": {"total": 2_u64 << 30}, "slots": 2, "features": ["shader-f16"], "speed": {"gemm-gflops": 1000}
    }))
    .unwrap()
}

fn claiming(name: &str, component: lattice::id::Digest, gpu: Value) -> Value {
    let mut spec = spec(name, component, 1);
    spec["gpu"] = gpu;
    spec
}

#[tokio::test]
async fn what_claims_a_gpu_runs_only_where_one_is_and_everybody_can_say_why() {
    let lattice = Lattice::start(2).await;
    lattice.listed(2).await;
    let api = Arc::new(lattice.api().await);
    let digest = api.upload("hello-http02").await;

    let wrong =
        api.put(&claiming("thinker", digest, json!({"memory": "1GiB", "classes": ["fast"]}))).await.unwrap_err();
    assert_eq!(wrong.field.as_deref(), Some("gpu.classes"), "{wrong:?}");
    let wrong = api.put(&claiming("thinker", digest, json!({"limits": {"maxBufferSize": 1}}))).await.unwrap_err();
    assert_eq!((wrong.field.as_deref(), wrong.hint.as_deref()), (Some("gpu.limits"), Some("write max-buffer-size")));

    api.put(&claiming("thinker", digest, json!({"memory": "1GiB"}))).await.unwrap();
    let status = eventually("its status says why it runs nowhere", PATIENCE, async || {
        let status = api.status("thinker").await.map_err(|error| error.to_string())?;
        if status.slots[0].refused.len() == 2 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(status.slots[0].refused.iter().all(|refusal| refusal.rule == "gpu" && refusal.reason == "offers no GPU"));
    let none = |node: &str| (node.to_owned(), "gpu".to_owned(), "offers no GPU".to_owned());
    assert_eq!(lattice.refusals("thinker").await, [none("n1"), none("n2")]);
    assert_eq!(lattice.cli_ok(&["gpus", "-o", "json"]).await.trim(), "[]");
    assert!(!lattice.cli_ok(&["nodes"]).await.contains("GPUS"));

    let peer = Peer::join(api.clone(), "n9", |session| session.gpus = vec![offer()]).await;
    let ranked = eventually("the peer is first for it", PATIENCE, async || {
        let text = lattice.cli_ok(&["explain", "thinker"]).await;
        if text.contains("n9 takes it") { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(ranked.contains("CHOICE") && ranked.contains("1 GiB left"), "{ranked}");
    assert_eq!(lattice.refusals("thinker").await, [none("n1"), none("n2")]);
    assert!(lattice.cli_ok(&["nodes"]).await.contains("GPUS"));

    // It takes it.
    let key = Key::Spec(workload("thinker")).to_string();
    let entry = api.platform.store.get(Bucket::Specs, &key).await.unwrap().unwrap();
    let slot = SlotId::new(workload("thinker"), 0);
    let record = Slot {
        holder: peer.holder.clone(),
        uid: SpecRecord::decode(&entry.value).unwrap().uid,
        generation: Generation::FIRST,
        phase: Phase::Ready,
        message: None,
        failures: None,
        handover_from: None,
        gpu: Some(serde_json::from_value(json!({"offer": "vk-0", "memory": 1 << 30, "slots": 1})).unwrap()),
        handover_gpu: None,
        nonce: uuid::Uuid::nil(),
        claimed_at: 0,
        since: 0,
    };
    let key = Key::Slot(slot).to_string();
    api.platform.store.write(Bucket::State, &key, record.encode(), Precondition::Absent).await.unwrap();
    let shown = eventually("what it holds is shown", PATIENCE, async || {
        let text = lattice.cli_ok(&["gpus", "-o", "json"]).await;
        let value: Value = serde_json::from_str(&text).unwrap();
        if value[0]["held-by"]["thinker.0"].is_object() { Ok(value) } else { Err(text) }
    })
    .await;
    assert_eq!((&shown[0]["node"], &shown[0]["id"]), (&json!("n9"), &json!("vk-0")));
    assert_eq!(shown[0]["free"], json!({"memory": 1 << 30, "slots": 1}));
    assert_eq!(lattice.cli_ok(&["gpus", "-o", "name"]).await, "n9/vk-0\n");
    let table = lattice.cli_ok(&["gpus", "n9"]).await;
    assert!(table.contains("1 GiB/2 GiB") && table.contains("thinker.0"), "{table}");

    api.put(&claiming("second", digest, json!({"memory": "1536MiB"}))).await.unwrap();
    api.put(&claiming("third", digest, json!({"exclusive": true}))).await.unwrap();
    let says = |rule: &str, reason: &str| ("n9".to_owned(), rule.to_owned(), reason.to_owned());
    for (name, rule, reason) in [
        ("second", "gpu-memory", "gpu-memory: free 1 GiB < 1.5 GiB (of 2 GiB) on vk-0"),
        ("third", "gpu-slots", "gpu-slots: free 1 < 2 (of 2) on vk-0"),
    ] {
        eventually(&format!("{name} is seen"), PATIENCE, async || {
            let refused = lattice.refusals(name).await;
            if refused.contains(&says(rule, reason)) { Ok(()) } else { Err(format!("{refused:?}")) }
        })
        .await;
    }
    let other = claiming("other", digest, json!({"features": ["subgroups"]}));
    let reply = api.put_with(&other, &[(lattice::ctl::HEADER_DRY_RUN, "true")]).await.unwrap();
    let refused = &reply.plan.unwrap()[0].refused;
    assert!(refused.iter().any(|refusal| refusal.reason == "gpu-features: it lacks subgroups on vk-0"), "{refused:?}");
}
