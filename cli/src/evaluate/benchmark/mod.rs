//! Benchmarks from a file, put to the agents of runs.

mod agent;
mod asked;
mod table;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use influence_coordinator::catalogue::Figure;
use influence_coordinator::config::Metric;
use influence_coordinator::evaluation::benchmark::{Benchmark, FigureSummary, Task, Values, compared};
use influence_coordinator::export::NewFile;
use influence_coordinator::store::{RunRecord, Store};
use influence_proto::{ModelSpec, RunId, Sampling, Scoring};
use influence_worker::backend::{ApiServers, Backend};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::judge;
use super::rollout::agents;
use crate::args::EvaluateArguments;
use crate::place;
use crate::terminal::print;
use agent::Loaded;
use asked::Asked;

/// A model, and what serves it.
type Served = (ModelSpec, Arc<dyn Backend>);

/// An agent's figures.
struct Measured {
    run: RunId,
    iteration: u32,
    /// What the agent was: `base`, or whose adapter it had.
    agent: String,
    /// Who judged its replies.
    judge: Option<String>,
    figures: Vec<(String, Values)>,
    /// What was said, for whoever wants every line of it.
    records: Vec<Map<String, Value>>,
}

/// A trained agent beside the untrained one of its run.
struct Beside {
    run: RunId,
    a: u32,
    b: u32,
    figures: Vec<Figure>,
}

/// Asks every agent and prints what comes out.
pub(super) async fn all(
    store: &dyn Store,
    runs: &[RunRecord],
    file: &Path,
    task: Task,
    arguments: &EvaluateArguments,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let limit = arguments.benchmark.limit.map(|limit| limit as usize);
    let benchmark = Benchmark::read(file, task, limit)?;
    let metrics = metrics(task, arguments)?;
    // Before the work: a file that may not be replaced.
    let out = arguments.benchmark.out.clone();
    let out = out.map(|path| NewFile::create(path, arguments.benchmark.overwrite)).transpose()?;
    let work = async {
        let mut all = Vec::new();
        // Several runs mostly are of one model: it is loaded once.
        let mut loaded: Vec<Served> = Vec::new();
        for run in runs {
            all.extend(of_run(store, run, &benchmark, &metrics, arguments, &mut loaded).await?);
        }
        anyhow::Ok(all)
    };
    let measured = tokio::select! {
        measured = work => measured?,
        () = cancel.cancelled() => anyhow::bail!("stopped; nothing of a benchmark is kept before its end"),
    };
    if let Some(file) = out {
        asked::write(file, &benchmark, &measured)?;
    }
    let besides = besides(&measured);
    if arguments.json {
        return print(&format!("{:#}\n", as_json(file, &benchmark, &measured, &besides)));
    }
    print(&table::page(&benchmark, &measured, &besides))
}

/// The questions about replies: none but for prompts. Those that are meant for classes of environments are not.
fn metrics(task: Task, arguments: &EvaluateArguments) -> anyhow::Result<Vec<Metric>> {
    if task != Task::Prompts {
        let given = arguments.metrics.is_some() || !arguments.metric.is_empty();
        anyhow::ensure!(
            !given,
            "--metrics and --metric are for `--task prompts`: {} brings its own question",
            task.name()
        );
        return Ok(Vec::new());
    }
    let mut metrics = judge::metrics(arguments)?;
    metrics.retain(|metric| metric.classes.is_empty());
    anyhow::ensure!(!metrics.is_empty(), "every metric is for a class of environments; a benchmark is of none");
    Ok(metrics)
}

/// A part of what is stored of a run's experiment.
fn part<T: DeserializeOwned>(run: &RunRecord, value: &Value, what: &str) -> anyhow::Result<T> {
    T::deserialize(value).with_context(|| format!("run `{}` does not say {what}", run.id))
}

async fn of_run(
    store: &dyn Store,
    run: &RunRecord,
    benchmark: &Benchmark,
    metrics: &[Metric],
    arguments: &EvaluateArguments,
    loaded: &mut Vec<Served>,
) -> anyhow::Result<Vec<Measured>> {
    let role = &run.experiment["roles"]["agent"];
    let name: String = part(run, &role["model"], "which model its agent is")?;
    let model: ModelSpec = part(run, &run.experiment["models"][&name], &format!("where the model `{name}` is"))?;
    let sampling: Sampling = part(run, &role["sampling"], "how its agent samples")?;
    let scoring: Scoring = part(run, &run.experiment["scoring"], "how it scores")?;
    let seed: u64 = part(run, &run.experiment["seed"], "its seed")?;
    let wants_judge = benchmark.task != Task::SycophancyAnswers;
    let judge = if wants_judge { Some(judge::judge(run, arguments)?) } else { None };
    let mut agents_of_run = Vec::new();
    for iteration in agents(store, run, &arguments.iterations).await? {
        agents_of_run.push(Loaded::fetch(store, run, iteration, arguments).await?);
    }
    let backend = served(model, arguments, loaded).await?;
    let judge = match judge {
        Some(spec) => Some((spec.clone(), served(spec, arguments, loaded).await?)),
        None => None,
    };
    let mut all = Vec::new();
    for agent in agents_of_run {
        agent.load(&*backend).await?;
        let asked = Asked {
            benchmark,
            metrics,
            agent: &*backend,
            variant: agent.variant.as_ref(),
            judge: judge.as_ref().map(|(_, backend)| &**backend),
            sampling: &sampling,
            scoring: &scoring,
            seed,
            at_once: arguments.rollouts.calls_at_once(),
        };
        let (figures, records) = asked.all(&format!("{}:{}", run.id, agent.iteration)).await?;
        agent.unload(&*backend);
        all.push(Measured {
            run: run.id.clone(),
            iteration: agent.iteration,
            agent: agent.name,
            judge: judge.as_ref().map(|(spec, _)| spec.name.clone()),
            figures,
            records,
        });
    }
    Ok(all)
}

/// What serves a model; it is kept for whoever needs it next.
async fn served(
    spec: ModelSpec,
    arguments: &EvaluateArguments,
    loaded: &mut Vec<Served>,
) -> anyhow::Result<Arc<dyn Backend>> {
    if let Some((_, backend)) = loaded.iter().find(|(known, _)| *known == spec) {
        return Ok(backend.clone());
    }
    let servers = ApiServers::new(arguments.rollouts.response_cache.clone());
    let rollouts = &arguments.rollouts;
    let backend = place::backend(spec.clone(), rollouts.cache.as_deref(), &rollouts.models, &servers).await?;
    loaded.push((spec, backend.clone()));
    Ok(backend)
}

/// Each trained agent beside the untrained one of its run, if that was asked too.
fn besides(measured: &[Measured]) -> Vec<Beside> {
    let base = |run: &RunId| measured.iter().find(|agent| agent.run == *run && agent.iteration == 0);
    let trained = measured.iter().filter(|agent| agent.iteration > 0);
    let pairs = trained.filter_map(|agent| Some((base(&agent.run)?, agent)));
    pairs
        .map(|(a, b)| Beside {
            run: b.run.clone(),
            a: a.iteration,
            b: b.iteration,
            figures: compared(&a.figures, &b.figures),
        })
        .collect()
}

fn as_json(file: &Path, benchmark: &Benchmark, measured: &[Measured], besides: &[Beside]) -> Value {
    let agents = measured.iter().map(|agent| {
        let figures =
            agent.figures.iter().map(|(name, values)| json!({"figure": name, "summary": FigureSummary::of(values)}));
        json!({
            "run": agent.run, "iteration": agent.iteration, "agent": agent.agent, "judge": agent.judge,
            "figures": figures.collect::<Value>(),
        })
    });
    let compared =
        besides.iter().map(|Beside { run, a, b, figures }| json!({"run": run, "a": a, "b": b, "figures": figures}));
    json!({
        "dataset": file.display().to_string(),
        "dataset_sha256": benchmark.sha256,
        "task": benchmark.task,
        "items": benchmark.items.len(),
        "agents": agents.collect::<Value>(),
        "compared": compared.collect::<Value>(),
    })
}
