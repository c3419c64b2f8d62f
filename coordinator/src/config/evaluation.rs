//! Evaluations: questions that are put to finished conversations, from files in `configs/evaluations/`.

use std::cell::RefCell;
use std::path::Path;

use influence_proto::{Score, ScoreOutcome};
use serde::{Deserialize, Serialize};

use super::document::{Document, Dotted, EVALUATION, Problems, Section};
use crate::environments::AgentPrompt;

/// What answers a judge may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// The numbers from 1 to 10; the value is the expected one.
    OneToTen,
    /// `yes` and `no`; the value is the probability of `yes`.
    YesNo,
}

impl Scale {
    /// The answers, as an assessor is allowed them.
    pub fn answers(self) -> Vec<String> {
        match self {
            Self::OneToTen => (1..=10).map(|number| number.to_string()).collect(),
            Self::YesNo => vec!["yes".into(), "no".into()],
        }
    }

    /// What a score says on this scale; none if it is unscored.
    pub fn value(self, score: &Score) -> Option<f64> {
        let ScoreOutcome::Scored(answers) = score.outcome() else { return None };
        match self {
            Self::OneToTen => score.expected(),
            Self::YesNo => answers.iter().find(|(answer, _)| answer == "yes").map(|(_, p)| *p),
        }
    }
}

/// What of a conversation is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The whole, once.
    Conversation,
    /// Every reply of the agent, on the conversation up to it.
    Turn,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Unique within a file: 1 to 64 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// What a high value means, for people.
    pub about: String,
    /// The judge's system prompt.
    pub system_prompt: AgentPrompt,
    /// The last paragraph of what the judge sees.
    pub prompt_suffix: AgentPrompt,
    /// How it may answer.
    pub scale: Scale,
    /// What it judges.
    pub per: Unit,
    /// Whether its transcript shows tool messages and notes.
    pub sees_tools: bool,
    /// Environment classes that it is meant for; empty for all.
    pub classes: Vec<String>,
}

/// Reads an evaluation file: `metrics: {NAME: {about, system_prompt, prompt_suffix, scale, per, sees_tools, classes}}`.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_metrics(path: &Path) -> Result<Vec<Metric>, Problems> {
    read_metrics(&Document::read(path, EVALUATION)?)
}

/// The metrics of a file that was read.
pub(super) fn read_metrics(document: &Document) -> Result<Vec<Metric>, Problems> {
    let problems = RefCell::new(Problems::none());
    let mut root = Section::root(document, &problems);
    let metrics = root.section("metrics");
    let read: Vec<Option<Metric>> = metrics
        .entries()
        .map(|(name, value)| read_metric(name, Section::at(document, &problems, metrics.path_of(name), value)))
        .collect();
    for (name, _) in metrics.entries().filter(|(name, _)| !is_plain(name)) {
        metrics.report(name, "must be 1 to 64 of a-z, 0-9 and -");
    }
    if read.is_empty() && problems.borrow().is_empty() {
        let example = "name a question, as in `metrics: {harm: {about: ..., system_prompt: ..., prompt_suffix: ...}}`";
        problems.borrow_mut().push(document.problem(&[], format!("`metrics` is empty or missing; {example}")));
    }
    root.finish();
    problems.into_inner().or(read.into_iter().flatten().collect())
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

fn read_metric(name: &str, mut section: Section<'_>) -> Option<Metric> {
    let about = section.required_text("about", "how harmful the agent's replies are");
    let system_prompt = prompt(&mut section, "system_prompt");
    let prompt_suffix = prompt(&mut section, "prompt_suffix");
    let scale = section.choice("scale", &[("1-10", Scale::OneToTen), ("yes-no", Scale::YesNo)], Scale::OneToTen);
    let per = section.choice("per", &[("conversation", Unit::Conversation), ("turn", Unit::Turn)], Unit::Turn);
    let sees_tools = section.flag("sees_tools", false);
    let classes = section.texts("classes").unwrap_or_default();
    section.finish();
    let (system_prompt, prompt_suffix) = (system_prompt?, prompt_suffix?);
    Some(Metric { name: name.to_owned(), about, system_prompt, prompt_suffix, scale, per, sees_tools, classes })
}

fn prompt(section: &mut Section<'_>, key: &'static str) -> Option<AgentPrompt> {
    let text = section.required_text(key, "TEXT");
    AgentPrompt::parse(&text)
        .map_err(|error| {
            let path = section.path_of(key);
            let problem = section.document().problem(&path, format!("`{}` {error}", Dotted(&path)));
            section.problems().borrow_mut().push(problem);
        })
        .ok()
}
