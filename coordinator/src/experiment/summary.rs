//! The figures of a run, computed from its store alone.

use std::collections::BTreeMap;
use std::time::Duration;

use influence_proto::RunId;
use serde::Serialize;

use crate::planning::Phase;
use crate::selection::reply_characters;
use crate::store::{EpisodeRecord, EpisodeStatus, IterationRecord, Selected, Store, StoreError, TrainingRecord};

/// One row of a run's table: an iteration's phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IterationSummary {
    /// Training or evaluation.
    pub phase: Phase,
    /// Which iteration; an evaluation's is the one that would start from its agent.
    pub iteration: u32,
    /// What the agent was: `base`, or the iteration whose adapter it used, as in `iteration-0`.
    pub adapter: String,
    /// Planned episodes.
    pub episodes: usize,
    /// Finished ones: the N of "scored M of N".
    pub finished: usize,
    /// Given up.
    pub failed: usize,
    /// Of the scored episodes' rewards; none before the phase is judged, or if none is scored.
    pub reward: Option<Estimate>,
    /// Episodes with a reward: the M of "scored M of N".
    pub scored: usize,
    /// Mean influence score of the episodes that have one; none if it is not configured.
    pub influence: Option<f64>,
    /// Episodes with an influence score.
    pub influence_scored: usize,
    /// Vetoed for their influence.
    pub vetoed: usize,
    /// Vetoed because their influence is unscored.
    pub vetoed_unscored: usize,
    /// Selected as the best, to train on.
    pub selected: usize,
    /// Mean length of the agent's trimmed replies, in characters.
    pub reply_characters: Option<f64>,
    /// Prompt tokens of all roles.
    pub prompt_tokens: u64,
    /// Generated tokens of all roles.
    pub generated_tokens: u64,
    /// Time that processes spent on it, training included. Time between a kill and the next start
    /// does not count, nor do up to 5 s before a kill. In JSON: `seconds`.
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub active: Duration,
    /// Loss of the first and the last training step, once trained.
    pub loss: Option<(f64, f64)>,
    /// What people should know about the selection.
    pub notes: Vec<String>,
}

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error, clustered by initial state, because siblings share an opening:
    /// `sqrt(G/(G-1) * sum over clusters g of (sum over i in g of (x_i - mean))^2) / N` for G
    /// clusters and N values (the cluster-robust variance of a mean with the usual small-sample
    /// factor; Liang and Zeger 1986). None for a single cluster.
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// Of values with the cluster that each belongs to; none of nothing.
    pub(crate) fn of<K: Ord>(values: impl IntoIterator<Item = (K, f64)>) -> Option<Self> {
        let mut clusters: BTreeMap<K, Vec<f64>> = BTreeMap::new();
        for (cluster, value) in values {
            clusters.entry(cluster).or_default().push(value);
        }
        let n = clusters.values().map(Vec::len).sum::<usize>();
        if n == 0 {
            return None;
        }
        let mean = clusters.values().flatten().sum::<f64>() / n as f64;
        let g = clusters.len() as f64;
        let squares: f64 = clusters.values().map(|c| c.iter().map(|x| x - mean).sum::<f64>().powi(2)).sum();
        let standard_error = (clusters.len() > 1).then(|| (g / (g - 1.0) * squares).sqrt() / n as f64);
        Some(Self { mean, standard_error })
    }
}

fn as_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// The table of a run: its planned phases in order, evaluation before training.
///
/// # Errors
/// When the store cannot be read.
pub async fn summary(store: &dyn Store, run: &RunId) -> Result<Vec<IterationSummary>, StoreError> {
    let trainings = store.trainings(run).await?;
    let mut table = Vec::new();
    for iteration in store.iterations(run).await? {
        table.push(row(store, run, &iteration, &trainings).await?);
    }
    Ok(table)
}

async fn row(
    store: &dyn Store,
    run: &RunId,
    at: &IterationRecord,
    trainings: &[TrainingRecord],
) -> Result<IterationSummary, StoreError> {
    let episodes = store.episodes(run, at.phase, at.iteration).await?;
    let finished = || episodes.iter().filter(|e| e.status == EpisodeStatus::Finished);
    let (mut replies, mut characters, mut prompt_tokens, mut generated_tokens) = (0_u64, 0_u64, 0, 0);
    for episode in finished() {
        for turn in store.journal(run, &episode.id).await? {
            replies += 1;
            characters += reply_characters(&turn) as u64;
            prompt_tokens += turn.calls.iter().map(|c| u64::from(c.prompt_tokens)).sum::<u64>();
            generated_tokens += turn.calls.iter().map(|c| u64::from(c.generated_tokens)).sum::<u64>();
        }
    }
    let verdicts = || episodes.iter().filter_map(|e| e.verdict.as_ref());
    let cluster = |e: &EpisodeRecord| (e.environment.clone(), e.initial_state.clone());
    let rewards = episodes.iter().filter_map(|e| Some((cluster(e), e.verdict.as_ref()?.reward?)));
    let influences: Vec<f64> = verdicts().filter_map(|v| v.influence).collect();
    let report = trainings.iter().find(|t| t.iteration == at.iteration).and_then(|t| t.report.as_ref());
    Ok(IterationSummary {
        phase: at.phase,
        iteration: at.iteration,
        adapter: at.iteration.checked_sub(1).map_or_else(|| "base".to_owned(), |k| format!("iteration-{k}")),
        episodes: episodes.len(),
        finished: finished().count(),
        failed: episodes.iter().filter(|e| matches!(e.status, EpisodeStatus::Failed(_))).count(),
        reward: Estimate::of(rewards),
        scored: verdicts().filter(|v| v.reward.is_some()).count(),
        influence: (!influences.is_empty()).then(|| influences.iter().sum::<f64>() / influences.len() as f64),
        influence_scored: influences.len(),
        vetoed: verdicts().filter(|v| v.vetoed && v.influence.is_some()).count(),
        vetoed_unscored: verdicts().filter(|v| v.vetoed && v.influence.is_none()).count(),
        selected: verdicts().filter(|v| v.selected == Some(Selected::Best)).count(),
        reply_characters: (replies > 0).then(|| characters as f64 / replies as f64),
        prompt_tokens,
        generated_tokens,
        active: at.active,
        loss: report.filter(|_| at.phase == Phase::Train).map(|r| (r.first_loss, r.last_loss)),
        notes: at.notes.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn siblings_count_as_one_cluster() {
        // By hand: mean 2.5; deviations per cluster -2 and 2; 2/1 * (4 + 4) = 16; sqrt(16) / 4 = 1.
        let clustered = Estimate::of([("a", 1.0), ("a", 2.0), ("b", 3.0), ("b", 4.0)]).unwrap();
        assert_eq!(clustered, Estimate { mean: 2.5, standard_error: Some(1.0) });
        // Alone, each value is a cluster: the usual standard error sqrt(5/3 / 4).
        let alone = Estimate::of([(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]).unwrap();
        assert!((alone.standard_error.unwrap() - (5.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn one_cluster_has_no_error_and_nothing_has_no_mean() {
        assert_eq!(Estimate::of([("a", 1.0), ("a", 3.0)]), Some(Estimate { mean: 2.0, standard_error: None }));
        assert_eq!(Estimate::of(Vec::<((), f64)>::new()), None);
    }
}
