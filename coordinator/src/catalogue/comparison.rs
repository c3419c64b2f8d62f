//! Two iterations, of one run or of two, over the initial states that both have.

use std::str::FromStr;

use influence_proto::{InvalidMessage, RunId};
use serde::Serialize;

use super::measures::{Measured, measured, measures};
use super::pairs::{Pair, pairs};
use crate::config::nearest_name;
use crate::experiment::agent_of;
use crate::planning::Phase;
use crate::statistics::{Paired, holm, paired};
use crate::store::{Store, StoreError};

/// The bootstrap's draws: a comparison shows the same interval whenever it is looked at.
const SEED: u64 = 1;

/// An iteration of a run, as in `demo:3`, `demo:last` or, for the last one, `demo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunIteration {
    /// The run.
    pub run: RunId,
    /// Its iteration; none: the last.
    pub iteration: Option<u32>,
}

impl FromStr for RunIteration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (run, iteration) = match text.split_once(':') {
            None | Some((_, "last")) => (text.split(':').next().unwrap_or_default(), None),
            Some((run, number)) => match number.parse() {
                Ok(number) => (run, Some(number)),
                Err(_) => return Err(format!("`{number}` is no iteration; write RUN:2, or RUN:last")),
            },
        };
        let run = RunId::new(run).map_err(|error: InvalidMessage| error.to_string())?;
        Ok(Self { run, iteration })
    }
}

/// Why two sides cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A side is not there.
    #[error("{asked} has no {}; {has}", phase.map_or_else(|| "such iteration".to_owned(), |phase| format!("such iteration in the phase `{phase}`")))]
    NoIteration {
        /// What was asked for.
        asked: String,
        /// In which phase, if one was named.
        phase: Option<Phase>,
        /// What there is.
        has: String,
    },
    /// One side was evaluated, the other trained on.
    #[error("{a} and {b} have no phase in common: {a} has {a_has}; {b} has {b_has}")]
    NoPhase {
        /// One side.
        a: String,
        /// Its iterations.
        a_has: String,
        /// The other.
        b: String,
        /// Its iterations.
        b_has: String,
    },
    /// Nothing can be paired.
    #[error("{a} and {b} have no initial state in common; only conversations that began alike can be compared")]
    NoPairs {
        /// One side.
        a: String,
        /// The other.
        b: String,
    },
    /// A metric that no episode has.
    #[error("nothing called `{name}` is measured here; {hint}")]
    NoMeasure {
        /// As given.
        name: String,
        /// What there is.
        hint: String,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The run.
    pub run: RunId,
    /// Its iteration.
    pub iteration: u32,
    /// What the agent was.
    pub agent: String,
}

/// What two sides say about the same openings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Training or evaluation episodes.
    pub phase: Phase,
    /// One side.
    pub a: Side,
    /// The other.
    pub b: Side,
    /// Openings that both have.
    pub openings: usize,
    /// Openings that only one of them has: they are left out.
    pub alone: usize,
    /// What is measured.
    pub figures: Vec<Figure>,
}

/// Something that is measured on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name.
    pub measure: String,
    /// Episodes of A that have it, of all in the common openings.
    pub a_scored: (usize, usize),
    /// The same of B.
    pub b_scored: (usize, usize),
    /// What comes out, one value for each opening; none if no opening has one on both sides.
    pub paired: Option<Paired>,
    /// The p value of the test, corrected for the number of figures by [`holm`].
    pub p_corrected: Option<f64>,
}

/// Compares A with B in a phase; by default in evaluations if both have one there, else in training. `wanted` names
/// what is compared; by default all that is measured.
///
/// # Errors
/// When one of them is not there, when nothing can be paired, or when the store cannot be read.
pub async fn compare(
    store: &dyn Store,
    a: &RunIteration,
    b: &RunIteration,
    phase: Option<Phase>,
    wanted: &[String],
) -> Result<Comparison, CompareError> {
    let (a_has, b_has) = (planned(store, a).await?, planned(store, b).await?);
    let phases = phase.map_or(vec![Phase::Evaluate, Phase::Train], |phase| vec![phase]);
    let found = phases.iter().find_map(|phase| Some((*phase, find(&a_has, a, *phase)?, find(&b_has, b, *phase)?)));
    let Some((phase, a_iteration, b_iteration)) = found else {
        return Err(missing(a, &a_has, b, &b_has, phase));
    };
    let a_episodes = measured(store, &a.run, phase, a_iteration).await?;
    let b_episodes = measured(store, &b.run, phase, b_iteration).await?;
    let (both, alone) = pairs(&a_episodes, &b_episodes);
    if both.is_empty() {
        return Err(CompareError::NoPairs { a: shown(a), b: shown(b) });
    }
    let mut known = measures(a_episodes.iter().chain(&b_episodes));
    for name in wanted {
        if !known.iter().any(|(measure, _)| measure == name) {
            let names = known.iter().map(|(measure, _)| measure.as_str());
            let all = format!("there are {}", names.clone().collect::<Vec<_>>().join(", "));
            let hint = nearest_name(name, names).map_or(all, |near| format!("did you mean `{near}`?"));
            return Err(CompareError::NoMeasure { name: name.clone(), hint });
        }
    }
    known.retain(|(measure, _)| wanted.is_empty() || wanted.contains(measure));
    let figures =
        corrected(known.iter().map(|(name, measure)| figure(name, &both, |episode| measure.of(episode))).collect());
    let side = async |of: &RunIteration, iteration| {
        let agent = agent_of(&store.run(&of.run).await?, iteration);
        Ok::<_, StoreError>(Side { run: of.run.clone(), iteration, agent })
    };
    let (a, b) = (side(a, a_iteration).await?, side(b, b_iteration).await?);
    Ok(Comparison { phase, a, b, openings: both.len(), alone, figures })
}

/// Figures of one table, with their p values corrected for their number.
pub(crate) fn corrected(mut figures: Vec<Figure>) -> Vec<Figure> {
    let p: Vec<Option<f64>> = figures.iter().map(|figure| figure.paired?.p).collect();
    figures.iter_mut().zip(holm(&p)).for_each(|(figure, p)| figure.p_corrected = p);
    figures
}

fn figure(name: &str, both: &[Pair<'_, Measured>], value: impl Fn(&Measured) -> Option<f64>) -> Figure {
    let scored = |side: for<'p> fn(&'p Pair<'_, Measured>) -> &'p [&'p Measured]| {
        let all = || both.iter().flat_map(side);
        (all().filter(|episode| value(episode).is_some()).count(), all().count())
    };
    let means: Vec<(f64, f64)> = both.iter().filter_map(|pair| pair.means(&value)).collect();
    Figure {
        measure: name.to_owned(),
        a_scored: scored(|pair| &pair.a),
        b_scored: scored(|pair| &pair.b),
        paired: paired(&means, SEED),
        p_corrected: None,
    }
}

/// Phases and iterations of a run.
async fn planned(store: &dyn Store, of: &RunIteration) -> Result<Vec<(Phase, u32)>, StoreError> {
    store.run(&of.run).await?;
    Ok(store.iterations(&of.run).await?.into_iter().map(|planned| (planned.phase, planned.iteration)).collect())
}

fn find(has: &[(Phase, u32)], wanted: &RunIteration, phase: Phase) -> Option<u32> {
    let mut of_phase = has.iter().filter(|(of, _)| *of == phase).map(|(_, iteration)| *iteration);
    match wanted.iteration {
        Some(iteration) => of_phase.find(|known| *known == iteration),
        None => of_phase.next_back(),
    }
}

fn missing(
    a: &RunIteration,
    a_has: &[(Phase, u32)],
    b: &RunIteration,
    b_has: &[(Phase, u32)],
    phase: Option<Phase>,
) -> CompareError {
    let lacks = |of: &RunIteration, has: &[(Phase, u32)]| match phase {
        Some(phase) => find(has, of, phase).is_none(),
        None => find(has, of, Phase::Evaluate).or_else(|| find(has, of, Phase::Train)).is_none(),
    };
    for (side, has) in [(a, a_has), (b, b_has)] {
        if lacks(side, has) {
            return CompareError::NoIteration { asked: shown(side), phase, has: format!("it has {}", listed(has)) };
        }
    }
    CompareError::NoPhase { a: shown(a), a_has: listed(a_has), b: shown(b), b_has: listed(b_has) }
}

fn shown(side: &RunIteration) -> String {
    side.iteration.map_or_else(|| side.run.to_string(), |iteration| format!("{}:{iteration}", side.run))
}

fn listed(has: &[(Phase, u32)]) -> String {
    let of = |phase: Phase| {
        let numbers: Vec<String> = has.iter().filter(|(of, _)| *of == phase).map(|(_, k)| k.to_string()).collect();
        (!numbers.is_empty()).then(|| format!("{phase} {}", numbers.join(", ")))
    };
    let all: Vec<String> = [Phase::Evaluate, Phase::Train].into_iter().filter_map(of).collect();
    if all.is_empty() { "nothing yet".to_owned() } else { all.join(" and ") }
}
