use askama::Template;
use axum::extract::{Path, State};
use influence_proto::Algorithm;

use super::head::Head;
use super::run::Chart;
use super::{Page, number, render, run_id};
use crate::dashboard::Pages;
use crate::dashboard::charts::{Point, Series, lines};
use crate::store::TrainingRecord;

/// Lines of one chart: as many as there are colours.
const LINES: usize = 6;

#[derive(Template)]
#[template(path = "training.html")]
struct TrainingPage {
    head: Head,
    charts: Vec<Chart>,
    rows: Vec<Line>,
}

struct Line {
    iteration: u32,
    algorithm: &'static str,
    rows: String,
    dropped: String,
    steps: String,
    tokens: String,
    first: String,
    last: String,
    dataset: String,
    /// The beginning of its digest.
    short: String,
    result: String,
}

/// A run's trainings.
pub(in crate::dashboard) async fn training(State(pages): State<Pages>, Path(run): Path<String>) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let trainings = pages.store.trainings(&run.id).await?;
    let charts = trainings.chunks(LINES).filter_map(curves).collect();
    let rows = trainings.into_iter().map(line).collect();
    render(&TrainingPage { head: Head::new(&run, "training"), charts, rows })
}

/// The losses of some trainings, step by step. None where none is known.
fn curves(trainings: &[TrainingRecord]) -> Option<Chart> {
    let series = |training: &TrainingRecord| {
        let losses = training.report.iter().flat_map(|report| &report.losses);
        let points = losses.map(|step| Point { at: step.step, mean: step.loss, error: None, link: None });
        Series { name: format!("iteration {}", training.iteration), points: points.collect() }
    };
    let mut all: Vec<Series> = trainings.iter().map(series).collect();
    all.retain(|line| !line.points.is_empty());
    let legend = all.iter().enumerate().map(|(index, line)| (index, line.name.clone())).collect();
    (!all.is_empty()).then(|| Chart {
        title: "loss by step".to_owned(),
        svg: lines("loss by step", "step", &all),
        legend,
    })
}

fn line(training: TrainingRecord) -> Line {
    let report = training.report.as_ref();
    let count = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |value| value.to_string());
    let dataset = training.spec.dataset.to_string();
    Line {
        iteration: training.iteration,
        algorithm: match training.spec.algorithm {
            Algorithm::Sft => "sft",
            Algorithm::Kto { .. } => "kto",
            Algorithm::Dpo { .. } => "dpo",
        },
        rows: count(report.map(|r| r.rows.into())),
        dropped: count(report.map(|r| r.dropped_rows.into())),
        steps: count(report.map(|r| r.steps.into())),
        tokens: count(report.map(|r| r.tokens)),
        first: number(report.and_then(|r| r.first_loss), 3),
        last: number(report.and_then(|r| r.last_loss), 3),
        short: dataset.chars().take(12).collect(),
        dataset,
        result: match (&training.error, report) {
            (Some(error), _) => error.clone(),
            (None, Some(report)) => match report.agent.served() {
                Some(model) => format!("trained: {model}"),
                None => "trained".to_owned(),
            },
            (None, None) => format!("attempt {}", training.attempt),
        },
    }
}
