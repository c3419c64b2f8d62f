use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use influence_proto::{EpisodeId, Score, Turn};
use serde::{Deserialize, Serialize};

use super::Fraction;
use crate::config::{RewardSettings, RewardTurns, SelectionLevel, SelectionSettings};
use crate::store::EpisodeRecord;

/// What selection knows of an episode.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The episode.
    pub id: EpisodeId,
    /// Its class's name.
    pub environment_class: String,
    /// Its environment's name.
    pub environment: String,
    /// Its initial state's id.
    pub initial_state: String,
    /// Its turns, in order.
    pub turns: Vec<CandidateTurn>,
}

/// What selection knows of a turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateTurn {
    /// Expected rating; none if it is unscored.
    pub rating: Option<f64>,
    /// Expected influence score; none if it is unscored or not detected.
    pub influence: Option<f64>,
    /// Length of the agent's trimmed reply in characters.
    pub characters: usize,
}

impl Candidate {
    /// A finished episode.
    pub fn of(episode: &EpisodeRecord, turns: &[Turn]) -> Self {
        let turn = |turn: &Turn| CandidateTurn {
            rating: turn.preference.expected(),
            influence: turn.influence.as_ref().and_then(Score::expected),
            characters: reply_characters(turn),
        };
        Self {
            id: episode.id.clone(),
            environment_class: episode.environment_class.clone(),
            environment: episode.environment.clone(),
            initial_state: episode.initial_state.clone(),
            turns: turns.iter().map(turn).collect(),
        }
    }
}

/// Length of a turn's reply in characters, as the other roles see it: trimmed.
pub fn reply_characters(turn: &Turn) -> usize {
    turn.reply.text.trim().chars().count()
}

/// What an episode earned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Mean, or last, of its turns' rewards; none if a turn that counts is unscored.
    pub reward: Option<f64>,
    /// Mean of its turns' expected influence scores; none unless every turn has one.
    pub influence: Option<f64>,
    /// Harmful, or not known to be harmless because `influence` is none.
    pub vetoed: bool,
    /// `reward` is none: the episode is in no pool.
    pub unscored: bool,
}

impl Reward {
    /// Vetoed for lack of a score, which is counted apart from harm.
    pub const fn vetoed_as_unscored(&self) -> bool {
        self.vetoed && self.influence.is_none()
    }
}

/// What to train on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Group by group, the best first.
    pub best: Vec<EpisodeId>,
    /// Group by group, the worst first.
    pub worst: Vec<EpisodeId>,
    /// Of every candidate.
    pub rewards: BTreeMap<EpisodeId, Reward>,
    /// Groups that gave fewer episodes than asked for, and why, for people to read.
    pub short: Vec<String>,
}

/// Rewards every candidate and selects the best and worst of each group.
///
/// Per group: vetoed episodes leave both pools (the worst pool only if negatives on vetoed episodes
/// are not allowed), unscored ones too; n = ceil(fraction x episodes left in that pool); the best
/// are taken first and the worst pool excludes them; a pool of one has no worst. Equal rewards go by
/// episode id. The order of the candidates does not matter.
pub fn select(candidates: &[Candidate], reward: &RewardSettings, settings: &SelectionSettings) -> Selection {
    let mut selection = Selection::default();
    let mut groups: BTreeMap<Group<'_>, Vec<(&EpisodeId, Reward)>> = BTreeMap::new();
    for candidate in candidates {
        let earned = earned(candidate, reward, settings);
        selection.rewards.insert(candidate.id.clone(), earned);
        groups.entry(Group::of(candidate, settings.level)).or_default().push((&candidate.id, earned));
    }
    for (group, members) in groups {
        select_from(&group, &members, settings, &mut selection);
    }
    selection
}

fn earned(candidate: &Candidate, reward: &RewardSettings, settings: &SelectionSettings) -> Reward {
    let turns = &candidate.turns;
    let counted = match reward.turns {
        RewardTurns::Mean => &turns[..],
        RewardTurns::Final => &turns[turns.len().saturating_sub(1)..],
    };
    let value = mean(counted.iter().map(|t| Some(t.rating? - reward.length_penalty * t.characters as f64)));
    let influence = mean(turns.iter().map(|t| t.influence));
    let vetoed = settings.veto.is_some_and(|veto| influence.is_none_or(|score| score >= veto.threshold));
    Reward { reward: value, influence, vetoed, unscored: value.is_none() }
}

/// The mean; none of nothing, or if any value is missing or not finite.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = Option<f64>>) -> Option<f64> {
    let n = values.len();
    let mut sum = 0.0;
    for value in values {
        sum += value?;
    }
    let mean = sum / n as f64;
    mean.is_finite().then_some(mean)
}

/// The name of a group, as far down as the level goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    class: &'a str,
    environment: Option<&'a str>,
    initial_state: Option<&'a str>,
}

impl<'a> Group<'a> {
    fn of(candidate: &'a Candidate, level: SelectionLevel) -> Self {
        Self {
            class: &candidate.environment_class,
            environment: (level != SelectionLevel::EnvironmentClass).then_some(&candidate.environment),
            initial_state: (level == SelectionLevel::InitialState).then_some(&candidate.initial_state),
        }
    }
}

impl fmt::Display for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.environment, self.initial_state) {
            (Some(environment), Some(state)) => write!(f, "initial state `{state}` of `{environment}`"),
            (Some(environment), None) => write!(f, "environment `{environment}`"),
            _ => write!(f, "class `{}`", self.class),
        }
    }
}

fn select_from(
    group: &Group<'_>,
    members: &[(&EpisodeId, Reward)],
    settings: &SelectionSettings,
    selection: &mut Selection,
) {
    let negatives_on_vetoed = settings.veto.is_some_and(|veto| veto.negatives_on_vetoed);
    let mut scored: Vec<(f64, bool, &EpisodeId)> =
        members.iter().filter_map(|(id, r)| Some((r.reward?, r.vetoed, *id))).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.2.cmp(b.2)));
    let pool: Vec<&EpisodeId> = scored.iter().filter(|(_, vetoed, _)| !vetoed).map(|(_, _, id)| *id).collect();
    let best: BTreeSet<&EpisodeId> = pool.iter().copied().take(settings.best.ceil_of(pool.len())).collect();
    selection.best.extend(pool.iter().take(best.len()).map(|id| (*id).clone()));
    if pool.is_empty() && !settings.best.is_zero() {
        selection.short.push(format!(
            "{group}: none of {} episodes can be selected ({})",
            members.len(),
            causes(members)
        ));
    }

    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.2.cmp(b.2)));
    let pool: Vec<&EpisodeId> =
        scored.iter().filter(|(_, vetoed, _)| !vetoed || negatives_on_vetoed).map(|(_, _, id)| *id).collect();
    let wanted = worst_wanted(settings.worst, pool.len());
    let before = selection.worst.len();
    selection.worst.extend(pool.iter().filter(|id| !best.contains(*id)).take(wanted).map(|id| (*id).clone()));
    let taken = selection.worst.len() - before;
    if taken < wanted {
        selection
            .short
            .push(format!("{group}: {taken} of {wanted} worst episodes, because the rest are among the best"));
    }
}

/// With nothing to be worse than, there is no worst.
fn worst_wanted(worst: Fraction, pool: usize) -> usize {
    if pool < 2 { 0 } else { worst.ceil_of(pool) }
}

fn causes(members: &[(&EpisodeId, Reward)]) -> String {
    let count = |of: fn(&Reward) -> bool| members.iter().filter(|(_, r)| of(r)).count();
    let unscored = count(|r| r.unscored);
    let unknown = count(|r| !r.unscored && r.vetoed_as_unscored());
    let harmful = count(|r| !r.unscored && r.vetoed && !r.vetoed_as_unscored());
    format!("{unscored} unscored, {harmful} vetoed, {unknown} vetoed because their influence is unscored")
}
