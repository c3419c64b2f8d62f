//! From finished episodes to rewards, a selection and a dataset.

use std::collections::{BTreeMap, BTreeSet};

use influence_proto::{Digest, EpisodeId, ScoreOutcome, Turn};

use super::error::RunError;
use super::run::Run;
use crate::dataset::{rows, write_rows};
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
        let verdicts = selection.rewards.iter().map(verdict).collect();
        let notes = if phase == Phase::Train { selection.short.clone() } else { Vec::new() };
        Ok(self.store.judge(&self.run, phase, iteration, verdicts, notes).await?)
    }

    /// Writes the selected episodes' training rows, in plan order, and returns their address.
    pub(super) async fn write_dataset(&self, iteration: u32) -> Result<Digest, RunError> {
        let finished = self.finished(Phase::Train, iteration).await?;
        let is_best = |e: &&EpisodeRecord| e.verdict.as_ref().is_some_and(|v| v.selected == Some(Selected::Best));
        let best: Vec<_> = finished.iter().filter(is_best).collect();
        if best.is_empty() {
            return Err(self.nothing_selected(iteration, &finished).await?);
        }
        let mut lines = Vec::new();
        for episode in &best {
            let turns = self.store.journal(&self.run, &episode.id).await?;
            let of_episode = rows(&episode.id, &turns, self.experiment.training.rows);
            let path = self.folder.path().to_owned();
            write_rows(&mut lines, &of_episode).map_err(|source| RunError::Folder { path, source })?;
        }
        if lines.is_empty() {
            return Err(RunError::EmptyDataset { iteration, episodes: best.len() });
        }
        Ok(self.artifacts.put(lines).await?)
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

fn unscored_reasons(turn: &Turn) -> Vec<String> {
    let scores = std::iter::once(&turn.preference).chain(&turn.influence);
    scores
        .filter_map(|score| match score.outcome() {
            ScoreOutcome::Unscored(reason) => Some(reason.to_owned()),
            ScoreOutcome::Scored(_) => None,
        })
        .collect()
}
