//! Servers that serve, and those that do not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::server::{Server, open, responder};
use super::{new_run, planned};
use crate::store::behaviour::{TTL, run_id};
use crate::store::redis::server::warnings;
use crate::store::{OpenStoreError, Store, StoreAddress, StoreError};

/// The refusal, in bounded time, and without the password.
async fn refusal(url: &str) -> OpenStoreError {
    let since = Instant::now();
    let error = open(url).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(11), "{url}: {:?}", since.elapsed());
    assert!(!format!("{error:?} {error}").contains("s3cret"), "{error}");
    error
}

fn at(server: &Server, login: &str) -> String {
    server.url().replace("redis://", &format!("redis://{login}"))
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_never_shown() {
    let server = Server::with(&["--requirepass", "s3cret-right"]);
    for login in ["", ":s3cret-wrong@", "ada:s3cret-right@"] {
        let error = refusal(&at(&server, login)).await;
        assert!(matches!(&error, OpenStoreError::Login { .. }), "{login}: {error:?}");
        assert!(error.to_string().contains(&server.url()), "{error}");
    }
    let (store, _) = open(&at(&server, ":s3cret-right@")).await.unwrap();
    store.create_run(new_run()).await.unwrap();
    assert!(!format!("{store:?}").contains("s3cret"), "{store:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away() {
    let mut server = Server::start();
    server.kill();
    let error = refusal(&server.url()).await;
    assert!(matches!(&error, OpenStoreError::Store(error) if error.retryable()), "{error:?}");
    assert!(error.to_string().contains(&server.url()), "{error}");
    let unknown = refusal("redis://no-such-host.invalid:1").await;
    assert!(unknown.to_string().contains("no-such-host.invalid:1"), "{unknown}");
}

#[tokio::test]
async fn what_is_no_redis_is_refused() {
    let web = responder(|_| Some("HTTP/1.1 400 Bad Request\r\n\r\n".into()));
    let error = refusal(&web).await;
    assert!(matches!(&error, OpenStoreError::NotRedis { .. }), "{error:?}");
    assert!(error.to_string().contains(&web), "{error}");
}

#[tokio::test]
async fn what_never_answers_is_away() {
    let error = refusal(&responder(|_| None)).await;
    assert!(matches!(&error, OpenStoreError::Store(StoreError::Away { .. })), "{error:?}");
}

#[tokio::test]
async fn an_early_release_is_refused_with_both_releases() {
    let info = "redis_version:6.2.14\r\nredis_mode:cluster\r\n";
    let old = responder(move |line| match line {
        "SETINFO" => Some("+OK\r\n".into()),
        "PING" => Some("+PONG\r\n".into()),
        "INFO" => Some(format!("${}\r\n{info}\r\n", info.len())),
        _ => None,
    });
    let error = refusal(&old).await;
    assert!(matches!(&error, OpenStoreError::TooOld { found, needed: 7, .. } if found == "6.2.14"), "{error:?}");
    assert!(error.to_string().contains("Redis 6.2.14") && error.to_string().contains("Redis 7"), "{error}");
}

#[tokio::test]
async fn a_cluster_is_refused() {
    let server = Server::with(&["--cluster-enabled", "yes"]);
    let error = refusal(&server.url()).await;
    assert!(matches!(&error, OpenStoreError::Mode { mode, .. } if mode == "cluster"), "{error:?}");
}

#[tokio::test]
async fn newer_data_is_refused_at_opening_leading_and_creating() {
    let (store, server) = super::fresh().await;
    planned(&store, 1).await;
    assert_eq!(server.tell("GET influence:schema"), "$1\r\n1\r\n");
    server.tell("SET influence:schema 2");
    let newer = StoreError::Newer { store: server.url(), found: 2, known: 1 };
    assert_eq!(open(&server.url()).await.unwrap_err(), OpenStoreError::Store(newer.clone()));
    assert_eq!(store.lead(&run_id(), "me", TTL).await, Err(newer.clone()));
    let other = crate::store::NewRun { id: influence_proto::RunId::new("other").unwrap(), ..new_run() };
    assert_eq!(store.create_run(other).await, Err(newer));
    server.tell("SET influence:schema two");
    let foreign = open(&server.url()).await.unwrap_err();
    assert!(matches!(&foreign, OpenStoreError::Store(StoreError::Unreadable { .. })), "{foreign:?}");
}

#[tokio::test]
async fn a_servers_settings_are_warned_of() {
    let safe = Server::start();
    assert_eq!(open(&safe.url()).await.unwrap().1, Vec::<String>::new());

    let lax = Server::with(&["--save", "60 1", "--maxmemory-policy", "allkeys-lru"]);
    let told = open(&lax.url()).await.unwrap().1;
    assert!(told[0].contains("since its last snapshot") && told[0].contains("set `appendonly yes`"), "{told:?}");
    assert!(told[1].contains("drops stored episodes") && told[1].contains("noeviction"), "{told:?}");

    let hidden = Server::with(&["--rename-command", "CONFIG", ""]);
    let told = open(&hidden.url()).await.unwrap().1;
    assert!(told.len() == 1 && told[0].contains("could not be checked"), "{told:?}");

    let address: StoreAddress = safe.url().parse().unwrap();
    let opened = crate::store::open(&address).await.unwrap();
    assert_eq!(opened.store.runs().await.unwrap(), []);
}

#[test]
fn each_setting_that_may_lose_something_is_named() {
    let told = |changed: &[(&str, &str)]| {
        let safe = [
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("no-appendfsync-on-rewrite", "no"),
            ("save", ""),
            ("maxmemory-policy", "noeviction"),
        ];
        let settings: HashMap<String, String> =
            safe.iter().chain(changed).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        warnings(&settings).join("\n")
    };
    assert_eq!(told(&[]), "");
    for (name, value, part) in [
        ("appendonly", "no", "everything is lost when Redis restarts"),
        ("appendfsync", "everysec", "the last second of acknowledged turns"),
        ("appendfsync", "no", "half a minute and more"),
        ("no-appendfsync-on-rewrite", "yes", "while it rewrites its files"),
        ("maxmemory-policy", "allkeys-lfu", "drops stored episodes"),
        ("maxmemory-policy", "volatile-ttl", "may drop the lead"),
    ] {
        let told = told(&[(name, value)]);
        assert!(told.contains(part) && told.contains(name) && told.contains(value) && !told.contains('\n'), "{told}");
    }
}

#[tokio::test]
async fn tls_is_spoken_and_the_servers_certificate_is_checked() {
    const URL: &str = "INFLUENCE_TEST_TLS_URL";
    if let Ok(url) = std::env::var(URL) {
        // The second process, see below.
        let (store, _) = open(&url).await.unwrap();
        return store.create_run(new_run()).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let [cert, key] = [("cert", own.cert.pem()), ("key", own.signing_key.serialize_pem())].map(|(name, pem)| {
        let file = folder.path().join(name);
        std::fs::write(&file, pem).unwrap();
        file.display().to_string()
    });
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{port}");
    let error = refusal(&url).await;
    assert!(error.to_string().contains(&url) && error.to_string().contains("certificate"), "{error}");
    assert_eq!(server.store().await.runs().await.unwrap(), []);
    // Which roots are trusted is read from the environment, so it takes another process.
    let module = module_path!().split_once("::").unwrap().1;
    let name = format!("{module}::tls_is_spoken_and_the_servers_certificate_is_checked");
    let trusting = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env("SSL_CERT_FILE", &cert)
        .env(URL, &url)
        .output()
        .unwrap();
    assert!(trusting.status.success(), "{}", String::from_utf8_lossy(&trusting.stdout));
    assert_eq!(server.store().await.runs().await.unwrap().len(), 1, "the other process wrote it");
}
