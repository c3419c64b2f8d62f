//! `influence runs` and `influence episodes`: what is stored.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use comfy_table::{Table, presets};
use indicatif::HumanDuration;
use influence_coordinator::catalogue::{self, EpisodeView};
use influence_coordinator::store::{RunStatus, SqliteStore, Store};
use influence_proto::RunId;
use serde_json::json;

use crate::args::{EpisodesArguments, RunsArguments};
use crate::conversation;
use crate::table::table;
use crate::terminal::{figure, harmless, print};

/// The store's file in a data folder.
pub(crate) const STORE_FILE: &str = "influence.sqlite";

/// The store of a data folder that was used before: looking must not make one.
fn existing(data: &Path) -> anyhow::Result<SqliteStore> {
    let file = data.join(STORE_FILE);
    anyhow::ensure!(
        file.exists(),
        "there are no runs in {}; `influence run EXPERIMENT.yaml` makes one, `--data DIR` looks elsewhere",
        data.display()
    );
    Ok(SqliteStore::open(&file)?)
}

pub(crate) async fn runs(arguments: RunsArguments) -> anyhow::Result<()> {
    let store = existing(&arguments.data.data)?;
    match arguments.run {
        Some(run) => one_run(&store, &run, arguments.json).await,
        None => all_runs(&store, arguments.json).await,
    }
}

async fn one_run(store: &SqliteStore, run: &str, as_json: bool) -> anyhow::Result<()> {
    let summary = catalogue::summary(store, &RunId::new(run)?).await?;
    if as_json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&summary)?));
    }
    let error = summary.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
    print(&format!("{} is {}{}\n{}", summary.run, summary.status, harmless(&error), table(&summary)))
}

async fn all_runs(store: &SqliteStore, as_json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["run", "experiment", "status", "iterations", "created"]);
    for run in store.runs().await? {
        let status = match &run.status {
            RunStatus::Running => "running",
            RunStatus::Finished => "finished",
            RunStatus::Failed(_) => "failed",
        };
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
    let store = existing(&arguments.data.data)?;
    let run = RunId::new(arguments.run)?;
    store.run(&run).await?;
    let mut shown = 0;
    let as_json = arguments.json;
    catalogue::episodes(&store, &run, arguments.iteration, |episode| {
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
        anyhow::bail!("run `{run}` has no episodes{which}; `influence runs {run}` shows its iterations");
    }
    Ok(())
}

fn page(episode: &EpisodeView) -> String {
    let spec = &episode.spec;
    let phase = match episode.phase {
        influence_coordinator::planning::Phase::Train => "iteration",
        influence_coordinator::planning::Phase::Evaluate => "evaluation",
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
