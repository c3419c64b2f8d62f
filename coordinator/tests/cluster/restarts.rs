use std::collections::BTreeMap;
use std::time::Duration;

use influence_coordinator::store::{EpisodeStatus, Store, Verdict};
use influence_coordinator::{Progress, RunPhase};
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

impl Point {
    fn reached(&self, now: &Progress, before: u64, turns: f64) -> bool {
        match self {
            Self::Turns(share) => (before + now.turns) as f64 >= share * turns,
            Self::Phase(phase) => now.phase == *phase,
        }
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
            let turns = store.journal(run, &e.id).await.unwrap();
            let twice = episodes.insert(e.id.to_string(), (e.status, e.verdict, turns));
            assert!(twice.is_none(), "an episode counts twice");
        }
    }
    let trainings = store.trainings(run).await.unwrap();
    Left { episodes, trainings: trainings.into_iter().map(|t| (t.spec, t.report)).collect() }
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
    let first = Worker::new(living.address, "first", 1);
    let mut second = Worker::new(living.address, "second", 2);
    second.address = first.address.clone();
    let address = first.address.clone();
    tokio::spawn(first.work());
    tokio::spawn(second.work());
    let turns = undisturbed.episodes.values().map(|(_, _, turns)| turns.len() as f64).sum::<f64>();
    let mut before = 0;
    for kill in 0..KILLS {
        let point = point(kill);
        while !point.reached(&living.progress.borrow_and_update(), before, turns) {
            let news = tokio::time::timeout(Duration::from_secs(20), living.progress.changed()).await;
            news.expect("the run moves on after every restart").expect("all kills hit a run that goes on");
        }
        tokio::time::sleep(Duration::from_micros((stream::uniform(1000 + kill) * 3000.0) as u64)).await;
        assert!(!living.end.is_finished(), "all kills hit a run that goes on: {point:?}");
        before += living.progress.borrow().turns;
        living.kill();
        living = Living::start(&setting, experiment.clone()).await;
        *address.lock().unwrap() = living.address;
    }
    living.end().await.unwrap();
    assert_eq!(left(setting.store().as_ref(), &run).await, undisturbed);
}
