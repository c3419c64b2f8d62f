use std::collections::BTreeMap;
use std::time::Duration;

use influence_coordinator::RunPhase;
use influence_coordinator::store::{EpisodeStatus, Store, Verdict};
use influence_proto::{RunId, TrainingReport, TrainingSpec, Turn, stream};

use crate::setting::{Living, Setting};
use crate::worker::Worker;

const KILLS: u64 = 20;

/// When a coordinator is killed; up to 3 ms later, to be exact.
#[derive(Debug)]
enum Point {
    /// So much of all turns has been stored.
    Turns(f64),
    /// The phase has begun.
    Phase(RunPhase),
}

/// The kills are spread over the run, and some hit what happens between rollouts.
fn point(kill: u64) -> Point {
    match kill {
        8..=10 => Point::Phase(RunPhase::Training(0)),
        17 | 18 => Point::Phase(RunPhase::Training(1)),
        19 => Point::Phase(RunPhase::Evaluation(2)),
        _ => Point::Turns((kill as f64 + stream::uniform(kill)) / 21.0),
    }
}

/// All that a run is: which attempts led to it does not matter.
#[derive(Debug, PartialEq)]
struct Left {
    episodes: BTreeMap<String, (EpisodeStatus, Option<Verdict>, Vec<Turn>)>,
    trainings: Vec<(TrainingSpec, Option<TrainingReport>)>,
}

async fn left(store: &dyn Store, run: &RunId) -> Left {
    let mut episodes = BTreeMap::new();
    for at in store.iterations(run).await.unwrap() {
        for e in store.episodes(run, at.phase, at.iteration).await.unwrap() {
            let mut turns = store.journal(run, &e.id).await.unwrap();
            turns.iter_mut().for_each(|turn| turn.worker = None);
            let twice = episodes.insert(e.id.to_string(), (e.status, e.verdict, turns));
            assert!(twice.is_none(), "an episode counts twice");
        }
    }
    let trainings = store.trainings(run).await.unwrap();
    Left { episodes, trainings: trainings.into_iter().map(|t| (t.spec, t.report)).collect() }
}

/// A coordinator that is killed does not say how much it has stored.
async fn stored_turns(store: &dyn Store, run: &RunId) -> u32 {
    let mut turns = 0;
    for at in store.iterations(run).await.unwrap() {
        turns += store.episodes(run, at.phase, at.iteration).await.unwrap().iter().map(|e| e.turns).sum::<u32>();
    }
    turns
}

#[tokio::test]
async fn twenty_kills_at_random_points_leave_the_undisturbed_run() {
    let calm = Setting::new();
    let living = Living::start(&calm, calm.experiment(&[])).await;
    let run = living.run().clone();
    tokio::spawn(Worker::new(living.address, "calm", 1).work());
    living.end().await.unwrap();
    let undisturbed = left(calm.store().as_ref(), &run).await;

    let setting = Setting::new();
    let experiment = setting.experiment(&[]);
    let mut living = Living::start(&setting, experiment.clone()).await;
    let mut first = Worker::new(living.address, "first", 1);
    let mut second = Worker::new(living.address, "second", 2);
    second.address = first.address.clone();
    for worker in [&mut first, &mut second] {
        // So that a busy machine's observer sees even the last, short evaluation.
        worker.temper.slow_ms = 8;
    }
    let address = first.address.clone();
    tokio::spawn(first.work());
    tokio::spawn(second.work());
    let turns = undisturbed.episodes.values().map(|(_, _, turns)| turns.len() as f64).sum::<f64>();
    let store = setting.store();
    for kill in 0..KILLS {
        let point = point(kill);
        loop {
            let phase = living.progress.borrow_and_update().phase;
            let reached = match &point {
                Point::Turns(share) => f64::from(stored_turns(store.as_ref(), &run).await) >= share * turns,
                Point::Phase(wanted) => phase == *wanted,
            };
            if reached {
                break;
            }
            let news = tokio::time::timeout(Duration::from_secs(20), living.progress.changed()).await;
            news.expect("the run moves on after every restart").expect("all kills hit a run that goes on");
        }
        tokio::time::sleep(Duration::from_micros((stream::uniform(1000 + kill) * 3000.0) as u64)).await;
        assert!(!living.end.is_finished(), "all kills hit a run that goes on: {point:?}");
        living.kill();
        living = Living::start(&setting, experiment.clone()).await;
        *address.lock().unwrap() = living.address;
    }
    living.end().await.unwrap();
    assert_eq!(left(store.as_ref(), &run).await, undisturbed);
}
