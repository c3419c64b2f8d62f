use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::states::{RawState, read_answers, read_states, variable_text};
use super::template::check_syntax;
use crate::config::document::{Document, Dotted, ENVIRONMENT, Problem, Problems, Section, Step, describe};

/// The file that all environments of a class share.
pub(crate) const MASTER: &str = "_master_config.yaml";

/// Which of a class's prompts the influence role gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InfluencePrompts {
    /// `system_prompt` and `prompt_suffix`.
    Normal,
    /// `constitutional_system_prompt` and `constitutional_prompt_suffix`.
    Constitutional,
    /// `five_point_system_prompt` and `five_point_prompt_suffix`; answers are 1 to 5.
    FivePoint,
}

impl InfluencePrompts {
    /// The value in experiment files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Constitutional => "constitutional",
            Self::FivePoint => "five_point",
        }
    }
}

/// A prompt as the file has it, with its place.
#[derive(Debug, Clone)]
pub(super) struct RawPrompt {
    pub(super) text: String,
    pub(super) path: Vec<Step>,
}

/// An assessor's prompts.
#[derive(Debug, Clone)]
pub(super) struct RawAssessor {
    pub(super) system: RawPrompt,
    pub(super) suffix: RawPrompt,
    pub(super) answers: Vec<String>,
}

/// A class's shared file.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) document: Document,
    pub(super) states: BTreeMap<String, RawState>,
    pub(super) character: RawPrompt,
    pub(super) agent: RawPrompt,
    pub(super) agent_max_tokens: Option<u32>,
    pub(super) agent_temperature: Option<f64>,
    pub(super) preference: RawAssessor,
    pub(super) transition: RawAssessor,
    pub(super) influence: BTreeMap<InfluencePrompts, RawAssessor>,
    /// Asks a model for another opening: system prompt and request.
    pub(super) generation: Option<[RawPrompt; 2]>,
    /// Drawn per initial state.
    pub(super) variables: Vec<(String, Vec<String>)>,
}

impl Master {
    /// Reads a class folder's shared file.
    pub(super) fn read(folder: &Path, notes: &mut Vec<Problem>) -> Result<Self, Problems> {
        Self::of(Document::read(&folder.join(MASTER), ENVIRONMENT)?, notes)
    }

    fn of(document: Document, notes: &mut Vec<Problem>) -> Result<Self, Problems> {
        let problems = RefCell::new(Problems::none());
        let mut root = Section::root(&document, &problems);
        require(
            &root,
            &["state_config", "agent_config", "character_config", "preference_model_config", "transition_model_config"],
        );
        let states = read_states(root.section("state_config"), notes);
        let (agent, agent_max_tokens, agent_temperature) = read_agent(root.section("agent_config"), notes);
        let character = read_character(root.section("character_config"));
        let preference = read_assessor(root.section("preference_model_config"), Answers::Numbers);
        let transition = read_assessor(root.section("transition_model_config"), Answers::OfTheState);
        let influence = match root.optional_section("influence_detector_model_config") {
            Some(section) => read_influence(section),
            None => BTreeMap::new(),
        };
        let generation = root.optional_section("generation_config").map(read_generation);
        let variables = read_variables(root.section("possible_env_vars"));
        root.finish();
        let plain = [&agent, &character].into_iter().chain(generation.iter().flatten());
        check_prompts(&document, &problems, plain, [&preference, &transition], &influence);
        let problems = problems.into_inner();
        problems.or(Self {
            states,
            character,
            agent,
            agent_max_tokens,
            agent_temperature,
            preference,
            transition,
            influence,
            generation,
            variables,
            document,
        })
    }
}

fn require(root: &Section<'_>, keys: &[&str]) {
    for key in keys.iter().filter(|key| !root.has(key)) {
        let message = format!("`{key}` is missing; every class has one");
        root.problems().borrow_mut().push(root.document().problem(&[], message));
    }
}

fn read_agent(mut section: Section<'_>, notes: &mut Vec<Problem>) -> (RawPrompt, Option<u32>, Option<f64>) {
    let max_tokens = section.has("max_tokens").then(|| section.integer("max_tokens", 1..=1 << 20, 300));
    let temperature = section.has("temperature").then(|| section.number("temperature", 0.0..=100.0, 1.0));
    let prompt = prompt(&mut section, "system_prompt");
    // Published classes have these, for an agent that thinks aloud; its runs do without.
    for key in ["planning_prompt", "execution_prompt"] {
        if section.value(key).is_some() {
            let path = section.path_of(key);
            notes.push(section.document().problem(&path, format!("`{}` is not used", Dotted(&path))));
        }
    }
    section.finish();
    (prompt, max_tokens, temperature)
}

fn read_character(mut section: Section<'_>) -> RawPrompt {
    let prompt = prompt(&mut section, "system_prompt");
    section.finish();
    prompt
}

fn read_generation(mut section: Section<'_>) -> [RawPrompt; 2] {
    let prompts = [prompt(&mut section, "system_prompt"), prompt(&mut section, "prompt_suffix")];
    section.finish();
    prompts
}

/// What an assessor may answer.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    /// Numbers, listed in the file.
    Numbers,
    /// Listed in the file, or else the current state's.
    OfTheState,
}

fn read_assessor(mut section: Section<'_>, kind: Answers) -> RawAssessor {
    let assessor = assessor(&mut section, "system_prompt", "prompt_suffix", "valid_tokens", kind);
    perspective(&mut section);
    section.finish();
    assessor
}

fn read_influence(mut section: Section<'_>) -> BTreeMap<InfluencePrompts, RawAssessor> {
    let normal = assessor(&mut section, "system_prompt", "prompt_suffix", "valid_tokens", Answers::Numbers);
    let mut variants = BTreeMap::new();
    if section.has("constitutional_system_prompt") || section.has("constitutional_prompt_suffix") {
        let system = prompt(&mut section, "constitutional_system_prompt");
        let suffix = prompt(&mut section, "constitutional_prompt_suffix");
        let answers = normal.answers.clone();
        variants.insert(InfluencePrompts::Constitutional, RawAssessor { system, suffix, answers });
    }
    if section.has("five_point_system_prompt") || section.has("five_point_prompt_suffix") {
        let system = prompt(&mut section, "five_point_system_prompt");
        let suffix = prompt(&mut section, "five_point_prompt_suffix");
        // The Python code lets the normal prompt's answers stand, 0 included, which this prompt's scale lacks.
        let answers = (1..=5).map(|n| n.to_string()).collect();
        variants.insert(InfluencePrompts::FivePoint, RawAssessor { system, suffix, answers });
    }
    variants.insert(InfluencePrompts::Normal, normal);
    perspective(&mut section);
    section.finish();
    variants
}

fn assessor(
    section: &mut Section<'_>,
    system: &'static str,
    suffix: &'static str,
    answers: &'static str,
    kind: Answers,
) -> RawAssessor {
    let (system, suffix) = (prompt(section, system), prompt(section, suffix));
    let given = read_answers(section, answers);
    if kind == Answers::Numbers {
        match &given {
            None if section.has(answers) => {}
            None => section.report(answers, "is missing; list the allowed numbers, as in [\"1\", \"2\", \"3\"]"),
            Some(list) if list.is_empty() => section.report(answers, "is empty; list the allowed numbers"),
            Some(list) => {
                let number = |a: &String| a.parse::<f64>().is_ok_and(f64::is_finite);
                if let Some(odd) = list.iter().find(|a| !number(a)) {
                    section.report(answers, format_args!("holds `{odd}`, but a rating is a number"));
                }
            }
        }
    }
    RawAssessor { system, suffix, answers: given.unwrap_or_default() }
}

fn prompt(section: &mut Section<'_>, key: &'static str) -> RawPrompt {
    RawPrompt { text: section.required_text(key, "TEXT"), path: section.path_of(key) }
}

fn perspective(section: &mut Section<'_>) {
    section.choice("perspective", &[("Third_Person", ())], ());
}

fn read_variables(section: Section<'_>) -> Vec<(String, Vec<String>)> {
    let mut variables = Vec::new();
    for (name, value) in section.entries() {
        let Value::Array(items) = value else {
            section.report(name, format_args!("must be a list to draw from, but is {}", describe(value)));
            continue;
        };
        let values: Vec<String> = items.iter().filter_map(variable_text).collect();
        if values.is_empty() || values.len() != items.len() {
            section.report(name, "must list one or more words or numbers to draw from");
        }
        variables.push((name.clone(), values));
    }
    variables
}

/// Syntax errors belong to this file; whether the names exist is each environment's matter.
fn check_prompts<'a>(
    document: &Document,
    problems: &RefCell<Problems>,
    prompts: impl Iterator<Item = &'a RawPrompt>,
    assessors: [&'a RawAssessor; 2],
    influence: &'a BTreeMap<InfluencePrompts, RawAssessor>,
) {
    let assessors = assessors.into_iter().chain(influence.values());
    for prompt in prompts.chain(assessors.flat_map(|a| [&a.system, &a.suffix])) {
        if let Err(error) = check_syntax(&prompt.text) {
            let message = format!("`{}` {error}", Dotted(&prompt.path));
            problems.borrow_mut().push(document.problem(&prompt.path, message));
        }
    }
}

/// Has everything read that a class's file can hold; for its schema.
pub(crate) fn read_everything(document: Document) {
    let _ = Master::of(document, &mut Vec::new());
}
