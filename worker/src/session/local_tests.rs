//! The whole worker with its own engine, on a tiny random model.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use influence_proto::{
    AdapterRef, Algorithm, Digest, EpisodeSpec, Lease, LoraSpec, OptimiserSpec, Outcome, Schedule, TrainedAgent,
    TrainingBackend, TrainingReport, TrainingSpec, Turn, Work, WorkId,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::rehearsal::{Fault, Rehearsal};
use super::{Credentials, WorkerOptions, run};
use crate::episode::samples::spec;
use crate::training::tiny;

const ROWS: &str = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "abc"}]}
{"messages": [{"role": "user", "content": "So"}, {"role": "assistant", "content": "abc"}]}
"#;

struct Setup {
    coordinator: Rehearsal,
    cancel: CancellationToken,
    worker: tokio::task::JoinHandle<Result<(), super::WorkerError>>,
    _folder: Arc<tempfile::TempDir>,
}

impl Setup {
    async fn new() -> Self {
        let (coordinator, folder) = (Rehearsal::start().await, Arc::new(tempfile::tempdir().unwrap()));
        let model = folder.path().join("tiny");
        tiny::write(&model);
        Self::with(coordinator, folder, BTreeMap::from([("tiny".to_owned(), model)]))
    }

    fn with(coordinator: Rehearsal, folder: Arc<tempfile::TempDir>, models: BTreeMap<String, PathBuf>) -> Self {
        let options = WorkerOptions {
            coordinators: vec![coordinator.url()],
            credentials: Credentials::default(),
            name: "test".into(),
            slots: 3,
            device: "cpu".into(),
            cache: folder.path().join("cache"),
            kv_bytes: None,
            cache_bytes: super::CACHE_BYTES,
            models,
            response_cache: None,
            // What is asked to end hands back: a training that is quick enough would end by itself within a longer grace.
            grace: Duration::ZERO,
            share_every: Duration::from_millis(50),
            connected: tokio::sync::watch::Sender::new(false),
            on_download: None,
        };
        let cancel = CancellationToken::new();
        let worker = tokio::spawn(run(options, cancel.clone()));
        Self { coordinator, cancel, worker, _folder: folder }
    }

    async fn done(&self, name: &str, payload: Work) -> Outcome {
        self.done_from(name, payload, None).await
    }

    async fn give(&self, name: &str, payload: Work, checkpoint: Option<Digest>) {
        let lease = Lease { work: WorkId::new(name).unwrap(), attempt: 1, payload, checkpoint, trace: None };
        self.coordinator.until("the session", |script| !script.credits.is_empty()).await;
        self.coordinator.say(influence_proto::wire::coordinator_event::Event::Lease(lease.into()));
    }

    async fn done_from(&self, name: &str, payload: Work, checkpoint: Option<Digest>) -> Outcome {
        self.give(name, payload, checkpoint).await;
        self.coordinator.until(name, |script| script.finished.iter().any(|(work, _, _)| work == name)).await;
        self.coordinator.script().finished.iter().find(|(work, _, _)| work == name).unwrap().2.clone()
    }

    fn turns(&self, name: &str) -> Vec<Turn> {
        let mut turns: Vec<Turn> = self
            .coordinator
            .script()
            .turns
            .iter()
            .filter(|(work, _, _)| work == name)
            .map(|(_, _, t)| t.clone())
            .collect();
        turns
            .iter_mut()
            .flat_map(|turn| &mut turn.calls)
            .for_each(|call| (call.milliseconds, call.reused_tokens) = (0, 0));
        turns
    }

    fn keep(&self, data: &str) -> Digest {
        self.coordinator.script().artifacts.insert(Digest::of(data).to_string(), data.into());
        Digest::of(data)
    }

    async fn end(self) {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.worker).await.unwrap().unwrap().unwrap();
    }
}

fn episode(name: &str, adapter: Option<AdapterRef>, journal: Vec<Turn>) -> Work {
    // The random model puts next to nothing on any answer.
    let mut spec: EpisodeSpec = spec(name, 21);
    spec.scoring.min_mass = 0.0;
    spec.trained = adapter.map(TrainedAgent::Adapter);
    Work::Episode { spec: Box::new(spec), journal }
}

fn training(dataset: Digest, start: Option<AdapterRef>) -> Work {
    Work::Training(Box::new(TrainingSpec {
        model: "tiny".into(),
        dataset,
        algorithm: Algorithm::Sft,
        backend: TrainingBackend::Local {
            start,
            lora: LoraSpec {
                rank: 4,
                alpha: 8.0,
                dropout: 0.0,
                rank_stabilised: true,
                targets: vec!["q_proj".into(), "down_proj".into()],
            },
            optimiser: OptimiserSpec {
                learning_rate: 0.01,
                weight_decay: 0.0,
                max_grad_norm: 1.0,
                batch_size: 2,
                epochs: 6,
                max_length: 4096,
                cut_long_rows: false,
                schedule: Schedule::Constant,
                warmup: 0.0,
            },
        },
        seed: 3,
    }))
}

fn report(outcome: Outcome) -> TrainingReport {
    match outcome {
        Outcome::Training(report) => report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_episode_on_the_engine_is_the_same_after_any_turn_and_its_stream_decodes() {
    let setup = Setup::new().await;
    assert!(matches!(setup.done("e", episode("e", None, Vec::new())).await, Outcome::Episode { .. }));
    let whole = setup.turns("e");
    assert!(!whole.is_empty());
    assert!(whole[0].calls.iter().all(|call| call.prompt_tokens > 20));
    let second = Setup::new().await;
    second.done("e", episode("e", None, whole[..1].to_vec())).await;
    assert_eq!(second.turns("e"), whole[1..]);
    setup.end().await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_uploads_an_adapter_that_the_next_episode_uses_and_the_next_training_continues() {
    let setup = Setup::new().await;
    let dataset = setup.keep(ROWS);
    let first = report(setup.done("t1", training(dataset, None)).await);
    assert_eq!((first.steps, first.rows, first.dropped_rows), (6, 2, 0));
    assert_eq!(first.tokens, 2 * 4 * 6, "three letters and the end of turn, twice, over six epochs");
    assert!(first.last_loss < first.first_loss, "{first:?}");

    setup.done("base", episode("e", None, Vec::new())).await;
    setup.done("tuned", episode("e", first.agent.adapter(), Vec::new())).await;
    let (base, tuned) = (setup.turns("base"), setup.turns("tuned"));
    assert_eq!(base[0].reply.prompt_ids, tuned[0].reply.prompt_ids);
    assert_ne!(base[0].reply.token_ids, tuned[0].reply.token_ids, "the adapter changes what is sampled");

    let second = report(setup.done("t2", training(dataset, first.agent.adapter())).await);
    assert!(second.first_loss < first.first_loss, "it goes on where the first ended: {second:?}");
    let again = report(setup.done("t3", training(dataset, None)).await);
    assert_eq!(again, first, "the same job gives the same adapter");
    setup.end().await;
}

/// What trainings keep while they run.
fn checkpoints(folder: &Path) -> usize {
    let files = walk(&folder.join("cache"));
    files.iter().filter(|file| file.extension().is_some_and(|e| e == "checkpoint")).count()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// A training that takes a while.
fn long(dataset: Digest) -> Work {
    match training(dataset, None) {
        Work::Training(mut spec) => {
            let TrainingBackend::Local { optimiser, .. } = &mut spec.backend else { panic!("{spec:?}") };
            optimiser.epochs = 700;
            Work::Training(spec)
        }
        other => other,
    }
}

/// Protects: a training goes on on another machine from the state that the first has uploaded, to the same adapter; a state
/// that is gone, or is none, costs time and nothing else; and a machine's own state is taken where that has come further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_is_taken_up_on_another_machine() {
    let first = Setup::new().await;
    let dataset = first.keep(ROWS);
    first.give("t", long(dataset), None).await;
    first.coordinator.until("two states", |script| script.states.len() >= 2).await;
    let (states, artifacts) = {
        let script = first.coordinator.script();
        (script.states.clone(), script.artifacts.clone())
    };
    first.end().await;
    let (early, late) = (Digest::parse(&states[0]).unwrap(), Digest::parse(states.last().unwrap()).unwrap());

    let second = Setup::new().await;
    second.coordinator.script().artifacts = artifacts;
    let taken = report(second.done_from("t", long(dataset), Some(late)).await);
    assert!(second.coordinator.script().first_step.unwrap() > 5, "it begins where the first has come to");
    let whole = |name| second.done_from(name, long(dataset), Some(Digest::of("gone")));
    assert_eq!(report(whole("anew").await), taken, "bit for bit, as the digests say");
    let not_one = second.keep("no state");
    second.give("further", long(dataset), Some(not_one)).await;
    // Until then the latest step is the last one of the training before.
    second.coordinator.until("a state of its own", |script| (21..300).contains(&script.step)).await;
    let (folder, coordinator) = (second._folder.clone(), second.coordinator.script().artifacts.clone());
    second.end().await;

    let models = BTreeMap::from([("tiny".to_owned(), folder.path().join("tiny"))]);
    let third = Setup::with(Rehearsal::start().await, folder, models);
    third.coordinator.script().artifacts = coordinator;
    assert_eq!(report(third.done_from("further", long(dataset), Some(early)).await), taken);
    assert!(third.coordinator.script().first_step.unwrap() > 20, "its own state had come further than the early one");
    third.end().await;
}

/// Protects: a training that was handed back goes on from its checkpoint on the same machine, to the same adapter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_that_was_handed_back_is_taken_up_from_its_checkpoint() {
    let setup = Setup::new().await;
    let (folder, dataset) = (setup._folder.clone(), setup.keep(ROWS));
    setup.give("t", long(dataset), None).await;
    setup.coordinator.until("ten steps", |script| script.step > 10).await;
    setup.end().await;
    assert_eq!(checkpoints(folder.path()), 1);

    let models = BTreeMap::from([("tiny".to_owned(), folder.path().join("tiny"))]);
    let setup = Setup::with(Rehearsal::start().await, folder.clone(), models);
    let resumed = report(setup.done("t", long(setup.keep(ROWS))).await);
    assert_eq!(checkpoints(folder.path()), 0, "it has ended");
    let undisturbed = report(setup.done("u", long(dataset)).await);
    assert_eq!(resumed, undisturbed);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_dataset_fails_the_training_for_good_with_its_line() {
    let setup = Setup::new().await;
    let dataset = setup.keep(&format!("{ROWS}{{\"messages\": 7}}\n"));
    let Outcome::Failed(failure) = setup.done("t", training(dataset, None)).await else { panic!("it did not fail") };
    assert!(!failure.retryable && failure.message.contains("line 3"), "{failure:?}");
    setup.end().await;
}

fn push(coordinator: &Rehearsal, model: &str, path: &Path, cache: &Path) -> crate::Push {
    crate::Push {
        coordinator: coordinator.url(),
        credentials: Credentials::default(),
        model: model.into(),
        path: path.to_owned(),
        cache: crate::models::ModelCache::new(cache, BTreeMap::new()),
        on_upload: Arc::new(|_| ()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_was_pushed_serves_a_worker_that_has_it_nowhere_else() {
    let (coordinator, folder) = (Rehearsal::start().await, Arc::new(tempfile::tempdir().unwrap()));
    let model = folder.path().join("elsewhere");
    tiny::write(&model);
    coordinator.script().faults.extend([Fault::Break(0), Fault::After(Code::Unavailable)]);
    let pushed = crate::push_model(push(&coordinator, "tiny", &model, &folder.path().join("other"))).await.unwrap();
    assert!(pushed.iter().any(|file| file.name == "model.safetensors"), "{pushed:?}");
    std::fs::remove_dir_all(&model).unwrap();
    let weights = pushed.iter().map(|file| file.bytes).max().unwrap();
    coordinator.script().faults.extend(vec![Fault::Break(3); 6]);

    let setup = Setup::with(coordinator, folder, BTreeMap::new());
    assert!(matches!(setup.done("e", episode("e", None, Vec::new())).await, Outcome::Episode { .. }));
    let downloads = setup.coordinator.script().downloads.clone();
    assert!(weights > 3000 && downloads.iter().any(|offset| *offset > 0), "{downloads:?}");
    assert_eq!(setup.coordinator.script().pinned.len(), 1, "it says which files it has");
    setup.end().await;
}

#[tokio::test]
async fn a_push_that_cannot_be_says_why() {
    let (coordinator, folder) = (Rehearsal::start().await, tempfile::tempdir().unwrap());
    let model = folder.path().join("tiny");
    let error = crate::push_model(push(&coordinator, "tiny", &model, folder.path())).await.unwrap_err().to_string();
    assert!(error.contains("is no model"), "{error}");
    tiny::write(&model);
    let error = crate::push_model(push(&coordinator, "large", &model, folder.path())).await.unwrap_err().to_string();
    assert!(error.contains("uses no model `large`"), "{error}");
    coordinator.script().artifacts.clear();
    coordinator.script().faults.extend(vec![Fault::Before(Code::InvalidArgument); 2]);
    let error = crate::push_model(push(&coordinator, "tiny", &model, folder.path())).await.unwrap_err().to_string();
    assert!(error.contains("goes on where it stopped"), "{error}");
}
