//! Asking a judge about conversations that are stored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use futures::StreamExt as _;
use futures::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use influence_coordinator::config::{Metric, default_scoring, load_metrics};
use influence_coordinator::evaluation::{Question, questions, source};
use influence_coordinator::store::{EpisodeRecord, EpisodeStatus, MetricResult, RunRecord, Store};
use influence_proto::{ModelSpec, Role, Score, Scoring};
use influence_worker::backend::{ApiServers, Backend, BackendError, ScoreRequest};
use serde::Deserialize as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::wanted;
use crate::args::{EvaluateArguments, IterationName, ModelsFileArguments};
use crate::place;

/// Judges the runs' conversations by every question that fits them and that was not asked yet. Each answer is stored at
/// once, so whoever is stopped goes on where it was.
pub(super) async fn all(
    store: &dyn Store,
    runs: &[RunRecord],
    iterations: &[IterationName],
    arguments: &EvaluateArguments,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = metrics(arguments)?;
    // Several runs mostly have one judge: it is loaded once.
    let mut loaded: Option<(ModelSpec, Arc<dyn Backend>)> = None;
    for run in runs {
        let judge = judge(run, arguments)?;
        let backend = match loaded.take().filter(|(spec, _)| *spec == judge) {
            Some((_, backend)) => backend,
            None => {
                let servers = ApiServers::new(arguments.rollouts.response_cache.clone());
                let rollouts = &arguments.rollouts;
                place::backend(judge.clone(), rollouts.cache.as_deref(), &rollouts.models, &servers).await?
            }
        };
        // An imported run does not say how a judge is to be read.
        let scoring = match &run.experiment["scoring"] {
            Value::Null => default_scoring(),
            said => {
                Scoring::deserialize(said).with_context(|| format!("run `{}` does not say how it scores", run.id))?
            }
        };
        let asking = Asking { store, run, metrics: &metrics, judge: &judge, backend: &*backend, scoring };
        asking.about_all(iterations, arguments.rollouts.slots, cancel).await?;
        loaded = Some((judge, backend));
    }
    Ok(())
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

struct Asking<'a> {
    store: &'a dyn Store,
    run: &'a RunRecord,
    metrics: &'a [Metric],
    judge: &'a ModelSpec,
    backend: &'a dyn Backend,
    scoring: Scoring,
}

impl Asking<'_> {
    async fn about_all(
        &self,
        iterations: &[IterationName],
        at_once: u32,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let iterations = wanted(self.store, &self.run.id, iterations).await?;
        let mut left = Vec::new();
        for planned in self.store.iterations(&self.run.id).await? {
            if iterations.contains(&planned.iteration) {
                let episodes = self.store.episodes(&self.run.id, planned.phase, planned.iteration).await?;
                left.extend(episodes.into_iter().filter(|episode| episode.status == EpisodeStatus::Finished));
            }
        }
        let classes: BTreeSet<&str> = left.iter().map(|episode| episode.environment_class.as_str()).collect();
        let fits = |metric: &Metric| classes.iter().any(|class| is_for(metric, class));
        anyhow::ensure!(
            left.is_empty() || self.metrics.iter().any(fits),
            "no metric is meant for the class of run `{}`: they are for {}",
            self.run.id,
            self.metrics
                .iter()
                .flat_map(|metric| &metric.classes)
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(", ")
        );
        let label = format!("{}: {} asks about", self.run.id, self.judge.name);
        let bar = bar(&label, left.len() as u64, "conversations");
        let mut answers =
            futures::stream::iter(&left).map(|episode| self.about(episode)).buffer_unordered(at_once as usize);
        let stopped = loop {
            let done = tokio::select! {
                done = answers.next() => done,
                () = cancel.cancelled() => break true,
            };
            match done {
                None => break false,
                Some(done) => done?,
            }
            bar.inc(1);
        };
        bar.finish();
        anyhow::ensure!(!stopped, "stopped; what was answered is kept, and the same command goes on from there");
        Ok(())
    }

    /// Puts every question to one conversation that it was not asked yet.
    async fn about(&self, episode: &EpisodeRecord) -> anyhow::Result<()> {
        let (store, run) = (self.store, &self.run.id);
        let asked: BTreeSet<_> = store.metrics(run, &episode.id).await?.into_iter().map(|said| said.source).collect();
        let mut conversation = None;
        for metric in self.metrics.iter().filter(|metric| is_for(metric, &episode.environment_class)) {
            let source = source(metric, self.judge, &self.scoring);
            if asked.contains(&source) {
                continue;
            }
            let (spec, turns) = match &conversation {
                Some(known) => known,
                None => {
                    conversation.insert((store.spec(run, &episode.id).await?, store.journal(run, &episode.id).await?))
                }
            };
            let asking = questions(metric, spec, turns).into_iter().map(|question| self.ask(question, spec.seed));
            let answers = try_join_all(asking).await.with_context(|| {
                format!(
                    "{} could not be asked for `{}` of episode {}; what was answered is kept, and the same command goes on from there",
                    self.judge.name, metric.name, episode.id
                )
            })?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let (scores, costs): (Vec<Score>, Vec<u64>) = answers.into_iter().unzip();
            let (scale, per, nanodollars) = (metric.scale, metric.per, costs.iter().sum());
            let result = MetricResult { source, scale, per, scores, at_ms: u64::try_from(now)?, nanodollars };
            store.add_metric(run, &episode.id, result).await?;
        }
        Ok(())
    }

    /// What the judge says, and what that cost.
    async fn ask(&self, question: Question, episode_seed: u64) -> Result<(Score, u64), BackendError> {
        let request = ScoreRequest {
            role: Role::Preference,
            messages: question.messages,
            answers: question.answers,
            scoring: self.scoring.clone(),
            seed: influence_proto::stream::of_turn(episode_seed, question.turn, "metric samples"),
            adapter: None,
        };
        match self.backend.score(request).await {
            Ok(read) => {
                let score = Score::from_masses(read.masses, self.scoring.min_mass).read_by(read.method);
                Ok((score, read.nanodollars))
            }
            // No other time is it shorter: the judge cannot say anything about it.
            Err(error @ BackendError::TooLong { .. }) => Ok((Score::unscored(error.to_string()), 0)),
            Err(error) => Err(error),
        }
    }
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
