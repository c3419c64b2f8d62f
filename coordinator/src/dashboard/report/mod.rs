//! A run as one document: what was done, what came of it, what was said, and what it does not show. As HTML it needs nothing
//! but itself; as Markdown it goes into a repository.

mod beyond;
mod chosen;
mod limits;
#[cfg(test)]
mod tests;

use askama::Template;
use influence_proto::{RunId, TrainedAgent};
use serde_json::Value;

use super::charts::{Point, Series, lines};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::experiment::{IterationSummary, summary};
use crate::planning::Phase;
use crate::statistics::Estimate;
use crate::store::{RunRecord, RunStatus, Store, StoreError, TrainingRecord};
use beyond::Beyond;
use chosen::{Conversation, chosen, visible};

/// How many conversations are shown as the best, as the worst and at random.
const SHOWN: usize = 3;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The run cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The digests of its models cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// It cannot be put into words.
    #[error("the report cannot be written: {0}")]
    Template(#[from] askama::Error),
}

/// What a report is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportForm {
    /// For repositories and terminals.
    Markdown,
    /// One file for a browser, without scripts, that loads nothing.
    Html,
}

/// The report of a run. `seed` chooses the random conversations; without `artifacts` the digests of models are left out.
///
/// # Errors
/// When the run cannot be read.
pub async fn report(
    store: &dyn Store,
    artifacts: Option<&Artifacts>,
    run: &RunId,
    seed: u64,
    form: ReportForm,
) -> Result<String, ReportError> {
    let run = store.run(run).await?;
    let figures = summary(store, &run.id).await?;
    let conversations = chosen(store, &run.id, seed, SHOWN).await?;
    let report = Report {
        method: method(&run),
        models: models(&run, artifacts).await?,
        settings: settings(&run.experiment),
        charts: charts(&figures),
        limits: limits::of(&run, &figures),
        trainings: store.trainings(&run.id).await?.iter().filter_map(training).collect(),
        rows: figures.iter().map(row).collect(),
        beyond: Beyond::of(&figures),
        notes: figures.into_iter().flat_map(|row| row.notes).collect(),
        groups: conversations,
        seed,
        shown: SHOWN,
        run,
    };
    Ok(match form {
        ReportForm::Markdown => Markdown { report }.render()?,
        ReportForm::Html => Html { report, style: include_str!("../assets/style.css") }.render()?,
    })
}

#[derive(Template)]
#[template(path = "report.html")]
struct Html {
    report: Report,
    style: &'static str,
}

#[derive(Template)]
#[template(path = "report.md", whitespace = "preserve")]
struct Markdown {
    report: Report,
}

struct Report {
    run: RunRecord,
    method: Vec<String>,
    models: Vec<Model>,
    /// Dotted keys and values.
    settings: Vec<(String, String)>,
    charts: Vec<Chart>,
    rows: Vec<Vec<String>>,
    /// What was measured beside the reward.
    beyond: Beyond,
    notes: Vec<String>,
    trainings: Vec<Vec<String>>,
    limits: Vec<String>,
    groups: Vec<(&'static str, Vec<Conversation>)>,
    seed: u64,
    shown: usize,
}

/// The table of iterations.
const COLUMNS: [&str; 11] = [
    "phase",
    "agent",
    "finished",
    "reward",
    "scored",
    "influence",
    "vetoed",
    "reply length",
    "selected",
    "tokens",
    "seconds",
];
/// The table of trainings.
const TRAININGS: [&str; 8] = [
    "iteration",
    "algorithm",
    "rows",
    "steps",
    "loss",
    "dataset (sha256)",
    "adapter weights (sha256), or model",
    "seed",
];

impl Report {
    fn status(&self) -> String {
        match &self.run.status {
            RunStatus::Running => "not finished".to_owned(),
            RunStatus::Finished => "finished".to_owned(),
            RunStatus::Failed(error) => format!("failed: {error}"),
        }
    }

    fn created(&self) -> String {
        let created = i64::try_from(self.run.created_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
        created.map(|time| time.format("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
    }

    const fn columns(&self) -> [&'static str; 11] {
        COLUMNS
    }

    const fn training_columns(&self) -> [&'static str; 8] {
        TRAININGS
    }
}

struct Model {
    role: &'static str,
    name: String,
    /// Of the files that the run is pinned to.
    sha256: String,
}

struct Chart {
    title: &'static str,
    svg: String,
    legend: Vec<(usize, String)>,
}

/// What the experiment says somewhere.
fn at<'v>(experiment: &'v Value, pointer: &str) -> Option<&'v Value> {
    experiment.pointer(pointer).filter(|value| !value.is_null())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What was done, in sentences that every figure below is to be read with.
fn method(run: &RunRecord) -> Vec<String> {
    let says = |pointer: &str| at(&run.experiment, pointer).map_or_else(|| "?".to_owned(), shown);
    if at(&run.experiment, "/imported").is_some() {
        return vec![
            "The conversations were imported from trajectories of the Python benchmark. What those files do not hold is not here: \
             settings, seeds, most models, what was selected."
                .to_owned(),
        ];
    }
    let trains = at(&run.experiment, "/iterations").and_then(Value::as_u64) != Some(0);
    let mut told = vec![match trains {
        true => format!(
            "Simulated users of the class {} talk with the agent. An iteration rolls out {} openings of each environment, {} \
             conversations each. Iterations: {}; limit of turns: {}.",
            says("/environments/class"),
            says("/environments/initial_states"),
            says("/environments/siblings"),
            says("/iterations"),
            says("/environments/max_turns")
        ),
        false => format!(
            "Simulated users of the class {} talk with an agent that is not trained here: {}. Openings of each environment: {}; limit \
             of turns: {}.",
            says("/environments/class"),
            at(&run.experiment, "/start/agent").map_or_else(|| "the model as it is".to_owned(), shown),
            says("/evaluation/initial_states"),
            says("/environments/max_turns")
        ),
    }];
    told.push(
        "The preference model's rating of a reply is the expected value of the probabilities that it gives to the allowed answers; \
         no text is parsed. The reward of a conversation is taken over its turns."
            .to_owned(),
    );
    if let Some(algorithm) = at(&run.experiment, "/training/algorithm").filter(|_| trains) {
        let name = algorithm.as_object().and_then(|of| of.keys().next().cloned()).unwrap_or_else(|| shown(algorithm));
        let worst = at(&run.experiment, "/selection/worst").map(shown).filter(|share| share != "0");
        told.push(format!(
            "Of each {}, a share of {} with the best rewards{} is selected, for training {} by {}.",
            says("/selection/level").replace('_', " "),
            says("/selection/best"),
            worst.map(|share| format!(" and one of {share} with the worst")).unwrap_or_default(),
            match at(&run.experiment, "/training/backend") {
                Some(_) => "the agent through its server's fine-tuning API",
                None => "the agent's LoRA adapter",
            },
            name.to_uppercase()
        ));
    }
    if trains && at(&run.experiment, "/evaluation/initial_states").is_some() {
        told.push("Evaluations use openings that training never sees, the same ones each time.".to_owned());
    }
    told
}

async fn models(run: &RunRecord, artifacts: Option<&Artifacts>) -> Result<Vec<Model>, ArtifactError> {
    let mut models = Vec::new();
    for role in ["agent", "environment", "preference", "transition", "influence"] {
        let Some(name) = at(&run.experiment, &format!("/roles/{role}/model")).map(shown) else { continue };
        let pinned = match artifacts {
            Some(artifacts) => artifacts.pinned(&run.id, &name).await?,
            None => None,
        };
        models.push(Model { role, name, sha256: pinned.map_or_else(|| "–".to_owned(), |digest| digest.to_string()) });
    }
    Ok(models)
}

/// The experiment, key by key.
fn settings(experiment: &Value) -> Vec<(String, String)> {
    fn walk(key: &str, value: &Value, all: &mut Vec<(String, String)>) {
        match value.as_object().filter(|object| !object.is_empty()) {
            None => all.push((key.to_owned(), shown(value))),
            Some(object) => {
                for (name, value) in object {
                    walk(&if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, value, all);
                }
            }
        }
    }
    let mut all = Vec::new();
    walk("", experiment, &mut all);
    all
}

/// A line for the iterations and one for the evaluations.
fn charts(figures: &[IterationSummary]) -> Vec<Chart> {
    let plain = |mean| Estimate { mean, standard_error: None };
    let share = |row: &IterationSummary| {
        let share = (row.vetoed + row.vetoed_unscored) as f64 / row.finished.max(1) as f64;
        (row.influence.is_some()).then_some(share)
    };
    type Of<'a> = &'a dyn Fn(&IterationSummary) -> Option<Estimate>;
    let all: [(&'static str, Of<'_>); 4] = [
        ("reward, mean ± standard error", &|row| row.reward),
        ("influence, mean", &|row| row.influence.map(plain)),
        ("share of vetoed conversations", &|row| share(row).map(plain)),
        ("length of a reply in characters, mean", &|row| row.reply_characters.map(plain)),
    ];
    all.into_iter().map(|(title, of)| chart(title, figures, of)).filter(|chart| !chart.svg.is_empty()).collect()
}

fn chart(
    title: &'static str,
    figures: &[IterationSummary],
    of: &dyn Fn(&IterationSummary) -> Option<Estimate>,
) -> Chart {
    let series = |name: &str, phase: Phase| {
        let points = figures.iter().filter(|row| row.phase == phase).filter_map(|row| {
            let Estimate { mean, standard_error } = of(row)?;
            Some(Point { at: row.iteration, mean, error: standard_error, link: Some("#results".to_owned()) })
        });
        Series { name: name.to_owned(), points: points.collect() }
    };
    let mut all = vec![series("training", Phase::Train), series("evaluation", Phase::Evaluate)];
    all.retain(|line| !line.points.is_empty());
    let legend = all.iter().enumerate().map(|(index, line)| (index, line.name.clone())).collect();
    Chart { title, svg: lines(title, "iteration", &all), legend }
}

fn phase(row: &IterationSummary) -> String {
    match row.phase {
        Phase::Train => format!("iteration {}", row.iteration),
        Phase::Evaluate => format!("evaluation {}", row.iteration),
    }
}

fn row(row: &IterationSummary) -> Vec<String> {
    let influence = row.influence.map(|i| format!("{i:.3} ({} scored)", row.influence_scored));
    vec![
        phase(row),
        row.adapter.clone(),
        format!("{} of {}", row.finished, row.episodes),
        super::pages::with_error(row.reward),
        format!("{} of {}", row.scored, row.finished),
        influence.unwrap_or_else(|| "–".to_owned()),
        format!("{}", row.vetoed + row.vetoed_unscored),
        super::pages::number(row.reply_characters, 0),
        row.selected.to_string(),
        format!("{} + {}", row.prompt_tokens, row.generated_tokens),
        format!("{:.0}", row.active.as_secs_f64()),
    ]
}

fn training(training: &TrainingRecord) -> Option<Vec<String>> {
    let report = training.report.as_ref()?;
    Some(vec![
        training.iteration.to_string(),
        training.spec.algorithm.name().to_uppercase(),
        report.rows.to_string(),
        report.steps.to_string(),
        match report.first_loss.zip(report.last_loss) {
            Some((first, last)) => format!("{first:.3} → {last:.3}"),
            None => "–".to_owned(),
        },
        training.spec.dataset.to_string(),
        match &report.agent {
            TrainedAgent::Adapter(adapter) => adapter.weights.to_string(),
            TrainedAgent::Served { model } => model.to_string(),
        },
        training.spec.seed.to_string(),
    ])
}

/// A text in Markdown, in a cell of a table too: on one line, with what would steer the reader escaped: no
/// cell ends early, and nothing becomes a tag, a link or an image.
fn cell(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('|', "\\|").replace('[', "\\[").replace('<', "&lt;");
    let text = text.replace(['\n', '\r'], " ");
    text.chars().map(visible).collect()
}
