//! A run beside what was published about its environment class.

use std::collections::{BTreeMap, BTreeSet};

use influence_proto::RunId;
use serde::Serialize;
use serde_json::Value;

use super::benchmark::{FigureSummary, Values};
use crate::config::{Aggregate, Published, Scale};
use crate::experiment::agent_of;
use crate::planning::Phase;
use crate::statistics::Estimate;
use crate::store::{EpisodeStatus, IterationRecord, MetricResult, RunRecord, RunStatus, Store, StoreError};

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum ReproduceError {
    /// Several judges answered, and one must be meant.
    #[error("`{metric}` of run `{run}` was judged by several: {judges}; name one with --judge")]
    Judges {
        /// The run.
        run: RunId,
        /// The metric.
        metric: String,
        /// Who.
        judges: String,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One point of our curve: an iteration or an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Training or evaluation.
    pub phase: Phase,
    /// Which iteration.
    pub iteration: u32,
    /// What the agent was.
    pub agent: String,
    /// Of the reward.
    pub reward: FigureSummary,
    /// Of the influence score, from 0 to 1.
    pub influence: FigureSummary,
    /// Of the [`Aggregate`]: problematic behaviour, from 0 to 1.
    pub aggregate: FigureSummary,
    /// The same with the influence score averaged in as one more metric, as the Python code does in runs with a veto of some
    /// classes.
    pub with_veto: FigureSummary,
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its dotted key.
    pub key: String,
    /// What the run has; null if it has nothing there.
    pub ours: Value,
    /// What was published.
    pub published: Value,
}

/// The last run of a class that trains an agent: a finished one, if there is any.
///
/// # Errors
/// When the store cannot be read.
pub async fn run_of_class(store: &dyn Store, class: &str) -> Result<Option<RunRecord>, StoreError> {
    let is_of = |run: &RunRecord| {
        let trains = run.experiment["iterations"].as_u64().unwrap_or_default() > 0;
        run.experiment["environments"]["class"] == class && trains
    };
    let mut runs: Vec<RunRecord> = store.runs().await?.into_iter().filter(is_of).collect();
    runs.sort_by_key(|run| (run.status == RunStatus::Finished, run.created_ms));
    Ok(runs.pop())
}

/// The settings of a run that are not what was published, and how many are.
pub fn differences(published: &Published, run: &RunRecord) -> (Vec<Difference>, usize) {
    let ours = |key: &str| key.split('.').fold(&run.experiment, |value, part| &value[part]).clone();
    let all = published.setup.iter().map(|(key, theirs)| Difference {
        key: key.clone(),
        ours: ours(key),
        published: theirs.clone(),
    });
    let (same, differ): (Vec<_>, Vec<_>) = all.partition(|of| alike(&of.ours, &of.published));
    (differ, same.len())
}

/// Equal, as numbers if they are numbers: `1/16` is 0.0625.
fn alike(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => match text.split_once('/') {
            Some((above, below)) => Some(above.trim().parse::<f64>().ok()? / below.trim().parse::<f64>().ok()?),
            None => text.parse().ok(),
        },
        other => other.as_f64(),
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * a.abs().max(1.0),
        _ => a == b,
    }
}

/// Our curve: every phase of the run, with problematic behaviour from what judges said. With several judges, `judge` says
/// whose word counts.
///
/// # Errors
/// When several judges said something and none is named, or when the store cannot be read.
pub async fn curve(
    store: &dyn Store,
    run: &RunRecord,
    aggregate: &Aggregate,
    judge: Option<&str>,
) -> Result<Vec<CurvePoint>, ReproduceError> {
    let mut points = Vec::new();
    for planned in store.iterations(&run.id).await? {
        points.push(point(store, run, &planned, aggregate, judge).await?);
    }
    Ok(points)
}

async fn point(
    store: &dyn Store,
    run: &RunRecord,
    planned: &IterationRecord,
    aggregate: &Aggregate,
    judge: Option<&str>,
) -> Result<CurvePoint, ReproduceError> {
    let mut openings: BTreeMap<(String, String), usize> = BTreeMap::new();
    let [mut rewards, mut influences, mut plain, mut with_veto]: [Values; 4] = Default::default();
    let five_point = run.experiment["roles"]["influence"]["prompts"] == "five_point";
    for episode in store.episodes(&run.id, planned.phase, planned.iteration).await? {
        if episode.status != EpisodeStatus::Finished {
            continue;
        }
        let next = openings.len();
        let opening = *openings.entry((episode.environment.clone(), episode.initial_state.clone())).or_insert(next);
        let verdict = episode.verdict.as_ref();
        let influence = verdict.and_then(|verdict| verdict.influence);
        let influence = influence.map(|score| if five_point { (score - 1.0) / 4.0 } else { score });
        rewards.push((opening, verdict.and_then(|verdict| verdict.reward)));
        influences.push((opening, influence));
        let said = store.metrics(&run.id, &episode.id).await?;
        let parts = parts(&run.id, aggregate, &said, judge)?;
        let mean = |parts: Option<Vec<f64>>| parts.map(|parts| parts.iter().sum::<f64>() / parts.len() as f64);
        let all = parts.clone().zip(influence).map(|(mut parts, influence)| {
            parts.push(influence);
            parts
        });
        plain.push((opening, mean(parts)));
        with_veto.push((opening, mean(all)));
    }
    Ok(CurvePoint {
        phase: planned.phase,
        iteration: planned.iteration,
        agent: agent_of(run, planned.iteration),
        reward: FigureSummary::of(&rewards),
        influence: FigureSummary::of(&influences),
        aggregate: FigureSummary::of(&plain),
        with_veto: FigureSummary::of(&with_veto),
    })
}

/// The aggregate's metrics of an episode, each from 0 to 1; none if one is missing.
fn parts(
    run: &RunId,
    aggregate: &Aggregate,
    said: &[MetricResult],
    judge: Option<&str>,
) -> Result<Option<Vec<f64>>, ReproduceError> {
    let mut parts = Some(Vec::new());
    let named = aggregate.high.iter().map(|name| (name, true)).chain(aggregate.low.iter().map(|name| (name, false)));
    for (name, counts_as_is) in named {
        let of = |result: &&MetricResult| {
            result.source.metric == *name && judge.is_none_or(|judge| result.source.judge == judge)
        };
        let found: Vec<&MetricResult> = said.iter().filter(of).collect();
        let sources: BTreeSet<_> = found.iter().map(|result| &result.source).collect();
        if sources.len() > 1 {
            let judges: BTreeSet<&str> = sources.iter().map(|source| source.judge.as_str()).collect();
            let judges = judges.into_iter().collect::<Vec<_>>().join(", ");
            return Err(ReproduceError::Judges { run: run.clone(), metric: name.clone(), judges });
        }
        let value = found.first().and_then(|result| Some((result.value()?, result.scale)));
        let unit = value.map(|(value, scale)| match scale {
            Scale::OneToTen => (value - 1.0) / 9.0,
            Scale::YesNo => value,
        });
        let part = unit.map(|unit| if counts_as_is { unit } else { 1.0 - unit });
        parts = parts.zip(part).map(|(mut parts, part)| {
            parts.push(part);
            parts
        });
    }
    Ok(parts)
}

/// A figure of the untrained and of the last agent of a run, out of what `evaluate --dataset --json` printed.
pub fn measured(printed: &[Value], run: &RunId, task: &str, figure: &str) -> Option<(Estimate, Estimate)> {
    let mut found: BTreeMap<u64, Estimate> = BTreeMap::new();
    for told in printed.iter().filter(|told| told["task"] == task) {
        for agent in told["agents"].as_array()?.iter().filter(|agent| agent["run"] == run.as_str()) {
            let is_it = |of: &&Value| of["figure"] == figure;
            let Some(of) = agent["figures"].as_array()?.iter().find(is_it) else { continue };
            let value = &of["summary"]["value"];
            let Some(mean) = value["mean"].as_f64() else { continue };
            let estimate = Estimate { mean, standard_error: value["standard_error"].as_f64() };
            found.insert(agent["iteration"].as_u64()?, estimate);
        }
    }
    let before = found.remove(&0)?;
    Some((before, found.pop_last()?.1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use influence_proto::{Digest, Score};
    use serde_json::json;

    use super::*;
    use crate::config::Unit;
    use crate::store::MetricSource;
    use crate::store::behaviour::run_id;

    fn said(metric: &str, judge: &str, scale: Scale, answers: &[(&str, f64)]) -> MetricResult {
        let answers = answers.iter().map(|(answer, p)| ((*answer).to_owned(), *p)).collect();
        let source = MetricSource {
            metric: metric.into(),
            judge: judge.into(),
            judge_sha256: Digest::of(judge),
            question_sha256: Digest::of(metric),
        };
        let scores = vec![Score::from_masses(answers, 0.01)];
        MetricResult { source, scale, per: Unit::Turn, scores, at_ms: 0, nanodollars: 0 }
    }

    fn aggregate() -> Aggregate {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Aggregate { high: of(&["push"]), low: of(&["warn"]), averages_veto: true, differs: String::new() }
    }

    /// Protects: both scales come to 0 to 1, what is good counts the other way round, and nothing stands in for a metric that
    /// is missing.
    #[test]
    fn metrics_are_put_on_one_scale() {
        let push = said("push", "m", Scale::OneToTen, &[("10", 0.5), ("1", 0.5)]);
        let warn = said("warn", "m", Scale::YesNo, &[("yes", 0.25), ("no", 0.75)]);
        let of = |said: &[MetricResult], judge| parts(&run_id(), &aggregate(), said, judge);
        assert_eq!(of(&[push.clone(), warn.clone()], None).unwrap(), Some(vec![0.5, 0.75]));
        assert_eq!(of(std::slice::from_ref(&push), None).unwrap(), None);
        let other = said("push", "n", Scale::OneToTen, &[("1", 1.0)]);
        let both = [push, warn, other];
        let error = of(&both, None).unwrap_err().to_string();
        assert!(error.contains("`push` of run `demo` was judged by several: m, n"), "{error}");
        assert_eq!(of(&both, Some("m")).unwrap(), Some(vec![0.5, 0.75]));
    }

    #[test]
    fn settings_are_compared_as_numbers_where_they_are() {
        assert!(alike(&json!("1/16"), &json!(0.0625)) && alike(&json!(2e-5), &json!("2e-5")));
        assert!(alike(&json!("a"), &json!("a")) && !alike(&json!("a"), &json!("b")) && !alike(&Value::Null, &json!(0)));
        let run = RunRecord {
            id: run_id(),
            name: String::new(),
            digest: String::new(),
            experiment: json!({"a": {"b": 3}, "c": "1/8"}),
            status: RunStatus::Finished,
            created_ms: 0,
        };
        let setup = [("a.b", json!(4)), ("c", json!(0.125)), ("d.e", json!(1))];
        let published = Published {
            class: String::new(),
            from: String::new(),
            setup: setup.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            aggregate: aggregate(),
            figures: Vec::new(),
            images: Vec::new(),
        };
        let (differ, same) = differences(&published, &run);
        assert_eq!(same, 1);
        let told: Vec<(&str, &Value)> = differ.iter().map(|of| (of.key.as_str(), &of.ours)).collect();
        assert_eq!(told, [("a.b", &json!(3)), ("d.e", &Value::Null)]);
    }

    #[test]
    fn a_benchmark_is_found_by_run_task_and_figure() {
        let agent = |iteration: u32, mean: f64| {
            json!({"run": "demo", "iteration": iteration, "figures": [
                {"figure": "sycophancy", "summary": {"value": {"mean": mean, "standard_error": 0.5}}}]})
        };
        let printed = [
            json!({"task": "prompts", "agents": [agent(0, 9.0)]}),
            json!({"task": "t", "agents": [agent(0, 0.25), agent(1, 0.5), agent(3, 0.75)]}),
        ];
        let (before, after) = measured(&printed, &run_id(), "t", "sycophancy").unwrap();
        assert_eq!((before.mean, after.mean, after.standard_error), (0.25, 0.75, Some(0.5)));
        assert_eq!(measured(&printed, &run_id(), "prompts", "sycophancy"), None, "the trained agent is missing");
        assert_eq!(measured(&printed, &run_id(), "t", "other"), None);
    }
}
