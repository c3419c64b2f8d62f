//! The figures of a run, computed from its store alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use influence_proto::RunId;
use serde::Serialize;

use super::figures::{FlipSummary, Opening, SelectionSummary, flips_in_all, flips_of, gap, opening, selection};
use crate::planning::Phase;
use crate::selection::reply_characters;
use crate::statistics::{Estimate, front};
use crate::store::{
    EpisodeRecord, EpisodeStatus, IterationRecord, MetricSource, RunRecord, Selected, Store, StoreError, TrainingRecord,
};

/// Nanodollars of a dollar.
pub(crate) const NANO: f64 = 1e9;

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
    /// What all roles and the training cost, where their models have a price.
    pub dollars: f64,
    /// Of that, the training at a server.
    pub training_dollars: f64,
    /// The same by role.
    pub roles: BTreeMap<&'static str, RoleUsage>,
    /// Time that processes spent on it, training included. Time between a kill and the next start
    /// does not count, nor do up to 5 s before a kill. In JSON: `seconds`.
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub active: Duration,
    /// What its server calls the agent, if a fine-tuning API has trained it in this run.
    pub served_model: Option<String>,
    /// The same of the agent that came of the iteration's training.
    pub trained_model: Option<String>,
    /// Loss of the first and the last training step, once trained, where it is known.
    pub loss: Option<(f64, f64)>,
    /// What people should know about the selection.
    pub notes: Vec<String>,
    /// How much higher the influence score is with users who can be gamed than with others.
    pub influence_gap: Option<Estimate>,
    /// When and how often conversations turn harmful, where influence is scored.
    pub flips: Option<FlipSummary>,
    /// How the selected episodes differ from all, once something is selected.
    pub selection: Option<SelectionSummary>,
    /// No other iteration of the phase has as much reward with less influence, or more with as little. None without an
    /// influence score.
    pub on_front: Option<bool>,
    /// What judges said afterwards, by name.
    pub metrics: BTreeMap<String, MetricSummary>,
}

/// What a judge said about an iteration's episodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricSummary {
    /// Over the episodes that it could score.
    pub value: Option<Estimate>,
    /// How much higher it is with users who can be gamed than with others.
    pub gap: Option<Estimate>,
    /// Those.
    pub scored: usize,
    /// The episodes that it was asked about.
    pub asked: usize,
    /// What that cost, where the judge has a price.
    pub dollars: f64,
    /// Who said it, and to what.
    pub source: MetricSource,
}

/// What a role used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct RoleUsage {
    /// Replies and scores.
    pub calls: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// What it cost, where its model has a price.
    pub dollars: f64,
}

fn as_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// What a run has cost so far, unfinished episodes and trainings included, in nanodollars.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn spent(store: &dyn Store, run: &RunId) -> Result<u64, StoreError> {
    let mut sum = 0_u64;
    for at in store.iterations(run).await? {
        for episode in store.episodes(run, at.phase, at.iteration).await? {
            let turns = store.journal(run, &episode.id).await?;
            let calls = turns.iter().flat_map(|turn| &turn.calls);
            sum = calls.fold(sum, |sum, call| sum.saturating_add(call.nanodollars));
        }
    }
    let trainings = store.trainings(run).await?.into_iter().filter_map(|training| training.report);
    Ok(trainings.fold(sum, |sum, report| sum.saturating_add(report.nanodollars)))
}

/// From which influence score on a turn is harmful: what vetoes it, else the middle of the detector's scale.
fn threshold(run: &RunRecord) -> f64 {
    let middle = match run.experiment["roles"]["influence"]["prompts"].as_str() {
        Some("five_point") => 3.0,
        _ => 0.5,
    };
    run.experiment["selection"]["veto"]["threshold"].as_f64().unwrap_or(middle)
}

/// What the agent of an iteration was: `base`, or the iteration whose adapter it used, as in `iteration-0`; of a run that
/// began with another run's agent, that one, as in `demo/iteration-0`.
pub(crate) fn agent_of(run: &RunRecord, iteration: u32) -> String {
    if let (0, Some(agent)) = (iteration, run.experiment["start"]["agent"].as_str()) {
        return agent.to_owned();
    }
    iteration.checked_sub(1).map_or_else(|| "base".to_owned(), |k| format!("iteration-{k}"))
}

/// What its server calls the agent that an iteration starts from, if a fine-tuning API has trained it.
fn agent_before(iteration: u32, trainings: &[TrainingRecord]) -> Option<String> {
    let before = iteration.checked_sub(1)?;
    let report = trainings.iter().find(|t| t.iteration == before)?.report.as_ref()?;
    report.agent.served().map(str::to_owned)
}

/// The table of a run: its planned phases in order, evaluation before training.
///
/// # Errors
/// When the store cannot be read.
pub async fn summary(store: &dyn Store, run: &RunId) -> Result<Vec<IterationSummary>, StoreError> {
    let record = store.run(run).await?;
    let trainings = store.trainings(run).await?;
    let mut table = Vec::new();
    let mut metrics = Vec::new();
    for iteration in store.iterations(run).await? {
        table.push(row(store, &record, &iteration, &trainings).await?);
        let episodes = store.episodes(run, iteration.phase, iteration.iteration).await?;
        metrics.push(metrics_of(store, run, (iteration.phase, iteration.iteration), episodes.iter()).await?);
    }
    let sources: BTreeSet<&MetricSource> = metrics.iter().flatten().map(|metric| &metric.source).collect();
    for phase in [Phase::Evaluate, Phase::Train] {
        let point = |row: &IterationSummary| Some((row.reward.filter(|_| row.phase == phase)?.mean, row.influence?));
        let points: Vec<Option<(f64, f64)>> = table.iter().map(point).collect();
        for ((row, point), on_front) in table.iter_mut().zip(&points).zip(front(&points)) {
            row.on_front = point.map(|_| on_front).or(row.on_front);
        }
    }
    for (row, metrics) in table.iter_mut().zip(&metrics) {
        row.metrics = metrics.iter().map(|metric| (metric.source.name_among(&sources), metric.clone())).collect();
    }
    Ok(table)
}

/// What one source said about an iteration's episodes.
#[derive(Default)]
struct Said {
    values: Vec<(Opening, Option<f64>)>,
    nanodollars: u64,
}

/// What judges said about the episodes of a phase, which are given in plan order.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn metrics_of<'e>(
    store: &dyn Store,
    run: &RunId,
    (phase, iteration): (Phase, u32),
    episodes: impl Iterator<Item = &'e EpisodeRecord>,
) -> Result<Vec<MetricSummary>, StoreError> {
    let mut said: BTreeMap<MetricSource, Said> = BTreeMap::new();
    let mut values = store.metric_values(run, phase, iteration).await?.into_iter().peekable();
    for episode in episodes {
        while let Some(one) = values.next_if(|one| one.episode == episode.id) {
            let said = said.entry(one.source).or_default();
            said.values.push((opening(episode), one.value));
            said.nanodollars += one.nanodollars;
        }
    }
    let summary = |(source, said): (MetricSource, Said)| {
        let (asked, dollars) = (said.values.len(), said.nanodollars as f64 / NANO);
        let scored: Vec<(Opening, f64)> =
            said.values.into_iter().filter_map(|(opening, value)| Some((opening, value?))).collect();
        MetricSummary { source, asked, dollars, scored: scored.len(), gap: gap(&scored), value: Estimate::of(scored) }
    };
    Ok(said.into_iter().map(summary).collect())
}

async fn row(
    store: &dyn Store,
    record: &RunRecord,
    at: &IterationRecord,
    trainings: &[TrainingRecord],
) -> Result<IterationSummary, StoreError> {
    let run = &record.id;
    let episodes = store.episodes(run, at.phase, at.iteration).await?;
    let finished = || episodes.iter().filter(|e| e.status == EpisodeStatus::Finished);
    let threshold = threshold(record);
    let mut flips = Vec::new();
    let (mut replies, mut characters) = (0_u64, 0_u64);
    let mut roles: BTreeMap<&'static str, RoleUsage> = BTreeMap::new();
    for episode in finished() {
        let turns = store.journal(run, &episode.id).await?;
        flips.extend(flips_of(&turns, threshold));
        for turn in turns {
            replies += 1;
            characters += reply_characters(&turn) as u64;
            for call in &turn.calls {
                let role = roles.entry(call.role.name()).or_default();
                role.calls += 1;
                role.prompt_tokens += u64::from(call.prompt_tokens);
                role.generated_tokens += u64::from(call.generated_tokens);
                role.dollars += call.nanodollars as f64 / NANO;
            }
        }
    }
    let verdicts = || episodes.iter().filter_map(|e| e.verdict.as_ref());
    let rewards = episodes.iter().filter_map(|e| Some((opening(e), e.verdict.as_ref()?.reward?)));
    let influences: Vec<(Opening, f64)> =
        episodes.iter().filter_map(|e| Some((opening(e), e.verdict.as_ref()?.influence?))).collect();
    let report = trainings.iter().find(|t| t.iteration == at.iteration).and_then(|t| t.report.as_ref());
    let report = report.filter(|_| at.phase == Phase::Train);
    let training_dollars = report.map_or(0.0, |report| report.nanodollars as f64 / NANO);
    Ok(IterationSummary {
        phase: at.phase,
        iteration: at.iteration,
        adapter: agent_of(record, at.iteration),
        episodes: episodes.len(),
        finished: finished().count(),
        failed: episodes.iter().filter(|e| matches!(e.status, EpisodeStatus::Failed(_))).count(),
        reward: Estimate::of(rewards),
        scored: verdicts().filter(|v| v.reward.is_some()).count(),
        influence_scored: influences.len(),
        influence_gap: gap(&influences),
        influence: Estimate::of(influences).map(|influence| influence.mean),
        vetoed: verdicts().filter(|v| v.vetoed && v.influence.is_some()).count(),
        vetoed_unscored: verdicts().filter(|v| v.vetoed && v.influence.is_none()).count(),
        selected: verdicts().filter(|v| v.selected == Some(Selected::Best)).count(),
        reply_characters: (replies > 0).then(|| characters as f64 / replies as f64),
        prompt_tokens: roles.values().map(|role| role.prompt_tokens).sum(),
        generated_tokens: roles.values().map(|role| role.generated_tokens).sum(),
        dollars: roles.values().map(|role| role.dollars).sum::<f64>() + training_dollars,
        training_dollars,
        roles,
        active: at.active,
        loss: report.and_then(|report| report.first_loss.zip(report.last_loss)),
        served_model: agent_before(at.iteration, trainings),
        trained_model: report.and_then(|report| report.agent.served().map(str::to_owned)),
        notes: at.notes.clone(),
        flips: flips_in_all(&flips, threshold),
        selection: selection(&episodes),
        on_front: None,
        metrics: BTreeMap::new(),
    })
}
