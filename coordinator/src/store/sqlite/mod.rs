//! The store as one SQLite file.
//!
//! One thread owns the connection. It takes what is queued, runs it as one transaction (each call
//! in a savepoint of its own) and answers only after the commit, so many small writes share one
//! wait for the disk and nothing is acknowledged that is not stored.

mod attempts;
mod episodes;
mod lead;
mod marks;
mod metrics;
mod runs;
mod schema;
mod trainings;
mod writer;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use influence_proto::{EpisodeId, EpisodeSpec, RunId, TrainingReport, TrainingSpec, Turn, Work, WorkId};
use rusqlite::Connection;

use super::{
    EpisodeRecord, IterationRecord, Mark, MetricResult, MetricValue, NewRun, RunRecord, RunStatus, Store, StoreError,
    TrainingRecord, Verdict,
};
use crate::planning::Phase;
use lead::Leads;
use writer::{CallError, Writer};

/// A store in one SQLite file (tables `runs`, `iterations`, `episodes`, `specs`, `turns`, `trainings`,
/// `metrics`, `marks`; specs, turns and reports as JSON text; the view `journals`), in write-ahead mode with full
/// synchronisation.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    leads: Leads,
}

impl SqliteStore {
    /// Opens the file, or makes it and its folder.
    ///
    /// # Errors
    /// When it cannot be opened, holds something else, or was written by a later release.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let connection = schema::open(file)?;
        Ok(Self { writer: Writer::start(connection, file)?, leads: Leads::new(file) })
    }

    /// A write to a run that this handle leads.
    async fn write<T: Send + 'static>(
        &self,
        run: &RunId,
        body: impl FnOnce(&Connection, &RunId) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.leads.must_hold(run)?;
        let run = run.clone();
        self.writer.call(move |c| body(c, &run)).await
    }

    /// Lets the file grow to at most this many pages of 4 KiB: a full disk, for tests.
    #[cfg(test)]
    async fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        self.writer.call(move |c| Ok(c.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?)).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_run(&self, run: NewRun) -> Result<(), StoreError> {
        self.writer.call(move |c| runs::create(c, &run)).await
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.writer.call(runs::all).await
    }

    async fn run(&self, run: &RunId) -> Result<RunRecord, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| runs::one(c, &run)).await
    }

    async fn lead(&self, run: &RunId, _leader: &str, _ttl: Duration) -> Result<(), StoreError> {
        // A lead that is kept needs no word of the thread, which may be at a plan for a while.
        if self.leads.must_hold(run).is_err() {
            self.run(run).await?;
        }
        self.leads.take(run)
    }

    async fn resign(&self, run: &RunId) -> Result<(), StoreError> {
        self.leads.give_up(run);
        Ok(())
    }

    async fn set_run_status(&self, run: &RunId, status: RunStatus) -> Result<(), StoreError> {
        self.write(run, move |c, run| runs::set_status(c, run, &status)).await
    }

    async fn plan(&self, run: &RunId, phase: Phase, iteration: u32, specs: Vec<EpisodeSpec>) -> Result<(), StoreError> {
        self.write(run, move |c, run| episodes::plan(c, run, phase, iteration, &specs)).await
    }

    async fn iterations(&self, run: &RunId) -> Result<Vec<IterationRecord>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| runs::iterations(c, &run)).await
    }

    async fn set_active(&self, run: &RunId, phase: Phase, iteration: u32, active: Duration) -> Result<(), StoreError> {
        self.write(run, move |c, run| runs::set_active(c, run, phase, iteration, active)).await
    }

    async fn episodes(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| episodes::all(c, &run, phase, iteration)).await
    }

    async fn spec(&self, run: &RunId, episode: &EpisodeId) -> Result<EpisodeSpec, StoreError> {
        let (run, work) = (run.clone(), WorkId::from(episode));
        self.writer.call(move |c| episodes::spec(c, &run, &work)).await
    }

    async fn journal(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<Turn>, StoreError> {
        let (run, work) = (run.clone(), WorkId::from(episode));
        self.writer.call(move |c| attempts::journal(c, &run, &work)).await
    }

    async fn start_attempt(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        beside: Option<u32>,
    ) -> Result<Work, StoreError> {
        let work = work.clone();
        self.write(run, move |c, run| {
            if trainings::exists(c, run, &work)? {
                return Ok(Work::Training(Box::new(trainings::start_attempt(c, run, &work, attempt)?)));
            }
            let journal = attempts::start(c, run, &work, attempt, beside)?;
            Ok(Work::Episode { spec: Box::new(episodes::spec(c, run, &work)?), journal })
        })
        .await
    }

    async fn record_turn(&self, run: &RunId, work: &WorkId, attempt: u32, turn: Turn) -> Result<(), StoreError> {
        let work = work.clone();
        // Here, on one of many threads: the one that owns the connection has enough to do.
        let body = runs::to_json(&turn).map_err(|e| e.at(self.writer.file()))?;
        self.write(run, move |c, run| attempts::record_turn(c, run, &work, attempt, turn.index, &body)).await
    }

    async fn finish_episode(&self, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), StoreError> {
        let work = work.clone();
        self.write(run, move |c, run| attempts::finish(c, run, &work, attempt, turns)).await
    }

    async fn fail(&self, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), StoreError> {
        let (work, error) = (work.clone(), error.to_owned());
        self.write(run, move |c, run| {
            if trainings::exists(c, run, &work)? {
                return trainings::fail(c, run, &work, attempt, &error);
            }
            attempts::fail(c, run, &work, attempt, &error)
        })
        .await
    }

    async fn reopen(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<(), StoreError> {
        self.write(run, move |c, run| episodes::reopen(c, run, phase, iteration)).await
    }

    async fn judge(
        &self,
        run: &RunId,
        phase: Phase,
        iteration: u32,
        verdicts: Vec<Verdict>,
        notes: Vec<String>,
    ) -> Result<(), StoreError> {
        self.write(run, move |c, run| episodes::judge(c, run, phase, iteration, &verdicts, &notes)).await
    }

    async fn plan_training(
        &self,
        run: &RunId,
        iteration: u32,
        work: &WorkId,
        spec: TrainingSpec,
    ) -> Result<(), StoreError> {
        let work = work.clone();
        self.write(run, move |c, run| trainings::plan(c, run, iteration, &work, &spec)).await
    }

    async fn trainings(&self, run: &RunId) -> Result<Vec<TrainingRecord>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| trainings::all(c, &run)).await
    }

    async fn mark(&self, run: &RunId, mark: Mark) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.call(move |c| marks::write(c, &run, &mark)).await
    }

    async fn unmark(&self, run: &RunId, episode: &EpisodeId, turn: Option<u32>, label: &str) -> Result<(), StoreError> {
        let (run, episode, label) = (run.clone(), episode.clone(), label.to_owned());
        self.writer.call(move |c| marks::remove(c, &run, &episode, turn, &label)).await
    }

    async fn marks(&self, run: &RunId) -> Result<Vec<Mark>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| marks::all(c, &run)).await
    }

    async fn finish_training(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        report: TrainingReport,
    ) -> Result<(), StoreError> {
        let work = work.clone();
        self.write(run, move |c, run| trainings::finish(c, run, &work, attempt, &report)).await
    }

    async fn add_metric(&self, run: &RunId, episode: &EpisodeId, result: MetricResult) -> Result<(), StoreError> {
        let (run, episode) = (run.clone(), episode.clone());
        self.writer.call(move |c| metrics::add(c, &run, &episode, &result)).await
    }

    async fn metrics(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<MetricResult>, StoreError> {
        let (run, episode) = (run.clone(), episode.clone());
        self.writer.call(move |c| metrics::all(c, &run, &episode)).await
    }

    async fn metric_values(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<MetricValue>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| metrics::values(c, &run, phase, iteration)).await
    }
}

#[cfg(test)]
mod tests;
