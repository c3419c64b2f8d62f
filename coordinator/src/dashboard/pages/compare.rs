use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::run::Value;
use super::{Page, render, run_id, with_error};
use crate::catalogue::{EpisodeRow, Pair, pairs};
use crate::dashboard::Pages;
use crate::dashboard::error::PageError;
use crate::statistics::{Paired, paired};

/// Pairs that the table shows, those with the largest differences.
const SHOWN: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    /// `evaluate` if it is empty, or `train`.
    phase: String,
    a: String,
    /// The last one if it is not given.
    a_iteration: Option<u32>,
    b: String,
    b_iteration: Option<u32>,
}

#[derive(Template)]
#[template(path = "compare.html")]
struct ComparePage {
    asked: Asked,
    /// Of A and of B.
    iterations: [u32; 2],
    pairs: usize,
    alone: usize,
    figures: Vec<Line>,
    rows: Vec<PairRow>,
}

struct Line {
    name: String,
    pairs: usize,
    a: String,
    b: String,
    difference: String,
    interval: String,
}

struct PairRow {
    environment: String,
    initial_state: String,
    a: String,
    a_link: String,
    b: String,
    b_link: String,
    difference: String,
    /// To a conversation of either, side by side.
    beside: String,
}

/// Two iterations, of one run or of two, over the initial states that both have: is each opening answered better or worse?
pub(in crate::dashboard) async fn compare(State(pages): State<Pages>, Query(asked): Query<Asked>) -> Page {
    let a = side(&pages, &asked.a, &asked.phase, asked.a_iteration).await?;
    let b = side(&pages, &asked.b, &asked.phase, asked.b_iteration).await?;
    let iterations = [&a, &b].map(|rows| rows[0].iteration);
    let (both, alone) = pairs(&a, &b);
    let mut kinds: Vec<&str> = both.iter().map(|pair| pair.opening.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut figures = Vec::new();
    for (name, value) in [("reward", EpisodeRow::reward as Value), ("influence", EpisodeRow::influence)] {
        figures.extend(line(name.to_owned(), both.iter(), value));
        if (2..=4).contains(&kinds.len()) {
            for kind in &kinds {
                let of = both.iter().filter(|pair| pair.opening.kind() == *kind);
                figures.extend(line(format!("{name}, {kind}"), of, value));
            }
        }
    }
    let mut rows: Vec<(f64, PairRow)> = both.iter().filter_map(|pair| row(&asked, pair)).collect();
    rows.sort_by(|(one, _), (other, _)| other.abs().total_cmp(&one.abs()));
    render(&ComparePage {
        pairs: both.len(),
        alone,
        figures,
        rows: rows.into_iter().take(SHOWN).map(|(_, pair)| pair).collect(),
        iterations,
        asked,
    })
}

async fn side(pages: &Pages, run: &str, phase: &str, iteration: Option<u32>) -> Result<Vec<EpisodeRow>, PageError> {
    let run = pages.store.run(&run_id(run.to_owned())?).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let phase = if phase.is_empty() { "evaluate" } else { phase };
    let is_it =
        |row: &EpisodeRow| row.phase.name() == phase && iteration.is_none_or(|iteration| row.iteration == iteration);
    let rows = phases.iter().rfind(|rows| rows.first().is_some_and(is_it));
    let which = iteration.map(|iteration| format!(" of iteration {iteration}")).unwrap_or_default();
    let missing = || PageError::not_found(format!("The run {} has no phase `{phase}`{which}.", run.id));
    rows.map(|rows| rows.to_vec()).ok_or_else(missing)
}

/// None if nothing can be paired.
fn line<'p, 'r: 'p>(name: String, both: impl Iterator<Item = &'p Pair<'r, EpisodeRow>>, value: Value) -> Option<Line> {
    let means: Vec<(f64, f64)> = both.filter_map(|pair| pair.means(value)).collect();
    let Paired { pairs, a, b, difference, interval, .. } = paired(&means, 0)?;
    Some(Line {
        name,
        pairs,
        a: with_error(Some(a)),
        b: with_error(Some(b)),
        difference: with_error(Some(difference)),
        interval: interval.map_or_else(|| "–".to_owned(), |i| format!("{:.2} to {:.2}", i.low, i.high)),
    })
}

fn row(asked: &Asked, pair: &Pair<'_, EpisodeRow>) -> Option<(f64, PairRow)> {
    let (first, second) = pair.means(EpisodeRow::reward)?;
    let link = |run: &str, rows: &[&EpisodeRow]| format!("/runs/{run}/episodes/{}", rows[0].record.id);
    let row = PairRow {
        environment: pair.opening.record.environment.clone(),
        initial_state: pair.opening.record.initial_state.clone(),
        a: format!("{first:.2}"),
        a_link: link(&asked.a, &pair.a),
        b: format!("{second:.2}"),
        b_link: link(&asked.b, &pair.b),
        difference: format!("{:+.2}", second - first),
        beside: format!("/beside?a={}/{}&b={}/{}", asked.a, pair.a[0].record.id, asked.b, pair.b[0].record.id),
    };
    Some((second - first, row))
}
