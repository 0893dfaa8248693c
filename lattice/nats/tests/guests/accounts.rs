//! Accounts of workloads' own, on real servers: who is connected as whom, credentials that are replaced, other clusters.

use crate::support::{SOON, Server, newest, options, soon};
use async_nats::jetstream::{self, kv};
use lattice::{
    account::{Account, Credentials, Login},
    address::AddressPolicy,
    bucket::{BucketError, Buckets as _},
    id::WorkloadName,
    nats::{Links as _, LoginError, Message},
    secret::Secret,
};
use lattice_nats::{ConnectOptions, GuestBuckets};
use std::time::{Duration, Instant};

/// Two accounts with JetStream, and the node in one of them.
const ACCOUNTS: &str = r#"
    jetstream: enabled
    accounts: {
      NODES: {jetstream: enabled, users: [{user: node, password: node-pw}]}
      SHOP: {jetstream: enabled, users: [{user: shop, password: SHOP_PW}, {nkey: SHOP_NKEY}]}
    }
"#;

async fn two_accounts(password: &str, nkey: &nkeys::KeyPair) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.conf");
    write(&config, password, nkey);
    let server = Server::start_with(&newest(), &["-c", config.to_str().unwrap()]).await;
    (server, dir)
}

fn write(config: &std::path::Path, password: &str, nkey: &nkeys::KeyPair) {
    let text = ACCOUNTS.replace("SHOP_PW", password).replace("SHOP_NKEY", &nkey.public_key());
    std::fs::write(config, text).unwrap();
}

fn guests(server: &Server) -> GuestBuckets {
    let (user, password) = (Some("node".to_owned()), Some("node-pw".to_owned()));
    GuestBuckets::reaching(
        ConnectOptions { user, password, ..options(server.url()) },
        AddressPolicy::new(vec!["127.0.0.1/32".parse().unwrap()]),
    )
}

fn login(servers: &[String], credentials: &str, version: &str) -> Login {
    let credentials = Credentials::parse(&Secret::new(credentials.as_bytes().to_vec())).unwrap();
    let account = Account::new(servers.to_vec(), None, Some((credentials, version.to_owned())));
    Login { workload: WorkloadName::new("shop").unwrap(), account: Some(std::sync::Arc::new(account)) }
}

async fn as_user(server: &Server, user: &str, password: &str) -> jetstream::Context {
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
    jetstream::new(options.connect(server.url()).await.unwrap())
}

#[tokio::test]
async fn guests_are_in_the_account_of_their_credentials_and_in_no_other() {
    let nkey = nkeys::KeyPair::new_user();
    let (server, _dir) = two_accounts("one", &nkey).await;
    let bucket = |name: &str| kv::Config { bucket: name.into(), ..kv::Config::default() };
    as_user(&server, "node", "node-pw").await.create_key_value(bucket("ours")).await.unwrap();
    as_user(&server, "shop", "one").await.create_key_value(bucket("theirs")).await.unwrap();
    let guests = guests(&server);
    let (ours, theirs) = ("ours".parse().unwrap(), "theirs".parse().unwrap());
    let seed = nkey.seed().unwrap();
    for credentials in ["shop:one", seed.as_str()] {
        // The lattice's own servers, to which nothing of the node's is shown.
        let shop = login(&[], credentials, credentials);
        assert_eq!(guests.info(&shop, &ours).await.unwrap_err(), BucketError::Absent("ours".into()));
        guests.info(&shop, &theirs).await.unwrap();
    }
    let plain = Login::from(WorkloadName::new("shop").unwrap());
    guests.info(&plain, &ours).await.unwrap();
    assert_eq!(guests.info(&plain, &theirs).await.unwrap_err(), BucketError::Absent("theirs".into()));
}

#[tokio::test]
async fn what_is_wrong_with_a_login_is_told_apart_and_shown_to_no_guest() {
    let (server, _dir) = two_accounts("one", &nkeys::KeyPair::new_user()).await;
    let guests = guests(&server);
    let refused = guests.enter(&login(&[], "shop:hunter2", "1")).await.err().unwrap();
    assert!(matches!(&refused, LoginError::Credentials(text) if !text.contains("hunter2")), "{refused}");
    let private = guests.enter(&login(&["nats://127.0.0.2:4222".into()], "a:b", "1")).await.err().unwrap();
    assert!(matches!(&private, LoginError::Servers(text) if text.contains("--allow-egress")), "{private}");
    let nobody = guests.enter(&login(&["nats://127.0.0.1:1".into()], "a:b", "1")).await.err().unwrap();
    assert!(matches!(nobody, LoginError::Unreachable(_)), "{nobody}");
    let untrusted = Account::new(Vec::new(), Some("no certificate".into()), None);
    let untrusted = Login { account: Some(std::sync::Arc::new(untrusted)), ..login(&[], "a:b", "1") };
    assert!(matches!(guests.enter(&untrusted).await.err(), Some(LoginError::Authority(_))));
    let opened = guests.open(&login(&[], "shop:hunter2", "1"), &"b".parse().unwrap()).await.err().unwrap();
    assert_eq!(opened, BucketError::Unreachable("not connected to NATS".into()));
    // Nor does one that is refused hold up another one.
    guests.enter(&login(&[], "shop:one", "2")).await.unwrap();
}

#[tokio::test]
async fn another_cluster_is_reached_beside_the_lattices_own() {
    let (server, _dir) = two_accounts("one", &nkeys::KeyPair::new_user()).await;
    let other = Server::start_with(&newest(), &["-js", "--user", "a", "--pass", "b"]).await;
    let guests = guests(&server);
    let link = guests.link(&login(&[other.url()], "a:b", "1")).await.unwrap();
    let mut came = link.subscribe("orders.>".into(), None).await.unwrap();
    let client = async_nats::ConnectOptions::with_user_and_password("a".into(), "b".into());
    let client = client.connect(other.url()).await.unwrap();
    client.publish("orders.new", "one".into()).await.unwrap();
    let arrival = soon("a message of the other cluster", came.next()).await;
    assert!(format!("{arrival:?}").contains("orders.new"), "{arrival:?}");
}

#[tokio::test]
async fn a_connection_comes_back_with_the_credentials_that_were_given_last() {
    let nkey = nkeys::KeyPair::new_user();
    let (mut server, dir) = two_accounts("one", &nkey).await;
    let guests = guests(&server);
    let before = guests.link(&login(&[], "shop:one", "1")).await.unwrap();
    before.flush(SOON).await.unwrap();
    // The password is another one from here on, and the connection is cut.
    write(&dir.path().join("server.conf"), "two", &nkey);
    server.kill().await;
    server.restart().await;
    let after = soon("a connection with the new password", async {
        loop {
            match guests.link(&login(&[], "shop:two", "2")).await {
                Ok(link) => break link,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    after.flush(SOON).await.unwrap();
    // The old one is there as well again, for what is still open on it.
    let began = Instant::now();
    let message = Message { subject: "orders.new".into(), ..Message::default() };
    while before.publish(message.clone()).await.is_err() || before.flush(SOON).await.is_err() {
        assert!(began.elapsed() < SOON, "it tries with what is not valid any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
