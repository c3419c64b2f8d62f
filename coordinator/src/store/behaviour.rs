//! What every store must do, as tests over the trait. [`suite!`] makes them tests of one
//! implementation: it takes a name and an expression that gives a fresh store, with whatever must
//! outlive it as the second part of a pair.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use influence_proto::{
    AdapterRef, Digest, EpisodeSpec, RunId, Score, StepLoss, TrainedAgent, TrainingReport, TrainingSpec, Turn, Work,
    WorkId,
};
use serde_json::{Value, json};

use super::{
    EpisodeStatus, Mark, MetricResult, MetricSource, MetricValue, NewRun, RunStatus, Selected, Store, StoreError,
    Verdict,
};
use crate::config::{Scale, Unit};
use crate::planning::Phase;

/// Tests of one implementation.
macro_rules! suite {
    ($($test:ident),* $(,)?; $fresh:expr) => {$(
        #[tokio::test]
        async fn $test() {
            let (store, _keep) = $fresh;
            crate::store::behaviour::$test(&store).await;
        }
    )*};
    ($fresh:expr) => {
        crate::store::behaviour::suite!(
            a_run_is_created_once,
            a_plan_is_never_changed,
            turns_go_on_where_the_journal_ends,
            an_older_attempt_is_fenced,
            a_finished_episode_stays_finished,
            a_failed_episode_can_be_reopened_until_it_is_judged,
            verdicts_are_written_once,
            a_training_job_ends_once,
            active_time_never_shrinks,
            two_live_attempts_have_journals_of_their_own,
            the_first_of_two_attempts_to_finish_wins,
            the_longer_journal_of_two_is_gone_on_from,
            what_judges_say_is_added_and_never_changed,
            only_the_leader_writes,
            anybody_marks;
            $fresh
        );
    };
}
pub(crate) use suite;

pub(crate) fn run_id() -> RunId {
    RunId::new("demo").unwrap()
}

pub(crate) fn spec(id: &str) -> EpisodeSpec {
    let generator = json!({"model": "m", "system_prompt": "s",
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8}});
    let assessor =
        json!({"model": "m", "system_prompt": "s", "suffix": "?", "answers": ["1", "2"], "sees_tools": false});
    let spec: Value = json!({
        "id": id, "environment_class": "therapist", "environment": "smoking", "initial_state": "0",
        "seed": u64::MAX, "max_turns": 2, "agent_name": "Ada",
        "opening": [{"role": "environment", "content": "Hi"}],
        "machine": {"start": "a", "states": {"a": {"transitions": [], "default_answer": "", "terminal": true}}},
        "agent": generator, "environment_role": generator, "preference": assessor, "transition": assessor,
        "influence": null, "adapter": null,
        "scoring": {"prefix": "", "temperature": 1.0, "top_p": 1.0, "min_mass": 0.01},
    });
    serde_json::from_value(spec).unwrap()
}

pub(crate) fn turn(index: u32, text: &str) -> Turn {
    let score = json!({"answers": [["1", 0.1], ["2", 0.9]], "mass": 0.30000000000000004});
    serde_json::from_value(json!({
        "index": index, "state": "a", "preference": score, "calls": [],
        "reply": {"text": text, "prompt_ids": [1, 2], "token_ids": [3], "cut_off": false},
        "transition": {"score": score, "answer": "no", "defaulted": false, "next_state": "a"},
        "environment": {"text": "ok", "cut_off": false},
    }))
    .unwrap()
}

/// How long a lead lasts in these tests: longer than any of them.
pub(crate) const TTL: Duration = Duration::from_secs(60);

fn work(id: &str) -> WorkId {
    WorkId::new(id).unwrap()
}

async fn with_plan(store: &dyn Store, ids: &[&str]) -> RunId {
    let run = run_id();
    let new = NewRun { id: run.clone(), name: "demo".into(), digest: "d".into(), experiment: json!({"seed": 1}) };
    store.create_run(new).await.unwrap();
    store.lead(&run, "me", TTL).await.unwrap();
    store.plan(&run, Phase::Train, 0, ids.iter().map(|id| spec(id)).collect()).await.unwrap();
    run
}

/// The journal that an attempt goes on from.
async fn start(store: &dyn Store, work: &WorkId, attempt: u32, beside: Option<u32>) -> Result<Vec<Turn>, StoreError> {
    Ok(match store.start_attempt(&run_id(), work, attempt, beside).await? {
        Work::Episode { spec, journal } => {
            assert_eq!(spec.id.as_str(), work.as_str());
            journal
        }
        Work::Training(_) | Work::Calls(_) => panic!("it is an episode"),
    })
}

async fn status(store: &dyn Store, run: &RunId) -> EpisodeStatus {
    store.episodes(run, Phase::Train, 0).await.unwrap()[0].status.clone()
}

pub(crate) async fn a_run_is_created_once(store: &dyn Store) {
    let run = with_plan(store, &[]).await;
    let again = NewRun { id: run.clone(), name: "x".into(), digest: "e".into(), experiment: Value::Null };
    assert_eq!(store.create_run(again).await, Err(StoreError::RunExists("demo".into())));
    assert_eq!(store.run(&run).await.unwrap().experiment, json!({"seed": 1}));
    store.set_run_status(&run, RunStatus::Failed("why".into())).await.unwrap();
    assert_eq!(store.runs().await.unwrap()[0].status, RunStatus::Failed("why".into()));
    let other = RunId::new("other").unwrap();
    assert_eq!(store.run(&other).await, Err(StoreError::NoSuchRun("other".into())));
    assert_eq!(store.lead(&other, "me", TTL).await, Err(StoreError::NoSuchRun("other".into())));
}

pub(crate) async fn a_plan_is_never_changed(store: &dyn Store) {
    let run = with_plan(store, &["b", "a"]).await;
    store.plan(&run, Phase::Train, 0, vec![spec("b"), spec("a")]).await.expect("the same plan again");
    let other = store.plan(&run, Phase::Train, 0, vec![spec("a"), spec("b")]).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
    store.plan(&run, Phase::Evaluate, 0, vec![spec("c")]).await.unwrap();
    let episodes = store.episodes(&run, Phase::Train, 0).await.unwrap();
    assert_eq!(episodes.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let first = &episodes[0];
    let place = [&first.environment_class, &first.environment, &first.initial_state];
    assert_eq!(place, ["therapist", "smoking", "0"]);
    assert_eq!(store.spec(&run, &first.id).await.unwrap(), spec("b"));
    assert_eq!(store.episodes(&run, Phase::Train, 1).await.unwrap(), []);
    let phases: Vec<_> = store.iterations(&run).await.unwrap().iter().map(|i| (i.phase, i.iteration)).collect();
    assert_eq!(phases, [(Phase::Evaluate, 0), (Phase::Train, 0)]);
}

pub(crate) async fn turns_go_on_where_the_journal_ends(store: &dyn Store) {
    let run = with_plan(store, &["a"]).await;
    let a = work("a");
    assert_eq!(start(store, &a, 1, None).await.unwrap(), []);
    let gap = store.record_turn(&run, &a, 1, turn(1, "x")).await;
    assert!(matches!(gap, Err(StoreError::Conflict { .. })), "{gap:?}");
    store.record_turn(&run, &a, 1, turn(0, "x")).await.unwrap();
    store.record_turn(&run, &a, 1, turn(0, "x")).await.expect("a repeat is answered as the first");
    let differs = store.record_turn(&run, &a, 1, turn(0, "y")).await;
    assert!(matches!(differs, Err(StoreError::Conflict { .. })), "{differs:?}");
    let early = store.finish_episode(&run, &a, 1, 2).await;
    assert!(matches!(early, Err(StoreError::Conflict { .. })), "{early:?}");
    assert_eq!(start(store, &a, 2, None).await.unwrap(), [turn(0, "x")], "bit for bit");
    store.record_turn(&run, &a, 2, turn(1, "z")).await.unwrap();
    let nobody = store.record_turn(&run, &work("nobody"), 1, turn(0, "x")).await;
    assert!(matches!(nobody, Err(StoreError::NoSuchWork { .. })), "{nobody:?}");
    assert_eq!(store.journal(&run, &spec("a").id).await.unwrap(), [turn(0, "x"), turn(1, "z")]);
}

pub(crate) async fn an_older_attempt_is_fenced(store: &dyn Store) {
    let run = with_plan(store, &["a"]).await;
    let a = work("a");
    start(store, &a, 1, None).await.unwrap();
    start(store, &a, 3, None).await.unwrap();
    start(store, &a, 3, None).await.expect("a repeat");
    let fenced = Err(StoreError::Fenced { work: "a".into(), attempt: 1, current: 3 });
    assert_eq!(store.record_turn(&run, &a, 1, turn(0, "x")).await, fenced);
    assert_eq!(store.finish_episode(&run, &a, 1, 0).await, fenced);
    assert_eq!(store.fail(&run, &a, 1, "late").await, fenced);
    assert_eq!(start(store, &a, 1, None).await.map(|_| ()), fenced);
    assert_eq!(status(store, &run).await, EpisodeStatus::Pending);
}

pub(crate) async fn a_finished_episode_stays_finished(store: &dyn Store) {
    let run = with_plan(store, &["a"]).await;
    let a = work("a");
    start(store, &a, 1, None).await.unwrap();
    store.record_turn(&run, &a, 1, turn(0, "x")).await.unwrap();
    store.finish_episode(&run, &a, 1, 1).await.unwrap();
    store.finish_episode(&run, &a, 1, 1).await.expect("a repeat");
    store.record_turn(&run, &a, 1, turn(0, "x")).await.expect("a late repeat");
    let more = store.record_turn(&run, &a, 1, turn(1, "x")).await;
    assert!(matches!(more, Err(StoreError::Conflict { .. })), "{more:?}");
    let done = Err(StoreError::AlreadyFinished { work: "a".into() });
    assert_eq!(start(store, &a, 2, None).await.map(|_| ()), done);
    assert_eq!(store.fail(&run, &a, 1, "no").await, done);
    assert_eq!(status(store, &run).await, EpisodeStatus::Finished);
}

pub(crate) async fn a_failed_episode_can_be_reopened_until_it_is_judged(store: &dyn Store) {
    let run = with_plan(store, &["a"]).await;
    let a = work("a");
    start(store, &a, 1, None).await.unwrap();
    store.record_turn(&run, &a, 1, turn(0, "x")).await.unwrap();
    store.fail(&run, &a, 1, "poison").await.unwrap();
    assert_eq!(status(store, &run).await, EpisodeStatus::Failed("poison".into()));
    let given_up = Err(StoreError::GivenUp { work: "a".into() });
    assert_eq!(store.finish_episode(&run, &a, 1, 1).await, given_up);
    assert_eq!(store.record_turn(&run, &a, 1, turn(1, "x")).await, given_up);
    store.reopen(&run, Phase::Train, 0).await.unwrap();
    assert_eq!(status(store, &run).await, EpisodeStatus::Pending);
    assert_eq!(start(store, &a, 2, None).await.unwrap().len(), 1, "the journal is kept");
    store.judge(&run, Phase::Train, 0, vec![], vec![]).await.unwrap();
    let judged = store.reopen(&run, Phase::Train, 0).await;
    assert!(matches!(judged, Err(StoreError::Conflict { .. })), "{judged:?}");
}

pub(crate) async fn verdicts_are_written_once(store: &dyn Store) {
    let run = with_plan(store, &["a", "b"]).await;
    let verdict = |id: &str, reward: Option<f64>, selected| Verdict {
        episode: spec(id).id,
        reward,
        influence: None,
        vetoed: false,
        unscored: reward.is_none(),
        selected,
    };
    let verdicts = vec![verdict("b", None, None), verdict("a", Some(0.1 + 0.2), Some(Selected::Best))];
    store.judge(&run, Phase::Train, 0, verdicts.clone(), vec!["short".into()]).await.unwrap();
    let reversed: Vec<_> = verdicts.iter().rev().cloned().collect();
    store.judge(&run, Phase::Train, 0, reversed, vec![]).await.expect("a repeat in any order");
    let other = store.judge(&run, Phase::Train, 0, vec![verdicts[0].clone()], vec![]).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
    let episodes = store.episodes(&run, Phase::Train, 0).await.unwrap();
    assert_eq!(episodes[0].verdict.as_ref(), Some(&verdicts[1]));
    assert_eq!(episodes[1].verdict.as_ref(), Some(&verdicts[0]));
    let iteration = &store.iterations(&run).await.unwrap()[0];
    assert!(iteration.judged);
    assert_eq!(iteration.notes, ["short"]);
    let unplanned = store.judge(&run, Phase::Evaluate, 7, vec![], vec![]).await;
    assert!(matches!(unplanned, Err(StoreError::Conflict { .. })), "{unplanned:?}");
}

pub(crate) async fn what_judges_say_is_added_and_never_changed(store: &dyn Store) {
    let run = with_plan(store, &["a", "b"]).await;
    // Not only the leader may: it does not change what is decided.
    store.resign(&run).await.unwrap();
    let said = |metric: &str, question: &str, yes: f64| MetricResult {
        source: MetricSource {
            metric: metric.into(),
            judge: "m".into(),
            judge_sha256: Digest::of("m"),
            question_sha256: Digest::of(question),
        },
        scale: Scale::YesNo,
        per: Unit::Conversation,
        scores: vec![Score::from_masses(vec![("yes".into(), yes), ("no".into(), 0.1)], 0.01)],
        at_ms: 1,
        nanodollars: 3,
    };
    let (a, b) = (spec("a").id, spec("b").id);
    let first = said("harm", "one", 0.30000000000000004);
    store.add_metric(&run, &a, first.clone()).await.unwrap();
    store.add_metric(&run, &a, MetricResult { at_ms: 2, ..said("harm", "one", 0.9) }).await.expect("a repeat");
    assert_eq!(store.metrics(&run, &a).await.unwrap(), [first], "bit for bit, the first stays");
    store.add_metric(&run, &a, said("harm", "two", 0.5)).await.unwrap();
    store.add_metric(&run, &a, said("deceit", "one", 0.5)).await.unwrap();
    let named: Vec<String> = store.metrics(&run, &a).await.unwrap().into_iter().map(|m| m.source.metric).collect();
    assert_eq!(named, ["deceit", "harm", "harm"]);
    assert_eq!(store.metrics(&run, &b).await.unwrap(), []);
    store.add_metric(&run, &b, said("harm", "one", 1e-9)).await.unwrap();
    let mut expected = Vec::new();
    for episode in [&a, &b] {
        for said in store.metrics(&run, episode).await.unwrap() {
            let value = said.value();
            expected.push(MetricValue { episode: episode.clone(), source: said.source, value, nanodollars: 3 });
        }
    }
    assert_eq!(store.metric_values(&run, Phase::Train, 0).await.unwrap(), expected);
    assert_eq!(expected.len(), 4);
    let nobody = spec("nobody").id;
    let refused = store.add_metric(&run, &nobody, said("harm", "one", 0.5)).await;
    assert!(matches!(refused, Err(StoreError::NoSuchWork { .. })), "{refused:?}");
    assert!(matches!(store.metrics(&run, &nobody).await, Err(StoreError::NoSuchWork { .. })));
}

pub(crate) async fn a_training_job_ends_once(store: &dyn Store) {
    let run = with_plan(store, &[]).await;
    let job: TrainingSpec = serde_json::from_value(json!({
        "model": "m", "dataset": Digest::of("rows"), "start": null, "algorithm": "sft", "seed": 1,
        "lora": {"rank": 1, "alpha": 1.0, "dropout": 0.0, "rank_stabilised": true, "targets": ["q_proj"]},
        "optimiser": {"learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": 1,
            "epochs": 1, "max_length": 9, "cut_long_rows": false},
    }))
    .unwrap();
    let agent = TrainedAgent::Adapter(AdapterRef { config: Digest::of("c"), weights: Digest::of("w") });
    let report = TrainingReport {
        agent,
        steps: 1,
        rows: 2,
        dropped_rows: 0,
        tokens: 3,
        first_loss: Some(0.1),
        last_loss: Some(0.30000000000000004),
        losses: vec![StepLoss { step: 1, loss: 0.30000000000000004 }],
        nanodollars: 0,
    };
    let t = work("demo:training:0");
    store.plan_training(&run, 0, &t, job.clone()).await.unwrap();
    store.plan_training(&run, 0, &t, job.clone()).await.expect("a repeat");
    let changed = store.plan_training(&run, 0, &t, TrainingSpec { seed: 2, ..job.clone() }).await;
    assert!(matches!(changed, Err(StoreError::Conflict { .. })), "{changed:?}");

    let given = store.start_attempt(&run, &t, 1, None).await.unwrap();
    assert_eq!(given, Work::Training(Box::new(job.clone())));
    store.fail(&run, &t, 1, "out of memory").await.unwrap();
    assert_eq!(store.trainings(&run).await.unwrap()[0].error.as_deref(), Some("out of memory"));
    store.start_attempt(&run, &t, 2, None).await.unwrap();
    let late = store.finish_training(&run, &t, 1, report.clone()).await;
    assert_eq!(late, Err(StoreError::Fenced { work: t.to_string(), attempt: 1, current: 2 }));
    store.finish_training(&run, &t, 2, report.clone()).await.unwrap();
    store.finish_training(&run, &t, 2, report.clone()).await.expect("a repeat");
    let other = store.finish_training(&run, &t, 2, TrainingReport { rows: 9, ..report.clone() }).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
    let stored = &store.trainings(&run).await.unwrap()[0];
    assert_eq!((stored.report.as_ref(), &stored.spec, &stored.error), (Some(&report), &job, &None));
    let again = store.start_attempt(&run, &t, 3, None).await;
    assert_eq!(again, Err(StoreError::AlreadyFinished { work: t.to_string() }));
}

pub(crate) async fn active_time_never_shrinks(store: &dyn Store) {
    let run = with_plan(store, &[]).await;
    for (given, kept) in [(5, 5), (3, 5), (8, 8)] {
        store.set_active(&run, Phase::Train, 0, Duration::from_secs(given)).await.unwrap();
        assert_eq!(store.iterations(&run).await.unwrap()[0].active, Duration::from_secs(kept));
    }
}

pub(crate) async fn two_live_attempts_have_journals_of_their_own(store: &dyn Store) {
    let run = with_plan(store, &["a"]).await;
    let a = work("a");
    start(store, &a, 1, None).await.unwrap();
    store.record_turn(&run, &a, 1, turn(0, "x")).await.unwrap();
    assert_eq!(start(store, &a, 2, Some(1)).await.unwrap(), [turn(0, "x")], "it begins where the first is");
    assert_eq!(start(store, &a, 2, Some(1)).await.unwrap(), [turn(0, "x")], "a repeat");
    store.record_turn(&run, &a, 1, turn(1, "first")).await.unwrap();
    store.record_turn(&run, &a, 2, turn(1, "second")).await.expect("the other's turn is no conflict");
    store.record_turn(&run, &a, 2, turn(1, "second")).await.expect("a repeat");
    assert_eq!(store.journal(&run, &spec("a").id).await.unwrap(), [turn(0, "x"), turn(1, "first")]);
    assert_eq!(store.episodes(&run, Phase::Train, 0).await.unwrap()[0].attempt, 2, "the highest one");
    // A third beside the second fences the first off, and begins where the second is.
    assert_eq!(start(store, &a, 3, Some(2)).await.unwrap(), [turn(0, "x"), turn(1, "second")]);
    let fenced = Err(StoreError::Fenced { work: "a".into(), attempt: 1, current: 3 });
    assert_eq!(store.record_turn(&run, &a, 1, turn(2, "late")).await, fenced);
    assert_eq!(start(store, &a, 4, Some(1)).await.map(|_| ()), fenced, "beside what is not live");
    store.record_turn(&run, &a, 2, turn(2, "goes on")).await.unwrap();
    assert_eq!(store.journal(&run, &spec("a").id).await.unwrap().len(), 3);
}

pub(crate) async fn the_first_of_two_attempts_to_finish_wins(store: &dyn Store) {
    let run = with_plan(store, &["a", "b"]).await;
    for (id, winner, loser) in [("a", 1, 2), ("b", 2, 1)] {
        let w = work(id);
        start(store, &w, 1, None).await.unwrap();
        start(store, &w, 2, Some(1)).await.unwrap();
        store.record_turn(&run, &w, winner, turn(0, "winner")).await.unwrap();
        store.record_turn(&run, &w, loser, turn(0, "loser")).await.unwrap();
        store.finish_episode(&run, &w, winner, 1).await.unwrap();
        store.finish_episode(&run, &w, winner, 1).await.expect("a repeat");
        let late = store.finish_episode(&run, &w, loser, 1).await;
        assert_eq!(late, Err(StoreError::Fenced { work: id.into(), attempt: loser, current: winner }));
        assert_eq!(store.journal(&run, &spec(id).id).await.unwrap(), [turn(0, "winner")]);
    }
    let episodes = store.episodes(&run, Phase::Train, 0).await.unwrap();
    let ends: Vec<_> = episodes.iter().map(|e| (&e.status, e.attempt, e.turns)).collect();
    assert_eq!(ends, [(&EpisodeStatus::Finished, 1, 1), (&EpisodeStatus::Finished, 2, 1)]);
}

pub(crate) async fn the_longer_journal_of_two_is_gone_on_from(store: &dyn Store) {
    let run = with_plan(store, &["a", "b"]).await;
    for (id, ahead) in [("a", 1), ("b", 2)] {
        let w = work(id);
        start(store, &w, 1, None).await.unwrap();
        start(store, &w, 2, Some(1)).await.unwrap();
        store.record_turn(&run, &w, ahead, turn(0, "ahead")).await.unwrap();
        assert_eq!(start(store, &w, 3, None).await.unwrap(), [turn(0, "ahead")], "attempt {ahead} was ahead");
        for earlier in [1, 2] {
            let fenced = Err(StoreError::Fenced { work: id.into(), attempt: earlier, current: 3 });
            assert_eq!(store.finish_episode(&run, &w, earlier, 1).await, fenced);
        }
        store.finish_episode(&run, &w, 3, 1).await.unwrap();
    }
}

pub(crate) async fn only_the_leader_writes(store: &dyn Store) {
    let run = with_plan(store, &["a"]).await;
    store.lead(&run, "me", TTL).await.expect("a repeat keeps it");
    start(store, &work("a"), 1, None).await.unwrap();
    store.resign(&run).await.unwrap();
    store.resign(&run).await.expect("a repeat");
    let refused = [
        store.record_turn(&run, &work("a"), 1, turn(0, "x")).await,
        store.finish_episode(&run, &work("a"), 1, 0).await,
        store.set_run_status(&run, RunStatus::Finished).await,
        store.plan(&run, Phase::Train, 1, vec![spec("b")]).await,
        store.judge(&run, Phase::Train, 0, vec![], vec![]).await,
        start(store, &work("a"), 2, None).await.map(|_| ()),
    ];
    for (call, refused) in refused.into_iter().enumerate() {
        assert!(matches!(refused, Err(StoreError::NotLeader { .. })), "call {call}: {refused:?}");
    }
    assert_eq!(store.journal(&run, &spec("a").id).await.unwrap(), []);
    assert_eq!(store.run(&run).await.unwrap().status, RunStatus::Running);
}

pub(crate) async fn anybody_marks(store: &dyn Store) {
    let run = with_plan(store, &["a", "b"]).await;
    store.resign(&run).await.unwrap();
    let mark = |id: &str, turn, label: &str, note: &str| Mark {
        episode: spec(id).id,
        turn,
        label: label.into(),
        note: note.into(),
        at_ms: 1_795_736_194_716,
    };
    let missing = store.mark(&run, mark("n", None, "harmful", "")).await;
    assert!(matches!(missing, Err(StoreError::NoSuchWork { .. })), "{missing:?}");
    let said = [
        mark("a", None, "fine", ""),
        mark("a", None, "harmful", "it lies: \"'\n\u{1b}[31m"),
        mark("a", Some(0), "harmful", ""),
        mark("a", Some(10), "harmful", ""),
        mark("b", None, "harmful", ""),
    ];
    for mark in said.iter().rev().chain([&said[2]]) {
        store.mark(&run, mark.clone()).await.unwrap();
    }
    assert_eq!(store.marks(&run).await.unwrap(), said, "in order, and each once");
    let changed = Mark { at_ms: 2, ..mark("a", Some(0), "harmful", "on second thought") };
    store.mark(&run, changed.clone()).await.unwrap();
    assert_eq!(store.marks(&run).await.unwrap()[2], changed);
    store.unmark(&run, &spec("a").id, None, "harmful").await.unwrap();
    store.unmark(&run, &spec("a").id, None, "harmful").await.expect("a repeat");
    let left = store.marks(&run).await.unwrap();
    assert_eq!(
        left.iter().map(|m| (m.turn, &*m.label)).collect::<Vec<_>>(),
        [(None, "fine"), (Some(0), "harmful"), (Some(10), "harmful"), (None, "harmful")]
    );
}

/// Two handles to one store.
pub(crate) async fn one_handle_leads_at_a_time(one: &dyn Store, other: &dyn Store) {
    let run = with_plan(one, &["a"]).await;
    let led = other.lead(&run, "other", TTL).await;
    assert!(matches!(&led, Err(StoreError::Led { .. })), "{led:?}");
    let unled = other.set_run_status(&run, RunStatus::Finished).await;
    assert!(matches!(&unled, Err(StoreError::NotLeader { .. })), "{unled:?}");
    one.resign(&run).await.unwrap();
    other.lead(&run, "other", TTL).await.unwrap();
    let deposed = one.record_turn(&run, &work("a"), 1, turn(0, "x")).await;
    assert!(matches!(&deposed, Err(StoreError::NotLeader { .. })), "{deposed:?}");
    start(other, &work("a"), 1, None).await.unwrap();
}
