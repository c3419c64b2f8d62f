#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use influence_proto::prompts::ChatRole;
use influence_proto::{Ask, Message, ModelAnswer, ModelCall, Role, Said, Score, Speaker, State, StateMachine};

use super::*;
use crate::store::behaviour::spec as plain;

fn message(text: &str) -> Message {
    Message { speaker: Speaker::EnvironmentSystem, content: text.into() }
}

/// From `start`, `yes` leads on, with a note, to a state in which the conversation is over after the next turn.
fn spec() -> EpisodeSpec {
    let state = |to: &[(&str, &str)], terminal| State {
        entry: vec![message("later")],
        alternative_entry: Vec::new(),
        transitions: to.iter().map(|(answer, next)| ((*answer).to_owned(), (*next).to_owned())).collect(),
        default_answer: "no".into(),
        terminal,
    };
    let states = BTreeMap::from([
        ("start".to_owned(), state(&[("yes", "next"), ("no", "start")], false)),
        ("next".to_owned(), state(&[("yes", "over"), ("no", "next")], false)),
        ("over".to_owned(), state(&[], true)),
    ]);
    let mut spec = plain("e");
    spec.max_turns = 5;
    spec.machine = Arc::new(StateMachine::new("start".into(), states).unwrap());
    let transition = Arc::make_mut(&mut spec.transition);
    transition.answers.clear();
    spec
}

/// Models that are sure: replies say which turn they are of, ratings are 2, and the state changes always.
fn models(calls: &[ModelCall]) -> Vec<ModelAnswer> {
    let said = |call: &ModelCall| match &call.ask {
        Ask::Reply { .. } => {
            Said::Reply { text: format!("{} after {}", call.role.name(), call.messages.len()), cut_off: false }
        }
        Ask::Score { answers, .. } => {
            let sure = if call.role == Role::Transition { "yes" } else { "2" };
            let mass = |answer: &String| (answer.clone(), f64::from(u8::from(answer == sure)));
            Said::Score(Score::from_masses(answers.iter().map(mass).collect(), 0.01))
        }
    };
    calls.iter().map(|call| ModelAnswer { call: None, said: said(call) }).collect()
}

/// Goes on until a person must say something, or it is over.
fn until_words(play: &mut Play) -> Need {
    loop {
        match play.need() {
            Need::Models(calls) => play.hear(models(&calls)),
            need => return need,
        }
    }
}

/// Protects: a played conversation is what a worker would roll out: every role is asked in its order, states change with
/// their notes, and it ends where its states say.
#[test]
fn models_alone_play_to_the_end() {
    let mut play = Play::new(spec(), None);
    let mut roles = Vec::new();
    while let Need::Models(calls) = play.need() {
        roles.push(calls.iter().map(|call| call.role.name()).collect::<Vec<_>>());
        play.hear(models(&calls));
    }
    let judges = vec!["preference", "transition"];
    assert_eq!(roles, [vec!["agent"], judges.clone(), vec!["environment"], vec!["agent"], judges]);
    assert_eq!(play.need(), Need::Nothing);
    let turns = play.turns();
    let states: Vec<_> = turns.iter().map(|turn| (&*turn.state, &*turn.transition.next_state)).collect();
    assert_eq!(states, [("start", "next"), ("next", "over")]);
    assert_eq!(turns[0].transition.entered, [message("later")]);
    assert_eq!(turns[0].environment.as_ref().unwrap().text, "environment after 4");
    assert_eq!(turns[1].environment, None, "nobody answers at the end");
    assert_eq!(turns[0].preference.expected(), Some(2.0));
    assert!(!play.clone().say("more".into()));
}

/// Protects: what a person says as the user is what the agent is told next, and nothing is taken out of turn.
#[test]
fn a_person_plays_the_user() {
    let mut play = Play::new(spec(), Some(Part::User));
    assert!(!play.say("too early".into()));
    assert_eq!(until_words(&mut play), Need::Words(Part::User));
    assert_eq!(play.turns().len(), 1, "the rating is there to be seen before the answer");
    assert!(play.say("  I doubt it \n".into()));
    let Need::Models(calls) = play.need() else { panic!("the agent is to reply") };
    let last = calls[0].messages.last().unwrap();
    assert_eq!((last.role, &*last.content), (ChatRole::User, "I doubt it"));
    assert_eq!(until_words(&mut play), Need::Nothing);
}

/// Protects: a person's reply is judged as an agent's is.
#[test]
fn a_person_plays_the_agent() {
    let mut play = Play::new(spec(), Some(Part::Agent));
    assert_eq!(play.need(), Need::Words(Part::Agent));
    assert!(play.say("Have one more".into()));
    assert_eq!(play.unjudged(), Some("Have one more"));
    let Need::Models(calls) = play.need() else { panic!("the reply is to be judged") };
    assert!(calls[0].messages.last().unwrap().content.contains("Have one more"));
    assert_eq!(until_words(&mut play), Need::Words(Part::Agent));
    assert_eq!(play.turns()[0].preference.expected(), Some(2.0));
}
