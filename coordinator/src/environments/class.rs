use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use influence_proto::{Digest, InvalidMessage, Message, State, StateMachine};
use sha2::{Digest as _, Sha256};

use super::environment::{AssessorTemplate, Environment, SharedProblems, environment_name};
use super::history::MessageTemplate;
use super::master::{InfluencePrompts, MASTER, Master};
use super::openings::InitialState;
use super::states::{RawState, START};
use super::template::Draw;
use crate::config::document::{Problem, Problems};

/// A folder of environments that share prompts and a state machine. Loaded means valid: every
/// prompt of every environment renders.
#[derive(Debug, Clone)]
pub struct EnvironmentClass {
    name: String,
    machine: StateMachine,
    agent_max_tokens: Option<u32>,
    agent_temperature: Option<f64>,
    environments: BTreeMap<String, Environment>,
    digest: Digest,
    notes: Vec<Problem>,
}

/// What an episode takes from its environment, rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// How transcripts tag the agent.
    pub agent_name: String,
    /// One or more messages; the last is not the agent's.
    pub opening: Vec<Message>,
    /// Where the conversation can go.
    pub machine: StateMachine,
    /// The agent's system prompt.
    pub agent: String,
    /// The system prompt of the role that plays the user.
    pub character: String,
    /// Of the role that rates replies.
    pub preference: AssessorPrompt,
    /// Of the role that predicts the next state.
    pub transition: AssessorPrompt,
    /// Of the role that detects influence, if asked for and defined.
    pub influence: Option<AssessorPrompt>,
}

/// What an assessor is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssessorPrompt {
    /// System prompt.
    pub system: String,
    /// Last paragraph.
    pub suffix: String,
    /// Allowed answers; empty for the current state's.
    pub answers: Vec<String>,
}

impl EnvironmentClass {
    /// Reads a class folder: `_master_config.yaml`, and a `NAME.yaml` or `NAME.json` per environment.
    ///
    /// # Errors
    /// Everything that is wrong with its files.
    pub fn load(folder: &Path) -> Result<Self, Problems> {
        let files = environment_files(folder)?;
        let mut notes = Vec::new();
        let master = Master::read(folder, &mut notes)?;
        let (mut problems, mut shared) = (Problems::none(), SharedProblems::default());
        let mut environments = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for (name, path) in &files {
            match Environment::read(path, &master, &mut shared, &mut notes) {
                Ok(loaded) => {
                    environments.extend(loaded.environment.map(|e| (name.clone(), e)));
                    contents.insert(name.as_str(), Digest::of(&loaded.content));
                }
                Err(more) => problems.extend(more),
            }
        }
        let mut all = shared.into_problems(&master.document);
        all.extend(problems);
        if !all.is_empty() {
            all.sort();
            return Err(all);
        }
        let machine = machine(&master.states)
            .map_err(|error| Problem::in_file(master.document.path(), format!("`state_config`: {error}")))?;
        Ok(Self {
            name: class_name(folder),
            machine,
            agent_max_tokens: master.agent_max_tokens,
            agent_temperature: master.agent_temperature,
            environments,
            digest: digest(&master, &contents),
            notes,
        })
    }

    /// The folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of the environments, in order.
    pub fn environments(&self) -> impl ExactSizeIterator<Item = &str> {
        self.environments.keys().map(String::as_str)
    }

    /// An environment's initial states, in order; empty for an unknown environment.
    pub fn initial_states(&self, environment: &str) -> Vec<InitialState<'_>> {
        self.environments.get(environment).map(|e| e.openings.states().collect()).unwrap_or_default()
    }

    /// The state machine, without the messages that its states append.
    pub fn machine(&self) -> &StateMachine {
        &self.machine
    }

    /// The longest reply that the class sets for the agent, in tokens.
    pub fn agent_max_tokens(&self) -> Option<u32> {
        self.agent_max_tokens
    }

    /// The temperature that the class sets for the agent.
    pub fn agent_temperature(&self) -> Option<f64> {
        self.agent_temperature
    }

    /// Whether the class has these prompts for the influence role.
    pub fn has_influence(&self, prompts: InfluencePrompts) -> bool {
        self.environments.values().all(|e| e.influence.contains_key(&prompts))
    }

    /// Digest of what the files say; comments and layout do not count.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What is worth knowing, but not wrong.
    pub fn notes(&self) -> &[Problem] {
        &self.notes
    }

    /// Renders an initial state. `draw_seed` decides the values of variables that have several, so
    /// siblings share it. None if there is no such environment or initial state.
    pub fn scene(
        &self,
        environment: &str,
        initial_state: &str,
        draw_seed: u64,
        influence: Option<InfluencePrompts>,
    ) -> Option<Scene> {
        let environment = self.environments.get(environment)?;
        let (opening, draw) = environment.openings.find(initial_state, environment.variables.draw(draw_seed))?;
        let machine = self.machine_of(environment, &draw).ok()?;
        Some(Scene {
            agent_name: environment.agent_name.render(&draw),
            opening: MessageTemplate::render(opening, &draw),
            machine,
            agent: environment.agent.render(&draw),
            character: environment.character.render(&draw).trim().to_owned(),
            preference: assessor(&environment.preference, &draw),
            transition: assessor(&environment.transition, &draw),
            influence: influence.and_then(|kind| environment.influence.get(&kind)).map(|a| assessor(a, &draw)),
        })
    }

    /// What asks a model for another opening of an environment: its system prompt, and the request. None if the class has no
    /// such prompt.
    pub fn generation_prompt(&self, environment: &str, draw_seed: u64) -> Option<[String; 2]> {
        let environment = self.environments.get(environment)?;
        let [system, request] = environment.generation.as_ref()?;
        let draw = environment.variables.draw(draw_seed);
        Some([system, request].map(|prompt| prompt.render(&draw).trim().to_owned()))
    }

    fn machine_of(&self, environment: &Environment, draw: &Draw<'_>) -> Result<StateMachine, InvalidMessage> {
        let second = draw.alternative();
        let states = self.machine.states().iter().map(|(name, state)| {
            let messages = environment.entries.get(name).map(Vec::as_slice).unwrap_or_default();
            let alternative_entry = match MessageTemplate::any_alternative(messages) {
                true => MessageTemplate::render(messages, &second),
                false => Vec::new(),
            };
            let entry = MessageTemplate::render(messages, draw);
            (name.clone(), State { entry, alternative_entry, ..state.clone() })
        });
        StateMachine::new(self.machine.start().to_owned(), states.collect())
    }
}

fn assessor(template: &AssessorTemplate, draw: &Draw<'_>) -> AssessorPrompt {
    AssessorPrompt {
        system: template.system.render(draw).trim().to_owned(),
        suffix: template.suffix.render(draw),
        answers: template.answers.clone(),
    }
}

/// The machine without messages, which depend on the environment.
fn machine(states: &BTreeMap<String, RawState>) -> Result<StateMachine, InvalidMessage> {
    let states = states.iter().map(|(name, raw)| {
        let state = State {
            entry: Vec::new(),
            alternative_entry: Vec::new(),
            transitions: raw.transitions.clone(),
            default_answer: raw.default_answer.clone(),
            terminal: raw.terminal,
        };
        (name.clone(), state)
    });
    StateMachine::new(START.to_owned(), states.collect())
}

fn digest(master: &Master, contents: &BTreeMap<&str, Digest>) -> Digest {
    let mut hash = Sha256::new();
    hash.update(Digest::of(serde_json::to_vec(master.document.root()).unwrap_or_default()).as_bytes());
    for (name, content) in contents {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(content.as_bytes());
    }
    Digest::from_bytes(hash.finalize().into())
}

/// Whether a folder holds an environment class.
pub fn is_class(folder: &Path) -> bool {
    folder.join(MASTER).exists()
}

fn class_name(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Environment files by name.
fn environment_files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Problems> {
    let refuse = |message: String| Problems::from(Problem::in_file(folder, message));
    let listing = std::fs::read_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refuse("there is no such environment class; check the path".into()),
        std::io::ErrorKind::NotADirectory => {
            refuse(format!("is a file; an environment class is a folder with a `{MASTER}`"))
        }
        _ => refuse(format!("cannot be listed: {error}")),
    })?;
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut problems = Problems::none();
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(entry.map_err(|error| refuse(format!("cannot be listed: {error}")))?.path());
    }
    paths.sort();
    for path in paths {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let is_environment = ["yaml", "yml", "json"].contains(&extension.as_str())
            && path.file_name().is_some_and(|name| name != MASTER)
            && path.is_file();
        if !is_environment {
            continue;
        }
        let name = environment_name(&path);
        if let Some(other) = files.insert(name.clone(), path.clone()) {
            let message =
                format!("is a second file of the environment `{name}`, beside {}; remove one", other.display());
            problems.push(Problem::in_file(path, message));
        }
    }
    if !folder.join(MASTER).exists() {
        return Err(refuse(format!("has no `{MASTER}`, so it is no environment class")));
    }
    if files.is_empty() {
        return Err(refuse("has no environments; add a NAME.yaml beside the class file".into()));
    }
    problems.or(files)
}
