//! `influence runs` and `influence episodes`: what is stored.

use std::path::Path;

use anyhow::Context;
use comfy_table::{Table, presets};
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
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["run", "experiment", "status", "iterations", "created (UTC)"]);
    for run in store.runs().await? {
        let status = match &run.status {
            RunStatus::Running => "running",
            RunStatus::Finished => "finished",
            RunStatus::Failed(_) => "failed",
        };
        let planned = store.iterations(&run.id).await?.iter().map(|i| i.iteration + 1).max().unwrap_or(0);
        rows.push(json!({"run": run.id, "name": run.name, "status": status, "created_ms": run.created_ms}));
        let cells = [run.id.to_string(), run.name, status.to_owned(), planned.to_string(), date(run.created_ms)];
        table.add_row(cells);
    }
    if as_json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&rows)?));
    }
    print(&format!("{}\n", harmless(&table.to_string())))
}

/// Day and minute, by Howard Hinnant's civil-from-days.
fn date(milliseconds: u64) -> String {
    let minutes = milliseconds / 60_000;
    let days = (minutes / 1440) as i64 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", minutes / 60 % 24, minutes % 60)
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

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00");
        assert_eq!(date(1_767_225_599_000), "2025-12-31 23:59");
    }
}
