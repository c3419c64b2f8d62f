//! Where a reply leads: workers draw it, and so does a coordinator where a person plays along.

use crate::{
    ALTERNATIVE_ENTRY, EpisodeSpec, Message, Score, ScoreOutcome, State, StateMachine, TransitionOutcome, stream,
};

/// The answers that the transition role may give in a state.
pub fn allowed(spec: &EpisodeSpec, state: &State) -> Vec<String> {
    if spec.transition.answers.is_empty() {
        state.transitions.iter().map(|(answer, _)| answer.clone()).collect()
    } else {
        spec.transition.answers.clone()
    }
}

/// Draws the next state of turn `turn`, which began in `from`, and what entering it appends.
pub fn outcome(spec: &EpisodeSpec, turn: u32, from: &str, state: &State, score: Score) -> TransitionOutcome {
    let drawn = draw(stream::of_turn(spec.seed, turn, "transition"), state, &score);
    let known = drawn.as_deref().and_then(|answer| state.next(answer));
    let (answer, defaulted) = match (&drawn, known) {
        (Some(answer), Some(_)) => (answer.clone(), false),
        _ => (state.default_answer.clone(), true),
    };
    // A terminal state's default leads nowhere: the conversation stays, and ends.
    let next = known.or_else(|| state.next(&state.default_answer)).unwrap_or(from);
    let entered = if next == from { Vec::new() } else { entered(&spec.machine, spec.seed, turn, next) };
    TransitionOutcome { answer, defaulted, next_state: next.to_owned(), entered, score }
}

/// Whether the conversation is over after so many turns, the last of which led to `state`.
pub fn is_over(spec: &EpisodeSpec, turns: usize, state: &str) -> bool {
    turns >= spec.max_turns as usize || spec.machine.state(state).is_none_or(|state| state.terminal)
}

/// An answer from the distribution; none when it is unusable. Numbers that are not the state's own answers are a scale
/// for "does it change?": P(yes) = 1/(1+exp(-5(E-3))) of their expected value E.
fn draw(seed: u64, state: &State, score: &Score) -> Option<String> {
    let ScoreOutcome::Scored(answers) = score.outcome() else { return None };
    let scale = answers.iter().all(|(answer, _)| state.next(answer).is_none());
    match score.expected() {
        Some(expected) if scale => {
            let yes = 1.0 / (1.0 + (-5.0 * (expected - 3.0)).exp());
            let index = stream::choose(seed, [yes, 1.0 - yes])?;
            Some(["yes", "no"][index].to_owned())
        }
        _ => {
            let index = stream::choose(seed, answers.iter().map(|(_, p)| *p))?;
            answers.get(index).map(|(answer, _)| answer.clone())
        }
    }
}

fn entered(machine: &StateMachine, seed: u64, turn: u32, name: &str) -> Vec<Message> {
    let Some(state) = machine.state(name) else { return Vec::new() };
    let other = !state.alternative_entry.is_empty()
        && stream::uniform(stream::of_turn(seed, turn, "entry")) < ALTERNATIVE_ENTRY;
    if other { state.alternative_entry.clone() } else { state.entry.clone() }
}
