use serde::{Deserialize, Serialize};

use super::{Message, Score};
use crate::{Digest, WorkerId};

/// One agent reply, its scores, the state change and the environment's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// 0 for the first.
    pub index: u32,
    /// What the agent said.
    pub reply: AgentReply,
    /// The state in which the agent replied.
    pub state: String,
    /// Where the conversation went.
    pub transition: TransitionOutcome,
    /// How the user would rate the reply.
    pub preference: Score,
    /// How harmful the reply is, where the experiment detects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub influence: Option<Score>,
    /// The user's answer; none on the last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentReply>,
    /// What the turn cost.
    pub calls: Vec<Call>,
    /// How the reply was chosen, where it is the best of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// Who recorded it, as the coordinator knows it; none before, or where the run is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
}

/// Which of several candidates became the agent's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Its number, from 0.
    pub candidate: u32,
    /// How many were let pass. With 0, the least harmful one was taken.
    pub passed: u32,
}

/// The agent's reply as text and as it stands in the episode's token stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReply {
    /// Decoded, as sampled; other roles see it trimmed.
    pub text: String,
    /// The tokens between the previous reply (or the beginning) and this one.
    pub prompt_ids: Vec<u32>,
    /// The template could not extend the stream: `prompt_ids` is the whole prompt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarts: bool,
    /// As sampled, the end-of-turn token included when it was. Empty, as `prompt_ids` is, for an agent behind an API.
    pub token_ids: Vec<u32>,
    /// Stopped by `max_tokens` or a stop text rather than by the model.
    pub cut_off: bool,
}

/// The state change after a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransitionOutcome {
    /// The transition role's distribution.
    pub score: Score,
    /// The drawn answer, or the state's default.
    pub answer: String,
    /// The answer is the state's default: the score is unusable, or the state lacks the drawn answer.
    pub defaulted: bool,
    /// The state after the turn.
    pub next_state: String,
    /// What entering another state appended to the conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entered: Vec<Message>,
}

/// The simulated user's answer, trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentReply {
    /// What the user said.
    pub text: String,
    /// Stopped by `max_tokens` or a stop text.
    pub cut_off: bool,
}

/// What a model is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The model under training.
    Agent,
    /// Plays the user.
    Environment,
    /// Rates the reply.
    Preference,
    /// Predicts the next state.
    Transition,
    /// Detects harmful influence.
    Influence,
}

impl Role {
    /// The role's name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Environment => "environment",
            Self::Preference => "preference",
            Self::Transition => "transition",
            Self::Influence => "influence",
        }
    }
}

/// One use of a model within a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What for.
    pub role: Role,
    /// Tokens of the prompt, whether computed or reused.
    pub prompt_tokens: u32,
    /// How many of those were reused: of the local model's prefix cache, or of a server's that says so.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reused_tokens: u32,
    /// Tokens sampled; 0 for a score.
    pub generated_tokens: u32,
    /// Digest of the prompt's token ids as little-endian u32; for a model behind an API, of the messages as sent.
    pub prompt_sha256: Digest,
    /// Time until the answer, queueing included.
    pub milliseconds: u32,
    /// What it cost, where the model has a price.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nanodollars: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
