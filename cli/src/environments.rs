//! `influence environments`: classes, openings and prompts as models will see them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::environments::{AssessorPrompt, EnvironmentClass, InfluencePrompts, Scene};
use influence_engine::chat::ChatMessage as EngineMessage;
use influence_engine::model::Model;
use influence_proto::prompts::{self, ChatMessage};
use influence_proto::{AssessorRole, Message, StateMachine};
use influence_worker::backend::role_of_engine;
use serde_json::{Value, json};

use crate::args::{Diagram, EnvironmentsCommand, PromptsName, RoleName, ShowArguments};
use crate::terminal::{harmless, print};
use crate::{conversation, place};

pub(crate) async fn dispatch(command: EnvironmentsCommand) -> anyhow::Result<()> {
    match command {
        EnvironmentsCommand::List { configs, json } => list(&configs, json),
        EnvironmentsCommand::Show(arguments) => show(arguments).await,
    }
}

fn list(configs: &Path, as_json: bool) -> anyhow::Result<()> {
    let folder = configs.join("environments");
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("{} cannot be listed; `--configs DIR` says where classes are", folder.display()))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let classes = folders.iter().map(|folder| EnvironmentClass::load(folder)).collect::<Result<Vec<_>, _>>()?;
    if as_json {
        return print(&format!("{:#}\n", Value::Array(classes.iter().map(of_class).collect())));
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["class", "environments", "openings", "initial states", "states", "detector's prompts"]);
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for class in &classes {
        let counts: Vec<Counts> = class.environments().map(|name| Counts::of(class, name)).collect();
        let detector = DETECTOR.iter().filter(|prompts| class.has_influence(**prompts)).map(|prompts| prompts.name());
        table.add_row([
            harmless(class.name()),
            counts.len().to_string(),
            counts.iter().map(|count| count.openings).sum::<usize>().to_string(),
            counts.iter().map(|count| count.states).sum::<usize>().to_string(),
            class.machine().states().len().to_string(),
            detector.collect::<Vec<_>>().join(", "),
        ]);
    }
    print(&format!("{table}\n"))
}

const DETECTOR: [InfluencePrompts; 3] =
    [InfluencePrompts::Normal, InfluencePrompts::Constitutional, InfluencePrompts::FivePoint];

/// How much an environment has to begin with.
struct Counts {
    /// As its file has them: openings, or templates of such.
    openings: usize,
    /// Those expanded.
    states: usize,
}

impl Counts {
    fn of(class: &EnvironmentClass, environment: &str) -> Self {
        let states = class.initial_states(environment);
        let openings = states.iter().map(|state| state.place + 1).max().unwrap_or_default();
        Self { openings, states: states.len() }
    }
}

fn of_class(class: &EnvironmentClass) -> Value {
    let environments = class.environments().map(|name| {
        let Counts { openings, states } = Counts::of(class, name);
        json!({"name": name, "openings": openings, "initial_states": states})
    });
    json!({"class": class.name(), "environments": environments.collect::<Vec<_>>(), "machine": class.machine()})
}

async fn show(arguments: ShowArguments) -> anyhow::Result<()> {
    let (class, environment) = find(&arguments.of, &arguments.place.configs)?;
    if let Some(language) = arguments.diagram {
        let machine = class.machine();
        return print(&harmless(&match language {
            Diagram::Mermaid => mermaid(machine),
            Diagram::Graphviz => graphviz(machine),
        }));
    }
    let Some(environment) = environment else {
        return print(&harmless(&overview(&class)));
    };
    let states = class.initial_states(&environment);
    let state = match &arguments.state {
        Some(state) => state.clone(),
        None => states.first().context("the environment has no initial state")?.id.clone().into_owned(),
    };
    let prompts = match arguments.prompts {
        PromptsName::Normal => InfluencePrompts::Normal,
        PromptsName::Constitutional => InfluencePrompts::Constitutional,
        PromptsName::FivePoint => InfluencePrompts::FivePoint,
    };
    let scene = class.scene(&environment, &state, 0, Some(prompts)).with_context(|| {
        let near = states.iter().take(3).map(|state| format!("`{}`", state.id)).collect::<Vec<_>>().join(", ");
        format!("`{environment}` has no initial state `{state}`; there are {}: {near}, ...", states.len())
    })?;
    let model = match &arguments.model {
        Some(model) => Some(place::load(model, &arguments.place).await?),
        None => None,
    };
    let title = format!("{}/{environment}, initial state {state} of {}\n\n", class.name(), states.len());
    print(&(harmless(&title) + &page(&scene, arguments.role, model.as_ref())?))
}

/// The class, and the environment if one is named.
pub(crate) fn find(of: &str, configs: &Path) -> anyhow::Result<(EnvironmentClass, Option<String>)> {
    let classes = configs.join("environments");
    let named = |name: &str| [PathBuf::from(name), classes.join(name)].into_iter().find(|path| path.is_dir());
    if let Some(folder) = named(of) {
        return Ok((EnvironmentClass::load(&folder)?, None));
    }
    let (class, environment) = of.rsplit_once('/').unwrap_or((of, ""));
    let folder = named(class).with_context(|| {
        format!("there is no class `{class}` in {}; `influence environments list` shows them", classes.display())
    })?;
    let class = EnvironmentClass::load(&folder)?;
    let known: Vec<String> = class.environments().map(str::to_owned).collect();
    anyhow::ensure!(
        known.iter().any(|name| name == environment),
        "the class `{}` has no environment `{environment}`; there are {}",
        class.name(),
        known.join(", ")
    );
    Ok((class, Some(environment.to_owned())))
}

fn overview(class: &EnvironmentClass) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["environment", "openings", "initial states"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for name in class.environments() {
        let Counts { openings, states } = Counts::of(class, name);
        table.add_row([name.to_owned(), openings.to_string(), states.to_string()]);
    }
    format!("{}\n{table}\n\n{}", class.name(), in_text(class.machine()))
}

/// A state and its arrows on lines of their own.
fn in_text(machine: &StateMachine) -> String {
    let mut text = String::new();
    for (name, state) in machine.states() {
        let start = if name == machine.start() { " (start)" } else { "" };
        let end = if state.terminal { " (end)" } else { "" };
        let _ = writeln!(text, "{name}{start}{end}");
        for (answer, next) in state.transitions.iter().filter(|_| !state.terminal) {
            let default = if answer.eq_ignore_ascii_case(&state.default_answer) { ", the default" } else { "" };
            let _ = writeln!(text, "  ── {answer} ──▶ {next}{default}");
        }
    }
    text
}

/// Of all states that go on, by answer: `from`, `answer`, `to`.
fn arrows(machine: &StateMachine) -> impl Iterator<Item = (&str, &str, &str)> {
    let live = machine.states().iter().filter(|(_, state)| !state.terminal);
    live.flat_map(|(name, state)| state.transitions.iter().map(move |(answer, next)| (&**name, &**answer, &**next)))
}

fn mermaid(machine: &StateMachine) -> String {
    let mut text = format!("stateDiagram-v2\n    [*] --> {}\n", machine.start());
    for (from, answer, to) in arrows(machine) {
        let _ = writeln!(text, "    {from} --> {to}: {answer}");
    }
    for (name, _) in machine.states().iter().filter(|(_, state)| state.terminal) {
        let _ = writeln!(text, "    {name} --> [*]");
    }
    text
}

fn graphviz(machine: &StateMachine) -> String {
    let mut text = String::from("digraph states {\n    rankdir=LR;\n");
    for (name, state) in machine.states() {
        let shape = if state.terminal { "doublecircle" } else { "box" };
        let _ = writeln!(text, "    {name:?} [shape={shape}];");
    }
    for (from, answer, to) in arrows(machine) {
        let _ = writeln!(text, "    {from:?} -> {to:?} [label={answer:?}];");
    }
    text + "}\n"
}

/// What the agent will have said when others are asked.
const REPLY: &str = "(the agent's reply)";

/// The opening, and what each role sees; after a model's chat template, if one is given.
fn page(scene: &Scene, only: Option<RoleName>, model: Option<&Arc<Model>>) -> anyhow::Result<String> {
    let mut text = String::new();
    if only.is_none() {
        for message in &scene.opening {
            conversation::say(&mut text, &scene.agent_name, message);
        }
        text.push('\n');
    }
    for (role, chat, answers) in seen(scene).into_iter().filter(|(role, ..)| only.is_none_or(|only| only == *role)) {
        let _ = writeln!(text, "── {} sees ──", format!("{role:?}").to_lowercase());
        match model {
            Some(model) => {
                let chat: Vec<EngineMessage> =
                    chat.into_iter().map(|m| EngineMessage::new(role_of_engine(m.role), m.content)).collect();
                let _ = writeln!(text, "{}", harmless(&model.chat.prompt_text(&chat)?));
            }
            None => chat.iter().for_each(|m| conversation::block(&mut text, m.role.name(), &m.content)),
        }
        if let Some(answers) = answers {
            let _ = writeln!(text, "  and answers with one of {}", harmless(&answers));
        }
        text.push('\n');
    }
    Ok(text)
}

/// What each role sees when it is first asked, and the answers that it may give.
fn seen(scene: &Scene) -> Vec<(RoleName, Vec<ChatMessage>, Option<String>)> {
    let mut answered: Vec<Message> = scene.opening.clone();
    answered.push(prompts::reply_message(REPLY));
    let assessor = |prompt: &AssessorPrompt, sees_tools| {
        let AssessorPrompt { system, suffix, answers } = prompt.clone();
        let of_state = || scene.machine.state(scene.machine.start()).map(|state| state.transitions.clone());
        let answers = match answers.is_empty() {
            true => of_state().unwrap_or_default().into_iter().map(|(answer, _)| answer).collect(),
            false => answers,
        };
        let allowed = answers.join(", ");
        let role = AssessorRole { model: String::new(), system_prompt: system, suffix, answers, sees_tools };
        (prompts::assessor(&role, &scene.agent_name, &answered), Some(allowed))
    };
    let (preference, ratings) = assessor(&scene.preference, false);
    let (transition, moves) = assessor(&scene.transition, false);
    let mut all = vec![
        (RoleName::Agent, prompts::agent(&scene.agent, &scene.opening), None),
        (RoleName::Preference, preference, ratings),
        (RoleName::Transition, transition, moves),
        (RoleName::Environment, prompts::environment(&scene.character, &answered), None),
    ];
    if let Some(influence) = &scene.influence {
        let (influence, grades) = assessor(influence, true);
        all.insert(3, (RoleName::Influence, influence, grades));
    }
    all
}
