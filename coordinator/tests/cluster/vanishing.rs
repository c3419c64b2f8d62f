use influence_proto::{Outcome, Turn, Work};
use tonic::Code;

use crate::setting::{Living, Setting};
use crate::worker::{Session, Worker, client, finish, join, record, turn_of};

#[tokio::test]
async fn another_worker_goes_on_from_the_journal_and_the_first_ones_results_are_refused() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let run = living.run().clone();
    let mut calls = client(living.address).await.unwrap();
    let mut gone = Session::open(&mut calls, join("gone", 1), 1).await.unwrap();
    let lease = gone.lease().await;
    let Work::Episode { spec, journal } = &lease.payload else { panic!("an episode comes first") };
    assert_eq!((lease.attempt, journal.len()), (1, 0));
    let turn = turn_of(spec, 0, false);
    calls.record_turn(record(&gone.worker, &lease.work, 1, &turn)).await.unwrap();
    calls.record_turn(record(&gone.worker, &lease.work, 1, &turn)).await.expect("a repeat");
    let worker = gone.worker.clone();
    drop(gone);

    // Its lease runs out after a second without renewals.
    let mut heir = Session::open(&mut calls, join("heir", 2), 1).await.unwrap();
    let mut inherited = heir.lease().await;
    while inherited.work != lease.work {
        calls.finish(finish(&heir.worker, &inherited.work, inherited.attempt, Outcome::Returned)).await.unwrap();
        let credits = influence_proto::wire::Credits { episodes: 1 };
        let event = influence_proto::wire::worker_event::Event::Credits(credits);
        heir.events.send(influence_proto::wire::WorkerEvent { event: Some(event) }).await.unwrap();
        inherited = heir.lease().await;
    }
    let Work::Episode { journal, .. } = &inherited.payload else { panic!("it is an episode") };
    assert_eq!((inherited.attempt, journal.as_slice()), (2, [turn.clone()].as_slice()));

    let late = calls.record_turn(record(&worker, &lease.work, 1, &turn_of(spec, 1, false))).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert!(late.message().contains("attempt 2 is the current one"), "{}", late.message());
    let late = calls.finish(finish(&worker, &lease.work, 1, Outcome::Episode { turns: 1 })).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);

    drop(heir);
    tokio::spawn(Worker::new(living.address, "rest", 3).work());
    living.end().await.unwrap();
    let stored = setting.store().journal(&run, &spec.id).await.unwrap();
    let recorded_by = stored[0].worker.clone();
    assert_eq!(recorded_by.as_ref().map(ToString::to_string), Some(worker.to_string()));
    assert_eq!(stored[0], Turn { worker: recorded_by, ..turn }, "nothing finished is lost");
}
