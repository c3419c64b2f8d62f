//! `influence evaluate`: stored conversations judged by any model, trained agents rolled out in any class, and benchmarks.

mod benchmark;
mod judge;
mod rollout;
mod table;

use std::collections::BTreeSet;

use influence_coordinator::store::{RunRecord, Store};
use influence_coordinator::{IterationSummary, summary};
use influence_proto::RunId;
use serde_json::json;

use crate::answering::{Asked, dismiss};
use crate::args::{EvaluateArguments, IterationName};
use crate::coordinate::Door;
use crate::interrupt;
use crate::stored::{artifacts, existing};
use crate::terminal::print;
use table::table;

/// A run with what of it is shown.
struct Shown {
    run: RunRecord,
    iterations: Vec<IterationSummary>,
}

pub(crate) async fn evaluate(arguments: EvaluateArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let door = Door::at(arguments.listen, &arguments.access)?;
    let store = existing(&arguments.data).await?;
    let mut runs = Vec::new();
    for run in &arguments.runs {
        runs.push(store.run(&RunId::new(run)?).await?);
    }
    if let Some((file, task)) = arguments.benchmark.dataset.as_ref().zip(arguments.benchmark.task) {
        return benchmark::all(&*store, &runs, file, task.into(), &arguments, &cancel).await;
    }
    let fresh = !arguments.rollout.is_empty();
    let asks = arguments.metrics.is_some() || arguments.judge.is_some() || !arguments.metric.is_empty();
    if fresh {
        runs = rollout::all(&*store, &runs, &arguments, door.as_ref(), &cancel).await?;
    }
    // What was rolled out anew is meant as a whole.
    let iterations: &[IterationName] = if fresh { &[] } else { &arguments.iterations };
    if asks || !fresh {
        judge::all(&store, &runs, iterations, &arguments, door.as_ref(), &cancel).await?;
    }
    if let (true, Some(door), Some(run)) = (fresh, &door, runs.first()) {
        let artifacts = artifacts(&arguments.data, arguments.artifacts.as_ref(), &run.id).await?;
        dismiss(Asked { run: run.id.clone(), models: Vec::new(), store: store.clone(), artifacts }, door).await?;
    }
    let mut shown = Vec::new();
    for run in runs {
        let wanted = wanted(&*store, &run.id, iterations).await?;
        let mut iterations = summary(&*store, &run.id).await?;
        iterations.retain(|row| wanted.contains(&row.iteration));
        shown.push(Shown { run, iterations });
    }
    if arguments.json {
        let row =
            |Shown { run, iterations }: &Shown| json!({"run": run.id, "class": class(run), "iterations": iterations});
        return print(&format!("{:#}\n", shown.iter().map(row).collect::<serde_json::Value>()));
    }
    print(&table(&shown))
}

/// The class that a run's environments are of.
fn class(run: &RunRecord) -> &str {
    run.experiment["environments"]["class"].as_str().unwrap_or_default()
}

/// The iterations that a list means; all if it is empty.
async fn wanted(store: &dyn Store, run: &RunId, named: &[IterationName]) -> anyhow::Result<BTreeSet<u32>> {
    let known: BTreeSet<u32> = store.iterations(run).await?.into_iter().map(|planned| planned.iteration).collect();
    let number = |name: &IterationName| match name {
        IterationName::Number(number) => Some(*number),
        IterationName::Last => known.last().copied(),
    };
    let found: BTreeSet<u32> = match named {
        [] => known.clone(),
        named => named.iter().filter_map(number).collect(),
    };
    if let Some(missing) = found.iter().find(|number| !known.contains(number)) {
        let known: Vec<String> = known.iter().map(u32::to_string).collect();
        anyhow::bail!("run `{run}` has no iteration {missing}; it has {}", known.join(", "));
    }
    Ok(found)
}
