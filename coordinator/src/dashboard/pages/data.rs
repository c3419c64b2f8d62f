use std::collections::BTreeMap;
use std::fmt::Write as _;

use askama::Template;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::Value;

use super::head::{Head, text};
use super::{Page, heat, number, render, run_id};
use crate::catalogue::EpisodeRow;
use crate::dashboard::Pages;
use crate::planning::Phase;
use crate::store::RunRecord;

const PER_PAGE: usize = 50;
/// Episodes that one end of a group shows.
const CHOSEN: usize = 12;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    /// The last judged one if it is not given.
    iteration: Option<u32>,
    page: usize,
}

#[derive(Template)]
#[template(path = "data.html")]
struct DataPage {
    head: Head,
    /// Numbers, addresses, and whether it is shown.
    iterations: Vec<(u32, String, bool)>,
    rule: String,
    counts: String,
    groups: Vec<Line>,
    page: usize,
    pages: usize,
    before: Option<String>,
    after: Option<String>,
}

/// A group: episodes that compete.
struct Line {
    environment: String,
    initial_state: String,
    episodes: usize,
    vetoed: usize,
    unscored: usize,
    best: Chosen,
    /// How many were left, and their rewards.
    left: String,
    worst: Chosen,
}

/// One end of a group: some of it, and how many more there are.
struct Chosen {
    shown: Vec<Episode>,
    more: usize,
}

struct Episode {
    link: String,
    reward: String,
    heat: u8,
}

/// What was selected from an iteration, and why.
pub(in crate::dashboard) async fn data(
    State(pages): State<Pages>,
    Path(run): Path<String>,
    Query(asked): Query<Asked>,
) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let is_judged = |row: &EpisodeRow| row.phase == Phase::Train && row.record.verdict.is_some();
    let judged: Vec<&[EpisodeRow]> =
        phases.iter().map(|rows| rows.as_slice()).filter(|rows| rows.iter().any(is_judged)).collect();
    let shown = match asked.iteration {
        Some(wanted) => judged.iter().find(|rows| rows[0].iteration == wanted),
        None => judged.last(),
    };
    let rows = shown.copied().unwrap_or_default();
    let iteration = rows.first().map(|row| row.iteration);
    let groups = groups(&run, rows);
    let count = groups.len().div_ceil(PER_PAGE).max(1);
    let page = asked.page.clamp(1, count);
    let at = |iteration: u32, page: usize| format!("/runs/{}/data?iteration={iteration}&page={page}", run.id);
    let turn = |to: usize| Some(at(iteration?, to));
    let number_of = |is: fn(&&EpisodeRow) -> bool| rows.iter().filter(is).count();
    let best = number_of(|row| row.selected() == Some("best"));
    let worst = number_of(|row| row.selected() == Some("worst"));
    render(&DataPage {
        head: Head::new(&run, "data"),
        iterations: judged
            .iter()
            .map(|rows| (rows[0].iteration, at(rows[0].iteration, 1), Some(rows[0].iteration) == iteration))
            .collect(),
        rule: rule(&run),
        counts: format!(
            "episodes {} · groups {} · best {best} · worst {worst} · vetoed {} · unscored {}",
            rows.len(),
            groups.len(),
            number_of(|row| row.vetoed()),
            number_of(|row| row.unscored()),
        ),
        groups: groups.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE).map(|rows| line(&run, rows)).collect(),
        page,
        pages: count,
        before: (page > 1).then(|| turn(page - 1)).flatten(),
        after: (page < count).then(|| turn(page + 1)).flatten(),
    })
}

/// The episodes that compete with each other, in the order of their names; the best first.
fn groups<'r>(run: &RunRecord, rows: &'r [EpisodeRow]) -> Vec<Vec<&'r EpisodeRow>> {
    let level = text(&run.experiment, &["selection", "level"]).unwrap_or_default();
    let mut groups: BTreeMap<(&str, &str), Vec<&EpisodeRow>> = BTreeMap::new();
    for row in rows {
        let environment = if level == "environment_class" { "" } else { row.record.environment.as_str() };
        let initial_state = if level == "initial_state" { row.record.initial_state.as_str() } else { "" };
        groups.entry((environment, initial_state)).or_default().push(row);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    for rows in &mut groups {
        let reward = |row: &EpisodeRow| row.reward().unwrap_or(f64::NEG_INFINITY);
        rows.sort_by(|a, b| reward(b).total_cmp(&reward(a)).then_with(|| a.record.id.cmp(&b.record.id)));
    }
    groups
}

fn line(run: &RunRecord, rows: &[&EpisodeRow]) -> Line {
    let chosen = |end: &str| {
        let episode = |row: &&EpisodeRow| Episode {
            link: format!("/runs/{}/episodes/{}", run.id, row.record.id),
            reward: number(row.reward(), 2),
            heat: heat(row.reward()),
        };
        let all = || rows.iter().filter(|row| row.selected() == Some(end));
        Chosen { shown: all().take(CHOSEN).map(episode).collect(), more: all().count().saturating_sub(CHOSEN) }
    };
    let free = |row: &&&EpisodeRow| row.selected().is_none() && !row.vetoed();
    let left: Vec<f64> = rows.iter().filter(free).filter_map(|row| row.reward()).collect();
    let one = |of: fn(&EpisodeRow) -> &str| {
        let first = of(rows[0]);
        if rows.iter().all(|row| of(row) == first) { first.to_owned() } else { "all".to_owned() }
    };
    Line {
        environment: one(|row| &row.record.environment),
        initial_state: one(|row| &row.record.initial_state),
        episodes: rows.len(),
        vetoed: rows.iter().filter(|row| row.vetoed()).count(),
        unscored: rows.iter().filter(|row| row.unscored()).count(),
        best: chosen("best"),
        left: match (left.first(), left.last()) {
            (Some(high), Some(low)) if left.len() > 1 => format!("{}: {low:.2} to {high:.2}", left.len()),
            (Some(only), _) => format!("1: {only:.2}"),
            _ => "–".to_owned(),
        },
        worst: chosen("worst"),
    }
}

/// By what the run selects, in words.
fn rule(run: &RunRecord) -> String {
    let at = |path: &[&str]| path.iter().try_fold(&run.experiment, |value, key| value.get(key));
    let among = match text(&run.experiment, &["selection", "level"]).unwrap_or_default() {
        "initial_state" => "initial state",
        "environment" => "environment",
        _ => "environment class",
    };
    let share = |end: &str| text(&run.experiment, &["selection", end]).unwrap_or("0");
    let turns = text(&run.experiment, &["reward", "turns"]).unwrap_or("mean");
    let mut rule =
        format!("Of the episodes of each {among}, those with the highest rewards are the best ({})", share("best"));
    if share("worst") != "0" {
        let _ = write!(rule, ", and those with the lowest the worst ({})", share("worst"));
    }
    let _ = write!(rule, ". A reward is the {turns} expected rating of the turns");
    if let Some(penalty) = at(&["reward", "length_penalty"]).and_then(Value::as_f64).filter(|penalty| *penalty != 0.0) {
        let _ = write!(rule, ", less {penalty} for every character of a reply");
    }
    rule.push_str(". Unscored episodes take no part");
    if let Some(threshold) = at(&["selection", "veto", "threshold"]).and_then(Value::as_f64) {
        let _ = write!(rule, ", nor do those whose mean influence reaches {threshold}");
        if at(&["selection", "veto", "negatives_on_vetoed"]).and_then(Value::as_bool) == Some(true) {
            rule.push_str(" (but they may be among the worst)");
        }
    }
    rule + "."
}
