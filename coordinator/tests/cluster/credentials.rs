//! Who is let in, over real connections.

use influence_proto::{Digest, wire};
use tonic::{Code, Status};

use crate::door::{ADMIN, Authority, Client, Door, WORKER, access};
use crate::log;
use crate::setting::{Living, Setting};
use crate::worker::{Worker, client, join};

async fn join_as(mut client: Client, name: &str) -> Result<(), Status> {
    client.join(wire::JoinRequest::from(join(name, 1))).await.map(drop)
}

/// The whole run, with a worker that comes through this door.
async fn finish(living: Living, door: Door) {
    let worker = Worker::new(living.address, "well-behaved", 7).through(door);
    let worker = tokio::spawn(worker.work());
    living.end().await.unwrap();
    assert_eq!(worker.await.unwrap(), "the run is finished");
}

#[tokio::test]
async fn tokens_let_in_their_role_and_are_never_logged() {
    log::listen();
    let setting = Setting::new();
    let living = Living::guarded(&setting, setting.experiment(&[]), access(Some(WORKER), Some(ADMIN), None)).await;
    let refused = async |door: Door| join_as(door.open(living.address).await.unwrap(), "stranger").await.unwrap_err();

    let none = refused(Door::default()).await;
    assert_eq!(none.code(), Code::Unauthenticated, "{none}");
    log::refusal(&["none was sent", "--token-file"]).await;

    let wrong = refused(Door::with("a-token-of-somebody-else")).await;
    assert_eq!(wrong.code(), Code::Unauthenticated, "{wrong}");
    log::refusal(&["none of this coordinator's"]).await;

    let admin = refused(Door::with(ADMIN)).await;
    assert_eq!(admin.code(), Code::PermissionDenied, "{admin}");
    assert!(admin.message().contains("needs the worker's token"), "{admin}");
    log::refusal(&["the admin's credential was sent"]).await;

    let mut admin = Door::with(ADMIN).open(living.address).await.unwrap();
    let upload = Some(wire::Upload { sha256: Digest::of(b"weights").into(), offset: 0 });
    let upload = tokio_stream::iter([wire::ArtifactChunk { data: b"weights".to_vec(), upload }]);
    let uploaded = admin.put_artifact(upload).await.unwrap().into_inner();
    let stat = wire::StatArtifactRequest { sha256: uploaded.sha256.clone() };
    assert!(admin.stat_artifact(stat).await.unwrap().into_inner().complete);
    let get = wire::GetArtifactRequest { sha256: uploaded.sha256, offset: 0 };
    assert_eq!(admin.get_artifact(get).await.unwrap_err().code(), Code::PermissionDenied);

    for (token, allowed) in [(Some(WORKER), false), (None, false), (Some(ADMIN), true)] {
        let mut pausing = Door { token, tls: None }.open_admin(living.address).await.unwrap();
        let paused = pausing.pause(wire::PauseRequest {}).await;
        assert_eq!(paused.is_ok(), allowed, "{token:?}: {paused:?}");
        if allowed {
            pausing.resume(wire::ResumeRequest {}).await.unwrap();
        }
    }
    finish(living, Door::with(WORKER)).await;
    let logged = log::logged();
    for secret in [WORKER, ADMIN, "somebody-else"] {
        assert!(!logged.contains(secret), "{secret} is logged:\n{logged}");
    }
}

#[tokio::test]
async fn tls_with_a_token_lets_in_and_everything_else_is_refused_and_logged() {
    log::listen();
    let (setting, authority) = (Setting::new(), Authority::new("ours"));
    let rules = access(Some(WORKER), None, Some(authority.server(None)));
    let living = Living::guarded(&setting, setting.experiment(&[]), rules).await;

    let wrong_ca = Door { tls: Some(Authority::new("another").client()), ..Door::with(WORKER) };
    assert!(wrong_ca.open(living.address).await.is_err());
    log::refusal(&["the TLS handshake failed", "UnknownCA"]).await;

    let plain = Door::with(WORKER).open(living.address).await;
    let joined = match plain {
        Ok(client) => join_as(client, "plain").await.map_err(drop),
        Err(_) => Err(()),
    };
    assert_eq!(joined, Err(()));
    log::refusal(&["the TLS handshake failed", "InvalidContentType"]).await;

    let no_token = Door { token: None, tls: Some(authority.client()) };
    let refused = join_as(no_token.open(living.address).await.unwrap(), "stranger").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    finish(living, Door { token: Some(WORKER), tls: Some(authority.client()) }).await;
}

#[tokio::test]
async fn with_mutual_tls_a_signed_certificate_is_a_workers_credential() {
    log::listen();
    let (setting, servers, workers) = (Setting::new(), Authority::new("servers"), Authority::new("workers"));
    let rules = access(None, Some(ADMIN), Some(servers.server(Some(&workers))));
    let living = Living::guarded(&setting, setting.experiment(&[]), rules).await;

    let strangers = [servers.client(), servers.client().identity(Authority::new("another").identity())];
    for (tls, reason) in strangers.into_iter().zip(["peer sent no certificates", "UnknownIssuer"]) {
        let joined = match (Door { token: None, tls: Some(tls) }).open(living.address).await {
            Ok(client) => join_as(client, "stranger").await.map_err(drop),
            Err(_) => Err(()),
        };
        assert_eq!(joined, Err(()));
        log::refusal(&["the TLS handshake failed", reason]).await;
    }

    let certified = Door { token: None, tls: Some(servers.client().identity(workers.identity())) };
    let as_admin = Door { token: Some(ADMIN), ..certified.clone() };
    let refused = join_as(as_admin.open(living.address).await.unwrap(), "admin").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "a token that is shown says who calls");
    finish(living, certified).await;
}

#[tokio::test]
async fn tls_to_a_plain_port_is_named_in_the_log() {
    log::listen();
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let tls = Door { token: None, tls: Some(Authority::new("another").client()) };
    assert!(tls.open(living.address).await.is_err());
    log::refusal(&["does not speak HTTP/2 but TLS", "http://"]).await;
    join_as(client(living.address).await.unwrap(), "welcome").await.unwrap();
}
