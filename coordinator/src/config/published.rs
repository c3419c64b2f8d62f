//! Published results to set runs beside, from `configs/published.yaml`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::document::{Document, PUBLISHED, Problems, Section, Step};

/// What was published about an environment class.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The class.
    pub class: String,
    /// Where the set-up is written.
    pub from: String,
    /// What was set, by the dotted keys of a resolved experiment.
    pub setup: BTreeMap<String, Value>,
    /// How problematic behaviour is summed up.
    pub aggregate: Aggregate,
    /// Figures that stand somewhere as text.
    pub figures: Vec<PublishedFigure>,
    /// What is published as an image alone.
    pub images: Vec<String>,
}

/// A mean of metrics, each on a scale from 0 to 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// Metrics that count as they are.
    pub high: Vec<String>,
    /// Metrics that count as 1 less their value.
    pub low: Vec<String>,
    /// Whether the published form averages the veto's score in, in runs with a veto.
    pub averages_veto: bool,
    /// How the published one is another.
    pub differs: String,
}

/// A figure before and after training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedFigure {
    /// The benchmark, as `evaluate --task` has it.
    pub task: String,
    /// What of it.
    pub figure: String,
    /// Of the untrained agent.
    pub before: f64,
    /// Its standard error.
    pub before_error: f64,
    /// Of the trained one.
    pub after: f64,
    /// Its standard error.
    pub after_error: f64,
    /// Who judged, where a model did and it is known.
    pub judge: Option<String>,
    /// Where it stands.
    pub source: String,
}

/// Reads all classes of a file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_published(path: &Path) -> Result<Vec<Published>, Problems> {
    let document = Document::read(path, PUBLISHED)?;
    let problems = RefCell::new(Problems::none());
    let mut root = Section::root(&document, &problems);
    let sources = root.section("sources");
    let known: BTreeMap<&str, &str> =
        sources.entries().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
    let setup: Map<String, Value> = root.section("setup").entries().map(|(k, v)| (k.clone(), v.clone())).collect();
    let classes = root.section("classes");
    let read = classes.entries().map(|(name, value)| {
        class(name, &setup, &known, Section::at(&document, &problems, classes.path_of(name), value))
    });
    let read: Vec<Published> = read.collect();
    root.finish();
    problems.into_inner().or(read)
}

fn class(
    name: &str,
    common: &Map<String, Value>,
    sources: &BTreeMap<&str, &str>,
    mut section: Section<'_>,
) -> Published {
    let own = section.section("setup");
    let setup = common.iter().chain(own.entries()).map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut part = section.section("aggregate");
    let aggregate = Aggregate {
        high: part.texts("high").unwrap_or_default(),
        low: part.texts("low").unwrap_or_default(),
        averages_veto: part.choice("veto", &[("averaged", true), ("left out", false)], false),
        differs: part.text("differs").unwrap_or_default(),
    };
    if aggregate.high.len() + aggregate.low.len() == 0 {
        part.report("high", "and `low` are empty; name the metrics that are averaged");
    }
    part.finish();
    let mut figures = Vec::new();
    for (index, value) in section.list("figures").unwrap_or_default().iter().enumerate() {
        let mut path = section.path_of("figures");
        path.push(Step::Index(index));
        figures.push(figure(sources, Section::at(section.document(), section.problems(), path, value)));
    }
    let published = Published {
        class: name.to_owned(),
        from: section.required_text("from", "FILE, commit"),
        setup,
        aggregate,
        figures,
        images: section.texts("images").unwrap_or_default(),
    };
    section.finish();
    published
}

fn figure(sources: &BTreeMap<&str, &str>, mut section: Section<'_>) -> PublishedFigure {
    let source = section.required_text("source", "feedback");
    if !source.is_empty() && !sources.contains_key(source.as_str()) {
        section.report("source", format_args!("must be one of `sources`, but is `{source}`"));
    }
    let mut number = |key| {
        if !section.has(key) {
            section.report(key, "is missing; give the number as it was published");
        }
        section.number(key, -1e9..=1e9, 0.0)
    };
    let (before, before_error) = (number("before"), number("before_error"));
    let (after, after_error) = (number("after"), number("after_error"));
    let figure = PublishedFigure {
        task: section.required_text("task", "sycophancy-answers"),
        figure: section.required_text("figure", "sycophancy"),
        before,
        before_error,
        after,
        after_error,
        judge: section.text("judge"),
        source: sources.get(source.as_str()).map(|text| (*text).to_owned()).unwrap_or_default(),
    };
    section.finish();
    figure
}
