//! What judges said about a run's conversations, iteration by iteration.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::{Path, State};

use super::head::Head;
use super::run::{Chart, conversations_link};
use super::{Page, render, run_id, with_error};
use crate::dashboard::Pages;
use crate::dashboard::charts::{Point, Series, lines};
use crate::experiment::{IterationSummary, MetricSummary, summary};
use crate::planning::Phase;

#[derive(Template)]
#[template(path = "metrics.html")]
struct MetricsPage {
    head: Head,
    charts: Vec<Chart>,
    names: Vec<String>,
    rows: Vec<Line>,
    sources: Vec<String>,
}

struct Line {
    link: String,
    phase: String,
    agent: String,
    /// One for each name.
    cells: Vec<String>,
}

/// A chart and a column for each metric.
pub(in crate::dashboard) async fn metrics(State(pages): State<Pages>, Path(run): Path<String>) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let iterations = summary(&*pages.store, &run.id).await?;
    let names: BTreeSet<String> = iterations.iter().flat_map(|row| row.metrics.keys()).cloned().collect();
    let mut sources: BTreeMap<&String, &MetricSummary> = BTreeMap::new();
    for (name, metric) in iterations.iter().flat_map(|row| &row.metrics) {
        sources.entry(name).or_insert(metric);
    }
    let sources = sources.into_iter().map(|(name, MetricSummary { source, .. })| {
        let question: String = source.question_sha256.to_string().chars().take(8).collect();
        format!("{name}: judged by {}, question {question}", source.judge)
    });
    let line = |row: &IterationSummary| Line {
        link: conversations_link(run.id.as_str(), row.phase, row.iteration, None),
        phase: format!("{} {}", row.phase.name(), row.iteration),
        agent: row.adapter.clone(),
        cells: names.iter().map(|name| row.metrics.get(name).map_or_else(String::new, cell)).collect(),
    };
    render(&MetricsPage {
        head: Head::new(&run, "metrics"),
        charts: names.iter().map(|name| chart(run.id.as_str(), name, &iterations)).collect(),
        rows: iterations.iter().filter(|row| !row.metrics.is_empty()).map(line).collect(),
        sources: sources.collect(),
        names: names.into_iter().collect(),
    })
}

fn cell(metric: &MetricSummary) -> String {
    format!("{} ({} of {})", with_error(metric.value), metric.scored, metric.asked)
}

fn chart(run: &str, name: &str, iterations: &[IterationSummary]) -> Chart {
    let series = |label: &str, phase: Phase| {
        let points = iterations.iter().filter(|row| row.phase == phase).filter_map(|row| {
            let value = row.metrics.get(name)?.value?;
            let link = Some(conversations_link(run, phase, row.iteration, None));
            Some(Point { at: row.iteration, mean: value.mean, error: value.standard_error, link })
        });
        Series { name: label.to_owned(), points: points.collect() }
    };
    let mut all = vec![series("training", Phase::Train), series("evaluation", Phase::Evaluate)];
    all.retain(|line| !line.points.is_empty());
    let legend = all.iter().enumerate().map(|(index, line)| (index, line.name.clone())).collect();
    Chart { title: name.to_owned(), svg: lines(name, "iteration", &all), legend }
}
