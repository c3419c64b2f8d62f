//! The strongest check of the rules: any sequence of calls gets the same answers from both stores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use influence_proto::{EpisodeId, RunId, Turn, Work, WorkId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::faults::{training_report, training_spec};
use super::new_run;
use super::server::Server;
use crate::planning::Phase;
use crate::store::behaviour::{TTL, spec, turn};
use crate::store::{Mark, NewRun, RedisStore, RunStatus, SqliteStore, Store, StoreError, Verdict};

/// `a` and `b` are episodes, `t` a training job, `n` nothing.
type Name = &'static str;

#[derive(Debug, Clone)]
enum Step {
    Start(Name, u32, Option<u32>),
    Turn(Name, u32, u32, Name),
    Finish(Name, u32, u32),
    Fail(Name, u32),
    FinishTraining(Name, u32, u32),
    PlanTraining(Name, u32, bool),
    Plan(u32, Vec<Name>),
    Reopen(u32),
    Judge(u32, Vec<(Name, u8)>),
    SetActive(u32, u64),
    Status(bool),
    Mark(Name, Option<u32>, Name),
    Unmark(Name, Option<u32>, Name),
    Resign,
    Lead,
}

fn step() -> impl Strategy<Value = Step> {
    let work = || prop_oneof![8 => Just("a"), 4 => Just("b"), 3 => Just("t"), 1 => Just("n")];
    let episode = || prop_oneof![12 => Just("a"), 4 => Just("b"), 1 => Just("t"), 1 => Just("n")];
    // Mostly what a sensible caller would say, so that sequences get far.
    let attempt = || prop_oneof![2 => 0..6_u32, 6 => Just(LAST), 5 => Just(BEFORE), 5 => Just(NEXT)];
    let count = || prop_oneof![1 => 0..4_u32, 4 => Just(HERE)];
    let beside = prop_oneof![Just(None), attempt().prop_map(Some)];
    let ids = || proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("n")], 0..3);
    let verdicts =
        proptest::collection::vec((prop_oneof![8 => Just("a"), 8 => Just("b"), 1 => Just("n")], 0..3_u8), 0..3);
    prop_oneof![
        12 => (work(), attempt(), beside).prop_map(|(w, a, b)| Step::Start(w, a, b)),
        20 => (episode(), attempt(), count(), prop_oneof![Just("x"), Just("y")])
            .prop_map(|(w, a, i, text)| Step::Turn(w, a, i, text)),
        3 => (episode(), attempt(), count()).prop_map(|(w, a, t)| Step::Finish(w, a, t)),
        2 => (work(), attempt()).prop_map(|(w, a)| Step::Fail(w, a)),
        1 => (work(), attempt(), 1..3_u32).prop_map(|(w, a, rows)| Step::FinishTraining(w, a, rows)),
        1 => (prop_oneof![Just(("t", 0)), Just(("u", 0)), Just(("u", 1))], any::<bool>()).prop_map(|((w, i), s)| Step::PlanTraining(w, i, s)),
        1 => (0..1_u32, ids()).prop_map(|(i, ids)| Step::Plan(i, ids)),
        1 => (0..2_u32).prop_map(Step::Reopen),
        1 => (0..2_u32, verdicts).prop_map(|(i, v)| Step::Judge(i, v)),
        1 => (0..2_u32, 0..9_u64).prop_map(|(i, s)| Step::SetActive(i, s)),
        1 => any::<bool>().prop_map(Step::Status),
        1 => (episode(), proptest::option::of(0..2_u32), prop_oneof![Just("x"), Just("y")])
            .prop_map(|(w, turn, label)| Step::Mark(w, turn, label)),
        1 => (episode(), proptest::option::of(0..2_u32), prop_oneof![Just("x"), Just("y")])
            .prop_map(|(w, turn, label)| Step::Unmark(w, turn, label)),
        1 => Just(Step::Resign),
        8 => Just(Step::Lead),
    ]
}

/// Attempts, in place of numbers: the last that was started, the one before it, the next one.
const LAST: u32 = 100;
const BEFORE: u32 = 101;
const NEXT: u32 = 102;
/// In place of a number of turns: as many as the attempt's journal holds.
const HERE: u32 = 103;

/// What a caller knows from the answers: attempts in the order of their start, and their turns.
#[derive(Default)]
struct Caller {
    started: BTreeMap<Name, Vec<u32>>,
    turns: BTreeMap<(Name, u32), u32>,
}

impl Caller {
    fn attempt(&self, name: Name, meant: u32) -> u32 {
        let started = self.started.get(name).map_or(&[][..], Vec::as_slice);
        let back = |steps: usize| started.iter().rev().nth(steps).copied().unwrap_or(0);
        match meant {
            LAST => back(0),
            BEFORE => back(1),
            NEXT => back(0) + 1,
            number => number,
        }
    }

    fn turns(&self, name: Name, attempt: u32, meant: u32) -> u32 {
        if meant == HERE { self.turns.get(&(name, attempt)).copied().unwrap_or(0) } else { meant }
    }

    /// The step with numbers in place of what they mean.
    fn resolve(&self, step: &Step) -> Step {
        match step.clone() {
            Step::Start(name, attempt, beside) => {
                Step::Start(name, self.attempt(name, attempt), beside.map(|other| self.attempt(name, other)))
            }
            Step::Turn(name, attempt, index, text) => {
                let attempt = self.attempt(name, attempt);
                Step::Turn(name, attempt, self.turns(name, attempt, index), text)
            }
            Step::Finish(name, attempt, turns) => {
                let attempt = self.attempt(name, attempt);
                Step::Finish(name, attempt, self.turns(name, attempt, turns))
            }
            Step::Fail(name, attempt) => Step::Fail(name, self.attempt(name, attempt)),
            Step::FinishTraining(name, attempt, rows) => Step::FinishTraining(name, self.attempt(name, attempt), rows),
            other => other,
        }
    }

    fn hear(&mut self, step: &Step, answer: &Answer) {
        match (step, answer) {
            (Step::Start(name, attempt, _), Ok(Some((_, journal)))) => {
                self.started.entry(name).or_default().push(*attempt);
                self.turns.insert((name, *attempt), journal.len() as u32);
            }
            (Step::Turn(name, attempt, index, _), Ok(_)) => {
                let turns = self.turns.entry((name, *attempt)).or_default();
                *turns = (*turns).max(index + 1);
            }
            _ => {}
        }
    }
}

/// What a call answered, but for a text that names who leads.
type Answer = Result<Option<(String, Vec<Turn>)>, StoreError>;

fn done(answer: Result<(), StoreError>) -> Answer {
    answer.map(|()| None)
}

async fn carry_out(store: &dyn Store, run: &RunId, step: &Step) -> Answer {
    let work = |name: &str| WorkId::new(name).unwrap();
    let phase = Phase::Train;
    let answer = match step.clone() {
        Step::Start(name, attempt, beside) => {
            store.start_attempt(run, &work(name), attempt, beside).await.map(|work| match work {
                Work::Episode { spec, journal } => Some((spec.id.to_string(), journal)),
                Work::Training(spec) => Some((spec.seed.to_string(), Vec::new())),
                Work::Calls(_) => panic!("no store has calls"),
            })
        }
        Step::Turn(name, attempt, index, text) => {
            done(store.record_turn(run, &work(name), attempt, turn(index, text)).await)
        }
        Step::Finish(name, attempt, turns) => done(store.finish_episode(run, &work(name), attempt, turns).await),
        Step::Fail(name, attempt) => done(store.fail(run, &work(name), attempt, "why").await),
        Step::FinishTraining(name, attempt, rows) => {
            let report = influence_proto::TrainingReport { rows, ..training_report() };
            done(store.finish_training(run, &work(name), attempt, report).await)
        }
        Step::PlanTraining(name, iteration, other) => {
            let spec = influence_proto::TrainingSpec { seed: u64::from(other), ..training_spec() };
            done(store.plan_training(run, iteration, &work(name), spec).await)
        }
        Step::Plan(iteration, ids) => {
            done(store.plan(run, phase, iteration, ids.into_iter().map(spec).collect()).await)
        }
        Step::Reopen(iteration) => done(store.reopen(run, phase, iteration).await),
        Step::Judge(iteration, verdicts) => {
            let verdicts = verdicts.into_iter().map(|(id, reward)| verdict(id, reward)).collect();
            done(store.judge(run, phase, iteration, verdicts, vec!["note".into()]).await)
        }
        Step::SetActive(iteration, seconds) => {
            done(store.set_active(run, phase, iteration, Duration::from_secs(seconds)).await)
        }
        Step::Status(failed) => {
            let status = if failed { RunStatus::Failed("why".into()) } else { RunStatus::Running };
            done(store.set_run_status(run, status).await)
        }
        Step::Mark(name, turn, label) => {
            let (label, note) = (label.to_owned(), String::new());
            done(store.mark(run, Mark { episode: EpisodeId::new(name).unwrap(), turn, label, note, at_ms: 1 }).await)
        }
        Step::Unmark(name, turn, label) => done(store.unmark(run, &EpisodeId::new(name).unwrap(), turn, label).await),
        Step::Resign => done(store.resign(run).await),
        Step::Lead => done(store.lead(run, "me", TTL).await),
    };
    answer.map_err(|error| match error {
        StoreError::NotLeader { run, .. } => StoreError::NotLeader { run, leader: String::new() },
        error => error,
    })
}

fn verdict(id: &str, reward: u8) -> Verdict {
    Verdict {
        episode: spec(id).id,
        reward: (reward > 0).then_some(f64::from(reward) / 10.0),
        influence: None,
        vetoed: reward == 2,
        unscored: reward == 0,
        selected: None,
    }
}

async fn begin(store: &dyn Store, run: &RunId) {
    store.create_run(NewRun { id: run.clone(), ..new_run() }).await.unwrap();
    store.lead(run, "me", TTL).await.unwrap();
    store.plan(run, Phase::Train, 0, vec![spec("a"), spec("b")]).await.unwrap();
    store.plan_training(run, 0, &WorkId::new("t").unwrap(), training_spec()).await.unwrap();
}

/// All that can be read of a run.
async fn seen(store: &dyn Store, run: &RunId) -> String {
    let mut seen = format!("{:?}\n", store.run(run).await.unwrap().status);
    seen += &format!("{:#?}\n", store.episodes(run, Phase::Train, 0).await);
    for id in ["a", "b", "n"] {
        seen += &format!("{:#?}\n", store.journal(run, &EpisodeId::new(id).unwrap()).await);
    }
    seen += &format!("{:#?}\n", store.marks(run).await);
    seen + &format!("{:#?}\n{:#?}", store.iterations(run).await, store.trainings(run).await)
}

/// One store of each kind, and how often which answer was given.
struct Pair {
    sqlite: SqliteStore,
    redis: RedisStore,
    runs: AtomicU32,
    reached: Mutex<BTreeMap<String, u32>>,
    _keep: (Server, tempfile::TempDir),
}

impl Pair {
    async fn open() -> Self {
        let server = Server::with(&["--save", ""]);
        let folder = tempfile::tempdir().unwrap();
        Self {
            sqlite: SqliteStore::open(&folder.path().join("store.sqlite")).unwrap(),
            redis: server.store().await,
            runs: AtomicU32::new(0),
            reached: Mutex::default(),
            _keep: (server, folder),
        }
    }

    /// Carries the steps out in a run of their own.
    async fn compare(&self, steps: &[Step]) -> Result<(), TestCaseError> {
        let run = &RunId::new(format!("r{}", self.runs.fetch_add(1, Ordering::Relaxed))).unwrap();
        begin(&self.sqlite, run).await;
        begin(&self.redis, run).await;
        let mut caller = Caller::default();
        for (position, step) in steps.iter().enumerate() {
            let step = &caller.resolve(step);
            let (one, other) = (carry_out(&self.sqlite, run, step).await, carry_out(&self.redis, run, step).await);
            let kind = format!("{step:?}").split('(').next().unwrap().to_owned();
            let answer = match &one {
                Ok(_) => "Ok".to_owned(),
                Err(error) => format!("{error:?}").split(' ').next().unwrap().to_owned(),
            };
            *self.reached.lock().unwrap().entry(format!("{kind} {answer}")).or_default() += 1;
            caller.hear(step, &one);
            prop_assert_eq!(one, other, "step {}: {:?}", position, step);
        }
        prop_assert_eq!(seen(&self.sqlite, run).await, seen(&self.redis, run).await);
        Ok(())
    }
}

#[test]
fn any_sequence_of_calls_gets_the_same_answers_from_sqlite_and_redis() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pair = runtime.block_on(Pair::open());
    let config = Config { cases: 300, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let steps = proptest::collection::vec(step(), 1..60);
    TestRunner::new(config).run(&steps, |steps| runtime.block_on(pair.compare(&steps))).unwrap();
    // A check that never gets far would prove little.
    let reached = pair.reached.lock().unwrap();
    for answer in ["Start Fenced", "Start AlreadyFinished", "Turn Ok", "Finish Ok", "Finish GivenUp", "Judge Ok"] {
        assert!(reached.get(answer).is_some_and(|times| *times > 5), "{answer} was hardly reached: {reached:?}");
    }
}

/// Sequences that chance seldom finds: two live attempts whose journals differ.
#[tokio::test]
async fn two_journals_that_differ_are_treated_the_same_by_sqlite_and_redis() {
    let pair = Pair::open().await;
    let two = [Step::Start("a", 1, None), Step::Start("a", 2, Some(1))];
    let first = Step::Turn("a", 1, 0, "x");
    let rival = Step::Turn("a", 2, 0, "y");
    let longer = |attempt| Step::Turn("a", attempt, 1, "x");
    let ends = [
        Step::Start("a", 3, None),
        Step::Start("a", 2, None),
        Step::Start("a", 3, Some(1)),
        Step::Start("a", 3, Some(2)),
        Step::Finish("a", 1, 1),
        Step::Finish("a", 2, 1),
        Step::Finish("a", 2, 2),
        Step::Fail("a", 2),
    ];
    let turns = [
        vec![],
        vec![first.clone()],
        vec![rival.clone()],
        vec![first.clone(), rival.clone()],
        vec![first.clone(), rival.clone(), longer(1)],
        vec![first, rival, longer(2)],
    ];
    for turns in &turns {
        for end in &ends {
            let after = [Step::Start("a", 4, None), Step::Turn("a", 4, 1, "y")];
            let steps: Vec<_> = two.iter().chain(turns).chain([end]).chain(&after).cloned().collect();
            pair.compare(&steps).await.unwrap_or_else(|difference| panic!("{steps:?}: {difference}"));
        }
    }
}
