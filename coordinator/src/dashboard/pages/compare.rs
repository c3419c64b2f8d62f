use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::run::{Value, mean};
use super::{Page, render, run_id, with_error};
use crate::catalogue::EpisodeRow;
use crate::dashboard::Pages;
use crate::dashboard::error::PageError;
use crate::statistics::Estimate;

/// Pairs that the table shows, those with the largest differences.
const SHOWN: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    /// `evaluate` or `train`.
    phase: String,
    a: String,
    a_iteration: u32,
    b: String,
    b_iteration: u32,
}

#[derive(Template)]
#[template(path = "compare.html")]
struct ComparePage {
    asked: Asked,
    pairs: usize,
    alone: usize,
    figures: Vec<Line>,
    rows: Vec<Pair>,
}

struct Line {
    name: String,
    pairs: usize,
    a: String,
    b: String,
    difference: String,
    interval: String,
}

struct Pair {
    environment: String,
    initial_state: String,
    a: String,
    a_link: String,
    b: String,
    b_link: String,
    difference: String,
}

/// Two iterations, of one run or of two, over the initial states that both have: is each opening answered better or worse?
pub(in crate::dashboard) async fn compare(State(pages): State<Pages>, Query(asked): Query<Asked>) -> Page {
    let a = side(&pages, &asked.a, &asked.phase, asked.a_iteration).await?;
    let b = side(&pages, &asked.b, &asked.phase, asked.b_iteration).await?;
    let (a, b) = (by_opening(&a), by_opening(&b));
    let both: Vec<(&Opening, &[&EpisodeRow], &[&EpisodeRow])> =
        a.iter().filter_map(|(opening, rows)| Some((opening, &**rows, &**b.get(opening)?))).collect();
    let mut kinds: Vec<&str> = both.iter().map(|(_, rows, _)| rows[0].kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut figures = Vec::new();
    for (name, value) in [("reward", EpisodeRow::reward as Value), ("influence", EpisodeRow::influence)] {
        figures.extend(line(name.to_owned(), &both, value));
        if (2..=4).contains(&kinds.len()) {
            for kind in &kinds {
                let of: Vec<_> = both.iter().filter(|(_, rows, _)| rows[0].kind() == *kind).copied().collect();
                figures.extend(line(format!("{name}, {kind}"), &of, value));
            }
        }
    }
    let mut rows: Vec<(f64, Pair)> = both.iter().filter_map(|pair| row(&asked, pair)).collect();
    rows.sort_by(|(one, _), (other, _)| other.abs().total_cmp(&one.abs()));
    render(&ComparePage {
        pairs: both.len(),
        alone: a.len() + b.len() - 2 * both.len(),
        figures,
        rows: rows.into_iter().take(SHOWN).map(|(_, pair)| pair).collect(),
        asked,
    })
}

/// Environment and initial state.
type Opening = (String, String);

async fn side(pages: &Pages, run: &str, phase: &str, iteration: u32) -> Result<Vec<EpisodeRow>, PageError> {
    let run = pages.store.run(&run_id(run.to_owned())?).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let is_it = |row: &EpisodeRow| row.phase.name() == phase && row.iteration == iteration;
    let rows = phases.iter().find(|rows| rows.first().is_some_and(is_it));
    let missing =
        || PageError::not_found(format!("The run {} has no phase `{phase}` of iteration {iteration}.", run.id));
    rows.map(|rows| rows.to_vec()).ok_or_else(missing)
}

fn by_opening(rows: &[EpisodeRow]) -> BTreeMap<Opening, Vec<&EpisodeRow>> {
    let mut all: BTreeMap<Opening, Vec<&EpisodeRow>> = BTreeMap::new();
    for row in rows {
        all.entry((row.record.environment.clone(), row.record.initial_state.clone())).or_default().push(row);
    }
    all
}

/// The mean of siblings.
fn of_siblings(rows: &[&EpisodeRow], value: Value) -> Option<f64> {
    mean(rows.iter().copied(), value).map(|estimate| estimate.mean)
}

/// Means on both sides and of the differences; the interval holds the true mean with a probability of 95% where there are
/// enough pairs for the normal distribution. None if nothing can be paired.
fn line(name: String, both: &[(&Opening, &[&EpisodeRow], &[&EpisodeRow])], value: Value) -> Option<Line> {
    let pairs: Vec<(f64, f64)> =
        both.iter().filter_map(|(_, a, b)| Some((of_siblings(a, value)?, of_siblings(b, value)?))).collect();
    let of = |number: fn(&(f64, f64)) -> f64| Estimate::of(pairs.iter().map(number).enumerate());
    let difference = of(|(a, b)| b - a)?;
    let interval = difference.standard_error.map_or_else(
        || "–".to_owned(),
        |error| format!("{:.2} to {:.2}", difference.mean - 1.96 * error, difference.mean + 1.96 * error),
    );
    Some(Line {
        name,
        pairs: pairs.len(),
        a: with_error(of(|(a, _)| *a)),
        b: with_error(of(|(_, b)| *b)),
        difference: with_error(Some(difference)),
        interval,
    })
}

fn row(asked: &Asked, (opening, a, b): &(&Opening, &[&EpisodeRow], &[&EpisodeRow])) -> Option<(f64, Pair)> {
    let (first, second) = (of_siblings(a, EpisodeRow::reward)?, of_siblings(b, EpisodeRow::reward)?);
    let link = |run: &str, rows: &[&EpisodeRow]| format!("/runs/{run}/episodes/{}", rows[0].record.id);
    let pair = Pair {
        environment: opening.0.clone(),
        initial_state: opening.1.clone(),
        a: format!("{first:.2}"),
        a_link: link(&asked.a, a),
        b: format!("{second:.2}"),
        b_link: link(&asked.b, b),
        difference: format!("{:+.2}", second - first),
    };
    Some((second - first, pair))
}
