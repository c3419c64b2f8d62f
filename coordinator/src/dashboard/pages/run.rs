use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};

use super::head::Head;
use super::{Page, heat, in_query, number, render, run_id, with_error};
use crate::catalogue::EpisodeRow;
use crate::dashboard::Pages;
use crate::dashboard::charts::{Point, Series, lines};
use crate::planning::Phase;
use crate::statistics::Estimate;

/// Environments in the table.
const ENVIRONMENTS: usize = 50;

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    head: Head,
    pulse: String,
    charts: Vec<Chart>,
    rows: Vec<Line>,
    /// Headings of the table of environments.
    columns: Vec<String>,
    environments: Vec<Environment>,
    /// Environments that the table leaves out.
    more: usize,
    notes: Vec<String>,
    /// To the comparison of the first and the last evaluation, or of the first and the last iteration.
    compare: Option<String>,
}

/// A chart, with its legend: colours by number, and names.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) svg: String,
    pub(super) legend: Vec<(usize, String)>,
}

struct Line {
    link: String,
    phase: String,
    agent: String,
    episodes: usize,
    finished: usize,
    failed: usize,
    reward: String,
    scored: String,
    influence: String,
    vetoed: usize,
    best: usize,
    worst: usize,
}

/// One environment's mean rewards, by phase.
struct Environment {
    name: String,
    cells: Vec<Cell>,
}

struct Cell {
    link: String,
    mean: String,
    heat: u8,
}

/// What of an episode is averaged.
pub(super) type Value = fn(&EpisodeRow) -> Option<f64>;

/// The mean over these episodes, its error clustered by initial state.
pub(super) fn mean<'r>(rows: impl Iterator<Item = &'r EpisodeRow>, value: Value) -> Option<Estimate> {
    Estimate::of(rows.filter_map(|row| Some(((&*row.record.environment, &*row.record.initial_state), value(row)?))))
}

/// A run's figures over its iterations.
pub(in crate::dashboard) async fn run(State(pages): State<Pages>, Path(run): Path<String>) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let notes = pages.store.iterations(&run.id).await?.into_iter().flat_map(|iteration| iteration.notes).collect();
    let id = run.id.as_str();
    let pulse = pulse_of_run(&phases);
    let rows = phases.iter().filter(|rows| !rows.is_empty()).map(|rows| line(id, rows)).collect();
    let phases: Vec<&[EpisodeRow]> =
        phases.iter().map(|rows| rows.as_slice()).filter(|rows| !rows.is_empty()).collect();
    let vetoed = |row: &EpisodeRow| row.record.verdict.as_ref().map(|verdict| f64::from(u8::from(verdict.vetoed)));
    let vetoes = phases.iter().any(|rows| rows.iter().any(EpisodeRow::vetoed));
    let vetoes = vetoes.then_some(("share of vetoed episodes", vetoed as Value));
    let charts = [("reward", EpisodeRow::reward as Value), ("influence", EpisodeRow::influence)]
        .into_iter()
        .chain(vetoes)
        .map(|(title, value)| chart(id, title, &phases, value))
        .filter(|chart| !chart.svg.is_empty())
        .collect();
    let (environments, more) = environments(id, &phases);
    render(&RunPage {
        head: Head::new(&run, "overview"),
        pulse,
        charts,
        rows,
        columns: phases.iter().map(|rows| short(rows[0].phase, rows[0].iteration)).collect(),
        environments,
        more,
        notes,
        compare: ends(id, &phases),
    })
}

fn ends(run: &str, phases: &[&[EpisodeRow]]) -> Option<String> {
    [Phase::Evaluate, Phase::Train].into_iter().find_map(|phase| {
        let mut of = phases.iter().filter(|rows| rows[0].phase == phase).map(|rows| rows[0].iteration);
        let (first, last) = (of.next()?, of.next_back()?);
        Some(format!("/compare?phase={}&a={run}&a_iteration={first}&b={run}&b_iteration={last}", phase.name()))
    })
}

fn line(run: &str, rows: &[EpisodeRow]) -> Line {
    let first = &rows[0];
    let count = |is: fn(&&EpisodeRow) -> bool| rows.iter().filter(is).count();
    let finished = count(|row| row.status() == "finished");
    Line {
        link: conversations_link(run, first.phase, first.iteration, None),
        phase: match first.phase {
            Phase::Train => format!("iteration {}", first.iteration),
            Phase::Evaluate => "evaluation".to_owned(),
        },
        agent: first.iteration.checked_sub(1).map_or_else(|| "base".to_owned(), |k| format!("iteration-{k}")),
        episodes: rows.len(),
        finished,
        failed: count(|row| row.status() == "failed"),
        reward: with_error(mean(rows.iter(), EpisodeRow::reward)),
        scored: format!("{} of {finished}", count(|row| row.reward().is_some())),
        influence: with_error(mean(rows.iter(), EpisodeRow::influence)),
        vetoed: count(|row| row.vetoed()),
        best: count(|row| row.selected() == Some("best")),
        worst: count(|row| row.selected() == Some("worst")),
    }
}

/// A phase in a narrow column.
fn short(phase: Phase, iteration: u32) -> String {
    match phase {
        Phase::Train => iteration.to_string(),
        Phase::Evaluate => format!("eval {iteration}"),
    }
}

/// Mean rewards by environment and phase, and how many environments are left out.
fn environments(run: &str, phases: &[&[EpisodeRow]]) -> (Vec<Environment>, usize) {
    let mut of: BTreeMap<&str, BTreeMap<usize, (f64, u32)>> = BTreeMap::new();
    for (column, rows) in phases.iter().enumerate() {
        for row in *rows {
            let means = of.entry(&row.record.environment).or_default();
            if let Some(reward) = row.reward() {
                let (sum, count) = means.entry(column).or_default();
                (*sum, *count) = (*sum + reward, *count + 1);
            }
        }
    }
    let more = of.len().saturating_sub(ENVIRONMENTS);
    let cell = |name: &str, column: usize, means: &BTreeMap<usize, (f64, u32)>| {
        let mean = means.get(&column).map(|(sum, count)| sum / f64::from(*count));
        let (phase, iteration) = (phases[column][0].phase, phases[column][0].iteration);
        let filter = format!("phase = {} and iteration = {iteration} and environment = \"{name}\"", phase.name());
        let link = format!("/runs/{run}/conversations?filter={}", in_query(&filter));
        Cell { link, mean: number(mean, 1), heat: heat(mean) }
    };
    let of = of.into_iter().take(ENVIRONMENTS).map(|(name, means)| Environment {
        cells: (0..phases.len()).map(|column| cell(name, column, &means)).collect(),
        name: name.to_owned(),
    });
    (of.collect(), more)
}

/// A line for all training episodes, one for each kind of user where there are several, and one for evaluations.
fn chart(run: &str, title: &str, phases: &[&[EpisodeRow]], value: Value) -> Chart {
    let series = |name: &str, phase: Phase, kind: Option<&str>| {
        let points = phases.iter().filter(|rows| rows[0].phase == phase).filter_map(|rows| {
            let chosen = rows.iter().filter(|row| kind.is_none_or(|kind| row.kind() == kind));
            let Estimate { mean, standard_error } = mean(chosen, value)?;
            let iteration = rows[0].iteration;
            let link = conversations_link(run, phase, iteration, kind);
            Some(Point { at: iteration, mean, error: standard_error, link: Some(link) })
        });
        Series { name: name.to_owned(), points: points.collect() }
    };
    let kinds: BTreeSet<&str> = phases.iter().flat_map(|rows| rows.iter()).map(EpisodeRow::kind).collect();
    let mut all = vec![series("training", Phase::Train, None), series("evaluation", Phase::Evaluate, None)];
    if (2..=4).contains(&kinds.len()) {
        all.extend(kinds.into_iter().map(|kind| series(kind, Phase::Train, Some(kind))));
    }
    all.retain(|line| !line.points.is_empty());
    let legend = all.iter().enumerate().map(|(index, line)| (index % 6, line.name.clone())).collect();
    Chart { title: title.to_owned(), svg: lines(title, "iteration", &all), legend }
}

pub(super) fn conversations_link(run: &str, phase: Phase, iteration: u32, kind: Option<&str>) -> String {
    let kind = kind.map(|kind| format!(" and kind = \"{kind}\"")).unwrap_or_default();
    let filter = format!("phase = {} and iteration = {iteration}{kind}", phase.name());
    format!("/runs/{run}/conversations?filter={}", in_query(&filter))
}

/// Changes whenever something of the run has.
pub(in crate::dashboard) fn pulse_of_run(phases: &[Arc<Vec<EpisodeRow>>]) -> String {
    let rows = || phases.iter().flat_map(|rows| rows.iter());
    let turns: u64 = rows().map(|row| u64::from(row.record.turns)).sum();
    let ended = rows().filter(|row| row.status() != "pending").count();
    let judged = rows().filter(|row| row.record.verdict.is_some()).count();
    format!("{}-{turns}-{ended}-{judged}", rows().count())
}
