use influence_proto::{EpisodeSpec, RunId, Turn};
use serde::Serialize;

use super::rows::values;
use super::{EpisodeRow, Filter};
use crate::planning::Phase;
use crate::store::{EpisodeStatus, MetricResult, Store, StoreError};

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
    /// What judges said.
    pub metrics: Vec<MetricView>,
    /// What was asked for.
    pub spec: EpisodeSpec,
    /// What happened.
    pub turns: Vec<Turn>,
}

/// What a judge said about an episode, and what it comes to.
#[derive(Debug, Clone, Serialize)]
pub struct MetricView {
    /// None if any of it is unscored.
    pub value: Option<f64>,
    /// All of it, with who said it.
    #[serde(flatten)]
    pub result: MetricResult,
}

/// The episodes of a run in plan order that the filter takes, those of one iteration's training phase if it is named.
/// One at a time goes to `each`: a large run does not fit into memory.
///
/// # Errors
/// When the store cannot be read, or `each` refuses.
pub async fn episodes<E: From<StoreError>>(
    store: &dyn Store,
    run: &RunId,
    iteration: Option<u32>,
    filter: &Filter,
    mut each: impl FnMut(EpisodeView) -> Result<(), E>,
) -> Result<(), E> {
    for planned in store.iterations(run).await? {
        if iteration.is_some_and(|k| planned.iteration != k || planned.phase != Phase::Train) {
            continue;
        }
        for record in store.episodes(run, planned.phase, planned.iteration).await? {
            let said = store.metrics(run, &record.id).await?;
            let (phase, iteration) = (planned.phase, planned.iteration);
            let row = EpisodeRow { phase, iteration, record, metrics: values(&said) };
            if !filter.takes(&row) {
                continue;
            }
            let spec = store.spec(run, &row.record.id).await?;
            let turns = store.journal(run, &row.record.id).await?;
            let metrics = said.into_iter().map(|result| MetricView { value: result.value(), result }).collect();
            each(view(row, metrics, spec, turns))?;
        }
    }
    Ok(())
}

/// A row with its conversation.
fn view(row: EpisodeRow, metrics: Vec<MetricView>, spec: EpisodeSpec, turns: Vec<Turn>) -> EpisodeView {
    EpisodeView {
        phase: row.phase,
        iteration: row.iteration,
        status: row.status(),
        attempt: row.record.attempt,
        reward: row.reward(),
        influence: row.influence(),
        vetoed: row.vetoed(),
        unscored: row.unscored(),
        selected: row.selected(),
        metrics,
        error: match row.record.status {
            EpisodeStatus::Failed(error) => Some(error),
            _ => None,
        },
        spec,
        turns,
    }
}
