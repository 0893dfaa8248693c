//! Who may join, and what those are told who may not.

use crate::harness::{
    Lattice, PATIENCE, Server, cluster::lattice_program, free_port, process::Process, server::named_or_installed,
};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{path::Path, process::ExitStatus};

/// The newest server without a JetStream API level.
const TOO_OLD: &str = "2.10.26";
const TOO_OLD_VARIABLE: &str = "LATTICE_NATS_SERVER_TOO_OLD";

/// Runs a node that is expected to end by itself; answers with its exit and what it wrote.
async fn refused(url: &str, id: &str, data: &Path) -> (ExitStatus, String) {
    refused_with(url, id, data, &[]).await
}

/// The same with more options.
async fn refused_with(url: &str, id: &str, data: &Path, options: &[&str]) -> (ExitStatus, String) {
    let address = || format!("127.0.0.1:{}", free_port());
    let (http, admin) = (address(), address());
    let arguments = ["node", "--timing", "dev", "--nats", url, "--id", id, "--http", &http, "--admin", &admin];
    let arguments = arguments.iter().chain(options).chain(&["--data"]).copied().chain(data.to_str());
    let node = Process::start(id, lattice_program(), arguments);
    let status = node.wait_exit(PATIENCE).await;
    (status, node.log())
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_the_remedy() {
    let server = Server::start_program(named_or_installed(TOO_OLD_VARIABLE, TOO_OLD)).await;
    let data = tempfile::tempdir().unwrap();
    let (status, log) = refused(&server.url(), "n1", data.path()).await;
    assert_eq!(status.code(), Some(1), "{log}");
    for part in [TOO_OLD, "too old", "API level is absent", "2.11", "2.12.8 or newer"] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
}

#[tokio::test]
async fn a_second_process_with_the_same_data_or_the_same_id_is_refused() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    api.deploy("stays", "hello-http02", 1).await;
    let data = tempfile::tempdir().unwrap();

    // With the same directory, at once, whatever it is called.
    let url = lattice.server.url();
    let first = refused(&url, "n1", &lattice.data_of("n1")).await;
    assert_eq!(first.0.code(), Some(1), "{}", first.1);
    assert!(first.1.contains("another node uses the data directory"), "{}", first.1);

    // With the same id from elsewhere: one of the two has to stop, and says why; the lattice keeps a node n1 that serves.
    let address = || format!("127.0.0.1:{}", free_port());
    let (http, admin) = (address(), address());
    let arguments =
        ["node", "--timing", "dev", "--nats", &url, "--id", "n1", "--http", &http, "--admin", &admin, "--data"];
    let second = Process::start("n1 again", lattice_program(), arguments.into_iter().chain(data.path().to_str()));
    let old = lattice.node("n1");
    let told = "another process joined lattice default as node n1";
    tokio::select! {
        _ = old.process().wait_line(told, PATIENCE) => assert_eq!(old.wait_exit().await.code(), Some(4)),
        _ = second.wait_line(told, PATIENCE) => assert_eq!(second.wait_exit(PATIENCE).await.code(), Some(4)),
    }
    lattice.listed(1).await;
}

/// Runs a node with more options until it has joined, then asks it to leave.
async fn joins(url: &str, options: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let address = || format!("127.0.0.1:{}", free_port());
    let (http, admin) = (address(), address());
    let arguments = ["node", "--timing", "dev", "--nats", url, "--id", "n1", "--http", &http, "--admin", &admin];
    let arguments = arguments.iter().chain(options).chain(&["--data"]).copied().chain(data.path().to_str());
    let node = Process::start("n1", lattice_program(), arguments);
    node.wait_line("joined", PATIENCE).await;
    node.signal(Signal::TERM);
    assert!(node.wait_exit(PATIENCE).await.success(), "{}", node.log());
}

#[tokio::test]
async fn a_node_logs_in_with_its_nkey_and_nobody_without() {
    // A key pair of this test's own.
    let public = "UDJSYWHPEE72HRSSQ2QHZYIH5A5562CQYBBR2LQEKNHKHM4Y7PWUCF5X";
    let seed = "SUADHNVY64JZBM7EBTCRU3N566HGHWWWKPCLUIV2HHRKV7W3DZRC4RBOVQ";
    let server = Server::start_configured(&format!("authorization {{ users: [{{ nkey: {public} }}] }}")).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), seed).unwrap();
    joins(&server.url(), &["--nkey", file.path().to_str().unwrap()]).await;

    let data = tempfile::tempdir().unwrap();
    let (status, log) = refused(&server.url(), "n2", data.path()).await;
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("refused the credentials"), "{log}");
    assert!(!log.contains(seed));
}

/// A token of operator mode: who `issuer` says that `subject` is.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let encode = |part: &[u8]| BASE64URL_NOPAD.encode(part);
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" }).to_string();
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let claims = json!({ "jti": name, "iat": 1, "iss": issuer_key, "sub": subject_key, "name": name, "nats": nats });
    let signed = format!("{}.{}", encode(head.as_bytes()), encode(claims.to_string().as_bytes()));
    format!("{signed}.{}", encode(&issuer.sign(signed.as_bytes()).unwrap()))
}

/// A file as `nsc generate creds` writes it.
fn credentials(jwt: &str, user: &KeyPair) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn a_node_logs_in_with_a_credentials_file_of_its_account_only() {
    let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1, "wildcards": true,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    // The account that servers speak to each other in has no JetStream.
    let mut of_system = of_account.clone();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system["limits"].as_object_mut().unwrap().remove(limit);
    }
    let server = Server::start_configured(&format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}",
        token(&operator, &operator, "operator", &json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        system.public_key(),
        token(&operator, &system, "SYS", &of_system),
        account.public_key(),
        token(&operator, &account, "lattice", &of_account),
    ))
    .await;
    let user = KeyPair::new_user();
    let of_user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let good = credentials(&token(&account, &user, "n1", &of_user), &user);
    joins(&server.url(), &["--creds", good.path().to_str().unwrap()]).await;

    // Signed by an account that the server does not know, with the seed of another user, and none at all.
    let stranger = token(&KeyPair::new_account(), &user, "n2", &of_user);
    let stolen = token(&account, &user, "n2", &of_user);
    let other = KeyPair::new_user();
    let files = [credentials(&stranger, &user), credentials(&stolen, &other)];
    let url = server.url();
    let bad = files.iter().map(|file| vec!["--creds", file.path().to_str().unwrap()]).chain([vec![]]);
    for options in bad {
        let data = tempfile::tempdir().unwrap();
        let (status, log) = refused_with(&url, "n2", data.path(), &options).await;
        assert_eq!(status.code(), Some(5), "{options:?}: {log}");
        assert!(log.contains("refused the credentials"), "{options:?}: {log}");
        for secret in [user.seed().unwrap(), other.seed().unwrap(), stolen.clone(), stranger.clone()] {
            assert!(!log.contains(&secret), "{options:?}: {log}");
        }
    }
}

#[tokio::test]
async fn a_node_and_its_server_prove_who_they_are_by_certificates() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lattice/certificates");
    let path = |name: &str| format!("{folder}/{name}");
    let (ca, certificate, key) = (path("authority.pem"), path("client.pem"), path("client.key"));
    let (server_certificate, server_key) = (path("server.pem"), path("server.key"));
    let config =
        format!("tls {{ cert_file: {server_certificate:?}, key_file: {server_key:?}, ca_file: {ca:?}, verify: true }}");
    let server = Server::start_configured(&config).await;
    let url = format!("tls://localhost:{}", server.port());
    joins(&url, &["--tlsca", &ca, "--tlscert", &certificate, "--tlskey", &key]).await;
}
