//! Asking a judge about conversations that are stored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use influence_coordinator::Cluster;
use influence_coordinator::config::{Metric, default_scoring, load_metrics};
use influence_coordinator::dispatch::DispatchError;
use influence_coordinator::evaluation::{Question, questions, source};
use influence_coordinator::store::{EpisodeRecord, EpisodeStatus, MetricResult, MetricSource, RunRecord, Store};
use influence_proto::{Ask, ModelCall, ModelSpec, Role, Said, Score, Scoring, stream};
use serde::Deserialize as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::wanted;
use crate::answering::{Answers, Asked};
use crate::args::{EvaluateArguments, IterationName, ModelsFileArguments};
use crate::coordinate::Door;
use crate::place;
use crate::stored::artifacts;

/// How many conversations other processes' workers are asked about at once: more than they have slots for.
const ASKED_ELSEWHERE: usize = 256;

/// Judges the runs' conversations by every question that fits them and that was not asked yet. Each answer is stored at
/// once, so whoever is stopped goes on where it was.
pub(super) async fn all(
    store: &Arc<dyn Store>,
    runs: &[RunRecord],
    iterations: &[IterationName],
    arguments: &EvaluateArguments,
    door: Option<&Door>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = metrics(arguments)?;
    let (mut todo, mut judges) = (Vec::new(), Vec::new());
    for run in runs {
        let judge = judge(run, arguments)?;
        // An imported run does not say how a judge is to be read.
        let scoring = match &run.experiment["scoring"] {
            Value::Null => default_scoring(),
            said => {
                Scoring::deserialize(said).with_context(|| format!("run `{}` does not say how it scores", run.id))?
            }
        };
        let asking = Asking { store: &**store, run, metrics: &metrics, judge: judge.clone(), scoring };
        let left = asking.left(iterations).await?;
        if !left.is_empty() && !judges.contains(&judge) {
            judges.push(judge);
        }
        todo.push((asking, left));
    }
    let Some(run) = runs.first().filter(|_| !judges.is_empty()) else { return Ok(()) };
    if let Some(judge) = judges.iter().find(|judge| judges.iter().filter(|other| other.name == judge.name).count() > 1)
    {
        anyhow::bail!(
            "two of the runs mean different models by `{}`, which rates them: evaluate them one after the other, or name one --judge",
            judge.name
        );
    }
    let artifacts = artifacts(&arguments.data, arguments.artifacts.as_ref(), &run.id).await?;
    let asked = Asked { run: run.id.clone(), models: judges, store: store.clone(), artifacts };
    let mut answers = Answers::start(asked, door, &arguments.rollouts).await?;
    let at_once = if door.is_some() { ASKED_ELSEWHERE } else { arguments.rollouts.calls_at_once() };
    let cluster = answers.cluster().clone();
    let everything = async {
        for (asking, left) in &todo {
            asking.about_all(&cluster, left, at_once).await?;
        }
        Ok(())
    };
    let done = tokio::select! {
        done = everything => done,
        broken = answers.broken() => return Err(broken),
        () = cancel.cancelled() => {
            Err(anyhow::anyhow!("stopped; what was answered is kept, and the same command goes on from there"))
        }
    };
    let ended = answers.end().await;
    done?;
    ended
}

/// The questions that are asked.
pub(super) fn metrics(arguments: &EvaluateArguments) -> anyhow::Result<Vec<Metric>> {
    let usual = || arguments.configs.join("evaluations/influence.yaml");
    let file = arguments.metrics.clone().unwrap_or_else(usual);
    let mut metrics = load_metrics(&file)?;
    let known: Vec<String> = metrics.iter().map(|metric| metric.name.clone()).collect();
    if let Some(missing) = arguments.metric.iter().find(|name| !known.contains(name)) {
        anyhow::bail!("{} has no metric `{missing}`; it has {}", file.display(), known.join(", "));
    }
    metrics.retain(|metric| arguments.metric.is_empty() || arguments.metric.contains(&metric.name));
    Ok(metrics)
}

/// The model that is asked.
pub(super) fn judge(run: &RunRecord, arguments: &EvaluateArguments) -> anyhow::Result<ModelSpec> {
    if let Some(judge) = &arguments.judge {
        let place = ModelsFileArguments { configs: arguments.configs.clone(), cache: arguments.rollouts.cache.clone() };
        return place::named_or_path(judge, &place);
    }
    let name = run.experiment["roles"]["preference"]["model"].as_str().unwrap_or_default();
    ModelSpec::deserialize(&run.experiment["models"][name])
        .with_context(|| format!("run `{}` does not say what its ratings are by; name a model with --judge", run.id))
}

/// A run whose conversations are judged.
struct Asking<'a> {
    store: &'a dyn Store,
    run: &'a RunRecord,
    metrics: &'a [Metric],
    judge: ModelSpec,
    scoring: Scoring,
}

/// A conversation, and what about it was not asked yet.
struct Left<'a> {
    episode: EpisodeRecord,
    metrics: Vec<(&'a Metric, MetricSource)>,
}

impl<'a> Asking<'a> {
    /// What is to be asked.
    async fn left(&self, iterations: &[IterationName]) -> anyhow::Result<Vec<Left<'a>>> {
        let (store, run) = (self.store, &self.run.id);
        let iterations = wanted(store, run, iterations).await?;
        let (mut left, mut unfit) = (Vec::new(), false);
        for planned in store.iterations(run).await? {
            if !iterations.contains(&planned.iteration) {
                continue;
            }
            for episode in store.episodes(run, planned.phase, planned.iteration).await? {
                if episode.status != EpisodeStatus::Finished {
                    continue;
                }
                let asked: BTreeSet<_> =
                    store.metrics(run, &episode.id).await?.into_iter().map(|said| said.source).collect();
                let fit = self.metrics.iter().filter(|metric| is_for(metric, &episode.environment_class));
                let mut metrics: Vec<_> =
                    fit.map(|metric| (metric, source(metric, &self.judge, &self.scoring))).collect();
                unfit |= metrics.is_empty();
                metrics.retain(|(_, source)| !asked.contains(source));
                if !metrics.is_empty() {
                    left.push(Left { episode, metrics });
                }
            }
        }
        let classes: BTreeSet<&str> = self.metrics.iter().flat_map(|m| &m.classes).map(String::as_str).collect();
        anyhow::ensure!(
            !unfit,
            "no metric is meant for the class of run `{run}`: they are for {}",
            classes.into_iter().collect::<Vec<_>>().join(", ")
        );
        Ok(left)
    }

    async fn about_all(&self, cluster: &Cluster, left: &[Left<'_>], at_once: usize) -> anyhow::Result<()> {
        let bar = bar(&format!("{}: {} asks about", self.run.id, self.judge.name), left.len() as u64, "conversations");
        let mut answers = futures::stream::iter(left).map(|left| self.about(cluster, left)).buffer_unordered(at_once);
        while let Some(done) = answers.next().await {
            done?;
            bar.inc(1);
        }
        bar.finish();
        Ok(())
    }

    /// Puts every question to one conversation that it was not asked yet.
    async fn about(&self, cluster: &Cluster, Left { episode, metrics }: &Left<'_>) -> anyhow::Result<()> {
        let (store, run) = (self.store, &self.run.id);
        let (spec, turns) = (store.spec(run, &episode.id).await?, store.journal(run, &episode.id).await?);
        for (metric, source) in metrics {
            let calls = questions(metric, &spec, &turns).into_iter().map(|question| self.call(question, spec.seed));
            let (scores, costs) = scores(cluster, calls.collect()).await.with_context(|| {
                format!(
                    "{} could not be asked for `{}` of episode {}; what was answered is kept, and the same command goes on from there",
                    self.judge.name, metric.name, episode.id
                )
            })?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let (scale, per, nanodollars) = (metric.scale, metric.per, costs.iter().sum());
            let source = source.clone();
            let result = MetricResult { source, scale, per, scores, at_ms: u64::try_from(now)?, nanodollars };
            store.add_metric(run, &episode.id, result).await?;
        }
        Ok(())
    }

    fn call(&self, question: Question, episode_seed: u64) -> ModelCall {
        ModelCall {
            role: Role::Preference,
            model: self.judge.name.clone(),
            messages: question.messages,
            seed: stream::of_turn(episode_seed, question.turn, "metric samples"),
            ask: Ask::Score { answers: question.answers, scoring: self.scoring.clone() },
        }
    }
}

/// What the judge says, and what that cost.
async fn scores(cluster: &Cluster, calls: Vec<ModelCall>) -> Result<(Vec<Score>, Vec<u64>), DispatchError> {
    if calls.is_empty() {
        return Ok(Default::default());
    }
    let answers = cluster.call(calls).await?.into_iter().filter_map(|answer| match answer.said {
        Said::Score(score) => Some((score, answer.call.map_or(0, |call| call.nanodollars))),
        // Every call asked for a score, and answers of another kind are refused.
        Said::Reply { .. } => None,
    });
    Ok(answers.unzip())
}

fn is_for(metric: &Metric, class: &str) -> bool {
    metric.classes.is_empty() || metric.classes.iter().any(|known| known == class)
}

pub(super) fn bar(label: &str, count: u64, of_what: &'static str) -> ProgressBar {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("{} {count} {of_what}", crate::terminal::harmless(label));
    }
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg} ETA {eta}") {
        bar.set_style(style);
    }
    bar.set_message(of_what);
    bar.set_prefix(crate::terminal::harmless(label));
    bar
}
