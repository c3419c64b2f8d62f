use super::RunError;
use super::run::Run;
use crate::planning::Phase;
use crate::selection::{Candidate, Selection, select};
use crate::store::{EpisodeRecord, EpisodeStatus, Selected, Verdict};

impl Run {
    /// Rewards a phase's finished episodes, selects among those to train on, and writes both down.
    pub(super) async fn judge(&self, phase: Phase, iteration: u32, records: &[EpisodeRecord]) -> Result<(), RunError> {
        let mut candidates = Vec::new();
        for record in records.iter().filter(|r| r.status == EpisodeStatus::Finished) {
            let turns = self.store.journal(&self.id, &record.spec.id).await?;
            candidates.push(Candidate::of(&record.spec, &turns));
        }
        let mut selection = select(&candidates, &self.experiment.reward, &self.experiment.selection);
        match phase {
            // Nobody trains on what is held out.
            Phase::Evaluate => {
                selection.best.clear();
                selection.worst.clear();
                selection.short.clear();
            }
            Phase::Train if selection.best.is_empty() => {
                return Err(RunError::NothingSelected { iteration, causes: causes(&selection, records) });
            }
            Phase::Train => {}
        }
        let notes = std::mem::take(&mut selection.short);
        self.store.judge(&self.id, phase, iteration, verdicts(&selection), notes).await?;
        Ok(())
    }
}

fn verdicts(selection: &Selection) -> Vec<Verdict> {
    let verdict = |(episode, earned): (&_, &crate::selection::Reward)| {
        let selected = match episode {
            _ if selection.best.contains(episode) => Some(Selected::Best),
            _ if selection.worst.contains(episode) => Some(Selected::Worst),
            _ => None,
        };
        Verdict {
            episode: episode.clone(),
            reward: earned.reward,
            influence: earned.influence,
            vetoed: earned.vetoed,
            unscored: earned.unscored,
            selected,
        }
    };
    selection.rewards.iter().map(verdict).collect()
}

/// Why nothing is left, in numbers.
fn causes(selection: &Selection, records: &[EpisodeRecord]) -> String {
    let count = |is: fn(&crate::selection::Reward) -> bool| selection.rewards.values().filter(|r| is(r)).count();
    format!(
        "of {} episodes, {} are finished, {} of these unscored (look at `scoring.min_mass` and the preference prompt) and {} vetoed (look at `selection.veto`)",
        records.len(),
        selection.rewards.len(),
        count(|r| r.unscored),
        count(|r| r.vetoed),
    )
}
