use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use super::history::{MessageTemplate, RawMessage};
use super::master::{InfluencePrompts, Master, RawAssessor, RawPrompt};
use super::openings::{Openings, RawOpenings};
use super::states::variable_text;
use super::template::{Template, UsedIn, Variables};
use crate::config::document::{Document, Dotted, ENVIRONMENT, Problem, Problems, Section, Step, describe};

/// Stands in transcripts where neither class nor environment names the agent.
const AGENT_NAME: (&str, &str) = ("agent_name", "the agent");

/// One topic of a class, with every prompt of the class bound to its variables.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    pub(super) variables: Variables,
    pub(super) agent_name: Template,
    pub(super) agent: Template,
    pub(super) character: Template,
    pub(super) preference: AssessorTemplate,
    pub(super) transition: AssessorTemplate,
    pub(super) influence: BTreeMap<InfluencePrompts, AssessorTemplate>,
    pub(super) entries: BTreeMap<String, Vec<MessageTemplate>>,
    pub(super) generation: Option<[Template; 2]>,
    pub(super) openings: Openings,
}

/// An assessor's prompts.
#[derive(Debug, Clone)]
pub(super) struct AssessorTemplate {
    pub(super) system: Template,
    pub(super) suffix: Template,
    pub(super) answers: Vec<String>,
}

/// An environment that was read, and what its file holds, for the class's digest.
pub(super) struct Loaded {
    pub(super) environment: Option<Environment>,
    pub(super) content: Vec<u8>,
}

impl Environment {
    /// Reads an environment of the class. Problems of the class's prompts go to `shared`: many
    /// environments have the same ones.
    pub(super) fn read(
        path: &Path,
        master: &Master,
        shared: &mut SharedProblems,
        notes: &mut Vec<Problem>,
    ) -> Result<Loaded, Problems> {
        let document = Document::read(path, ENVIRONMENT)?;
        let problems = RefCell::new(Problems::none());
        let openings = RawOpenings::read(&document, &problems);
        let variables = read_variables(&document, &problems, &openings, master, notes);
        let environment = {
            let mut binding = Binding { variables: &variables, name: environment_name(path), shared };
            let openings = openings.bind(&document, &problems, &mut binding, master);
            bind(master, &mut binding, openings, &variables)
        };
        let content = serde_json::to_vec(document.root()).unwrap_or_default();
        problems.into_inner().or(Loaded { environment, content })
    }
}

/// An environment is named after its file.
pub(super) fn environment_name(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_variables(
    document: &Document,
    problems: &RefCell<Problems>,
    openings: &RawOpenings,
    master: &Master,
    notes: &mut Vec<Problem>,
) -> Variables {
    let mut variables = Variables::default();
    variables.set(AGENT_NAME.0, vec![AGENT_NAME.1.to_owned()]);
    for (name, values) in &master.variables {
        variables.set(name, values.clone());
    }
    let root = Section::root(document, problems);
    for (name, values) in &openings.variables {
        variables.set(name, values.clone());
    }
    for (name, value) in root.entries().filter(|(name, _)| !openings.keys().contains(&name.as_str())) {
        match variable_text(value) {
            Some(text) => variables.set(name, vec![text]),
            None => {
                let message = format!("`{name}` is {}, so no prompt can use it", describe(value));
                notes.push(document.problem(&[Step::Key(name.clone())], message));
            }
        }
    }
    if let (Some(first), Some(second)) = (variables.fixed("char_action1"), variables.fixed("char_action2")) {
        let (first, second) = (first.to_owned(), second.to_owned());
        variables.set_alternatives("char_action", first, second);
    }
    variables
}

/// One environment's names, against which prompts are parsed.
pub(super) struct Binding<'a> {
    pub(super) variables: &'a Variables,
    pub(super) name: String,
    shared: &'a mut SharedProblems,
}

impl Binding<'_> {
    fn prompt(&mut self, prompt: &RawPrompt) -> Option<Template> {
        let parsed = Template::parse(&prompt.text, self.variables, UsedIn::Prompt);
        parsed.map_err(|error| self.shared.add(&prompt.path, error.to_string(), &self.name)).ok()
    }

    fn assessor(&mut self, raw: &RawAssessor) -> Option<AssessorTemplate> {
        let (system, suffix) = (self.prompt(&raw.system), self.prompt(&raw.suffix));
        Some(AssessorTemplate { system: system?, suffix: suffix?, answers: raw.answers.clone() })
    }

    pub(super) fn entry(&mut self, messages: &[RawMessage], used_in: UsedIn) -> Option<Vec<MessageTemplate>> {
        let mut templates = Vec::with_capacity(messages.len());
        for raw in messages {
            match MessageTemplate::parse(raw, self.variables, used_in) {
                Ok(template) => templates.push(template),
                Err(message) => self.shared.add(&raw.path, message, &self.name),
            }
        }
        (templates.len() == messages.len()).then_some(templates)
    }
}

fn bind(master: &Master, binding: &mut Binding<'_>, openings: Openings, variables: &Variables) -> Option<Environment> {
    let entries: Vec<_> = master
        .states
        .iter()
        .map(|(name, state)| Some((name.clone(), binding.entry(&state.history, UsedIn::EnteredState)?)))
        .collect();
    let influence: Vec<_> = master.influence.iter().map(|(kind, raw)| Some((*kind, binding.assessor(raw)?))).collect();
    let (agent, character) = (binding.prompt(&master.agent), binding.prompt(&master.character));
    let (preference, transition) = (binding.assessor(&master.preference), binding.assessor(&master.transition));
    let generation = match &master.generation {
        Some([system, request]) => Some([binding.prompt(system)?, binding.prompt(request)?]),
        None => None,
    };
    let agent_name = Template::parse("{agent_name}", variables, UsedIn::Prompt).ok();
    Some(Environment {
        variables: variables.clone(),
        agent_name: agent_name?,
        agent: agent?,
        character: character?,
        preference: preference?,
        transition: transition?,
        influence: influence.into_iter().collect::<Option<_>>()?,
        entries: entries.into_iter().collect::<Option<_>>()?,
        generation,
        openings,
    })
}

/// Problems of the class's prompts, each with the environments that have it.
#[derive(Debug, Default)]
pub(super) struct SharedProblems(Vec<(Vec<Step>, String, Vec<String>)>);

impl SharedProblems {
    fn add(&mut self, path: &[Step], message: String, environment: &str) {
        match self.0.iter_mut().find(|(p, m, _)| p == path && *m == message) {
            Some((_, _, environments)) => environments.push(environment.to_owned()),
            None => self.0.push((path.to_owned(), message, vec![environment.to_owned()])),
        }
    }

    /// As problems of the class's file.
    pub(super) fn into_problems(self, master: &Document) -> Problems {
        let mut problems = Problems::none();
        for (path, message, environments) in self.0 {
            let named = environments.iter().take(3).map(|e| format!("`{e}`")).collect::<Vec<_>>().join(", ");
            let more = match environments.len().saturating_sub(3) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let message = format!("`{}` {message} (for the environment {named}{more})", Dotted(&path));
            problems.push(master.problem(&path, message));
        }
        problems
    }
}
