use std::time::Duration;

use influence_coordinator::store::RunStatus;
use influence_coordinator::{Opened, RunError};
use influence_proto::{PROTOCOL, wire};
use tonic::Code;

use crate::setting::{Living, Setting};
use crate::worker::{Session, Temper, Worker, client, join};

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_a_code_of_the_list() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();

    let mut later = join("later", 1);
    later.protocol = (7, 9);
    let refused = calls.join(wire::JoinRequest::from(later)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let ours = format!("{} to {}", PROTOCOL.start(), PROTOCOL.end());
    for part in ["7 to 9", &ours, "same release"] {
        assert!(refused.message().contains(part), "{part} is missing in: {}", refused.message());
    }

    let stranger = wire::RenewRequest { worker_id: "stranger".into(), held: vec![], ..Default::default() };
    assert_eq!(calls.renew(stranger).await.unwrap_err().code(), Code::Aborted);

    let empty = wire::RecordTurnRequest { worker_id: "w".into(), work: "x".into(), attempt: 1, turn: None };
    let refused = calls.record_turn(empty).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("turn"), "{}", refused.message());

    let missing = wire::GetArtifactRequest { sha256: "0".repeat(64), offset: 0 };
    assert_eq!(calls.get_artifact(missing).await.unwrap_err().code(), Code::NotFound);
    let bad = wire::GetArtifactRequest { sha256: "zz".into(), offset: 0 };
    assert_eq!(calls.get_artifact(bad).await.unwrap_err().code(), Code::InvalidArgument);

    let event = wire::worker_event::Event::Credits(wire::Credits { episodes: 1 });
    let no_hello = tokio_stream::iter([wire::WorkerEvent { event: Some(event) }]);
    assert_eq!(calls.session(no_hello).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_cancelled_run_stops_soon_although_sessions_are_open_and_says_no_goodbye() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();
    let mut session = Session::open(&mut calls, join("idle", 1), 0).await.unwrap();
    living.cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(8), living.end()).await.expect("within the deadline");
    assert!(matches!(ended, Err(RunError::Stopped)), "{ended:?}");
    assert!(!matches!(session.stream.message().await, Ok(Some(_))), "the worker waits for it to come back");
    assert_eq!(setting.store().runs().await.unwrap()[0].status, RunStatus::Running);
}

#[tokio::test]
async fn too_many_failures_stop_the_run_and_the_same_command_tries_them_again() {
    let setting = Setting::new();
    let experiment = setting.experiment(&[("attempts", "2")]);
    let living = Living::start(&setting, experiment.clone()).await;
    let mut worker = Worker::new(living.address, "afraid", 1);
    worker.temper = Temper { afraid_of_rain: true, ..Temper::default() };
    let worker = tokio::spawn(worker.work());
    let stopped = living.end().await.unwrap_err().to_string();
    for part in ["1 of 2 episodes of iteration 0 (evaluate)", "allows 0", "it rains"] {
        assert!(stopped.contains(part), "{part} is missing in: {stopped}");
    }
    assert!(worker.await.unwrap().contains("it rains"), "workers are told why");
    assert_eq!(setting.store().runs().await.unwrap()[0].status, RunStatus::Failed(stopped));

    let living = Living::start(&setting, experiment).await;
    assert!(matches!(living.opened, Opened::Resumed(_)));
    tokio::spawn(Worker::new(living.address, "brave", 2).work());
    living.end().await.unwrap();
}

#[tokio::test]
async fn an_iteration_without_a_score_says_why_there_is_nothing_to_train_on() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[("evaluation.at", "[]")])).await;
    let mut worker = Worker::new(living.address, "mute", 1);
    worker.temper = Temper { mute: true, ..Temper::default() };
    tokio::spawn(worker.work());
    let stopped = living.end().await.unwrap_err().to_string();
    for part in ["12 finished episodes of iteration 0", "12 are unscored", "it says nothing", "min_mass"] {
        assert!(stopped.contains(part), "{part} is missing in: {stopped}");
    }
}
