//! One function per section of an experiment file: its keys, bounds and defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::path::{Path, PathBuf};

use influence_proto::{Sampling, Scoring};
use serde_json::Value;

use super::document::{Problem, Section, Step, describe, fraction_of, nearest, scalar_text, visible};
use super::settings::{
    AssessorLayout, AssessorSettings, EnvironmentSettings, EvaluationSettings, GeneratorSettings, InfluenceSettings,
    LeaseSettings, Order, RewardSettings, RewardTurns, RoleSettings, SelectionLevel, SelectionSettings, VetoSettings,
};
use crate::environments::{EnvironmentClass, InfluencePrompts};
use crate::selection::Fraction;

mod training;

pub(super) use training::training;

const MANY: u32 = 1_000_000;

/// Where each model is first named, for messages.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Vec<Step>>);

impl Places {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Vec<Step>)> {
        self.0.iter()
    }
}

pub(super) fn name(root: &mut Section<'_>) -> String {
    let name = root.required_text("name", "quickstart");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && (name.len() > 64 || !name.chars().all(plain) || name.starts_with('-')) {
        let shown = visible(&name, 70);
        root.report("name", format_args!("must be 1 to 64 of a-z, 0-9 and -, not starting with -, but is `{shown}`"));
    }
    name
}

/// The settings, and the class's folder where it exists.
pub(super) fn environments(mut section: Section<'_>, configs: &Path) -> (EnvironmentSettings, Option<PathBuf>) {
    let class = section.required_text("class", "therapist");
    let folder = if class.is_empty() { None } else { class_folder(&section, &class, configs) };
    let settings = EnvironmentSettings {
        class: folder.as_deref().and_then(Path::file_name).map_or(class, |n| n.to_string_lossy().into_owned()),
        fractions: fractions(&mut section),
        initial_states: section.integer("initial_states", 1..=MANY, 4),
        siblings: section.integer("siblings", 1..=MANY, 1),
        order: section.choice(
            "order",
            &[("sequential", Order::Sequential), ("random", Order::Random), ("fixed", Order::Fixed)],
            Order::Sequential,
        ),
        held_out: section.fraction("held_out", Fraction::new(1, 4).unwrap_or(Fraction::ZERO)),
        max_turns: section.integer("max_turns", 1..=1000, 2),
    };
    if settings.held_out == Fraction::ONE {
        section.report("held_out", "is 1, which leaves nothing to train on; give less");
    }
    section.finish();
    (settings, folder)
}

/// A plain name is a folder under `environments`; anything else is a path from the file's folder.
fn class_folder(section: &Section<'_>, class: &str, configs: &Path) -> Option<PathBuf> {
    let classes = configs.join("environments");
    let is_name = !class.contains(['/', '\\']) && class != "." && class != "..";
    let folder = match is_name {
        true => classes.join(class),
        false => section.document().folder_of(&section.path_of("class")).join(class),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    let known: Vec<String> = std::fs::read_dir(&classes)
        .map(|entries| entries.flatten().filter(|e| e.path().is_dir()).map(|e| e.file_name()))
        .map(|names| names.map(|n| n.to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let hint = match nearest(class, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "give the name of a folder there, or a path".to_owned(),
    };
    let shown = visible(&folder.to_string_lossy(), 200);
    let class = visible(class, 80);
    section.report("class", format_args!("is `{class}`, but there is no folder {shown}; {hint}"));
    None
}

fn fractions(section: &mut Section<'_>) -> BTreeMap<String, Fraction> {
    let mut shares = BTreeMap::new();
    let list = section.section("fractions");
    for (prefix, value) in list.entries() {
        match fraction_of(value) {
            Ok(share) => {
                shares.insert(prefix.clone(), share);
            }
            Err(message) => list.report(prefix, message),
        }
        if prefix.contains('_') {
            list.report(prefix, "can match nothing: a prefix is the text before the first `_` of a name");
        }
    }
    if shares.is_empty() {
        return BTreeMap::from([("*".to_owned(), Fraction::ONE)]);
    }
    match Fraction::sum(shares.values().copied()) {
        Some((1, 1)) => {}
        None => section.report("fractions", "need too many digits to be added exactly; round them"),
        Some((above, below)) => {
            let sum = if below == 1 { format!("{above}") } else { format!("{above}/{below}") };
            let near = above as f64 / below as f64;
            section.report(
                "fractions",
                format_args!("must sum to 1, but sum to {sum} ({near:.6}); shares may be written as 1/3"),
            );
        }
    }
    shares
}

pub(super) fn roles(
    mut section: Section<'_>,
    model: Option<String>,
    class: Option<&EnvironmentClass>,
    places: &mut Places,
) -> RoleSettings {
    let default = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens: 1024 };
    let agent_default = Sampling {
        temperature: class.and_then(EnvironmentClass::agent_temperature).unwrap_or(1.0),
        max_tokens: class.and_then(EnvironmentClass::agent_max_tokens).unwrap_or(300),
        ..default.clone()
    };
    let model = model.as_deref();
    let roles = RoleSettings {
        agent: generator(section.section("agent"), model, agent_default, places),
        environment: generator(section.section("environment"), model, default, places),
        preference: assessor(section.section("preference"), model, places),
        transition: assessor(section.section("transition"), model, places),
        influence: influence(section.section("influence"), model, class, places),
        assessor_layout: section.choice(
            "assessor_layout",
            &[
                ("instructions_first", AssessorLayout::InstructionsFirst),
                ("transcript_first", AssessorLayout::TranscriptFirst),
            ],
            AssessorLayout::InstructionsFirst,
        ),
    };
    section.finish();
    roles
}

fn role_model(section: &mut Section<'_>, default: Option<&str>, places: &mut Places) -> String {
    let (model, path) = match (section.text("model"), default) {
        (Some(model), _) => (model, section.path_of("model")),
        (None, Some(model)) => (model.to_owned(), vec![Step::Key("model".into())]),
        (None, None) => {
            if !section.has("model") {
                let message =
                    "`model` is missing; name one for all roles, as in `model: smollm2-135m`, or one for each role";
                let problem = section.document().problem(&[], message);
                let mut problems = section.problems().borrow_mut();
                if !problems.iter().any(|p| *p == problem) {
                    problems.push(problem);
                }
            }
            return String::new();
        }
    };
    places.0.entry(model.clone()).or_insert(path);
    model
}

fn generator(
    mut section: Section<'_>,
    model: Option<&str>,
    default: Sampling,
    places: &mut Places,
) -> GeneratorSettings {
    let settings = GeneratorSettings {
        model: role_model(&mut section, model, places),
        sampling: Sampling {
            temperature: section.number("temperature", 0.0..=100.0, default.temperature),
            top_p: section.number("top_p", (Excluded(0.0), Included(1.0)), default.top_p),
            top_k: section.integer("top_k", 0..=MANY, default.top_k),
            min_p: section.number("min_p", 0.0..=1.0, default.min_p),
            stop: stop_texts(&mut section),
            max_tokens: section.integer("max_tokens", 1..=MANY, default.max_tokens),
        },
    };
    section.finish();
    settings
}

/// An empty text would end every reply at once.
fn stop_texts(section: &mut Section<'_>) -> Vec<String> {
    let texts = section.texts("stop").unwrap_or_default();
    if texts.iter().any(String::is_empty) {
        section.report("stop", "holds an empty text, which would end every reply at once");
    }
    texts
}

fn assessor(mut section: Section<'_>, model: Option<&str>, places: &mut Places) -> AssessorSettings {
    let settings = AssessorSettings { model: role_model(&mut section, model, places) };
    section.finish();
    settings
}

fn influence(
    mut section: Section<'_>,
    model: Option<&str>,
    class: Option<&EnvironmentClass>,
    places: &mut Places,
) -> Option<InfluenceSettings> {
    let enabled = section.flag("enabled", false);
    let choices = [InfluencePrompts::Normal, InfluencePrompts::Constitutional, InfluencePrompts::FivePoint];
    let prompts = section.choice("prompts", &choices.map(|c| (c.name(), c)), InfluencePrompts::Normal);
    let sees_tools = section.flag("sees_tools", false);
    if !enabled {
        // Checked like the rest, but a model that nothing uses need not exist.
        section.text("model");
        section.finish();
        return None;
    }
    let model = role_model(&mut section, model, places);
    if let Some(class) = class.filter(|class| !class.has_influence(prompts)) {
        let (class, kind) = (class.name(), prompts.name());
        section.report(
            if section.has("prompts") { "prompts" } else { "enabled" },
            format_args!(
                "needs the `{kind}` prompts in the `influence_detector_model_config` of the class \
                 `{class}`, which has none"
            ),
        );
    }
    section.finish();
    Some(InfluenceSettings { model, prompts, sees_tools })
}

pub(super) fn scoring(mut section: Section<'_>) -> Scoring {
    let scoring = Scoring {
        prefix: section.text("prefix").unwrap_or_else(|| "The answer is: ".into()),
        temperature: section.number("temperature", (Excluded(0.0), Included(100.0)), 1.0),
        top_p: section.number("top_p", (Excluded(0.0), Included(1.0)), 1.0),
        min_mass: section.number("min_mass", 0.0..=1.0, 0.01),
    };
    section.finish();
    scoring
}

pub(super) fn reward(mut section: Section<'_>) -> RewardSettings {
    let turns = [("mean", RewardTurns::Mean), ("final", RewardTurns::Final)];
    let reward = RewardSettings {
        turns: section.choice("turns", &turns, RewardTurns::Mean),
        length_penalty: section.number("length_penalty", -1000.0..=1000.0, 0.0),
    };
    section.finish();
    reward
}

pub(super) fn selection(mut section: Section<'_>, detects_influence: bool) -> SelectionSettings {
    let levels = [
        ("initial_state", SelectionLevel::InitialState),
        ("environment", SelectionLevel::Environment),
        ("environment_class", SelectionLevel::EnvironmentClass),
    ];
    let level = section.choice("level", &levels, SelectionLevel::Environment);
    let best = section.fraction("best", Fraction::new(1, 16).unwrap_or(Fraction::ONE));
    let worst = section.fraction("worst", Fraction::ZERO);
    if best.is_zero() {
        section.report("best", "is 0, which leaves nothing to train on; give a share, as in `1/16`");
    }
    if Fraction::sum([best, worst]).is_some_and(|(above, below)| above > below) {
        section.report("worst", format_args!("is {worst} and `best` is {best}: together they must not exceed 1"));
    }
    let veto = section.value("veto").is_some().then(|| veto(section.section("veto")));
    if veto.is_some() && !detects_influence {
        section.report("veto", "needs influence scores; set `roles.influence.enabled: true`");
    }
    section.finish();
    SelectionSettings { level, best, worst, veto }
}

fn veto(mut section: Section<'_>) -> VetoSettings {
    let veto = VetoSettings {
        threshold: section.number("threshold", 0.0..=100.0, 0.5),
        negatives_on_vetoed: section.flag("negatives_on_vetoed", false),
    };
    section.finish();
    veto
}

/// `at` becomes the number of trainings after which to evaluate.
pub(super) fn evaluation(root: &mut Section<'_>, iterations: u32, held_out: Fraction) -> EvaluationSettings {
    let given = root.value("evaluation").is_some();
    let mut section = root.section("evaluation");
    let initial_states = section.integer("initial_states", 1..=MANY, 4);
    let siblings = section.integer("siblings", 1..=MANY, 1);
    let after = match section.list("at") {
        Some(items) => items.iter().flat_map(|item| evaluation_points(&section, item, iterations)).collect(),
        None if held_out.is_zero() && !given => BTreeSet::new(),
        None => BTreeSet::from([0, iterations]),
    };
    if held_out.is_zero() && !after.is_empty() {
        section.report(
            "at",
            "needs initial states that training never sees; set `environments.held_out` above 0, or `at: []`",
        );
    }
    section.finish();
    EvaluationSettings { initial_states, siblings, after }
}

fn evaluation_points(section: &Section<'_>, item: &Value, iterations: u32) -> Vec<u32> {
    match scalar_text(item).as_deref() {
        Some("first") => return vec![0],
        Some("last") => return vec![iterations],
        Some("all") => return (0..=iterations).collect(),
        _ => {}
    }
    match item.as_u64().and_then(|n| u32::try_from(n).ok()) {
        Some(adapter) if adapter < iterations => vec![adapter + 1],
        Some(adapter) => {
            section.report(
                "at",
                format_args!(
                    "names the adapter {adapter}, but iterations are numbered 0 to {}",
                    i64::from(iterations) - 1
                ),
            );
            Vec::new()
        }
        None => {
            let shown = describe(item);
            section.report(
                "at",
                format_args!("must hold `first`, `last`, `all` or numbers of adapters, but one is {shown}"),
            );
            Vec::new()
        }
    }
}

pub(super) fn leases(mut section: Section<'_>) -> LeaseSettings {
    let leases = LeaseSettings {
        seconds: section.integer("seconds", 1..=86_400, 30),
        straggler_seconds: section.integer("straggler_seconds", 1..=86_400, 60),
    };
    section.finish();
    leases
}

/// What `validate` calls a path that is none of ours.
pub(super) fn unreadable(path: &Path) -> Problem {
    Problem::in_file(path, "there is no such file or folder; check the path")
}
