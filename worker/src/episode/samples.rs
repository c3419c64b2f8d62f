//! Specs for tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use influence_proto::{
    AssessorRole, EpisodeId, EpisodeSpec, GeneratorRole, Message, Sampling, Scoring, Speaker, State, StateMachine,
};

pub(crate) fn message(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.into() }
}

pub(crate) fn state(transitions: &[(&str, &str)], entry: &str) -> State {
    let entry = if entry.is_empty() { Vec::new() } else { vec![message(Speaker::EnvironmentSystem, entry)] };
    State {
        entry,
        alternative_entry: Vec::new(),
        transitions: transitions.iter().map(|(answer, next)| ((*answer).into(), (*next).into())).collect(),
        default_answer: "no".into(),
        terminal: transitions.is_empty(),
    }
}

pub(crate) fn machine(states: Vec<(&str, State)>) -> StateMachine {
    let start = states[0].0.to_owned();
    let states: BTreeMap<_, _> = states.into_iter().map(|(name, state)| (name.to_owned(), state)).collect();
    StateMachine::new(start, states).unwrap()
}

fn generator(prompt: &str, max_tokens: u32) -> GeneratorRole {
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens };
    GeneratorRole { model: "tiny".into(), system_prompt: prompt.into(), sampling }
}

fn assessor(prompt: &str, answers: &[&str]) -> AssessorRole {
    AssessorRole {
        model: "tiny".into(),
        system_prompt: prompt.into(),
        suffix: format!("{prompt} Answer."),
        answers: answers.iter().map(|a| (*a).to_owned()).collect(),
        sees_tools: false,
    }
}

/// Three turns at most: calm, upset (with a note on entry), over.
pub(crate) fn spec(id: &str, seed: u64) -> EpisodeSpec {
    EpisodeSpec {
        id: EpisodeId::new(id).unwrap(),
        environment_class: "therapist".into(),
        environment: "smoking".into(),
        initial_state: "1".into(),
        seed,
        max_turns: 3,
        agent_name: "Ada".into(),
        opening: [
            message(Speaker::ToolCall, "look_up()"),
            message(Speaker::ToolResponse, "nothing"),
            message(Speaker::Environment, "Hello"),
        ]
        .into(),
        machine: machine(vec![
            ("calm", state(&[("yes", "upset"), ("no", "calm")], "")),
            ("upset", state(&[("yes", "over"), ("no", "upset")], "A day later")),
            ("over", state(&[], "The end")),
        ])
        .into(),
        agent: generator("AGENT", 40).into(),
        environment_role: generator("USER", 40).into(),
        preference: assessor("RATE", &["1", "2", "3"]).into(),
        transition: assessor("MOVE", &[]).into(),
        influence: Some(assessor("HARM", &["0", "1"]).into()),
        scoring: Scoring { prefix: "The answer is: ".into(), temperature: 1.0, top_p: 1.0, min_mass: 0.01 },
        trained: None,
        best_of: None,
    }
}
