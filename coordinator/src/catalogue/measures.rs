use std::collections::BTreeSet;

use influence_proto::RunId;

use super::EpisodeRow;
use crate::planning::Phase;
use crate::selection::reply_characters;
use crate::store::{EpisodeStatus, MetricSource, Store, StoreError};

/// An episode with all that is measured about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The episode.
    pub row: EpisodeRow,
    /// Mean length of its trimmed replies; none before it is finished.
    pub reply_characters: Option<f64>,
}

impl AsRef<EpisodeRow> for Measured {
    fn as_ref(&self) -> &EpisodeRow {
        &self.row
    }
}

/// Something that is measured about episodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// What selection goes by.
    Reward,
    /// The mean influence score.
    Influence,
    /// In characters.
    ReplyLength,
    /// What a judge said.
    Metric(MetricSource),
}

impl Measure {
    /// Its value; none if it is unscored, or was not asked.
    pub fn of(&self, episode: &Measured) -> Option<f64> {
        match self {
            Self::Reward => episode.row.reward(),
            Self::Influence => episode.row.influence(),
            Self::ReplyLength => episode.reply_characters,
            Self::Metric(source) => *episode.row.metrics.get(source)?,
        }
    }
}

/// The episodes of an iteration's phase with all that is measured about them.
///
/// # Errors
/// When the store cannot be read.
pub async fn measured(
    store: &dyn Store,
    run: &RunId,
    phase: Phase,
    iteration: u32,
) -> Result<Vec<Measured>, StoreError> {
    let mut all = Vec::new();
    let mut said = store.metric_values(run, phase, iteration).await?.into_iter().peekable();
    for record in store.episodes(run, phase, iteration).await? {
        let turns = match record.status {
            EpisodeStatus::Finished => store.journal(run, &record.id).await?,
            EpisodeStatus::Pending | EpisodeStatus::Failed(_) => Vec::new(),
        };
        let characters: usize = turns.iter().map(reply_characters).sum();
        // Both are in plan order.
        let of_episode = std::iter::from_fn(|| said.next_if(|one| one.episode == record.id));
        let metrics = of_episode.map(|one| (one.source, one.value)).collect();
        all.push(Measured {
            reply_characters: (!turns.is_empty()).then(|| characters as f64 / turns.len() as f64),
            row: EpisodeRow { phase, iteration, record, metrics },
        });
    }
    Ok(all)
}

/// What is measured about any of these, by names that tell them apart.
pub fn measures<'m>(episodes: impl IntoIterator<Item = &'m Measured>) -> Vec<(String, Measure)> {
    let (mut influence, mut sources) = (false, BTreeSet::new());
    for episode in episodes {
        influence |= episode.row.influence().is_some();
        sources.extend(episode.row.metrics.keys());
    }
    let mut all = vec![("reward".to_owned(), Measure::Reward)];
    all.extend(influence.then(|| ("influence".to_owned(), Measure::Influence)));
    all.push(("reply-length".to_owned(), Measure::ReplyLength));
    all.extend(sources.iter().map(|source| (source.name_among(&sources), Measure::Metric((*source).clone()))));
    all
}
