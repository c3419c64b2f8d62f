//! `influence runs` and `influence episodes`: what is stored.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use comfy_table::{Table, presets};
use indicatif::HumanDuration;
use influence_coordinator::artifacts::{ArtifactError, Artifacts};
use influence_coordinator::catalogue::{self, EpisodeView, Filter};
use influence_coordinator::planning::Phase;
use influence_coordinator::store::{RunRecord, RunStatus, Store, StoreAddress};
use influence_coordinator::summary;
use influence_proto::RunId;
use serde_json::{Value, json};

use crate::args::{DataArguments, EpisodesArguments, RunsArguments};
use crate::conversation;
use crate::table::table;
use crate::terminal::{figure, harmless, print};

/// The store's file in a data folder.
const STORE_FILE: &str = "influence.sqlite";

/// Where the arguments say that runs are remembered.
pub(crate) fn store_address(place: &DataArguments) -> StoreAddress {
    place.store.clone().unwrap_or_else(|| StoreAddress::Sqlite(place.data.join(STORE_FILE)))
}

/// The artifacts of a run; by default in the data folder.
pub(crate) async fn artifacts(
    place: &DataArguments,
    chosen: Option<&OsString>,
    run: &RunId,
) -> Result<Artifacts, ArtifactError> {
    let usual = || place.data.join("artifacts").into_os_string();
    Artifacts::open(chosen.cloned().unwrap_or_else(usual), &place.data.join(run.as_str())).await
}

/// A store that was used before: looking must not make one.
pub(crate) async fn existing(place: &DataArguments) -> anyhow::Result<Arc<dyn Store>> {
    let address = store_address(place);
    if let StoreAddress::Sqlite(file) = &address {
        anyhow::ensure!(
            file.exists(),
            "there are no runs in {}; `influence run EXPERIMENT.yaml` makes one, `--data DIR` and `--store URL` look elsewhere",
            file.display()
        );
    }
    Ok(influence_coordinator::store::open(&address).await?.store)
}

pub(crate) async fn runs(arguments: RunsArguments) -> anyhow::Result<()> {
    let store = existing(&arguments.data).await?;
    match arguments.run {
        Some(run) => one_run(&*store, &run, arguments.json).await,
        None => all_runs(&*store, arguments.json).await,
    }
}

async fn one_run(store: &dyn Store, run: &str, as_json: bool) -> anyhow::Result<()> {
    let run = store.run(&RunId::new(run)?).await?;
    if as_json {
        return print(&format!("{:#}\n", whole(store, &run).await?));
    }
    let (status, error) = status(&run.status);
    let error = error.map(|e| format!(": {e}")).unwrap_or_default();
    print(&format!("{} is {status}{}\n{}", run.id, harmless(&error), table(&summary(store, &run.id).await?)))
}

/// A run for machines: how it stands, its figures, its resolved experiment.
pub(crate) async fn whole(store: &dyn Store, run: &RunRecord) -> anyhow::Result<Value> {
    let (status, error) = status(&run.status);
    Ok(json!({
        "run": run.id,
        "name": run.name,
        "status": status,
        "error": error,
        "created_ms": run.created_ms,
        "digest": run.digest,
        "iterations": summary(store, &run.id).await?,
        "experiment": run.experiment,
    }))
}

fn status(status: &RunStatus) -> (&'static str, Option<&str>) {
    match status {
        RunStatus::Running => ("running", None),
        RunStatus::Finished => ("finished", None),
        RunStatus::Failed(error) => ("failed", Some(error)),
    }
}

async fn all_runs(store: &dyn Store, as_json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "run",
        "experiment",
        "status",
        "iterations",
        "created",
    ]);
    for run in store.runs().await? {
        let (status, _) = status(&run.status);
        let planned = store.iterations(&run.id).await?.iter().map(|i| i.iteration + 1).max().unwrap_or(0);
        rows.push(json!({"run": run.id, "name": run.name, "status": status, "created_ms": run.created_ms}));
        let cells = [run.id.to_string(), run.name, status.to_owned(), planned.to_string(), age(run.created_ms)];
        table.add_row(cells);
    }
    if as_json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&rows)?));
    }
    print(&format!("{}\n", harmless(&table.to_string())))
}

/// How long ago that was, roughly.
fn age(created_ms: u64) -> String {
    let created = Duration::from_millis(created_ms);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{} ago", HumanDuration(now.saturating_sub(created)))
}

pub(crate) async fn episodes(arguments: EpisodesArguments) -> anyhow::Result<()> {
    let filter = Filter::parse(arguments.filter.as_deref().unwrap_or_default())?;
    let store = existing(&arguments.data).await?;
    let run = RunId::new(arguments.run)?;
    store.run(&run).await?;
    let mut shown = 0;
    let as_json = arguments.json;
    catalogue::episodes(&*store, &run, arguments.iteration, &filter, |episode| {
        shown += 1;
        if as_json {
            let line = serde_json::to_string(&episode).context("an episode cannot be written as JSON")?;
            return print(&format!("{line}\n"));
        }
        print(&page(&episode))
    })
    .await?;
    if shown == 0 && !as_json {
        let which = arguments.iteration.map(|k| format!(" in iteration {k}")).unwrap_or_default();
        let which = arguments.filter.map_or(which.clone(), |filter| format!("{which} with {filter}"));
        anyhow::bail!("run `{run}` has no episodes{which}; `influence runs {run}` shows its iterations");
    }
    Ok(())
}

fn page(episode: &EpisodeView) -> String {
    let spec = &episode.spec;
    let phase = match episode.phase {
        Phase::Train => "iteration",
        Phase::Evaluate => "evaluation",
    };
    let mut facts = vec![
        format!("{phase} {}", episode.iteration),
        format!("{}/{}", spec.environment_class, spec.environment),
        format!("initial state {}", spec.initial_state),
        format!("reward {}", figure(episode.reward, 2)),
    ];
    facts.extend(episode.influence.map(|i| format!("influence {i:.3}")));
    facts.extend(episode.selected.map(|end| format!("selected: {end}")));
    facts.extend(episode.vetoed.then(|| "vetoed".to_owned()));
    facts.extend(episode.unscored.then(|| "unscored".to_owned()));
    if episode.status != "finished" {
        facts.push(episode.status.to_owned());
    }
    facts.extend(episode.error.clone());
    let title = harmless(&format!("{}  {}", spec.id, facts.join(" · ")));
    format!("── {title}\n{}\n", conversation::print(spec, &episode.turns))
}
