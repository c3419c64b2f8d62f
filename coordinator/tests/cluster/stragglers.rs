use influence_proto::wire::coordinator_event;
use influence_proto::{EpisodeSpec, Lease, Outcome, Turn, Work};
use tonic::Code;

use crate::door::Client;
use crate::setting::{Living, Setting};
use crate::worker::{Session, Worker, client, finish, join, record, turn_of};

fn episode(lease: &Lease) -> (EpisodeSpec, Vec<Turn>) {
    let Work::Episode { spec, journal } = &lease.payload else { panic!("it is an episode") };
    (*spec.clone(), journal.clone())
}

/// Plays an episode to its end, and returns all of its turns.
async fn play(calls: &mut Client, session: &Session, lease: &Lease) -> Vec<Turn> {
    let (spec, mut turns) = episode(lease);
    while turns.last().is_none_or(|turn| turn.environment.is_some()) {
        let turn = turn_of(&spec, turns.len() as u32, false);
        calls.record_turn(record(&session.worker, &lease.work, lease.attempt, &turn)).await.unwrap();
        turns.push(turn);
    }
    let outcome = Outcome::Episode { turns: turns.len() as u32 };
    calls.finish(finish(&session.worker, &lease.work, lease.attempt, outcome)).await.unwrap();
    turns
}

#[tokio::test]
async fn a_straggler_is_finished_by_a_second_worker_and_what_the_first_still_says_is_refused() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[("leases.straggler_seconds", "1")])).await;
    let run = living.run().clone();
    let mut calls = client(living.address).await.unwrap();
    let mut slow = Session::open(&mut calls, join("slow", 1), 1).await.unwrap();
    let stuck = slow.lease().await;
    let alive = slow.keep(calls.clone(), stuck.work.clone(), 1);
    let (spec, _) = episode(&stuck);
    let first = turn_of(&spec, 0, false);
    calls.record_turn(record(&slow.worker, &stuck.work, 1, &first)).await.unwrap();

    // The evaluation has two episodes. The second worker plays the other one, and then has nothing to do.
    let mut quick = Session::open(&mut calls, join("quick", 2), 1).await.unwrap();
    let other = quick.lease().await;
    assert_ne!(other.work, stuck.work);
    play(&mut calls, &quick, &other).await;
    quick.credits(1).await;
    let duplicate = quick.lease().await;
    assert_eq!((&duplicate.work, duplicate.attempt), (&stuck.work, 2));
    assert_eq!(episode(&duplicate).1, [first], "it goes on from what the first has recorded");
    assert!(!alive.is_finished(), "though the first was never silent");

    // Both write, each into a journal of its own, until one wins.
    let mut another = turn_of(&spec, 1, false);
    another.reply.text = "something else".into();
    calls.record_turn(record(&slow.worker, &stuck.work, 1, &another)).await.unwrap();
    let turns = play(&mut calls, &quick, &duplicate).await;
    let lost = loop {
        if let coordinator_event::Event::Cancel(cancel) = slow.next().await {
            break cancel;
        }
    };
    assert_eq!((lost.work, lost.attempt), (stuck.work.to_string(), 1));
    assert_eq!(lost.reason, "attempt 2 finished first");
    alive.abort();
    let late = calls.record_turn(record(&slow.worker, &stuck.work, 1, &turn_of(&spec, 2, false))).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    let late = calls.finish(finish(&slow.worker, &stuck.work, 1, Outcome::Episode { turns: 2 })).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");

    drop((slow, quick));
    tokio::spawn(Worker::new(living.address, "rest", 3).work());
    living.end().await.unwrap();
    let mut stored = setting.store().journal(&run, &spec.id).await.unwrap();
    stored.iter_mut().for_each(|turn| turn.worker = None);
    assert_eq!(stored, turns, "one journal, the winner's");
}
