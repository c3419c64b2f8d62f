//! Having agents converse anew.

use influence_coordinator::evaluation::fresh;
use influence_coordinator::store::{RunRecord, Store};
use influence_proto::BestOf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::{EvaluateArguments, IterationName};
use crate::coordinate::{Door, Open};
use crate::environments::find;
use crate::run::{WAITS, here};

/// Rolls every agent out in every class. Each is a run of its own, which goes on where it was stopped and whose
/// conversations are stored like any other's. Workers that join at `door` stay for more.
pub(super) async fn all(
    store: &dyn Store,
    runs: &[RunRecord],
    arguments: &EvaluateArguments,
    door: Option<&Door>,
    cancel: &CancellationToken,
) -> anyhow::Result<Vec<RunRecord>> {
    let mut classes = Vec::new();
    for class in &arguments.rollout {
        let (class, environment) = find(class, &arguments.configs)?;
        anyhow::ensure!(environment.is_none(), "--rollout takes a class, and all its environments: {}", class.name());
        classes.push(class);
    }
    let best_of = arguments.best_of.map(|candidates| BestOf { candidates, veto: arguments.veto });
    let mut plans = Vec::new();
    for run in runs {
        for iteration in agents(store, run, &arguments.iterations).await? {
            for class in &classes {
                plans.push(fresh(store, run, iteration, class, arguments.episodes, best_of).await?);
            }
        }
    }
    let mut done = Vec::new();
    for experiment in plans {
        let mut open =
            Open::of(experiment, &arguments.data, arguments.artifacts.clone(), arguments.fresh, None).await?;
        match door {
            _ if open.finished => {}
            Some(door) => {
                open.keeps_workers = true;
                let leadership = open.lead(&WAITS).await?;
                open.lead_on(leadership, door, &WAITS, &watch::Sender::new(false), cancel).await?;
            }
            // Ended with this run, not with all of them.
            None => here(&open, &arguments.rollouts, watch::Sender::new(false), cancel.child_token()).await?,
        }
        done.push(store.run(&open.run).await?);
    }
    Ok(done)
}

/// The agents that a list means; by default the untrained and the last one.
pub(super) async fn agents(store: &dyn Store, run: &RunRecord, named: &[IterationName]) -> anyhow::Result<Vec<u32>> {
    let trained = store.trainings(&run.id).await?;
    let last = trained.iter().filter(|job| job.report.is_some()).map(|job| job.iteration + 1).max().unwrap_or(0);
    let number = |name: &IterationName| match name {
        IterationName::Number(number) => *number,
        IterationName::Last => last,
    };
    let mut agents: Vec<u32> = match named {
        [] => vec![0, last],
        named => named.iter().map(number).collect(),
    };
    agents.sort_unstable();
    agents.dedup();
    Ok(agents)
}
