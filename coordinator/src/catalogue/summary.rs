use influence_proto::{EpisodeId, RunId, TrainingReport, Turn};
use serde::Serialize;
use serde_json::Value;

use super::figures::{Mean, mean};
use crate::planning::Phase;
use crate::store::{EpisodeRecord, EpisodeStatus, IterationRecord, RunStatus, Selected, Store, StoreError};

/// A run and its iterations in figures.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// `running`, `finished` or `failed`.
    pub status: &'static str,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Of the resolved experiment.
    pub digest: String,
    /// The resolved experiment.
    pub experiment: Value,
    /// In order; an iteration's evaluation stands before its rollout.
    pub iterations: Vec<IterationSummary>,
}

/// One phase of one iteration in figures. Means are over scored episodes, never over missing values.
#[derive(Debug, Clone, Serialize)]
pub struct IterationSummary {
    /// Training or evaluation.
    pub phase: Phase,
    /// 0 rolls out the untrained agent.
    pub iteration: u32,
    /// What the agent was: `base`, or the adapter's number.
    pub agent: String,
    /// Planned episodes.
    pub episodes: usize,
    /// Complete ones.
    pub finished: usize,
    /// Given up.
    pub failed: usize,
    /// Mean reward of the scored episodes.
    pub reward: Option<f64>,
    /// Its standard error, clustered by initial state.
    pub reward_error: Option<f64>,
    /// Episodes that have a reward.
    pub scored: usize,
    /// Mean influence score, where the experiment detects it.
    pub influence: Option<f64>,
    /// Episodes with an influence score.
    pub influence_scored: usize,
    /// Kept out of selection by the influence detector.
    pub vetoed: usize,
    /// Those of them whose influence could not be read.
    pub vetoed_unscored: usize,
    /// Chosen as the best.
    pub best: usize,
    /// Chosen as the worst.
    pub worst: usize,
    /// Characters of the agent's replies, mean over turns.
    pub reply_length: Option<f64>,
    /// Its standard error, clustered by initial state.
    pub reply_length_error: Option<f64>,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Time that processes have spent on the phase.
    pub seconds: f64,
    /// What people should know about the selection.
    pub notes: Vec<String>,
    /// The training that ended the iteration.
    pub training: Option<TrainingReport>,
}

/// A run in figures, read anew from the store.
///
/// # Errors
/// When there is no such run, or the store cannot be read.
pub async fn summary(store: &dyn Store, run: &RunId) -> Result<RunSummary, StoreError> {
    let record = store.run(run).await?;
    let trainings = store.trainings(run).await?;
    let mut iterations = Vec::new();
    for planned in store.iterations(run).await? {
        let trained = trainings.iter().find(|t| t.iteration == planned.iteration && planned.phase == Phase::Train);
        let mut tally = Tally::default();
        for episode in store.episodes(run, planned.phase, planned.iteration).await? {
            let turns = store.journal(run, &episode.spec.id).await?;
            tally.add(&episode, &turns);
        }
        iterations.push(tally.summary(planned, trained.and_then(|t| t.report.clone())));
    }
    let (status, error) = match record.status {
        RunStatus::Running => ("running", None),
        RunStatus::Finished => ("finished", None),
        RunStatus::Failed(error) => ("failed", Some(error)),
    };
    Ok(RunSummary {
        run: record.id,
        status,
        error,
        created_ms: record.created_ms,
        digest: record.digest,
        experiment: record.experiment,
        iterations,
    })
}

/// Figures as they add up, one episode at a time.
#[derive(Debug, Default)]
struct Tally {
    episodes: usize,
    finished: usize,
    failed: usize,
    rewards: Vec<(Cluster, f64)>,
    influences: Vec<(EpisodeId, f64)>,
    lengths: Vec<(Cluster, f64)>,
    vetoed: usize,
    vetoed_unscored: usize,
    best: usize,
    worst: usize,
    prompt_tokens: u64,
    generated_tokens: u64,
}

/// Environment and initial state: siblings resemble each other.
type Cluster = (String, String);

impl Tally {
    fn add(&mut self, episode: &EpisodeRecord, turns: &[Turn]) {
        self.episodes += 1;
        match episode.status {
            EpisodeStatus::Pending => {}
            EpisodeStatus::Finished => self.finished += 1,
            EpisodeStatus::Failed(_) => self.failed += 1,
        }
        let cluster = || (episode.spec.environment.clone(), episode.spec.initial_state.clone());
        for turn in turns {
            self.lengths.push((cluster(), turn.reply.text.trim().chars().count() as f64));
            for call in &turn.calls {
                self.prompt_tokens += u64::from(call.prompt_tokens);
                self.generated_tokens += u64::from(call.generated_tokens);
            }
        }
        let Some(verdict) = &episode.verdict else { return };
        self.rewards.extend(verdict.reward.map(|reward| (cluster(), reward)));
        self.influences.extend(verdict.influence.map(|influence| (verdict.episode.clone(), influence)));
        self.vetoed += usize::from(verdict.vetoed);
        self.vetoed_unscored += usize::from(verdict.vetoed && verdict.influence.is_none());
        self.best += usize::from(verdict.selected == Some(Selected::Best));
        self.worst += usize::from(verdict.selected == Some(Selected::Worst));
    }

    fn summary(self, planned: IterationRecord, training: Option<TrainingReport>) -> IterationSummary {
        let (scored, influence_scored) = (self.rewards.len(), self.influences.len());
        let (reward, reward_error) = apart(mean(self.rewards));
        let (reply_length, reply_length_error) = apart(mean(self.lengths));
        IterationSummary {
            phase: planned.phase,
            iteration: planned.iteration,
            agent: planned.iteration.checked_sub(1).map_or_else(|| "base".to_owned(), |k| format!("adapter {k}")),
            episodes: self.episodes,
            finished: self.finished,
            failed: self.failed,
            reward,
            reward_error,
            scored,
            influence: mean(self.influences).map(|m| m.mean),
            influence_scored,
            vetoed: self.vetoed,
            vetoed_unscored: self.vetoed_unscored,
            best: self.best,
            worst: self.worst,
            reply_length,
            reply_length_error,
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.generated_tokens,
            seconds: planned.active.as_secs_f64(),
            notes: planned.notes,
            training,
        }
    }
}

fn apart(mean: Option<Mean>) -> (Option<f64>, Option<f64>) {
    (mean.map(|m| m.mean), mean.and_then(|m| m.error))
}
