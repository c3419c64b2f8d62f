use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use influence_proto::RunId;
use serde_json::Value;
use tokio::time::Instant;

use super::head::{age, class, status, text};
use super::run::{Value as Figure, mean};
use super::{Page, dollars, render, with_error};
use crate::catalogue::{EpisodeRow, Usage};
use crate::dashboard::Pages;
use crate::dashboard::charts::spark;
use crate::planning::Phase;
use crate::store::StoreError;

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsPage {
    runs: Vec<Line>,
}

struct Line {
    id: String,
    class: String,
    agent: String,
    status: &'static str,
    iteration: u64,
    iterations: u64,
    episodes: usize,
    finished: usize,
    failed: usize,
    unscored: usize,
    reward: String,
    reward_line: String,
    influence: String,
    influence_line: String,
    /// Of phases that are done, with a mark if there is more.
    tokens: String,
    cost: String,
    age: String,
}

/// So long what runs used is counted for one page; the next goes on.
const PATIENCE: Duration = Duration::from_millis(100);

/// All runs, the newest first.
pub(in crate::dashboard) async fn runs(State(pages): State<Pages>) -> Page {
    let mut lines = Vec::new();
    let until = Instant::now() + PATIENCE;
    for run in pages.store.runs().await?.into_iter().rev() {
        let phases = pages.rows.of(&*pages.store, &run.id).await?;
        let rows = || phases.iter().flat_map(|rows| rows.iter());
        // The newest figures that there are, of either phase.
        let latest = phases.iter().rev().find(|rows| rows.iter().any(|row| row.reward().is_some()));
        let trained = rows().filter(|row| row.phase == Phase::Train).map(|row| u64::from(row.iteration) + 1).max();
        let iterations = run.experiment.get("iterations").and_then(Value::as_u64).unwrap_or_default();
        let (used, whole) = usage(&pages, &run.id, &phases, until).await?;
        lines.push(Line {
            id: run.id.to_string(),
            class: class(&run).to_owned(),
            agent: text(&run.experiment, &["roles", "agent", "model"]).unwrap_or_default().to_owned(),
            status: status(&run.status).0,
            iteration: trained.unwrap_or_default(),
            iterations,
            episodes: rows().count(),
            finished: rows().filter(|row| row.status() == "finished").count(),
            failed: rows().filter(|row| row.status() == "failed").count(),
            unscored: rows().filter(|row| row.unscored()).count(),
            reward_line: trend("reward by iteration", &phases, EpisodeRow::reward),
            influence_line: trend("influence by iteration", &phases, EpisodeRow::influence),
            reward: with_error(latest.and_then(|rows| mean(rows.iter(), EpisodeRow::reward))),
            influence: with_error(latest.and_then(|rows| mean(rows.iter(), EpisodeRow::influence))),
            tokens: if used.episodes == 0 { "–".to_owned() } else { of_so_many(used.tokens(), whole) },
            cost: dollars(used.dollars()),
            age: age(run.created_ms),
        });
    }
    render(&RunsPage { runs: lines })
}

/// What a run's finished phases used, as far as it is counted, and whether that is all of the run.
async fn usage(
    pages: &Pages,
    run: &RunId,
    phases: &[Arc<Vec<EpisodeRow>>],
    until: Instant,
) -> Result<(Usage, bool), StoreError> {
    let mut all = Usage::default();
    for (_, rows) in pages.store.iterations(run).await?.iter().zip(phases).filter(|(at, _)| at.judged) {
        all.add(&pages.usages.count(&*pages.store, run, rows, until).await?);
    }
    let planned: usize = phases.iter().map(|rows| rows.len()).sum();
    let whole = all.episodes == planned;
    Ok((all, whole))
}

/// A large number in the units that people read.
fn of_so_many(count: u64, whole: bool) -> String {
    let more = if whole { "" } else { "+" };
    let units = [(1e9, " G"), (1e6, " M"), (1e3, " k")];
    match units.iter().find(|(unit, _)| count as f64 >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}{more}", count as f64 / unit),
        None => format!("{count}{more}"),
    }
}

/// The means of a run's training iterations as a line.
fn trend(title: &str, phases: &[Arc<Vec<EpisodeRow>>], value: Figure) -> String {
    let trained = phases.iter().filter(|rows| rows.first().is_some_and(|row| row.phase == Phase::Train));
    let means: Vec<f64> = trained.filter_map(|rows| mean(rows.iter(), value)).map(|estimate| estimate.mean).collect();
    spark(title, &means)
}

#[cfg(test)]
mod tests {
    use super::of_so_many;

    /// Protects: a number is told as more where there is more.
    #[test]
    fn numbers_are_in_units_that_people_read() {
        let shown = [(0, true), (999, false), (98_912, true), (1_250_000, false), (3_000_000_000, true)];
        let shown = shown.map(|(count, whole)| of_so_many(count, whole));
        assert_eq!(shown, ["0", "999+", "98.9 k", "1.2 M+", "3.0 G"]);
    }
}
