//! The store in memory, for tests: simulations whose time is not real, and the reference that shows
//! what the other stores must do. Handles made with [`MemoryStore::another`] share one truth.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use influence_proto::{EpisodeId, EpisodeSpec, RunId, TrainingReport, TrainingSpec, Turn, Work, WorkId};
use tokio::time::Instant;

use super::{
    EpisodeRecord, EpisodeStatus, IterationRecord, Mark, MetricResult, MetricSource, NewRun, RunRecord, RunStatus,
    Store, StoreError, TrainingRecord, Verdict,
};
use crate::planning::Phase;

/// One handle.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    truth: Arc<Mutex<BTreeMap<RunId, Run>>>,
    handle: u64,
    /// Whether attempts are fenced; a store without the fence shows what it is for.
    fenced: bool,
    link: Link,
}

/// The way to the store. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link(Arc<AtomicU8>);

impl Link {
    pub(crate) fn mend(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// No call arrives.
    pub(crate) fn cut(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// Calls arrive, and their answers are lost.
    pub(crate) fn lose_answers(&self) {
        self.0.store(2, Ordering::SeqCst);
    }

    fn away(&self, mode: u8) -> Result<(), StoreError> {
        if self.0.load(Ordering::SeqCst) == mode {
            return Err(StoreError::Away { store: "memory".to_owned(), detail: "the link is cut".to_owned() });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Run {
    record: RunRecord,
    lead: Option<(u64, String, Instant)>,
    /// Iterations with their plans.
    iterations: BTreeMap<(u32, Phase), (IterationRecord, Vec<EpisodeId>)>,
    episodes: BTreeMap<WorkId, Episode>,
    trainings: BTreeMap<u32, TrainingRecord>,
    marks: BTreeMap<(EpisodeId, Option<u32>, String), Mark>,
}

#[derive(Debug)]
struct Episode {
    spec: EpisodeSpec,
    status: EpisodeStatus,
    /// Live attempts with their journals: the episode's, and a rival's.
    attempt: u32,
    journal: Vec<Turn>,
    rival: Option<(u32, Vec<Turn>)>,
    verdict: Option<Verdict>,
    metrics: BTreeMap<MetricSource, MetricResult>,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self { truth: Arc::default(), handle: 0, fenced: true, link: Link::default() }
    }

    /// A store that accepts whatever attempt speaks.
    pub(crate) fn unfenced() -> Self {
        Self { fenced: false, ..Self::new() }
    }

    /// Another handle, as of another process.
    pub(crate) fn another(&self, handle: u64, link: Link) -> Self {
        Self { truth: self.truth.clone(), handle, fenced: self.fenced, link }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, run: &RunId, body: impl FnOnce(&mut Run) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.link.away(1)?;
        let done = body(self.lock().get_mut(run).ok_or_else(|| StoreError::NoSuchRun(run.to_string()))?);
        self.link.away(2)?;
        done
    }

    fn write<T>(&self, run: &RunId, body: impl FnOnce(&mut Run) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.read(run, |state| match &state.lead {
            Some((handle, ..)) if *handle == self.handle => body(state),
            other => {
                let leader = other.as_ref().map_or("nobody", |(_, leader, _)| leader).to_owned();
                Err(StoreError::NotLeader { run: run.to_string(), leader })
            }
        })
    }
}

impl Run {
    fn episode(&mut self, work: &WorkId) -> Result<&mut Episode, StoreError> {
        let run = self.record.id.to_string();
        self.episodes.get_mut(work).ok_or_else(|| StoreError::NoSuchWork { run, work: work.to_string() })
    }

    fn training(&mut self, work: &WorkId) -> Option<&mut TrainingRecord> {
        self.trainings.values_mut().find(|t| t.work == *work)
    }

    fn planned(&mut self, phase: Phase, iteration: u32) -> Result<&mut (IterationRecord, Vec<EpisodeId>), StoreError> {
        let missing = || conflict(format!("iteration {iteration} ({phase})"), "it is not planned");
        self.iterations.get_mut(&(iteration, phase)).ok_or_else(missing)
    }
}

fn conflict(what: String, problem: impl Into<String>) -> StoreError {
    StoreError::Conflict { what, problem: problem.into() }
}

fn fenced(work: &WorkId, attempt: u32, current: u32) -> StoreError {
    StoreError::Fenced { work: work.to_string(), attempt, current }
}

impl Episode {
    fn highest(&self) -> u32 {
        self.rival.as_ref().map_or(self.attempt, |(attempt, _)| *attempt)
    }

    fn journal_of(&mut self, work: &WorkId, attempt: u32, must: bool) -> Result<&mut Vec<Turn>, StoreError> {
        let current = self.highest();
        match &mut self.rival {
            Some((rival, journal)) if *rival == attempt => Ok(journal),
            _ if self.attempt == attempt || !must => Ok(&mut self.journal),
            _ => Err(fenced(work, attempt, current)),
        }
    }

    fn promote_rival(&mut self) {
        if let Some((attempt, journal)) = self.rival.take() {
            (self.attempt, self.journal) = (attempt, journal);
        }
    }

    fn start(&mut self, work: &WorkId, attempt: u32, beside: Option<u32>) -> Result<Vec<Turn>, StoreError> {
        let highest = self.highest();
        if self.status == EpisodeStatus::Finished {
            return Err(StoreError::AlreadyFinished { work: work.to_string() });
        }
        if attempt < highest {
            return Err(fenced(work, attempt, highest));
        }
        let Some(other) = beside else {
            let ahead = self.rival.as_ref().is_some_and(|(a, j)| *a == attempt || j.len() > self.journal.len());
            if ahead {
                self.promote_rival();
            }
            self.rival = None;
            self.attempt = attempt;
            return Ok(self.journal.clone());
        };
        self.journal_of(work, other, true)?;
        match &self.rival {
            Some((rival, journal)) if *rival == attempt && other == self.attempt => return Ok(journal.clone()),
            _ if attempt == highest => return Err(conflict(format!("attempt {attempt} of `{work}`"), "was started")),
            Some((rival, _)) if *rival == other => self.promote_rival(),
            _ => {}
        }
        self.rival = Some((attempt, self.journal.clone()));
        Ok(self.journal.clone())
    }

    fn record(&mut self, work: &WorkId, attempt: u32, turn: Turn, must: bool) -> Result<(), StoreError> {
        let status = self.status.clone();
        let journal = self.journal_of(work, attempt, must)?;
        let what = format!("turn {} of episode `{work}`", turn.index);
        let at = turn.index as usize;
        match journal.get(at) {
            Some(stored) if *stored == turn => return Ok(()),
            Some(_) => return Err(conflict(what, "another turn is stored there")),
            None if at > journal.len() => return Err(conflict(what, "it leaves a gap")),
            None => {}
        }
        match status {
            EpisodeStatus::Finished => Err(conflict(what, "the episode is finished")),
            EpisodeStatus::Failed(_) => Err(StoreError::GivenUp { work: work.to_string() }),
            EpisodeStatus::Pending => {
                journal.push(turn);
                Ok(())
            }
        }
    }

    fn finish(&mut self, work: &WorkId, attempt: u32, turns: u32, must: bool) -> Result<(), StoreError> {
        let stored = self.journal_of(work, attempt, must)?.len();
        if matches!(self.status, EpisodeStatus::Failed(_)) {
            return Err(StoreError::GivenUp { work: work.to_string() });
        }
        if stored != turns as usize {
            let problem = format!("it says {turns} turns, the journal holds {stored}");
            return Err(conflict(format!("the end of episode `{work}`"), problem));
        }
        if self.rival.as_ref().is_some_and(|(rival, _)| *rival == attempt) {
            self.promote_rival();
        }
        self.rival = None;
        self.status = EpisodeStatus::Finished;
        Ok(())
    }

    fn record_of(&self) -> EpisodeRecord {
        EpisodeRecord {
            id: self.spec.id.clone(),
            environment_class: self.spec.environment_class.clone(),
            environment: self.spec.environment.clone(),
            initial_state: self.spec.initial_state.clone(),
            status: self.status.clone(),
            attempt: self.highest(),
            turns: self.journal.len() as u32,
            verdict: self.verdict.clone(),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_run(&self, new: NewRun) -> Result<(), StoreError> {
        let mut runs = self.lock();
        if runs.contains_key(&new.id) {
            return Err(StoreError::RunExists(new.id.to_string()));
        }
        let NewRun { id, name, digest, experiment } = new;
        let created_ms = runs.len() as u64;
        let record = RunRecord { id: id.clone(), name, digest, experiment, status: RunStatus::Running, created_ms };
        let (iterations, episodes, trainings, marks) = Default::default();
        runs.insert(id, Run { record, lead: None, iterations, episodes, trainings, marks });
        Ok(())
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        let mut runs: Vec<_> = self.lock().values().map(|run| run.record.clone()).collect();
        runs.sort_by_key(|run| run.created_ms);
        Ok(runs)
    }

    async fn run(&self, run: &RunId) -> Result<RunRecord, StoreError> {
        self.read(run, |run| Ok(run.record.clone()))
    }

    async fn lead(&self, run: &RunId, leader: &str, ttl: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        self.read(run, |state| match &state.lead {
            Some((handle, leader, until)) if *handle != self.handle && *until > now => {
                Err(StoreError::Led { run: run.to_string(), leader: leader.clone() })
            }
            _ => {
                state.lead = Some((self.handle, leader.to_owned(), now + ttl));
                Ok(())
            }
        })
    }

    async fn resign(&self, run: &RunId) -> Result<(), StoreError> {
        self.read(run, |state| {
            state.lead.take_if(|(handle, ..)| *handle == self.handle);
            Ok(())
        })
    }

    async fn set_run_status(&self, run: &RunId, status: RunStatus) -> Result<(), StoreError> {
        self.write(run, |run| {
            run.record.status = status;
            Ok(())
        })
    }

    async fn plan(&self, run: &RunId, phase: Phase, iteration: u32, specs: Vec<EpisodeSpec>) -> Result<(), StoreError> {
        self.write(run, |run| {
            if let Some((_, planned)) = run.iterations.get(&(iteration, phase)) {
                let stored: Vec<_> = planned.iter().map(|id| &run.episodes[&WorkId::from(id)].spec).collect();
                let same = stored.iter().copied().eq(&specs);
                let what = || format!("the plan of iteration {iteration} ({phase})");
                return if same { Ok(()) } else { Err(conflict(what(), "other episodes are planned")) };
            }
            let active = Duration::ZERO;
            let record = IterationRecord { phase, iteration, judged: false, notes: Vec::new(), active };
            run.iterations.insert((iteration, phase), (record, specs.iter().map(|s| s.id.clone()).collect()));
            for spec in specs {
                let (status, journal) = (EpisodeStatus::Pending, Vec::new());
                let work = WorkId::from(&spec.id);
                run.episodes.insert(
                    work,
                    Episode { spec, status, attempt: 0, journal, rival: None, verdict: None, metrics: BTreeMap::new() },
                );
            }
            Ok(())
        })
    }

    async fn iterations(&self, run: &RunId) -> Result<Vec<IterationRecord>, StoreError> {
        self.read(run, |run| {
            let mut all: Vec<_> = run.iterations.values().map(|(record, _)| record.clone()).collect();
            all.sort_by_key(|i| (i.iteration, i.phase == Phase::Train));
            Ok(all)
        })
    }

    async fn set_active(&self, run: &RunId, phase: Phase, iteration: u32, active: Duration) -> Result<(), StoreError> {
        self.write(run, |run| {
            if let Some((record, _)) = run.iterations.get_mut(&(iteration, phase)) {
                record.active = record.active.max(active);
            }
            Ok(())
        })
    }

    async fn episodes(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, StoreError> {
        self.read(run, |run| {
            let planned = run.iterations.get(&(iteration, phase)).map(|(_, ids)| ids.clone()).unwrap_or_default();
            Ok(planned.iter().map(|id| run.episodes[&WorkId::from(id)].record_of()).collect())
        })
    }

    async fn spec(&self, run: &RunId, episode: &EpisodeId) -> Result<EpisodeSpec, StoreError> {
        self.read(run, |run| Ok(run.episode(&episode.into())?.spec.clone()))
    }

    async fn journal(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<Turn>, StoreError> {
        self.read(run, |run| Ok(run.episode(&episode.into())?.journal.clone()))
    }

    async fn start_attempt(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        beside: Option<u32>,
    ) -> Result<Work, StoreError> {
        self.write(run, |run| {
            if let Some(job) = run.training(work) {
                if job.report.is_some() {
                    return Err(StoreError::AlreadyFinished { work: work.to_string() });
                }
                if attempt < job.attempt {
                    return Err(fenced(work, attempt, job.attempt));
                }
                (job.attempt, job.error) = (attempt, None);
                return Ok(Work::Training(Box::new(job.spec.clone())));
            }
            let episode = run.episode(work)?;
            let journal = episode.start(work, attempt, beside)?;
            Ok(Work::Episode { spec: Box::new(episode.spec.clone()), journal })
        })
    }

    async fn record_turn(&self, run: &RunId, work: &WorkId, attempt: u32, turn: Turn) -> Result<(), StoreError> {
        self.write(run, |run| run.episode(work)?.record(work, attempt, turn, self.fenced))
    }

    async fn finish_episode(&self, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), StoreError> {
        self.write(run, |run| run.episode(work)?.finish(work, attempt, turns, self.fenced))
    }

    async fn fail(&self, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), StoreError> {
        self.write(run, |run| {
            if let Some(job) = run.training(work) {
                return match &job.report {
                    Some(_) => Err(StoreError::AlreadyFinished { work: work.to_string() }),
                    None if attempt != job.attempt => Err(fenced(work, attempt, job.attempt)),
                    None => {
                        job.error = Some(error.to_owned());
                        Ok(())
                    }
                };
            }
            let episode = run.episode(work)?;
            if episode.status == EpisodeStatus::Finished {
                return Err(StoreError::AlreadyFinished { work: work.to_string() });
            }
            episode.journal_of(work, attempt, true)?;
            episode.status = EpisodeStatus::Failed(error.to_owned());
            Ok(())
        })
    }

    async fn reopen(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<(), StoreError> {
        self.write(run, |run| {
            let (record, ids) = run.planned(phase, iteration)?.clone();
            if record.judged {
                return Err(conflict("reopening".into(), "its selection is made"));
            }
            for id in ids {
                let episode = run.episode(&(&id).into())?;
                if matches!(episode.status, EpisodeStatus::Failed(_)) {
                    episode.status = EpisodeStatus::Pending;
                }
            }
            Ok(())
        })
    }

    async fn judge(
        &self,
        run: &RunId,
        phase: Phase,
        iteration: u32,
        verdicts: Vec<Verdict>,
        notes: Vec<String>,
    ) -> Result<(), StoreError> {
        self.write(run, |run| {
            let (record, ids) = run.planned(phase, iteration)?.clone();
            let given: BTreeMap<WorkId, Verdict> = verdicts.into_iter().map(|v| ((&v.episode).into(), v)).collect();
            if record.judged {
                let stored = ids.iter().filter_map(|id| run.episodes[&WorkId::from(id)].verdict.as_ref());
                let stored: BTreeMap<WorkId, Verdict> = stored.map(|v| ((&v.episode).into(), v.clone())).collect();
                return if stored == given {
                    Ok(())
                } else {
                    Err(conflict("the selection".into(), "another is stored"))
                };
            }
            for (work, verdict) in given {
                run.episode(&work)?.verdict = Some(verdict);
            }
            let (record, _) = run.planned(phase, iteration)?;
            (record.judged, record.notes) = (true, notes);
            Ok(())
        })
    }

    async fn plan_training(
        &self,
        run: &RunId,
        iteration: u32,
        work: &WorkId,
        spec: TrainingSpec,
    ) -> Result<(), StoreError> {
        self.write(run, |run| match run.trainings.get(&iteration) {
            Some(known) if known.work == *work && known.spec == spec => Ok(()),
            Some(_) => Err(conflict(format!("the training job of iteration {iteration}"), "another one is planned")),
            None => {
                let work = work.clone();
                let job = TrainingRecord { iteration, work, spec, attempt: 0, report: None, error: None };
                run.trainings.insert(iteration, job);
                Ok(())
            }
        })
    }

    async fn trainings(&self, run: &RunId) -> Result<Vec<TrainingRecord>, StoreError> {
        self.read(run, |run| Ok(run.trainings.values().cloned().collect()))
    }

    async fn mark(&self, run: &RunId, mark: Mark) -> Result<(), StoreError> {
        self.read(run, |run| {
            run.episode(&WorkId::from(&mark.episode))?;
            run.marks.insert((mark.episode.clone(), mark.turn, mark.label.clone()), mark);
            Ok(())
        })
    }

    async fn unmark(&self, run: &RunId, episode: &EpisodeId, turn: Option<u32>, label: &str) -> Result<(), StoreError> {
        self.read(run, |run| {
            run.marks.remove(&(episode.clone(), turn, label.to_owned()));
            Ok(())
        })
    }

    async fn marks(&self, run: &RunId) -> Result<Vec<Mark>, StoreError> {
        self.read(run, |run| Ok(run.marks.values().cloned().collect()))
    }

    async fn finish_training(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        report: TrainingReport,
    ) -> Result<(), StoreError> {
        self.write(run, |run| {
            let name = run.record.id.to_string();
            let missing = || StoreError::NoSuchWork { run: name, work: work.to_string() };
            let job = run.training(work).ok_or_else(missing)?;
            if attempt != job.attempt {
                return Err(fenced(work, attempt, job.attempt));
            }
            match &job.report {
                Some(stored) if *stored == report => Ok(()),
                Some(_) => Err(conflict(format!("the report of `{work}`"), "another one is stored")),
                None => {
                    (job.report, job.error) = (Some(report), None);
                    Ok(())
                }
            }
        })
    }

    async fn add_metric(&self, run: &RunId, episode: &EpisodeId, result: MetricResult) -> Result<(), StoreError> {
        self.read(run, |state| {
            let episode = state.episode(&WorkId::from(episode))?;
            episode.metrics.entry(result.source.clone()).or_insert(result);
            Ok(())
        })
    }

    async fn metrics(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<MetricResult>, StoreError> {
        self.read(run, |state| Ok(state.episode(&WorkId::from(episode))?.metrics.values().cloned().collect()))
    }
}

mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::{Link, MemoryStore};
    use crate::store::behaviour::{one_handle_leads_at_a_time, suite};

    suite!((MemoryStore::new(), ()));

    #[tokio::test]
    async fn two_handles_do_not_lead_one_run() {
        let one = MemoryStore::new();
        one_handle_leads_at_a_time(&one, &one.another(1, Link::default())).await;
    }
}
