use std::time::Duration;

use influence_proto::wire::admin_client::AdminClient;
use influence_proto::{ClusterStatus, Digest, Joined, ModelSource, PushedFile, wire};
use tonic::transport::Channel;

use crate::setting::{Living, Setting};
use crate::worker::{Session, Temper, Worker, client, join};

async fn status(admin: &mut AdminClient<Channel>) -> ClusterStatus {
    admin.status(wire::StatusRequest {}).await.unwrap().into_inner().try_into().unwrap()
}

/// The first status that is as wanted.
async fn until(admin: &mut AdminClient<Channel>, wanted: impl Fn(&ClusterStatus) -> bool) -> ClusterStatus {
    for _ in 0..1000 {
        let now = status(admin).await;
        if wanted(&now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to be: {:?}", status(admin).await)
}

#[tokio::test]
async fn an_administrator_sees_the_workers_pauses_resumes_and_has_one_drain() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut admin = AdminClient::connect(format!("http://{}", living.address)).await.unwrap();
    let empty = until(&mut admin, |s| s.phase == "evaluation 0" && s.standing.pending == 2).await;
    assert_eq!((empty.run.as_str(), empty.episodes_total), ("demo", 2));
    assert_eq!((empty.standing.workers.len(), empty.standing.paused), (0, false));
    let nobody = admin.drain_worker(wire::DrainWorkerRequest { worker: "leaver".into() }).await.unwrap_err();
    assert_eq!(nobody.code(), tonic::Code::NotFound);

    // Paused, a worker that is free gets nothing.
    admin.pause(wire::PauseRequest {}).await.unwrap();
    let mut calls = client(living.address).await.unwrap();
    let mut idle = Session::open(&mut calls, join("idle", 7), 1).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(600), idle.stream.message()).await.is_err());
    let paused = status(&mut admin).await;
    assert_eq!((paused.standing.paused, paused.standing.pending, paused.standing.leased), (true, 2, 0));
    let [worker] = &paused.standing.workers[..] else { panic!("{paused:?}") };
    assert_eq!((worker.id.as_str(), worker.credits), ("idle-0000000000000007", 1));
    assert!(worker.connected && worker.can_train && !worker.draining);
    admin.resume(wire::ResumeRequest {}).await.unwrap();
    idle.lease().await;
    drop(idle);

    // A worker that is asked to drain hands back what it holds at once, and others do it.
    let mut leaver = Worker::new(living.address, "leaver", 1);
    leaver.temper = Temper { slow_ms: 60_000, ..Temper::default() };
    let leaver = tokio::spawn(leaver.work());
    let holds =
        |s: &ClusterStatus| s.standing.workers.iter().any(|w| w.id.as_str().starts_with("leaver") && w.held > 0);
    until(&mut admin, holds).await;
    let unknown = admin.drain_worker(wire::DrainWorkerRequest { worker: "x".into() }).await.unwrap_err();
    assert!(unknown.message().contains("`leaver-0000000000000001`"), "{unknown}");
    let drained = admin.drain_worker(wire::DrainWorkerRequest { worker: "leaver".into() }).await.unwrap();
    assert_eq!(drained.into_inner().worker_id, "leaver-0000000000000001");
    let told = tokio::time::timeout(Duration::from_secs(5), leaver).await.expect("it leaves").unwrap();
    assert!(told.contains("administrator"), "{told}");
    let after = status(&mut admin).await;
    let left = after.standing.workers.iter().find(|w| w.id.as_str().starts_with("leaver")).unwrap();
    assert_eq!((left.held, left.draining), (0, true));

    tokio::spawn(Worker::new(living.address, "rest", 2).work());
    living.end().await.unwrap();
}

#[tokio::test]
async fn a_pushed_model_is_the_last_source_that_workers_hear_of() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut admin = AdminClient::connect(format!("http://{}", living.address)).await.unwrap();
    let mut calls = client(living.address).await.unwrap();
    let digest = Digest::of(b"weights");
    let request = |model: &str| {
        let file = PushedFile { name: "model.gguf".into(), sha256: digest, bytes: 7 };
        wire::PushModelRequest { model: model.into(), files: vec![file.into()] }
    };
    let missing = admin.push_model(request("made-up")).await.unwrap_err();
    assert!(missing.message().contains("was not uploaded"), "{missing}");

    let upload = Some(wire::Upload { sha256: digest.into(), offset: 0 });
    calls.put_artifact(tokio_stream::iter([wire::ArtifactChunk { data: b"weights".to_vec(), upload }])).await.unwrap();
    let unknown = admin.push_model(request("another")).await.unwrap_err();
    assert!(unknown.message().contains("`made-up`"), "it says which there are: {unknown}");
    admin.push_model(request("made-up")).await.unwrap();
    let joined = calls.join(wire::JoinRequest::from(join("w", 1))).await.unwrap().into_inner();
    let joined = Joined::try_from(joined).unwrap();
    let files = vec![PushedFile { name: "model.gguf".into(), sha256: digest, bytes: 7 }];
    assert_eq!(joined.models[0].sources.last(), Some(&ModelSource::Pushed { files }));
}
