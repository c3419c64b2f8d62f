use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Message;
use crate::InvalidMessage;

/// The states of an environment and the answers that lead from one to another. Every name it
/// mentions is a state of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawStateMachine")]
pub struct StateMachine {
    start: String,
    states: BTreeMap<String, State>,
}

/// One state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Appended to the conversation on entry from another state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entry: Vec<Message>,
    /// Another rendering of `entry`, drawn with [`ALTERNATIVE_ENTRY`] probability on each entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternative_entry: Vec<Message>,
    /// Answer of the transition role to next state, in the file's order.
    pub transitions: Vec<(String, String)>,
    /// The answer that stands in for an unusable one. Unchecked when `terminal`.
    pub default_answer: String,
    /// The conversation ends on arrival.
    pub terminal: bool,
}

/// How often entering a state shows `alternative_entry`, where it has one.
pub const ALTERNATIVE_ENTRY: f64 = 0.2;

#[derive(Deserialize)]
struct RawStateMachine {
    start: String,
    states: BTreeMap<String, State>,
}

impl TryFrom<RawStateMachine> for StateMachine {
    type Error = InvalidMessage;
    fn try_from(raw: RawStateMachine) -> Result<Self, InvalidMessage> {
        Self::new(raw.start, raw.states)
    }
}

impl StateMachine {
    /// A machine that starts in `start`.
    ///
    /// # Errors
    /// When the start, a transition's target or a live state's default answer does not exist, or a
    /// live state has no transitions.
    pub fn new(start: String, states: BTreeMap<String, State>) -> Result<Self, InvalidMessage> {
        let known = || states.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if !states.contains_key(&start) {
            return Err(InvalidMessage::new(
                "start",
                format!("names the state `{start}`, but there are only {}", known()),
            ));
        }
        for (name, state) in &states {
            for (answer, next) in &state.transitions {
                if !states.contains_key(next) {
                    return Err(InvalidMessage::new(
                        format!("states.{name}.transitions.{answer}"),
                        format!("leads to the state `{next}`, but there are only {}", known()),
                    ));
                }
            }
            if state.terminal {
                continue;
            }
            if state.transitions.is_empty() {
                return Err(InvalidMessage::new(
                    format!("states.{name}.transitions"),
                    "is empty, but the state is not terminal",
                ));
            }
            if state.next(&state.default_answer).is_none() {
                let answers: Vec<_> = state.transitions.iter().map(|(a, _)| format!("`{a}`")).collect();
                return Err(InvalidMessage::new(
                    format!("states.{name}.default_transition"),
                    format!("is `{}`, but the state's answers are {}", state.default_answer, answers.join(", ")),
                ));
            }
        }
        Ok(Self { start, states })
    }

    /// Name of the state a conversation begins in.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// A state by name.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.states.get(name)
    }

    /// All states by name.
    pub fn states(&self) -> &BTreeMap<String, State> {
        &self.states
    }
}

impl State {
    /// Where an answer leads. Answers are compared without regard to case.
    pub fn next(&self, answer: &str) -> Option<&str> {
        self.transitions.iter().find(|(a, _)| a.eq_ignore_ascii_case(answer)).map(|(_, next)| next.as_str())
    }
}
