use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use influence_proto::RunId;

use super::Opening;
use crate::planning::Phase;
use crate::store::{EpisodeRecord, EpisodeStatus, MetricResult, MetricSource, Selected, Store, StoreError};

/// An episode in a list: what can be filtered and sorted by, without its conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct EpisodeRow {
    /// Training or evaluation.
    pub phase: Phase,
    /// 0 rolls out the untrained agent.
    pub iteration: u32,
    /// The rest, as stored.
    pub record: EpisodeRecord,
    /// What judges said; empty where it was not read.
    pub metrics: BTreeMap<MetricSource, Option<f64>>,
}

impl AsRef<Self> for EpisodeRow {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl EpisodeRow {
    /// What it began with: siblings have it in common.
    pub fn opening(&self) -> Opening {
        let EpisodeRecord { environment_class, environment, initial_state, .. } = &self.record;
        (environment_class.clone(), environment.clone(), initial_state.clone())
    }

    /// `pending`, `finished` or `failed`.
    pub const fn status(&self) -> &'static str {
        match self.record.status {
            EpisodeStatus::Pending => "pending",
            EpisodeStatus::Finished => "finished",
            EpisodeStatus::Failed(_) => "failed",
        }
    }

    /// The kind of its environment: the text before the first `_` of the name.
    pub fn kind(&self) -> &str {
        kind(&self.record.environment)
    }

    /// None until the phase is judged, and if it is unscored.
    pub fn reward(&self) -> Option<f64> {
        self.record.verdict.as_ref()?.reward
    }

    /// Mean influence score.
    pub fn influence(&self) -> Option<f64> {
        self.record.verdict.as_ref()?.influence
    }

    /// `best`, `worst`, or nothing.
    pub fn selected(&self) -> Option<&'static str> {
        self.record.verdict.as_ref()?.selected.map(|end| match end {
            Selected::Best => "best",
            Selected::Worst => "worst",
        })
    }

    /// Kept out of selection by the influence detector.
    pub fn vetoed(&self) -> bool {
        self.record.verdict.as_ref().is_some_and(|verdict| verdict.vetoed)
    }

    /// A turn that the reward needs has no score.
    pub fn unscored(&self) -> bool {
        self.record.verdict.as_ref().is_some_and(|verdict| verdict.unscored)
    }
}

/// The kind of an environment: the text before the first `_` of its name.
pub(crate) fn kind(environment: &str) -> &str {
    environment.split('_').next().unwrap_or_default()
}

/// The rows of a phase, by run, iteration and phase.
type Kept = BTreeMap<(RunId, u32, Phase), Arc<Vec<EpisodeRow>>>;

/// Rows of episodes, read once where they no longer change: those of a judged phase.
#[derive(Debug, Default)]
pub struct Rows {
    judged: Mutex<Kept>,
}

impl Rows {
    /// The episodes of a run in plan order, by phase.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of(&self, store: &dyn Store, run: &RunId) -> Result<Vec<Arc<Vec<EpisodeRow>>>, StoreError> {
        let mut all = Vec::new();
        for planned in store.iterations(run).await? {
            let key = (run.clone(), planned.iteration, planned.phase);
            let kept = self.judged.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            if let Some(rows) = kept {
                all.push(rows);
                continue;
            }
            let (phase, iteration) = (planned.phase, planned.iteration);
            let records = store.episodes(run, phase, iteration).await?;
            let rows = Arc::new(
                records
                    .into_iter()
                    .map(|record| EpisodeRow { phase, iteration, record, metrics: BTreeMap::new() })
                    .collect(),
            );
            if planned.judged {
                self.judged.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&rows));
            }
            all.push(rows);
        }
        Ok(all)
    }
}

/// The same rows with what judges said about them, as it stands now.
///
/// # Errors
/// When the store cannot be read.
pub async fn with_metrics(
    store: &dyn Store,
    run: &RunId,
    phases: &[Arc<Vec<EpisodeRow>>],
) -> Result<Vec<Arc<Vec<EpisodeRow>>>, StoreError> {
    let mut all = Vec::with_capacity(phases.len());
    for phase in phases {
        let said = match phase.first() {
            Some(first) => store.metric_values(run, first.phase, first.iteration).await?,
            None => Vec::new(),
        };
        if said.is_empty() {
            all.push(Arc::clone(phase));
            continue;
        }
        let mut rows = phase.to_vec();
        // Both are in plan order.
        let mut said = said.into_iter().peekable();
        for row in &mut rows {
            while let Some(one) = said.next_if(|one| one.episode == row.record.id) {
                row.metrics.insert(one.source, one.value);
            }
        }
        all.push(Arc::new(rows));
    }
    Ok(all)
}

/// What results come to.
pub(super) fn values(said: &[MetricResult]) -> BTreeMap<MetricSource, Option<f64>> {
    said.iter().map(|result| (result.source.clone(), result.value())).collect()
}
