//! What conversations begin with: openings as they are (`histories`), or templates and lists of values (`templates`,
//! `variables`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

use influence_proto::Speaker;
use serde_json::Value;

use super::environment::Binding;
use super::expansion::{Expansion, deal};
use super::history::{MessageTemplate, RawMessage, read_messages};
use super::master::Master;
use super::states::{START, variable_text};
use super::template::{Draw, UsedIn};
use crate::config::document::{Document, Dotted, Problems, Section, Step, describe, nearest};

const HISTORIES: &str = "histories";
const TEMPLATES: &str = "templates";
const VARIABLES: &str = "variables";

/// An initial state's name, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialState<'a> {
    /// Unique within the environment: the opening's, or the template's with a number.
    pub id: Cow<'a, str>,
    /// The opening or template, by its place in the file; from 0.
    pub place: usize,
}

/// An environment's openings, as its file has them.
pub(super) struct RawOpenings {
    key: &'static str,
    /// In the file's order.
    list: Vec<(String, Vec<RawMessage>)>,
    /// Of each name the values that initial states take in turn.
    pub(super) variables: Vec<(String, Vec<String>)>,
}

impl RawOpenings {
    /// What is wrong goes to `problems`.
    pub(super) fn read(document: &Document, problems: &RefCell<Problems>) -> Self {
        let mut root = Section::root(document, problems);
        let expands = matches!(root.value(TEMPLATES), Some(Value::Object(_)));
        let key = if expands { TEMPLATES } else { HISTORIES };
        let mut openings = Self { key, list: Vec::new(), variables: Vec::new() };
        if !root.has(key) {
            let near = nearest(HISTORIES, root.entries().map(|(key, _)| key.as_str()));
            let hint = near.map_or(
                "give the initial states, as in `histories: {1: [{role: environment, content: Hi}]}`".into(),
                |near| format!("rename `{near}`"),
            );
            let message = format!("`{HISTORIES}` is missing; {hint}");
            problems.borrow_mut().push(document.problem(&[], message));
            return openings;
        }
        if expands && root.has(HISTORIES) {
            root.report(HISTORIES, format_args!("cannot stand beside `{TEMPLATES}`; an environment has one of them"));
        }
        let list = root.section(key);
        for (id, value) in list.entries() {
            let path = list.path_of(id);
            let messages = read_messages(&list, &path, value);
            if matches!(value, Value::Array(items) if items.is_empty()) {
                list.report(id, "is empty; give at least one message, or remove it");
            }
            openings.list.push((id.clone(), messages));
        }
        if openings.list.is_empty() && problems.borrow().is_empty() {
            root.report(key, "is empty; give at least one initial state");
        }
        if expands {
            let section = root.section(VARIABLES);
            openings.variables = read_lists(&section);
            for (name, _) in openings.variables.iter().filter(|(name, _)| root.has(name)) {
                section.report(name, "also stands beside `variables`; keep one");
            }
        }
        openings
    }

    /// The keys that are no variables of prompts.
    pub(super) fn keys(&self) -> &'static [&'static str] {
        if self.key == TEMPLATES { &[TEMPLATES, VARIABLES, HISTORIES] } else { &[HISTORIES] }
    }

    /// The openings with all names known.
    pub(super) fn bind(
        &self,
        document: &Document,
        problems: &RefCell<Problems>,
        binding: &mut Binding<'_>,
        master: &Master,
    ) -> Openings {
        let report = |path: &[Step], message: String| problems.borrow_mut().push(document.problem(path, message));
        // A conversation begins by entering the first state, whose messages follow the opening.
        let start = master.states.get(START).map(|s| s.history.as_slice()).unwrap_or_default();
        let start_templates = binding.entry(start, UsedIn::Prompt).unwrap_or_default();
        let mut list = Vec::with_capacity(self.list.len());
        for (id, messages) in &self.list {
            let mut templates = Vec::with_capacity(messages.len());
            for raw in messages {
                match MessageTemplate::parse(raw, binding.variables, UsedIn::Prompt) {
                    Ok(template) => templates.push(template),
                    Err(message) => report(&raw.path, format!("`{}` {message}", Dotted(&raw.path))),
                }
            }
            if let Some(last) = messages.iter().chain(start).next_back().filter(|m| m.speaker == Speaker::Agent) {
                let path = [Step::Key(self.key.into()), Step::Key(id.clone())];
                let message = format!(
                    "`{}` ends with the agent's own message, `{}`, so there is nothing for it to answer; \
                     end with another role",
                    Dotted(&path),
                    last.content.chars().take(40).collect::<String>().trim()
                );
                report(&path, message);
            }
            templates.extend(start_templates.iter().cloned());
            list.push((id.clone(), templates));
        }
        let expansions = (self.key == TEMPLATES).then(|| {
            let expansion = |(id, messages): &(String, Vec<MessageTemplate>)| {
                // Those of the environment; the class's are drawn anew in each iteration.
                let own = |index: &usize| self.variables.iter().any(|(name, _)| binding.variables.is(*index, name));
                let used = MessageTemplate::variables(messages).filter(own);
                Expansion::new(&binding.name, id, binding.variables.lists_of(used))
            };
            list.iter().map(expansion).collect::<Vec<_>>()
        });
        Openings::new(list, expansions)
    }
}

fn read_lists(section: &Section<'_>) -> Vec<(String, Vec<String>)> {
    let mut lists = Vec::new();
    for (name, value) in section.entries() {
        let Value::Array(items) = value else {
            section.report(name, format_args!("must be a list of values, but is {}", describe(value)));
            continue;
        };
        let values: Vec<String> = items.iter().filter_map(variable_text).collect();
        if values.is_empty() || values.len() != items.len() {
            section.report(name, "must list one or more words or numbers");
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = values.iter().find(|value| !seen.insert(*value)) {
            section.report(name, format_args!("holds `{twice}` twice, so openings would come twice; keep one"));
        }
        lists.push((name.clone(), values));
    }
    lists
}

/// An environment's initial states.
#[derive(Debug, Clone)]
pub(super) struct Openings {
    /// In the file's order.
    list: Vec<(String, Vec<MessageTemplate>)>,
    /// Of templates, one for each.
    expansions: Option<Vec<Expansion>>,
    /// Places in the list, and of templates the combination.
    states: Vec<(usize, u64)>,
}

impl Openings {
    fn new(list: Vec<(String, Vec<MessageTemplate>)>, expansions: Option<Vec<Expansion>>) -> Self {
        let states = match &expansions {
            None => (0..list.len()).map(|place| (place, 0)).collect(),
            Some(all) => deal(&all.iter().map(Expansion::combinations).collect::<Vec<_>>()),
        };
        Self { list, expansions, states }
    }

    /// In order.
    pub(super) fn states(&self) -> impl Iterator<Item = InitialState<'_>> {
        self.states.iter().map(|(place, n)| {
            let name = &self.list[*place].0;
            let id = match self.expansions {
                None => Cow::from(name),
                Some(_) => Cow::from(format!("{name}.{n}")),
            };
            InitialState { id, place: *place }
        })
    }

    /// The messages of an initial state, and the draw with its values.
    pub(super) fn find<'d>(&self, id: &str, draw: Draw<'d>) -> Option<(&[MessageTemplate], Draw<'d>)> {
        let find = |wanted: &str| self.list.iter().position(|(name, _)| name == wanted);
        let Some(expansions) = &self.expansions else {
            return Some((&self.list[find(id)?].1, draw));
        };
        let (template, n) = id.rsplit_once('.')?;
        let (place, n) = (find(template)?, n.parse().ok()?);
        let expansion = &expansions[place];
        (n < expansion.combinations()).then(|| (&*self.list[place].1, expansion.apply(n, draw)))
    }
}
