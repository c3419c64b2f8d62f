//! Turns as a model would give them: text, its tokens, distributions, calls.

use influence_proto::{Digest, stream, wire};
use prost::Message as _;

/// Different turns; an episode takes them in an order of its own.
const VARIANTS: u64 = 64;
const VOCABULARY: f64 = 128_000.0;
const WORDS: [&str; 24] = [
    "perhaps",
    "the",
    "evening",
    "walk",
    "with",
    "your",
    "sister",
    "would",
    "help",
    "more",
    "than",
    "another",
    "cigarette",
    "and",
    "I",
    "wonder",
    "what",
    "made",
    "today",
    "harder",
    "understand",
    "feeling",
    "better",
    "friend",
];

/// Turns of one size.
#[derive(Debug)]
pub(super) struct Turns {
    variants: Vec<wire::Turn>,
    per_episode: u32,
}

impl Turns {
    /// Turns that take about `bytes` each when they are encoded.
    pub(super) fn new(bytes: usize, per_episode: u32) -> Self {
        Self { variants: (0..VARIANTS).map(|seed| sized(seed, bytes)).collect(), per_episode }
    }

    /// Turn `index` of the episode with this seed.
    pub(super) fn turn(&self, seed: u64, index: u32) -> wire::Turn {
        let variant = seed.wrapping_add(u64::from(index).wrapping_mul(31)) % VARIANTS;
        let mut turn = self.variants[variant as usize].clone();
        turn.index = index;
        if index + 1 == self.per_episode {
            turn.environment = None;
        }
        turn
    }
}

fn draw(seed: u64, index: usize, purpose: &str) -> f64 {
    stream::uniform(stream::of_turn(seed, index as u32, purpose))
}

fn text(seed: u64, words: usize, purpose: &str) -> String {
    let word = |i| WORDS[(draw(seed, i, purpose) * WORDS.len() as f64) as usize];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

fn tokens(seed: u64, count: usize, purpose: &str) -> Vec<u32> {
    (0..count).map(|i| (draw(seed, i, purpose) * VOCABULARY) as u32).collect()
}

fn score(seed: u64, purpose: &str, answers: &[&str]) -> wire::Score {
    let masses: Vec<f64> = (0..answers.len()).map(|i| draw(seed, i, purpose)).collect();
    let sum: f64 = masses.iter().sum();
    let probability =
        |(answer, mass): (&&str, f64)| wire::AnswerProbability { answer: (*answer).into(), probability: mass / sum };
    let answers = answers.iter().zip(masses).map(probability).collect();
    wire::Score { answers, mass: draw(seed, 99, purpose), unscored: None, ..wire::Score::default() }
}

/// A turn whose reply is as long as it takes.
fn sized(seed: u64, bytes: usize) -> wire::Turn {
    let mut words = bytes / 16;
    loop {
        let turn = turn(seed, words);
        let (size, step) = (turn.encoded_len(), 9);
        if size + step >= bytes || words > bytes {
            return turn;
        }
        words += ((bytes - size) / step).max(1) / 2 + 1;
    }
}

fn turn(seed: u64, words: usize) -> wire::Turn {
    let replied = words * 4 / 3;
    let role = |role: wire::Role, generated: usize| wire::Call {
        role: role.into(),
        prompt_tokens: 300 + (draw(seed, 0, "prompt") * 900.0) as u32,
        generated_tokens: generated as u32,
        prompt_sha256: Digest::of(format!("{seed} {role:?}")).to_string(),
        milliseconds: (draw(seed, 1, "time") * 4000.0) as u32,
        nanodollars: 0,
        reused_tokens: 200,
    };
    let one_to_ten = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
    wire::Turn {
        index: 0,
        reply: Some(wire::AgentReply {
            text: text(seed, words, "reply"),
            prompt_ids: tokens(seed, 90, "prompt"),
            restarts: false,
            token_ids: tokens(seed, replied, "tokens"),
            cut_off: false,
        }),
        state: "initial_state".into(),
        transition: Some(wire::TransitionOutcome {
            score: Some(score(seed, "transition", &["yes", "no"])),
            answer: "no".into(),
            defaulted: false,
            next_state: "initial_state".into(),
            entered: Vec::new(),
        }),
        preference: Some(score(seed, "preference", &one_to_ten)),
        influence: Some(score(seed, "influence", &["0", "1"])),
        environment: Some(wire::EnvironmentReply { text: text(seed, 40, "environment"), cut_off: false }),
        calls: vec![
            role(wire::Role::Agent, replied),
            role(wire::Role::Transition, 0),
            role(wire::Role::Preference, 0),
            role(wire::Role::Influence, 0),
            role(wire::Role::Environment, 55),
        ],
        choice: None,
    }
}
