//! What judges said about a run's conversations, iteration by iteration.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{Path, State};

use super::head::Head;
use super::run::{Chart, conversations_link};
use super::{Page, render, run_id, with_error};
use crate::catalogue::EpisodeRow;
use crate::dashboard::Pages;
use crate::dashboard::charts::{Point, Series, lines};
use crate::experiment::{MetricSummary, agent_of, metrics_of};
use crate::planning::Phase;
use crate::store::MetricSource;

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
    let mut judged = Vec::new();
    for rows in pages.rows.of(&*pages.store, &run.id).await? {
        let Some(&EpisodeRow { phase, iteration, .. }) = rows.first() else { continue };
        let records = rows.iter().map(|row| &row.record);
        let said = metrics_of(&*pages.store, &run.id, (phase, iteration), records).await?;
        judged.push(Judged { phase, iteration, said });
    }
    judged.retain(|phase| !phase.said.is_empty());
    let sources: BTreeSet<&MetricSource> = judged.iter().flat_map(|at| &at.said).map(|metric| &metric.source).collect();
    let names = || sources.iter().map(|source| source.name_among(&sources));
    let described = sources.iter().zip(names()).map(|(source, name)| {
        let question: String = source.question_sha256.to_string().chars().take(8).collect();
        format!("{name}: judged by {}, question {question}", source.judge)
    });
    let line = |at: &Judged| Line {
        link: conversations_link(run.id.as_str(), at.phase, at.iteration, None),
        phase: format!("{} {}", at.phase.name(), at.iteration),
        agent: agent_of(&run, at.iteration),
        cells: sources.iter().map(|source| at.by(source).map_or_else(String::new, cell)).collect(),
    };
    render(&MetricsPage {
        head: Head::new(&run, "metrics"),
        charts: sources.iter().zip(names()).map(|(by, name)| chart(run.id.as_str(), &name, by, &judged)).collect(),
        rows: judged.iter().map(line).collect(),
        sources: described.collect(),
        names: names().collect(),
    })
}

/// What judges said about a phase.
struct Judged {
    phase: Phase,
    iteration: u32,
    said: Vec<MetricSummary>,
}

impl Judged {
    fn by(&self, source: &MetricSource) -> Option<&MetricSummary> {
        self.said.iter().find(|metric| metric.source == *source)
    }
}

fn cell(metric: &MetricSummary) -> String {
    format!("{} ({} of {})", with_error(metric.value), metric.scored, metric.asked)
}

fn chart(run: &str, name: &str, source: &MetricSource, judged: &[Judged]) -> Chart {
    let series = |label: &str, phase: Phase| {
        let points = judged.iter().filter(|at| at.phase == phase).filter_map(|at| {
            let value = at.by(source)?.value?;
            let link = Some(conversations_link(run, phase, at.iteration, None));
            Some(Point { at: at.iteration, mean: value.mean, error: value.standard_error, link })
        });
        Series { name: label.to_owned(), points: points.collect() }
    };
    let mut all = vec![series("training", Phase::Train), series("evaluation", Phase::Evaluate)];
    all.retain(|line| !line.points.is_empty());
    let legend = all.iter().enumerate().map(|(index, line)| (index, line.name.clone())).collect();
    Chart { title: name.to_owned(), svg: lines(name, "iteration", &all), legend }
}
