use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::history::{RawMessage, read_messages};
use crate::config::document::{Problem, Section, describe, nearest, scalar_text};

/// Name of the state that conversations begin in.
pub(super) const START: &str = "initial_state";

/// A state as the class file has it, checked against the others.
#[derive(Debug, Clone)]
pub(super) struct RawState {
    pub(super) history: Vec<RawMessage>,
    pub(super) transitions: Vec<(String, String)>,
    pub(super) default_answer: String,
    pub(super) terminal: bool,
}

/// Reads `state_config`. A returned machine is complete: every named state exists.
pub(super) fn read_states(mut config: Section<'_>, notes: &mut Vec<Problem>) -> BTreeMap<String, RawState> {
    let mut states = BTreeMap::new();
    let names: Vec<&str> = config.entries().map(|(name, _)| name.as_str()).collect();
    for (name, value) in config.entries() {
        let state = Section::at(config.document(), config.problems(), config.path_of(name), value);
        states.insert(name.clone(), read_state(state, &names));
    }
    if config.value(START).is_none() {
        let hint = match nearest(START, names.iter().copied()) {
            Some(near) => format!("rename `{near}`, or add it"),
            None => "add it: conversations begin there".to_owned(),
        };
        let path = config.path_of(START);
        let message = format!("`state_config.{START}` is missing; {hint}");
        config.problems().borrow_mut().push(config.document().problem(&path[..path.len() - 1], message));
    }
    note_dead_ends(&config, &states, notes);
    states
}

fn read_state(mut state: Section<'_>, names: &[&str]) -> RawState {
    let terminal = state.flag("terminal", false);
    let history = match state.value("history") {
        Some(value) => read_messages(&state, &state.path_of("history"), value),
        None => Vec::new(),
    };
    let transitions = read_transitions(state.section("valid_transitions"), names);
    let default_answer = state.text("default_transition").map(as_answer).unwrap_or_default();
    // Accepted and unused, as in the published benchmark's files.
    state.value("possible_state_vars");
    if !terminal {
        check_live(&state, &transitions, &default_answer);
    }
    state.finish();
    RawState { history, transitions, default_answer, terminal }
}

fn read_transitions(section: Section<'_>, names: &[&str]) -> Vec<(String, String)> {
    let mut transitions: Vec<(String, String)> = Vec::new();
    for (key, value) in section.entries() {
        let answer = as_answer(key.clone());
        let next = match value {
            Value::Object(_) => {
                let mut target = Section::at(section.document(), section.problems(), section.path_of(key), value);
                let next = target.required_text("next_state", START);
                target.finish();
                next
            }
            other => {
                section.report(key, format_args!("must be `{{next_state: STATE}}`, but is {}", describe(other)));
                continue;
            }
        };
        if transitions.iter().any(|(a, _)| a.eq_ignore_ascii_case(&answer)) {
            section.report(key, "stands here twice: answers are compared without regard to case; keep one");
        }
        if !next.is_empty() && !names.contains(&next.as_str()) {
            let hint = match nearest(&next, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the states are {}", quoted(names.iter().copied())),
            };
            section.report(key, format_args!("leads to the state `{next}`, which is not defined; {hint}"));
        }
        transitions.push((answer, next));
    }
    transitions
}

fn check_live(state: &Section<'_>, transitions: &[(String, String)], default_answer: &str) {
    if transitions.is_empty() {
        state.report(
            "valid_transitions",
            "is empty, but the state is not terminal; give its answers, or set `terminal: true`",
        );
        return;
    }
    let answers = || quoted(transitions.iter().map(|(answer, _)| answer.as_str()));
    if default_answer.is_empty() {
        state.report("default_transition", format_args!("is missing; name one of the answers {}", answers()));
    } else if !transitions.iter().any(|(a, _)| a.eq_ignore_ascii_case(default_answer)) {
        let answers = answers();
        state
            .report("default_transition", format_args!("is `{default_answer}`, but the state's answers are {answers}"));
    }
}

/// The turn limit ends every conversation, so a state that never ends is worth a note and no more.
fn note_dead_ends(config: &Section<'_>, states: &BTreeMap<String, RawState>, notes: &mut Vec<Problem>) {
    if config.entries().next().is_none() {
        return;
    }
    let document = config.document();
    if !states.values().any(|s| s.terminal) {
        let message = "no state is terminal: conversations end at `max_turns` alone";
        notes.push(Problem::in_file(document.path(), message));
        return;
    }
    let mut ends: BTreeSet<&str> = states.iter().filter(|(_, s)| s.terminal).map(|(n, _)| n.as_str()).collect();
    loop {
        let before = ends.len();
        for (name, state) in states {
            if state.transitions.iter().any(|(_, next)| ends.contains(next.as_str())) {
                ends.insert(name);
            }
        }
        if ends.len() == before {
            break;
        }
    }
    for name in states.keys().filter(|name| !ends.contains(name.as_str())) {
        let message =
            format!("no terminal state can be reached from `{name}`: such conversations end at `max_turns` alone");
        notes.push(document.problem(&config.path_of(name), message));
    }
}

/// YAML reads an unquoted `true` or `false` as a boolean, and older YAML `yes` and `no` too.
pub(super) fn as_answer(text: String) -> String {
    match text.as_str() {
        "true" => "yes".into(),
        "false" => "no".into(),
        _ => text,
    }
}

/// Answers of an assessor, as text.
pub(super) fn read_answers(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let answers: Vec<String> = section.texts(key)?.into_iter().map(|a| as_answer(a).trim().to_owned()).collect();
    for (index, answer) in answers.iter().enumerate() {
        if answer.is_empty() {
            section.report(key, "holds an empty answer; remove it");
        } else if answers[..index].iter().any(|a| a.eq_ignore_ascii_case(answer)) {
            section.report(key, format_args!("holds `{answer}` twice; keep one"));
        }
    }
    Some(answers)
}

fn quoted<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// A variable's value as Python would print it.
pub(super) fn variable_text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        other => scalar_text(other),
    }
}
