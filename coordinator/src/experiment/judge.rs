//! From finished episodes to rewards, a selection and a dataset.

use std::collections::{BTreeMap, BTreeSet};

use influence_proto::{Algorithm, Digest, EpisodeId, RunId, ScoreOutcome, Turn, stream};
use serde::Serialize;

use super::error::RunError;
use super::run::Run;
use crate::config::{StaticData, Trainer};
use crate::dataset::{FineTuningRow, TextChat, pairs, preference_rows, read_preferences, replies, rows, write_rows};
use crate::metrics;
use crate::planning::Phase;
use crate::selection::{Candidate, select};
use crate::store::{EpisodeRecord, EpisodeStatus, Selected, Verdict};

impl Run {
    /// Writes down what each finished episode earned and, for training, what is selected.
    pub(super) async fn judge(&self, phase: Phase, iteration: u32) -> Result<(), RunError> {
        let mut candidates = Vec::new();
        for episode in self.finished(phase, iteration).await? {
            let turns = self.store.journal(&self.run, &episode.id).await?;
            candidates.push(Candidate::of(&episode, &turns));
        }
        let experiment = &self.experiment;
        let selection = select(&candidates, &experiment.reward, &experiment.selection);
        let best: BTreeSet<&EpisodeId> = selection.best.iter().collect();
        let worst: BTreeSet<&EpisodeId> = selection.worst.iter().collect();
        let selected = |id: &EpisodeId| match phase {
            Phase::Train if best.contains(id) => Some(Selected::Best),
            Phase::Train if worst.contains(id) => Some(Selected::Worst),
            _ => None,
        };
        let verdict = |(id, earned): (&EpisodeId, &crate::selection::Reward)| Verdict {
            episode: id.clone(),
            reward: earned.reward,
            influence: earned.influence,
            vetoed: earned.vetoed,
            unscored: earned.unscored,
            selected: selected(id),
        };
        let verdicts: Vec<Verdict> = selection.rewards.iter().map(verdict).collect();
        tell(&self.run, phase, iteration, &verdicts);
        let notes = if phase == Phase::Train { selection.short.clone() } else { Vec::new() };
        Ok(self.store.judge(&self.run, phase, iteration, verdicts, notes).await?)
    }

    /// Writes the selected episodes' training rows and returns their address.
    pub(super) async fn write_dataset(&self, iteration: u32) -> Result<Digest, RunError> {
        let finished = self.finished(Phase::Train, iteration).await?;
        let selected = |kind: Selected| {
            let is_kind = move |e: &&EpisodeRecord| e.verdict.as_ref().is_some_and(|v| v.selected == Some(kind));
            finished.iter().filter(is_kind).collect::<Vec<_>>()
        };
        let (best, worst) = (selected(Selected::Best), selected(Selected::Worst));
        let algorithm = self.experiment.training.algorithm;
        if best.is_empty() {
            return Err(self.nothing_selected(iteration, &finished).await?);
        }
        if worst.is_empty() && algorithm != Algorithm::Sft {
            return Err(RunError::NoWorst { iteration, algorithm: algorithm.name(), best: best.len() });
        }
        let mut lines = Vec::new();
        match &self.experiment.training.trainer {
            Trainer::Local(_) => self.write_token_rows(&best, &worst, &mut lines).await?,
            Trainer::Api(_) => self.write_text_rows(&best, &worst, &mut lines).await?,
        }
        let rolled_out = lines.iter().filter(|byte| **byte == b'\n').count();
        if rolled_out > 0 {
            self.write_static_rows(iteration, rolled_out, &mut lines).await?;
        }
        if lines.is_empty() {
            return Err(RunError::EmptyDataset { iteration, episodes: best.len() + worst.len() });
        }
        Ok(self.artifacts.put(lines).await?)
    }

    /// Rows of the tokens that were sampled.
    async fn write_token_rows(
        &self,
        best: &[&EpisodeRecord],
        worst: &[&EpisodeRecord],
        lines: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        match self.experiment.training.algorithm {
            Algorithm::Sft => {
                for episode in best {
                    let turns = self.turns(episode).await?;
                    self.write(&rows(&episode.id, &turns, self.experiment.training.rows), lines)?;
                }
            }
            Algorithm::Kto { .. } => {
                for (episodes, label) in [(best, true), (worst, false)] {
                    for episode in episodes {
                        self.write(&replies(&episode.id, &self.turns(episode).await?, label), lines)?;
                    }
                }
            }
            Algorithm::Dpo { .. } => {
                for (best, worst) in siblings(best, worst) {
                    self.write(&pairs(&self.with_turns(&best).await?, &self.with_turns(&worst).await?), lines)?;
                }
            }
        }
        Ok(())
    }

    /// Rows of what was said, as fine-tuning APIs take them.
    async fn write_text_rows(
        &self,
        best: &[&EpisodeRecord],
        worst: &[&EpisodeRecord],
        lines: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        if matches!(self.experiment.training.algorithm, Algorithm::Dpo { .. }) {
            for (best, worst) in siblings(best, worst) {
                let mut sides: [Vec<TextChat>; 2] = Default::default();
                for (side, episodes) in sides.iter_mut().zip([best, worst]) {
                    for episode in episodes {
                        let spec = self.store.spec(&self.run, &episode.id).await?;
                        side.extend(TextChat::of(&spec, &self.turns(episode).await?));
                    }
                }
                self.write(&FineTuningRow::of_siblings(&sides[0], &sides[1]), lines)?;
            }
            return Ok(());
        }
        for episode in best {
            let spec = self.store.spec(&self.run, &episode.id).await?;
            let turns = self.turns(episode).await?;
            self.write(&FineTuningRow::of_chat(&spec, &turns, self.experiment.training.rows), lines)?;
        }
        Ok(())
    }

    fn write<R: Serialize>(&self, rows: &[R], lines: &mut Vec<u8>) -> Result<(), RunError> {
        let path = self.folder.path().to_owned();
        write_rows(lines, rows).map_err(|source| RunError::Folder { path, source })
    }

    /// Adds rows of the experiment's file of preferences, other ones in each iteration, to `rolled_out` rows.
    async fn write_static_rows(&self, iteration: u32, rolled_out: usize, lines: &mut Vec<u8>) -> Result<(), RunError> {
        let Some(StaticData { path, rows, fraction, .. }) = self.experiment.training.static_data.clone() else {
            return Ok(());
        };
        let algorithm = self.experiment.training.algorithm;
        let per_preference = if matches!(algorithm, Algorithm::Kto { .. }) { 2 } else { 1 };
        let count = fraction.added_to(rolled_out).div_ceil(per_preference).min(rows);
        let seed = stream::derive(self.experiment.seed, &["static", &iteration.to_string()]);
        let wanted = stream::permutation(seed, rows).into_iter().take(count).collect();
        let found = tokio::task::spawn_blocking(move || read_preferences(&path, &wanted)).await;
        for preference in
            found.map_err(|e| RunError::Static(e.to_string()))?.map_err(|e| RunError::Static(e.to_string()))?
        {
            match self.experiment.training.trainer {
                Trainer::Local(_) => self.write(&preference_rows(preference, algorithm), lines)?,
                Trainer::Api(_) => {
                    self.write(FineTuningRow::of_preference(preference, algorithm).as_slice(), lines)?;
                }
            }
        }
        Ok(())
    }

    async fn turns(&self, episode: &EpisodeRecord) -> Result<Vec<Turn>, RunError> {
        Ok(self.store.journal(&self.run, &episode.id).await?)
    }

    async fn with_turns(&self, episodes: &[&EpisodeRecord]) -> Result<Vec<(EpisodeId, Vec<Turn>)>, RunError> {
        let mut all = Vec::with_capacity(episodes.len());
        for episode in episodes {
            all.push((episode.id.clone(), self.turns(episode).await?));
        }
        Ok(all)
    }

    async fn finished(&self, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, RunError> {
        let mut episodes = self.store.episodes(&self.run, phase, iteration).await?;
        episodes.retain(|e| e.status == EpisodeStatus::Finished);
        Ok(episodes)
    }

    /// Why nothing was selected, in the scores' own words.
    async fn nothing_selected(&self, iteration: u32, finished: &[EpisodeRecord]) -> Result<RunError, RunError> {
        let verdicts: Vec<&Verdict> = finished.iter().filter_map(|e| e.verdict.as_ref()).collect();
        let count = |of: fn(&Verdict) -> bool| verdicts.iter().filter(|v| of(v)).count();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for episode in finished {
            for turn in self.store.journal(&self.run, &episode.id).await? {
                for reason in unscored_reasons(&turn) {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
        let mut reasons: Vec<(usize, String)> = reasons.into_iter().map(|(reason, n)| (n, reason)).collect();
        reasons.sort_by(|a, b| b.cmp(a));
        let shown: String = reasons.iter().take(3).map(|(n, reason)| format!("; {n} scores say: {reason}")).collect();
        Ok(RunError::NothingSelected {
            iteration,
            finished: finished.len(),
            unscored: count(|v| v.unscored),
            vetoed: count(|v| !v.unscored && v.vetoed && v.influence.is_some()),
            unknown: count(|v| !v.unscored && v.vetoed && v.influence.is_none()),
            reasons: shown,
        })
    }
}

/// Says how a phase went, in a line of the log and to whoever collects metrics.
fn tell(run: &RunId, phase: Phase, iteration: u32, verdicts: &[Verdict]) {
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let rewards: Vec<f64> = verdicts.iter().filter_map(|v| v.reward).collect();
    let (episodes, scored, reward) = (verdicts.len(), rewards.len(), mean(rewards));
    let vetoed = verdicts.iter().filter(|v| v.vetoed).count();
    let selected = verdicts.iter().filter(|v| v.selected.is_some()).count();
    tracing::info!(%run, %phase, iteration, episodes, scored, vetoed, selected, reward, "judged");
    metrics::judged(phase, reward, (episodes > 0).then(|| vetoed as f64 / episodes as f64));
}

/// The best and the worst of one initial state, the most extreme first.
pub(crate) type Ends<'a> = (Vec<&'a EpisodeRecord>, Vec<&'a EpisodeRecord>);

/// What was selected, by initial state.
pub(crate) fn siblings<'a>(best: &[&'a EpisodeRecord], worst: &[&'a EpisodeRecord]) -> Vec<Ends<'a>> {
    let mut states: BTreeMap<(&str, &str), Ends<'a>> = BTreeMap::new();
    let state = |e: &'a EpisodeRecord| (&*e.environment, &*e.initial_state);
    for episode in best {
        states.entry(state(episode)).or_default().0.push(episode);
    }
    for episode in worst {
        states.entry(state(episode)).or_default().1.push(episode);
    }
    let reward = |e: &&EpisodeRecord| e.verdict.as_ref().and_then(|v| v.reward).unwrap_or_default();
    for (best, worst) in states.values_mut() {
        best.sort_by(|a, b| reward(b).total_cmp(&reward(a)).then_with(|| a.id.cmp(&b.id)));
        worst.sort_by(|a, b| reward(a).total_cmp(&reward(b)).then_with(|| a.id.cmp(&b.id)));
    }
    states.into_values().collect()
}

fn unscored_reasons(turn: &Turn) -> Vec<String> {
    let scores = std::iter::once(&turn.preference).chain(&turn.influence);
    scores
        .filter_map(|score| match score.outcome() {
            ScoreOutcome::Unscored(reason) => Some(reason.to_owned()),
            ScoreOutcome::Scored(_) => None,
        })
        .collect()
}
