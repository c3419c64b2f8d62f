//! The store as one SQLite file.
//!
//! One thread owns the connection. It takes what is queued, runs it as one transaction (each call
//! in a savepoint of its own) and answers only after the commit, so many small writes share one
//! wait for the disk and nothing is acknowledged that is not stored.

mod episodes;
mod runs;
mod schema;
mod trainings;
mod writer;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use influence_proto::{EpisodeId, EpisodeSpec, RunId, TrainingReport, TrainingSpec, Turn, WorkId};

use super::{EpisodeRecord, IterationRecord, NewRun, RunRecord, RunStatus, Store, StoreError, TrainingRecord, Verdict};
use crate::planning::Phase;
use writer::Writer;

/// A store in one SQLite file (tables `runs`, `iterations`, `episodes`, `turns`, `trainings`; specs,
/// turns and reports as JSON text), in write-ahead mode with full synchronisation.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
}

impl SqliteStore {
    /// Opens the file, or makes it and its folder.
    ///
    /// # Errors
    /// When it cannot be opened, holds something else, or was written by a later release.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let connection = schema::open(file)?;
        Ok(Self { writer: Writer::start(connection, file)? })
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

    async fn set_run_status(&self, run: &RunId, status: RunStatus) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.call(move |c| runs::set_status(c, &run, &status)).await
    }

    async fn plan(&self, run: &RunId, phase: Phase, iteration: u32, specs: Vec<EpisodeSpec>) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.call(move |c| episodes::plan(c, &run, phase, iteration, &specs)).await
    }

    async fn iterations(&self, run: &RunId) -> Result<Vec<IterationRecord>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| runs::iterations(c, &run)).await
    }

    async fn set_active(&self, run: &RunId, phase: Phase, iteration: u32, active: Duration) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.call(move |c| runs::set_active(c, &run, phase, iteration, active)).await
    }

    async fn episodes(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| episodes::all(c, &run, phase, iteration)).await
    }

    async fn journal(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<Turn>, StoreError> {
        let (run, work) = (run.clone(), WorkId::from(episode));
        self.writer.call(move |c| episodes::journal(c, &run, &work)).await
    }

    async fn start_attempt(&self, run: &RunId, work: &WorkId, attempt: u32) -> Result<Vec<Turn>, StoreError> {
        let (run, work) = (run.clone(), work.clone());
        self.writer
            .call(move |c| {
                if trainings::exists(c, &run, &work)? {
                    return trainings::start_attempt(c, &run, &work, attempt).map(|()| Vec::new());
                }
                episodes::start_attempt(c, &run, &work, attempt)
            })
            .await
    }

    async fn record_turn(&self, run: &RunId, work: &WorkId, attempt: u32, turn: Turn) -> Result<(), StoreError> {
        let (run, work) = (run.clone(), work.clone());
        self.writer.call(move |c| episodes::record_turn(c, &run, &work, attempt, &turn)).await
    }

    async fn finish_episode(&self, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), StoreError> {
        let (run, work) = (run.clone(), work.clone());
        self.writer.call(move |c| episodes::finish(c, &run, &work, attempt, turns)).await
    }

    async fn fail(&self, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), StoreError> {
        let (run, work, error) = (run.clone(), work.clone(), error.to_owned());
        self.writer
            .call(move |c| {
                if trainings::exists(c, &run, &work)? {
                    return trainings::fail(c, &run, &work, attempt, &error);
                }
                episodes::fail(c, &run, &work, attempt, &error)
            })
            .await
    }

    async fn reopen(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.call(move |c| episodes::reopen(c, &run, phase, iteration)).await
    }

    async fn judge(
        &self,
        run: &RunId,
        phase: Phase,
        iteration: u32,
        verdicts: Vec<Verdict>,
        notes: Vec<String>,
    ) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.call(move |c| episodes::judge(c, &run, phase, iteration, &verdicts, &notes)).await
    }

    async fn plan_training(
        &self,
        run: &RunId,
        iteration: u32,
        work: &WorkId,
        spec: TrainingSpec,
    ) -> Result<(), StoreError> {
        let (run, work) = (run.clone(), work.clone());
        self.writer.call(move |c| trainings::plan(c, &run, iteration, &work, &spec)).await
    }

    async fn trainings(&self, run: &RunId) -> Result<Vec<TrainingRecord>, StoreError> {
        let run = run.clone();
        self.writer.call(move |c| trainings::all(c, &run)).await
    }

    async fn finish_training(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        report: TrainingReport,
    ) -> Result<(), StoreError> {
        let (run, work) = (run.clone(), work.clone());
        self.writer.call(move |c| trainings::finish(c, &run, &work, attempt, &report)).await
    }
}

#[cfg(test)]
mod tests;
