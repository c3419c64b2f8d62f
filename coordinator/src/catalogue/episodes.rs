use influence_proto::{EpisodeSpec, RunId, Turn};
use serde::Serialize;

use crate::planning::Phase;
use crate::store::{EpisodeRecord, EpisodeStatus, Selected, Store, StoreError};

/// One episode, whole.
#[derive(Debug, Clone, Serialize)]
pub struct EpisodeView {
    /// Training or evaluation.
    pub phase: Phase,
    /// 0 rolls out the untrained agent.
    pub iteration: u32,
    /// `pending`, `finished` or `failed`.
    pub status: &'static str,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Attempts so far.
    pub attempt: u32,
    /// None until the phase is judged, and if it is unscored.
    pub reward: Option<f64>,
    /// Mean influence score.
    pub influence: Option<f64>,
    /// Kept out of selection by the influence detector.
    pub vetoed: bool,
    /// A turn that the reward needs has no score.
    pub unscored: bool,
    /// `best` or `worst`, if it was chosen for training.
    pub selected: Option<&'static str>,
    /// What was asked for.
    pub spec: EpisodeSpec,
    /// What happened.
    pub turns: Vec<Turn>,
}

/// The episodes of a run in plan order, those of one iteration's training phase if it is named.
/// One at a time goes to `each`: a large run does not fit into memory.
///
/// # Errors
/// When the store cannot be read, or `each` refuses.
pub async fn episodes<E: From<StoreError>>(
    store: &dyn Store,
    run: &RunId,
    iteration: Option<u32>,
    mut each: impl FnMut(EpisodeView) -> Result<(), E>,
) -> Result<(), E> {
    for planned in store.iterations(run).await? {
        if iteration.is_some_and(|k| planned.iteration != k || planned.phase != Phase::Train) {
            continue;
        }
        for record in store.episodes(run, planned.phase, planned.iteration).await? {
            let spec = store.spec(run, &record.id).await?;
            let turns = store.journal(run, &record.id).await?;
            each(view(planned.phase, planned.iteration, record, spec, turns))?;
        }
    }
    Ok(())
}

fn view(phase: Phase, iteration: u32, record: EpisodeRecord, spec: EpisodeSpec, turns: Vec<Turn>) -> EpisodeView {
    let (status, error) = match record.status {
        EpisodeStatus::Pending => ("pending", None),
        EpisodeStatus::Finished => ("finished", None),
        EpisodeStatus::Failed(error) => ("failed", Some(error)),
    };
    let verdict = record.verdict.as_ref();
    EpisodeView {
        phase,
        iteration,
        status,
        error,
        attempt: record.attempt,
        reward: verdict.and_then(|v| v.reward),
        influence: verdict.and_then(|v| v.influence),
        vetoed: verdict.is_some_and(|v| v.vetoed),
        unscored: verdict.is_some_and(|v| v.unscored),
        selected: verdict.and_then(|v| v.selected).map(|end| match end {
            Selected::Best => "best",
            Selected::Worst => "worst",
        }),
        spec,
        turns,
    }
}
