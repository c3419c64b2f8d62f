use std::cmp::Ordering;
use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::head::Head;
use super::run::pulse_of_run;
use super::{Page, heat, in_query, number, render, run_id};
use crate::catalogue::{EpisodeRow, Filter, metric_named, with_metrics};
use crate::config::Scale;
use crate::dashboard::Pages;
use crate::store::{MetricResult, MetricSource};

const PER_PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    filter: String,
    /// A column's key, with `-` before it for the other direction.
    sort: String,
    page: usize,
}

#[derive(Template)]
#[template(path = "conversations.html")]
struct ConversationsPage {
    head: Head,
    filter: String,
    sort: String,
    problem: Option<String>,
    found: usize,
    all: usize,
    page: usize,
    pages: usize,
    columns: Vec<Column>,
    /// What judges said about the conversations of this page.
    metrics: Vec<Column>,
    rows: Vec<Line>,
    before: Option<String>,
    after: Option<String>,
    pulse: String,
}

struct Column {
    name: String,
    number: bool,
    link: String,
    mark: &'static str,
}

struct Line {
    link: String,
    environment: String,
    initial_state: String,
    phase: &'static str,
    iteration: u32,
    turns: u32,
    reward: String,
    heat: u8,
    influence: String,
    selected: &'static str,
    marks: String,
    /// Colour and value of each metric.
    metrics: Vec<(u8, String)>,
}

type Compare = fn(&EpisodeRow, &EpisodeRow) -> Ordering;

/// Key, heading, whether it is a number, and its order; missing numbers come last in either direction.
const COLUMNS: [(&str, &str, bool, Compare); 8] = [
    ("environment", "environment", false, |a, b| a.record.environment.cmp(&b.record.environment)),
    ("initial_state", "initial state", false, |a, b| a.record.initial_state.cmp(&b.record.initial_state)),
    ("phase", "phase", false, |a, b| a.phase.cmp(&b.phase)),
    ("iteration", "iteration", true, |a, b| a.iteration.cmp(&b.iteration)),
    ("turns", "turns", true, |a, b| a.record.turns.cmp(&b.record.turns)),
    ("reward", "reward", true, |a, b| numbers(a.reward(), b.reward())),
    ("influence", "influence", true, |a, b| numbers(a.influence(), b.influence())),
    ("selected", "selected", false, |a, b| a.selected().cmp(&b.selected())),
];

/// Equal rows stay in the order of the plan.
fn sort(rows: &mut [&EpisodeRow], key: &str, down: bool) {
    let by = |compare: &dyn Fn(&EpisodeRow, &EpisodeRow) -> Ordering, rows: &mut [&EpisodeRow]| {
        rows.sort_by(|a, b| if down { compare(b, a) } else { compare(a, b) });
    };
    if let Some(value) = metric_named(key) {
        by(&|a, b| numbers(value(a), value(b)), rows);
    } else if let Some((.., compare)) = COLUMNS.iter().find(|(known, ..)| *known == key) {
        by(compare, rows);
    }
}

fn numbers(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::NEG_INFINITY).total_cmp(&b.unwrap_or(f64::NEG_INFINITY))
}

/// A run's conversations that a filter takes, a page of them.
pub(in crate::dashboard) async fn conversations(
    State(pages): State<Pages>,
    Path(run): Path<String>,
    Query(asked): Query<Asked>,
) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let mut phases = pages.rows.of(&*pages.store, &run.id).await?;
    let (filter, problem) = match Filter::parse(&asked.filter) {
        Ok(filter) => (Some(filter), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let (key, down) = asked.sort.strip_prefix('-').map_or((&*asked.sort, false), |key| (key, true));
    if metric_named(key).is_some() || filter.as_ref().is_some_and(Filter::reads_metrics) {
        phases = with_metrics(&*pages.store, &run.id, &phases).await?;
    }
    let all: usize = phases.iter().map(|rows| rows.len()).sum();
    let rows = phases.iter().flat_map(|rows| rows.iter());
    let mut found: Vec<&EpisodeRow> = rows.filter(|row| filter.as_ref().is_some_and(|f| f.takes(row))).collect();
    sort(&mut found, key, down);
    let count = found.len().div_ceil(PER_PAGE).max(1);
    let page = asked.page.clamp(1, count);
    let link = |sort: &str, page: usize| {
        format!("/runs/{}/conversations?filter={}&sort={}&page={page}", run.id, in_query(&asked.filter), in_query(sort))
    };
    let column = |known: &str, name: &str, number: bool| {
        let here = known == key;
        // Numbers are first wanted from the highest.
        let next = if (here && down) || (!here && !number) { known.to_owned() } else { format!("-{known}") };
        let mark = if !here {
            ""
        } else if down {
            " ▼"
        } else {
            " ▲"
        };
        Column { name: name.to_owned(), number, link: link(&next, 1), mark }
    };
    let mut columns: Vec<Column> =
        COLUMNS.iter().map(|(known, name, number, _)| column(known, name, *number)).collect();
    let mut shown = Vec::new();
    for row in found.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE) {
        shown.push((*row, pages.store.metrics(&run.id, &row.record.id).await?));
    }
    let sources: BTreeSet<&MetricSource> = shown.iter().flat_map(|(_, said)| said).map(|said| &said.source).collect();
    columns.push(Column { name: "marks".to_owned(), number: false, link: link(&asked.sort, page), mark: "" });
    render(&ConversationsPage {
        head: Head::new(&run, "conversations"),
        found: found.len(),
        all,
        page,
        pages: count,
        columns,
        metrics: sources
            .iter()
            .map(|source| {
                // Also among the conversations of other pages.
                let key = format!("metric:{}@{}", source.metric, source.judge);
                column(&key, &source.name_among(&sources), true)
            })
            .collect(),
        rows: shown.iter().map(|(row, said)| line(run.id.as_str(), row, said, &sources)).collect(),
        before: (page > 1).then(|| link(&asked.sort, page - 1)),
        after: (page < count).then(|| link(&asked.sort, page + 1)),
        pulse: pulse_of_run(&phases),
        problem,
        filter: asked.filter.clone(),
        sort: asked.sort.clone(),
    })
}

/// Colour and text of what a judge said, if it was asked; probabilities have the colours of 1 to 10, too.
fn cell(said: Option<&MetricResult>) -> (u8, String) {
    let Some(said) = said else { return (0, String::new()) };
    let on_ten = match said.scale {
        Scale::OneToTen => said.value(),
        Scale::YesNo => said.value().map(|yes| 1.0 + 9.0 * yes),
    };
    (heat(on_ten), number(said.value(), 2))
}

fn line(run: &str, row: &EpisodeRow, said: &[MetricResult], sources: &BTreeSet<&MetricSource>) -> Line {
    let marks = [
        (row.vetoed(), "vetoed"),
        (row.unscored(), "unscored"),
        (row.status() == "failed", "failed"),
        (row.status() == "pending", "under way"),
    ];
    Line {
        link: format!("/runs/{run}/episodes/{}", row.record.id),
        environment: row.record.environment.clone(),
        initial_state: row.record.initial_state.clone(),
        phase: row.phase.name(),
        iteration: row.iteration,
        turns: row.record.turns,
        reward: number(row.reward(), 2),
        heat: heat(row.reward()),
        influence: number(row.influence(), 2),
        selected: row.selected().unwrap_or_default(),
        metrics: sources.iter().map(|source| cell(said.iter().find(|said| said.source == **source))).collect(),
        marks: marks.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect::<Vec<_>>().join(", "),
    }
}
