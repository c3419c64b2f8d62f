//! The store as one Redis server, shared by a leader and its standbys.
//!
//! Every verb is one script, which the server carries out as one step: what it checks still holds
//! when it writes. A verb that may have been carried out unheard is simply called again. Only a plan
//! and a selection are written in pieces, and exist once a last script has marked the whole.
//!
//! All keys of a run begin with `influence:{RUN}:`:
//!
//! | key | what it is |
//! |---|---|
//! | `meta` | hash: the run; `epoch`, `fence` and `leader` of its lead |
//! | `lead` | text: the leader's token, until it runs out |
//! | `iterations` | list of the planned ones, as `PHASE:N` |
//! | `i:PHASE:N` | hash: digest and size of its `plan`, `selection`, `notes`, `active_ms` |
//! | `p:PHASE:N@PLAN` | list: the plan's episodes |
//! | `v:PHASE:N@SELECTION` | hash: verdicts by episode |
//! | `e:EPISODE` | hash: `plan`, `place`, `status`, `error`, the live attempts `attempt` and `rival` |
//! | `spec:EPISODE` | JSON: what is rolled out |
//! | `t:EPISODE`, `r:EPISODE` | list: the journal, and the rival's |
//! | `m:EPISODE` | hash: what judges said about it, by source |
//! | `trainings`, `w:WORK` | hashes: work by iteration; a training job |
//! | `marks` | hash: what people say of conversations, by episode, turn and label |
//!
//! Beside them stand the list `influence:runs` and the number `influence:schema`. Specs, turns,
//! verdicts and reports are JSON text that no script looks into.

mod attempts;
mod call;
mod episodes;
mod judge;
mod lead;
mod link;
mod marks;
mod plan;
mod runs;
mod scripts;
mod server;
mod trainings;

use std::time::Duration;

use async_trait::async_trait;
use influence_proto::{EpisodeId, EpisodeSpec, RunId, TrainingReport, TrainingSpec, Turn, Work, WorkId};

use super::address::RedisAddress;
use super::open::OpenStoreError;
use super::{
    EpisodeRecord, IterationRecord, Mark, MetricResult, NewRun, RunRecord, RunStatus, Store, StoreError,
    TrainingRecord, Verdict,
};
use crate::planning::Phase;
use call::{CallError, Led};
use lead::Leads;
use link::Link;

/// Version of the keys above, in `influence:schema`.
const SCHEMA_VERSION: u32 = 1;
const SCHEMA_KEY: &str = "influence:schema";
const RUNS_KEY: &str = "influence:runs";

/// How long opening a store may take in all.
const OPEN: Duration = Duration::from_secs(10);

fn newer(link: &Link, found: u32) -> CallError {
    StoreError::Newer { store: link.name().to_owned(), found, known: SCHEMA_VERSION }.into()
}

/// A store in one Redis server of release 7 or later.
#[derive(Debug)]
pub struct RedisStore {
    link: Link,
    leads: Leads,
}

impl RedisStore {
    /// Connects to the server and checks it. With the store come warnings: what its settings may
    /// lose.
    ///
    /// # Errors
    /// When it does not answer, refuses the password, is no Redis, is too old or one of a cluster, or
    /// holds what a later release wrote.
    pub async fn open(address: &RedisAddress) -> Result<(Self, Vec<String>), OpenStoreError> {
        let link = Link::new(address.client()?, address.to_string());
        let late = |_| StoreError::Away {
            store: address.to_string(),
            detail: format!("no answer within {} s", OPEN.as_secs()),
        };
        let warnings = tokio::time::timeout(OPEN, server::check(&link)).await.map_err(late)??;
        for warning in &warnings {
            tracing::warn!(store = link.name(), "{warning}");
        }
        Ok((Self { link, leads: Leads::new() }, warnings))
    }

    async fn led<'a>(&'a self, run: &'a RunId) -> Result<Led<'a>, StoreError> {
        self.leads.must_hold(&self.link, run).await.map_err(|e| self.named(e))
    }

    fn named(&self, error: CallError) -> StoreError {
        error.at(self.link.name())
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn create_run(&self, run: NewRun) -> Result<(), StoreError> {
        runs::create(&self.link, &run).await.map_err(|e| self.named(e))
    }

    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        runs::all(&self.link).await.map_err(|e| self.named(e))
    }

    async fn run(&self, run: &RunId) -> Result<RunRecord, StoreError> {
        runs::one(&self.link, run).await.map_err(|e| self.named(e))
    }

    async fn lead(&self, run: &RunId, leader: &str, ttl: Duration) -> Result<(), StoreError> {
        self.leads.take(&self.link, run, leader, ttl).await.map_err(|e| self.named(e))
    }

    async fn resign(&self, run: &RunId) -> Result<(), StoreError> {
        self.leads.give_up(&self.link, run).await.map_err(|e| self.named(e))
    }

    async fn set_run_status(&self, run: &RunId, status: RunStatus) -> Result<(), StoreError> {
        runs::set_status(&self.led(run).await?, &status).await.map_err(|e| self.named(e))
    }

    async fn plan(&self, run: &RunId, phase: Phase, iteration: u32, specs: Vec<EpisodeSpec>) -> Result<(), StoreError> {
        plan::plan(&self.led(run).await?, phase, iteration, &specs).await.map_err(|e| self.named(e))
    }

    async fn iterations(&self, run: &RunId) -> Result<Vec<IterationRecord>, StoreError> {
        runs::iterations(&self.link, run).await.map_err(|e| self.named(e))
    }

    async fn set_active(&self, run: &RunId, phase: Phase, iteration: u32, active: Duration) -> Result<(), StoreError> {
        runs::set_active(&self.led(run).await?, phase, iteration, active).await.map_err(|e| self.named(e))
    }

    async fn episodes(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, StoreError> {
        episodes::all(&self.link, run, phase, iteration).await.map_err(|e| self.named(e))
    }

    async fn spec(&self, run: &RunId, episode: &EpisodeId) -> Result<EpisodeSpec, StoreError> {
        episodes::spec(&self.link, run, episode).await.map_err(|e| self.named(e))
    }

    async fn journal(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<Turn>, StoreError> {
        episodes::journal(&self.link, run, episode).await.map_err(|e| self.named(e))
    }

    async fn start_attempt(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        beside: Option<u32>,
    ) -> Result<Work, StoreError> {
        attempts::start(&self.led(run).await?, work, attempt, beside).await.map_err(|e| self.named(e))
    }

    async fn record_turn(&self, run: &RunId, work: &WorkId, attempt: u32, turn: Turn) -> Result<(), StoreError> {
        attempts::record_turn(&self.led(run).await?, work, attempt, &turn).await.map_err(|e| self.named(e))
    }

    async fn finish_episode(&self, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), StoreError> {
        attempts::finish(&self.led(run).await?, work, attempt, turns).await.map_err(|e| self.named(e))
    }

    async fn fail(&self, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), StoreError> {
        attempts::fail(&self.led(run).await?, work, attempt, error).await.map_err(|e| self.named(e))
    }

    async fn reopen(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<(), StoreError> {
        episodes::reopen(&self.led(run).await?, phase, iteration).await.map_err(|e| self.named(e))
    }

    async fn judge(
        &self,
        run: &RunId,
        phase: Phase,
        iteration: u32,
        verdicts: Vec<Verdict>,
        notes: Vec<String>,
    ) -> Result<(), StoreError> {
        judge::judge(&self.led(run).await?, phase, iteration, verdicts, &notes).await.map_err(|e| self.named(e))
    }

    async fn plan_training(
        &self,
        run: &RunId,
        iteration: u32,
        work: &WorkId,
        spec: TrainingSpec,
    ) -> Result<(), StoreError> {
        trainings::plan(&self.led(run).await?, iteration, work, &spec).await.map_err(|e| self.named(e))
    }

    async fn trainings(&self, run: &RunId) -> Result<Vec<TrainingRecord>, StoreError> {
        trainings::all(&self.link, run).await.map_err(|e| self.named(e))
    }

    async fn mark(&self, run: &RunId, mark: Mark) -> Result<(), StoreError> {
        marks::write(&self.link, run, &mark).await.map_err(|e| self.named(e))
    }

    async fn unmark(&self, run: &RunId, episode: &EpisodeId, turn: Option<u32>, label: &str) -> Result<(), StoreError> {
        marks::remove(&self.link, run, episode, turn, label).await.map_err(|e| self.named(e))
    }

    async fn marks(&self, run: &RunId) -> Result<Vec<Mark>, StoreError> {
        marks::all(&self.link, run).await.map_err(|e| self.named(e))
    }

    async fn finish_training(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        report: TrainingReport,
    ) -> Result<(), StoreError> {
        trainings::finish(&self.led(run).await?, work, attempt, &report).await.map_err(|e| self.named(e))
    }

    async fn add_metric(&self, run: &RunId, episode: &EpisodeId, result: MetricResult) -> Result<(), StoreError> {
        episodes::add_metric(&self.link, run, episode, &result).await.map_err(|e| self.named(e))
    }

    async fn metrics(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<MetricResult>, StoreError> {
        episodes::metrics(&self.link, run, episode).await.map_err(|e| self.named(e))
    }
}

#[cfg(test)]
mod tests;
