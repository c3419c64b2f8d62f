//! Which initial states there are to draw from, and how many of each environment's are drawn.

use std::collections::BTreeMap;

use influence_proto::stream;

use crate::config::{EnvironmentSettings, EvaluationSettings, Order};
use crate::environments::EnvironmentClass;
use crate::selection::Fraction;

/// The key that covers every environment that no other key names.
const REST: &str = "*";

/// An environment's initial states, split for good: both parts keep the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// What training draws from; never empty for an environment with any initial state, unless all are held out.
    pub training: Vec<String>,
    /// What evaluation draws from.
    pub held_out: Vec<String>,
}

/// Splits an environment's pool, by template: no opening that is held out is a variant of one that is trained on. The held-out
/// part is the share of the templates rounded to the nearest number, but at least one where the share is above 0, and all of
/// them only if the share is 1. It depends on the seed and the environment's name alone.
pub fn pool(class: &EnvironmentClass, environment: &str, held_out: Fraction, seed: u64) -> Pool {
    let states = class.initial_states(environment);
    let templates = states.iter().map(|state| state.place + 1).max().unwrap_or_default();
    let wanted = if held_out.is_zero() { 0 } else { held_out.round_of(templates).max(1) };
    let most = if held_out == Fraction::ONE { templates } else { templates.saturating_sub(1) };
    let wanted = wanted.min(most);
    let order = stream::permutation(stream::derive(seed, &["held_out", environment]), templates);
    let mut is_held_out = vec![false; templates];
    order.into_iter().take(wanted).for_each(|index| is_held_out[index] = true);
    let part = |held: bool| {
        let chosen = states.iter().filter(|state| is_held_out[state.place] == held);
        chosen.map(|state| state.id.clone().into_owned()).collect()
    };
    Pool { training: part(false), held_out: part(true) }
}

/// The fraction key that covers an environment, if any.
fn key_of<'f>(environment: &str, fractions: &'f BTreeMap<String, Fraction>) -> Option<(&'f str, Fraction)> {
    let prefix = environment.split('_').next().unwrap_or(environment);
    let (key, share) = fractions.get_key_value(prefix).or_else(|| fractions.get_key_value(REST))?;
    Some((key.as_str(), *share))
}

/// Environments that an experiment uses at all, in order: a fraction covers them, if only with 0.
pub(super) fn used<'c>(class: &'c EnvironmentClass, settings: &EnvironmentSettings) -> Vec<&'c str> {
    class.environments().filter(|name| key_of(name, &settings.fractions).is_some()).collect()
}

/// Initial states per iteration of each environment that is trained on. The total is
/// `initial_states` times their number; it is shared among the fractions, and each share among its
/// environments, by largest remainder (ties to the first in order).
pub fn shares<'c>(class: &'c EnvironmentClass, settings: &EnvironmentSettings) -> BTreeMap<&'c str, usize> {
    let mut groups: BTreeMap<&str, (Fraction, Vec<&'c str>)> = BTreeMap::new();
    for name in class.environments() {
        match key_of(name, &settings.fractions) {
            Some((key, share)) if !share.is_zero() => {
                groups.entry(key).or_insert_with(|| (share, Vec::new())).1.push(name);
            }
            _ => {}
        }
    }
    let environments: usize = groups.values().map(|(_, names)| names.len()).sum();
    let total = settings.initial_states as usize * environments;
    let split: Vec<(usize, Fraction)> = groups.values().map(|(share, _)| share.split(total)).collect();
    let mut counts = BTreeMap::new();
    for ((_, names), count) in groups.values().zip(largest_remainder(&split, total)) {
        let each = count / names.len();
        let first = count % names.len();
        counts.extend(names.iter().enumerate().map(|(i, name)| (*name, each + usize::from(i < first))));
    }
    counts
}

/// Rounds shares to whole numbers that sum to `total`: the parts with the largest remainders go up.
fn largest_remainder(parts: &[(usize, Fraction)], total: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = parts.iter().map(|(whole, _)| *whole).collect();
    let missing = total.saturating_sub(counts.iter().sum());
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|a, b| parts[*b].1.cmp(&parts[*a].1).then(a.cmp(b)));
    order.into_iter().take(missing).for_each(|index| counts[index] += 1);
    counts
}

/// Something about the pools that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolProblem {
    /// Keys from the experiment's root.
    pub(crate) key: Vec<String>,
    /// What it is.
    pub(crate) message: String,
    /// Worth knowing, but not wrong.
    pub(crate) note: bool,
}

/// What settings ask of a class that it cannot give.
pub(crate) fn check_pools(
    class: &EnvironmentClass,
    settings: &EnvironmentSettings,
    evaluation: &EvaluationSettings,
    seed: u64,
) -> Vec<PoolProblem> {
    let mut found = unmatched_fractions(class, settings);
    if settings.order == Order::Fixed {
        let needs = |(name, count): (&str, usize)| {
            let n = pool(class, name, settings.held_out, seed).training.len();
            (count > n).then(|| format!("`{name}` needs {count} and has {n} left for training"))
        };
        let lacking: Vec<String> = shares(class, settings).into_iter().filter_map(needs).collect();
        found.extend(listed(&lacking).map(|list| PoolProblem {
            key: vec!["environments".into(), "initial_states".into()],
            message: format!(
                "is too much for the order `fixed`: {list}; ask for fewer, hold out fewer, or choose another `order`"
            ),
            note: false,
        }));
    }
    if !evaluation.after.is_empty() {
        let wanted = evaluation.initial_states as usize;
        let needs = |name: &str| {
            let n = pool(class, name, settings.held_out, seed).held_out.len();
            (n < wanted).then(|| format!("`{name}` has {n}"))
        };
        let lacking: Vec<String> = used(class, settings).into_iter().filter_map(needs).collect();
        found.extend(listed(&lacking).map(|list| PoolProblem {
            key: vec!["evaluation".into(), "initial_states".into()],
            message: format!(
                "is {wanted}, but fewer are held out of some environments, and all of those are used: {list}"
            ),
            note: true,
        }));
    }
    found
}

/// The first few of a list, for a message; none of none.
fn listed(items: &[String]) -> Option<String> {
    let more = match items.len().saturating_sub(3) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    (!items.is_empty()).then(|| format!("{}{more}", items[..items.len().min(3)].join(", ")))
}

fn unmatched_fractions(class: &EnvironmentClass, settings: &EnvironmentSettings) -> Vec<PoolProblem> {
    let covered: Vec<&str> =
        class.environments().filter_map(|name| key_of(name, &settings.fractions)).map(|(key, _)| key).collect();
    let mut prefixes: Vec<&str> = class.environments().filter_map(|name| name.split('_').next()).collect();
    prefixes.dedup();
    let idle = settings.fractions.iter().filter(|(key, share)| !share.is_zero() && !covered.contains(&key.as_str()));
    let describe = |(key, share): (&String, &Fraction)| {
        let there = prefixes.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
        PoolProblem {
            key: vec!["environments".into(), "fractions".into(), key.clone()],
            message: format!(
                "is {share}, but matches no environment of the class `{}`; the prefixes there are {there}",
                class.name()
            ),
            note: false,
        }
    };
    idle.map(describe).collect()
}
