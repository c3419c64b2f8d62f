//! A worker against a coordinator that dies, forgets, takes back and says goodbye.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use influence_proto::{
    Digest, Lease, LoadedModel, ModelSpec, Outcome, PROTOCOL, Token, Turn, Work, WorkId, stream, wire,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, ServerTlsConfig};

use super::models::{ModelLoader, Serving};
use super::rehearsal::Rehearsal;
use super::*;
use crate::backend::scripted::Scripted;
use crate::backend::{AdapterTable, Backend, Models};
use crate::episode::samples::{machine, spec, state};

/// Serves every model by one scripted backend.
#[derive(Debug)]
struct FakeModels(Arc<Scripted>);

#[async_trait]
impl ModelLoader for FakeModels {
    fn can_train(&self) -> bool {
        false
    }

    fn backing_off(&self) -> u32 {
        2
    }

    async fn load(&self, specs: &[ModelSpec], _: &ArtifactCache) -> Result<Serving, WorkerError> {
        let mut serving = Serving::default();
        for spec in specs {
            serving.loaded.push(LoadedModel { name: spec.name.clone(), sha256: Digest::of("files") });
            let backend: Arc<dyn Backend> = self.0.clone();
            serving.models = std::mem::replace(&mut serving.models, Models::new()).with(&spec.name, backend.clone());
            serving.adapters.insert(spec.name.clone(), Arc::new(AdapterTable::new(backend)));
        }
        Ok(serving)
    }

    async fn stop(&self) {}
}

pub(super) struct Setup {
    pub(super) coordinator: Rehearsal,
    pub(super) backend: Arc<Scripted>,
    cancel: CancellationToken,
    worker: JoinHandle<Result<(), WorkerError>>,
    _cache: TempDir,
}

/// `pause` is how long each reply takes.
pub(super) fn backend(pause: Duration) -> Scripted {
    Scripted::new(
        move |prompt, seed| {
            std::thread::sleep(pause);
            format!("{:x}", stream::derive(seed, &[prompt]))
        },
        |r| vec![0.2; r.answers.len()],
    )
}

fn options(coordinator: &Rehearsal, cache: &TempDir) -> WorkerOptions {
    WorkerOptions {
        coordinators: vec![coordinator.url()],
        credentials: Credentials::default(),
        name: "test".into(),
        slots: 2,
        device: "cpu".into(),
        cache: cache.path().to_owned(),
        kv_bytes: None,
        cache_bytes: CACHE_BYTES,
        response_cache: None,
        models: BTreeMap::new(),
        grace: Duration::from_secs(2),
        share_every: Duration::from_millis(50),
        connected: watch::Sender::new(false),
        on_download: None,
    }
}

impl Setup {
    pub(super) async fn new(leases: Vec<Lease>, pause: Duration) -> Self {
        let coordinator = Rehearsal::start().await;
        coordinator.script().leases.extend(leases);
        Self::with(coordinator, pause)
    }

    pub(super) fn with(coordinator: Rehearsal, pause: Duration) -> Self {
        Self::with_credentials(coordinator, pause, Credentials::default())
    }

    fn with_credentials(coordinator: Rehearsal, pause: Duration, credentials: Credentials) -> Self {
        Self::over(coordinator, backend(pause), credentials)
    }

    /// A worker whose models are `backend`.
    pub(super) fn over(coordinator: Rehearsal, backend: Scripted, credentials: Credentials) -> Self {
        let (backend, cache) = (Arc::new(backend), tempfile::tempdir().unwrap());
        let cancel = CancellationToken::new();
        let loader = Arc::new(FakeModels(backend.clone()));
        let options = WorkerOptions { credentials, ..options(&coordinator, &cache) };
        let worker = tokio::spawn(run_with(options, loader, cancel.clone()));
        Self { coordinator, backend, cancel, worker, _cache: cache }
    }

    pub(super) async fn end(self) -> Result<(), WorkerError> {
        tokio::time::timeout(Duration::from_secs(20), self.worker).await.unwrap().unwrap()
    }
}

pub(super) fn lease(name: &str, attempt: u32) -> Lease {
    let mut spec = spec(name, 11);
    spec.max_turns = 4;
    spec.machine = machine(vec![("calm", state(&[("yes", "calm"), ("no", "calm")], ""))]).into();
    let payload = Work::Episode { spec: Box::new(spec), journal: Vec::new() };
    Lease { work: WorkId::new(name).unwrap(), attempt, payload, checkpoint: None, trace: None }
}

pub(super) fn leases(count: usize) -> Vec<Lease> {
    (0..count).map(|i| lease(&format!("e{i}"), 1)).collect()
}

/// Turn indices by episode.
fn journals(coordinator: &Rehearsal) -> BTreeMap<String, Vec<u32>> {
    let mut journals = BTreeMap::<String, Vec<u32>>::new();
    for (work, _, turn) in &coordinator.script().turns {
        journals.entry(work.clone()).or_default().push(turn.index);
    }
    journals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lease_ends_in_a_complete_journal_and_goodbye_ends_the_worker() {
    let setup = Setup::new(leases(5), Duration::ZERO).await;
    setup.coordinator.until("five results", |script| script.finished.len() == 5).await;
    for (work, turns) in journals(&setup.coordinator) {
        assert!(turns.iter().copied().eq(0..turns.len() as u32), "{work}: {turns:?}");
        let finished = setup.coordinator.script().finished.iter().find(|(w, _, _)| *w == work).unwrap().2.clone();
        assert_eq!(finished, Outcome::Episode { turns: turns.len() as u32 });
    }
    assert!(setup.coordinator.script().credits.iter().all(|credits| *credits <= 2));
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_through_a_broken_stream_and_a_coordinator_that_restarts() {
    let mut setup = Setup::new(leases(4), Duration::from_millis(10)).await;
    setup.coordinator.until("a first turn", |script| !script.turns.is_empty()).await;
    setup.coordinator.break_stream();
    setup.coordinator.until("a new session", |script| script.sessions == 2).await;
    setup.coordinator.kill();
    tokio::time::sleep(Duration::from_millis(100)).await;
    setup.coordinator.restart(true).await;
    setup.coordinator.until("four results", |script| script.finished.len() == 4).await;
    let incarnations: Vec<u64> = setup.coordinator.script().joins.iter().map(|join| join.incarnation).collect();
    assert!(incarnations.len() >= 2 && incarnations.windows(2).all(|pair| pair[0] == pair[1]), "{incarnations:?}");
    for turns in journals(&setup.coordinator).values() {
        assert!(turns.iter().copied().eq(0..turns.len() as u32), "no turn is lost, doubled or out of order: {turns:?}");
    }
    setup.coordinator.until("the session", |script| script.sessions >= 3).await;
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_with_growing_progress_and_a_lost_one_is_dropped() {
    let setup = Setup::new(vec![lease("e0", 3)], Duration::from_millis(100)).await;
    let progress = |script: &super::rehearsal::Script| -> Vec<u64> {
        script.renewals.iter().flatten().filter(|held| held.work == "e0").map(|held| held.progress).collect()
    };
    setup.coordinator.until("progress", |script| progress(script).last().is_some_and(|last| *last > 2)).await;
    assert!(progress(&setup.coordinator.script()).is_sorted());
    let (memory_bytes, backing_off) = setup.coordinator.script().load;
    assert!(memory_bytes > 1 << 20 && backing_off == 2, "{memory_bytes}, {backing_off}");
    let lost = wire::Cancel { work: "e0".into(), attempt: 3, reason: "stalled".into() };
    setup.coordinator.script().lost.push(lost);
    setup.coordinator.until("its end", |script| script.renewals.last().is_some_and(Vec::is_empty)).await;
    assert!(setup.coordinator.script().finished.is_empty(), "nothing is said about a lost lease");
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_worker_hands_back_what_it_holds_after_the_turn() {
    let setup = Setup::new(leases(2), Duration::from_millis(100)).await;
    setup.coordinator.until("a first turn", |script| !script.turns.is_empty()).await;
    setup.cancel.cancel();
    let coordinator = setup.coordinator.url();
    let script = |setup: &Setup| setup.coordinator.script().finished.clone();
    setup.coordinator.until("both results", |script| script.finished.len() == 2).await;
    let finished = script(&setup);
    assert!(finished.iter().any(|(_, _, outcome)| *outcome == Outcome::Returned), "{coordinator}: {finished:?}");
    assert!(setup.coordinator.script().draining);
    for turns in journals(&setup.coordinator).values() {
        assert!(turns.iter().copied().eq(0..turns.len() as u32), "{turns:?}");
    }
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_even_when_the_coordinator_is_gone() {
    let coordinator = Rehearsal::start().await;
    coordinator.script().leases.extend(leases(2));
    let mut setup = Setup::with(coordinator, Duration::from_millis(20));
    setup.coordinator.until("a first turn", |script| !script.turns.is_empty()).await;
    setup.coordinator.kill();
    let started = Instant::now();
    setup.cancel.cancel();
    setup.end().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_pauses_when_its_leases_have_run_out_and_goes_on_when_they_are_renewed() {
    let coordinator = Rehearsal::start().await;
    coordinator.script().lease_ms = Some(200);
    let mut long = lease("e0", 1);
    if let Work::Episode { spec, .. } = &mut long.payload {
        spec.max_turns = 12;
    }
    coordinator.script().leases.push_back(long);
    let mut setup = Setup::with(coordinator, Duration::from_millis(80));
    setup.coordinator.until("a first turn", |script| !script.turns.is_empty()).await;
    setup.coordinator.kill();
    let before = setup.backend.asked().len();
    // Long enough for what was in progress to reach the end of its turn.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let paused = setup.backend.asked().len();
    // Two answers of the agent and the user, and three scores, to a turn. A lane alone would have stopped it after six.
    assert!(paused - before <= 4 * 5, "{} calls after the coordinator was gone", paused - before);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(setup.backend.asked().len(), paused, "a lease that ran out may be another's");
    setup.coordinator.restart(false).await;
    setup.coordinator.until("the result", |script| script.finished.len() == 1).await;
    assert_eq!(journals(&setup.coordinator)["e0"], (0..12).collect::<Vec<_>>());
    setup.cancel.cancel();
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_journal_is_continued() {
    let whole = {
        let setup = Setup::new(vec![lease("e0", 1)], Duration::ZERO).await;
        setup.coordinator.until("the result", |script| script.finished.len() == 1).await;
        setup.coordinator.goodbye();
        let turns: Vec<Turn> = setup.coordinator.script().turns.iter().map(|(_, _, turn)| turn.clone()).collect();
        setup.end().await.unwrap();
        turns
    };
    let mut second = lease("e0", 2);
    if let Work::Episode { journal, .. } = &mut second.payload {
        *journal = whole[..2].to_vec();
    }
    let setup = Setup::new(vec![second], Duration::ZERO).await;
    setup.coordinator.until("the result", |script| script.finished.len() == 1).await;
    let rest: Vec<_> = setup.coordinator.script().turns.iter().map(|(_, _, turn)| turn.reply.clone()).collect();
    assert_eq!(rest, whole[2..].iter().map(|turn| turn.reply.clone()).collect::<Vec<_>>());
    assert_eq!(setup.coordinator.script().finished[0].2, Outcome::Episode { turns: whole.len() as u32 });
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_read_is_answered() {
    let setup = Setup::new(Vec::new(), Duration::ZERO).await;
    setup.coordinator.until("the session", |script| !script.credits.is_empty()).await;
    let unreadable = wire::Lease { work: "e9".into(), attempt: 4, payload: None, ..Default::default() };
    setup.coordinator.say(wire::coordinator_event::Event::Lease(unreadable));
    setup.coordinator.until("an answer", |script| script.finished.len() == 1).await;
    let (work, attempt, outcome) = setup.coordinator.script().finished[0].clone();
    assert_eq!((work.as_str(), attempt), ("e9", 4));
    assert!(matches!(outcome, Outcome::Failed(failure) if failure.message.contains("lease.payload")));
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}

#[tokio::test]
async fn a_protocol_that_does_not_fit_is_fatal_and_names_both_sides() {
    let ours = format!("{} to {}", PROTOCOL.start(), PROTOCOL.end());
    let coordinator = Rehearsal::start().await;
    coordinator.script().protocol = Some(0);
    let error = Setup::with(coordinator, Duration::ZERO).end().await.unwrap_err().to_string();
    assert!(error.contains("7 to 9") && error.contains(&format!("protocol {ours}")), "{error}");
    let coordinator = Rehearsal::start().await;
    coordinator.script().protocol = Some(9);
    let error = Setup::with(coordinator, Duration::ZERO).end().await.unwrap_err().to_string();
    assert!(error.contains("speaks protocol 9") && error.contains(&format!("this worker {ours}")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_other_files_than_the_run_has_ends_with_the_coordinators_words() {
    let coordinator = Rehearsal::start().await;
    let other = LoadedModel { name: "tiny".into(), sha256: Digest::of("other files") };
    coordinator.script().pinned = vec![other.into()];
    coordinator.script().leases.extend(leases(1));
    let setup = Setup::with(coordinator, Duration::ZERO);
    let error = tokio::time::timeout(Duration::from_secs(20), setup.worker).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("the run has other files of `tiny`"), "{error}");
    assert!(setup.coordinator.script().turns.is_empty() && setup.coordinator.script().sessions == 0);
}

#[tokio::test]
async fn a_worker_waits_for_a_coordinator_that_is_away() {
    let mut coordinator = Rehearsal::start().await;
    coordinator.kill();
    let mut setup = Setup::with(coordinator, Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!setup.worker.is_finished());
    setup.coordinator.restart(false).await;
    setup.coordinator.until("the worker", |script| script.sessions == 1).await;
    setup.cancel.cancel();
    setup.end().await.unwrap();
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_with_the_way_out() {
    let (coordinator, cache) = (Rehearsal::start().await, tempfile::tempdir().unwrap());
    let refused = |change: &dyn Fn(&mut WorkerOptions)| {
        let mut options = options(&coordinator, &cache);
        change(&mut options);
        async move { run(options, CancellationToken::new()).await.unwrap_err().to_string() }
    };
    let device = refused(&|o| o.device = "cuda:0".into()).await;
    assert!(device.contains("cuda:0") && device.contains("--device cpu"), "{device}");
    assert!(refused(&|o| o.slots = 0).await.contains("1 or more"));
    let address = refused(&|o| o.coordinators = vec!["localhost:50051".into()]).await;
    assert!(address.contains("localhost:50051") && address.contains("http://HOST:PORT"), "{address}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_moves_on_to_the_standby_and_takes_its_work_along() {
    let (mut leader, standby) = (Rehearsal::start().await, Rehearsal::start().await);
    leader.script().leases.extend(leases(1));
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&leader, &cache);
    options.coordinators.push(standby.url());
    let loader = Arc::new(FakeModels(Arc::new(backend(Duration::from_millis(30)))));
    let cancel = CancellationToken::new();
    let worker = tokio::spawn(run_with(options, loader, cancel.clone()));
    leader.until("a turn", |script| !script.turns.is_empty()).await;
    leader.kill();
    standby.until("the result", |script| script.finished.len() == 1).await;
    assert_eq!(standby.script().finished[0].2, Outcome::Episode { turns: 4 }, "it went on where it was");
    let turns = |script: &Rehearsal| journals(script).remove("e0").unwrap_or_default();
    let (before, after) = (turns(&leader), turns(&standby));
    assert!(!before.is_empty() && !after.is_empty(), "{before:?} {after:?}");
    // What the leader had stored when it died, its worker may not know.
    let known: std::collections::BTreeSet<u32> = before.into_iter().chain(after).collect();
    assert!(known.into_iter().eq(0..4), "no turn is missing");
    let incarnation = |script: &Rehearsal| script.script().joins[0].incarnation;
    assert_eq!(incarnation(&leader), incarnation(&standby), "the same worker");
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(20), worker).await.unwrap().unwrap().unwrap();
}

fn with_token(text: &str) -> Credentials {
    Credentials { token: Some(Token::new(text).unwrap()), ..Credentials::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_shows_the_token_and_a_wrong_one_ends_the_worker_at_once() {
    let coordinator = Rehearsal::start().await;
    coordinator.script().authorization = Some("Bearer the-token-of-workers".into());
    let setup = Setup::with_credentials(coordinator, Duration::ZERO, with_token("a-token-of-others"));
    let address = setup.coordinator.url();
    let denied = tokio::time::timeout(Duration::from_secs(3), setup.worker).await.expect("it does not try again");
    let denied = denied.unwrap().unwrap_err().to_string();
    assert!(denied.contains(&address) && denied.contains("none of this coordinator's"), "{denied}");

    let coordinator = setup.coordinator;
    coordinator.script().leases.extend(leases(2));
    let setup = Setup::with_credentials(coordinator, Duration::ZERO, with_token("the-token-of-workers"));
    setup.coordinator.until("both results", |script| script.finished.len() == 2).await;
    setup.coordinator.until("a renewal", |script| !script.renewals.is_empty()).await;
    // The token is changed: the worker is not let in again.
    setup.coordinator.script().authorization = Some("Bearer another-token-of-workers".into());
    setup.coordinator.break_stream();
    let denied = setup.end().await.unwrap_err().to_string();
    assert!(denied.contains("none of this coordinator's"), "{denied}");
}

/// A coordinator's TLS and the certificate that a worker trusts it by.
fn tls() -> (ServerTlsConfig, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    (ServerTlsConfig::new().identity(Identity::from_pem(&certificate, key)), certificate.into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_works_over_tls_and_leaves_a_coordinator_that_it_cannot_trust() {
    let (server, ca) = tls();
    let coordinator = Rehearsal::start_with(Some(server)).await;
    coordinator.script().leases.extend(leases(2));
    let strange = Credentials { ca: Some(tls().1), ..Credentials::default() };
    let setup = Setup::with_credentials(coordinator, Duration::ZERO, strange);
    let denied = tokio::time::timeout(Duration::from_secs(3), setup.worker).await.expect("it does not try again");
    let denied = denied.unwrap().unwrap_err().to_string();
    assert!(denied.contains("cannot be trusted") && denied.contains("--tls-ca"), "{denied}");

    let trusting = Credentials { ca: Some(ca), ..with_token("the-token-of-workers") };
    let coordinator = setup.coordinator;
    coordinator.script().authorization = Some("Bearer the-token-of-workers".into());
    let setup = Setup::with_credentials(coordinator, Duration::ZERO, trusting);
    setup.coordinator.until("both results", |script| script.finished.len() == 2).await;
    setup.coordinator.until("a renewal", |script| !script.renewals.is_empty()).await;
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}
