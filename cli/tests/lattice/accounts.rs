//! NATS accounts of workloads' own: the guest `courier` in another account than the lattice, in another cluster, with
//! credentials that are replaced while it works, and what a put refuses.

use crate::{
    harness::{Api, Lattice, PATIENCE, Server, api::spec, eventually},
    nats::{done, make_bucket, refused},
    secrets::put,
};
use futures_util::StreamExt as _;
use lattice::{ctl::ErrorCode, store::Message};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A server whose users are in a file that can be written anew.
struct Accounts {
    lattice: Lattice,
    users: PathBuf,
    _dir: tempfile::TempDir,
}

fn users(shop: &[(&str, &str)]) -> String {
    let users: Vec<String> =
        shop.iter().map(|(user, password)| format!("{{user: {user}, password: '{password}'}}")).collect();
    format!(
        "accounts: {{\n  NODES: {{jetstream: enabled, users: [{{user: node, password: node-pw}}]}}\n  SHOP: {{jetstream: \
         enabled, users: [{}]}}\n}}\n",
        users.join(", ")
    )
}

impl Accounts {
    async fn start(nodes: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("users.conf");
        std::fs::write(&users, self::users(&[("shop", "one")])).unwrap();
        // A server looks for what it includes beside its own file.
        let relative = users.strip_prefix(std::env::temp_dir()).unwrap();
        let server = Server::start_configured(&format!("include '{}'\n", relative.display())).await;
        let mut lattice = Lattice::start_on(server, "default", 0).await;
        let url = as_user(&lattice.server, "node", "node-pw");
        for id in nodes {
            lattice.launch_node_by(&url, id, &["--allow-egress", "127.0.0.1/32"]);
        }
        for node in &lattice.nodes {
            node.ready().await;
        }
        Self { lattice, users, _dir: dir }
    }

    async fn api(&self) -> Api {
        Api::connect(&as_user(&self.lattice.server, "node", "node-pw"), "default").await
    }

    /// Have other users of the account from here on. Those that are gone are disconnected.
    fn let_in(&self, shop: &[(&str, &str)]) {
        std::fs::write(&self.users, users(shop)).unwrap();
        self.lattice.server.process().signal(Signal::HUP);
    }
}

fn as_user(server: &Server, user: &str, password: &str) -> String {
    server.url().replace("nats://", &format!("nats://{user}:{password}@"))
}

/// A connection of somebody who is in an account, with a bus and nothing of a lattice.
async fn connected(url: &str) -> lattice_nats::Nats {
    crate::harness::api::connect(url).await
}

/// A spec of `courier` with this account.
async fn courier(api: &Api, account: Value, more: Value) -> Value {
    let mut asked = spec("courier", api.upload("courier").await, 2);
    let mut grants = more;
    (grants["account"], grants["publish"], grants["subscribe"]) = (account, json!(["orders.>"]), json!(["orders.>"]));
    asked["grants"] = json!({ "nats": grants });
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_are_in_the_account_that_their_spec_names() {
    let accounts = Accounts::start(&["n1", "n2"]).await;
    let (lattice, api) = (&accounts.lattice, accounts.api().await);
    make_bucket(&api, "ours", json!({})).await;
    let shop = connected(&as_user(&lattice.server, "shop", "one")).await;
    let own = |bucket: &str| json!({"buckets": {"carts": {"bucket": bucket}}});
    let account = json!({ "credentials": "shop-nats" });

    // What is wrong is told when it is put, with the field.
    let expect = async |spec: &Value, code: ErrorCode, field: &str, text: &str| {
        let error = api.put(spec).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (code, Some(field)), "{error}");
        assert!(error.message.contains(text) && !error.message.contains("hunter2"), "{error}");
    };
    let credentials = "grants.nats.account.credentials";
    let asked = courier(&api, account.clone(), json!({})).await;
    expect(&asked, ErrorCode::Invalid, credentials, "there is no secret shop-nats").await;
    put(&api, "shop-nats", "hunter2").await.unwrap();
    expect(&asked, ErrorCode::Invalid, credentials, "neither a credentials file").await;
    put(&api, "shop-nats", "shop:hunter2").await.unwrap();
    expect(&asked, ErrorCode::Invalid, credentials, "refused the credentials").await;
    put(&api, "shop-nats", "shop:one").await.unwrap();
    let bucket = "grants.nats.buckets.carts.bucket";
    expect(&courier(&api, account.clone(), own("ours")).await, ErrorCode::Invalid, bucket, "ours").await;
    let nowhere = json!({ "servers": ["nats://127.0.0.2:4222"], "credentials": "shop-nats" });
    let nowhere = courier(&api, nowhere, json!({})).await;
    expect(&nowhere, ErrorCode::Invalid, "grants.nats.account.servers", "--allow-egress").await;
    let away = json!({ "servers": ["nats://127.0.0.1:1"], "credentials": "shop-nats" });
    let away = courier(&api, away, json!({})).await;
    expect(&away, ErrorCode::Unavailable, "grants.nats.account.servers", "127.0.0.1:1").await;

    // A bucket of that account is there for it.
    let shop_api = Api {
        lattice: api.lattice.clone(),
        platform: lattice::store::Platform { bus: shop.bus(), ..api.platform.clone() },
        nats: shop,
    };
    make_bucket(&shop_api, "theirs", json!({})).await;
    api.put(&courier(&api, account, own("theirs")).await).await.unwrap();
    api.ready("courier").await;

    // It publishes there, and hears what is published there; the account of the lattice hears nothing of it.
    let mut theirs = shop_api.bus().subscribe("orders.>".into(), None).await.unwrap();
    let mut ours = api.bus().subscribe("orders.>".into(), None).await.unwrap();
    shop_api.bus().flush().await.unwrap();
    api.bus().flush().await.unwrap();
    for node in &lattice.nodes {
        done(&node.http(), "/publish", &[("subject", "orders.new")], "7 apples").await;
        done(&node.http(), "/flush", &[], "").await;
        assert_eq!(theirs.next().await.unwrap().payload, "7 apples");
    }
    let own_message = Message { subject: "orders.end".into(), ..Message::default() };
    api.bus().publish(own_message).await.unwrap();
    assert_eq!(ours.next().await.unwrap().subject, "orders.end", "the first that it hears is its own");
    // What is reserved is so in every account.
    for subject in ["lattice.default.ctl.workload.list", "$JS.API.INFO", "_INBOX.x"] {
        refused(&lattice.nodes[0].http(), "/publish", &[("subject", subject)], "denied").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_are_in_another_cluster_while_their_lattice_is_in_its_own() {
    let accounts = Accounts::start(&["n1"]).await;
    let (lattice, api) = (&accounts.lattice, accounts.api().await);
    let other = Server::start_configured("authorization: {users: [{user: a, password: b}]}\n").await;
    put(&api, "other-nats", "a:b").await.unwrap();
    let account = json!({ "servers": [other.url()], "credentials": "other-nats@1" });
    api.put(&courier(&api, account, json!({})).await).await.unwrap();
    api.ready("courier").await;
    let there = connected(&as_user(&other, "a", "b")).await.bus();
    let mut orders = there.subscribe("orders.>".into(), None).await.unwrap();
    there.flush().await.unwrap();
    let node = lattice.nodes[0].http();
    done(&node, "/publish", &[("subject", "orders.new")], "7 apples").await;
    done(&node, "/flush", &[], "").await;
    assert_eq!(orders.next().await.unwrap().payload, "7 apples");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_replaced_without_a_failed_request() {
    let accounts = Accounts::start(&["n1", "n2"]).await;
    let (lattice, api) = (&accounts.lattice, accounts.api().await);
    put(&api, "shop-nats", "shop:one").await.unwrap();
    api.put(&courier(&api, json!({ "credentials": "shop-nats" }), json!({})).await).await.unwrap();
    api.ready("courier").await;
    let shop = connected(&as_user(&lattice.server, "shop", "one")).await;
    drop(shop);
    let nodes: Vec<String> = lattice.nodes.iter().map(|node| node.http()).collect();
    let publish = async || {
        for node in &nodes {
            // Each of them fails where there is no connection.
            done(node, "/publish", &[("subject", "orders.new")], "x").await;
            done(node, "/flush", &[], "").await;
        }
    };
    publish().await;
    for (old, new) in [("shop", "shop2"), ("shop2", "shop3")] {
        // As one rotates: the next credentials are let in, then used, then those before are not let in any more.
        accounts.let_in(&[(old, "one"), (new, "one")]);
        // A server that reads its accounts anew has no JetStream for a moment.
        let wanted = eventually("the next credentials are put", PATIENCE, async || {
            let item = put(&api, "shop-nats", &format!("{new}:one")).await;
            item.map(|item| item.version).map_err(|error| error.to_string())
        })
        .await;
        eventually("all replicas have the next credentials", PATIENCE, async || {
            publish().await;
            let status = api.status("courier").await.map_err(|error| error.to_string())?;
            let versions = |slot: &lattice::ctl::SlotStatus| slot.report.as_ref()?.configs.values().next().copied();
            let found: Vec<_> = status.slots.iter().map(versions).collect();
            if found.iter().all(|found| *found == Some(wanted)) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        accounts.let_in(&[(new, "one")]);
        for _ in 0..20 {
            publish().await;
        }
    }
}
