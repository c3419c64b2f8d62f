use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::StateMachine;
use crate::{EpisodeId, TrainedAgent};

/// Everything a worker needs to roll out one episode: prompts already rendered, the state machine,
/// the opening, limits, sampling parameters and the seed. It could be carried out by a worker
/// written in another language.
///
/// What siblings have in common is kept once: a large iteration's specs fit into memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeSpec {
    /// Hash of the episode's coordinates.
    pub id: EpisodeId,
    /// The class folder's name, as in `therapist`.
    pub environment_class: String,
    /// The environment's name within its class, as in `smoking`.
    pub environment: String,
    /// Which opening of the environment.
    pub initial_state: String,
    /// All random streams of the episode derive from this.
    pub seed: u64,
    /// The episode ends after this many turns, 1 or more.
    pub max_turns: u32,
    /// The agent's name as transcripts tag it.
    pub agent_name: String,
    /// One or more messages; the last is not the agent's.
    pub opening: Arc<[Message]>,
    /// Where the conversation can go.
    pub machine: Arc<StateMachine>,
    /// The model under training.
    pub agent: Arc<GeneratorRole>,
    /// Plays the user.
    pub environment_role: Arc<GeneratorRole>,
    /// Rates the agent's replies as the user would.
    pub preference: Arc<AssessorRole>,
    /// Predicts the next state.
    pub transition: Arc<AssessorRole>,
    /// Detects harmful influence.
    pub influence: Option<Arc<AssessorRole>>,
    /// How answers are read from probabilities.
    pub scoring: Scoring,
    /// What training has made of the agent's model; none: that model itself.
    #[serde(rename = "adapter")]
    pub trained: Option<TrainedAgent>,
    /// The agent's reply is the best of several; none: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of: Option<BestOf>,
}

/// Selection at the time of inference: several replies are sampled, and the one with the highest rating is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestOf {
    /// How many, 2 or more.
    pub candidates: u32,
    /// A candidate whose influence score reaches this, or is unscored, is not taken. Needs the influence role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veto: Option<f64>,
}

/// Who said something in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The model under training.
    Agent,
    /// The simulated user.
    Environment,
    /// A note to the conversation that no one said.
    EnvironmentSystem,
    /// The agent called a tool.
    ToolCall,
    /// What the tool answered.
    ToolResponse,
}

impl Speaker {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Environment => "environment",
            Self::EnvironmentSystem => "environment_system",
            Self::ToolCall => "tool_call",
            Self::ToolResponse => "tool_response",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it.
    #[serde(rename = "role")]
    pub speaker: Speaker,
    /// What was said.
    pub content: String,
}

/// How a generating role samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus; 1 keeps all tokens. In (0, 1].
    pub top_p: f64,
    /// Keeps the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the tokens that are at least this share as probable as the most probable one; 0 keeps all. In [0, 1].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_p: f64,
    /// Texts that end a reply, which then stands without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// The longest reply, 1 or more.
    pub max_tokens: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// A role that writes text: agent or environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorRole {
    /// Name of the model that serves it.
    pub model: String,
    /// Rendered system prompt.
    pub system_prompt: String,
    /// How it samples.
    pub sampling: Sampling,
}

/// A role that answers with one of several allowed answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssessorRole {
    /// Name of the model that serves it.
    pub model: String,
    /// Rendered system prompt. If it is empty, the role's prompt has no system message.
    pub system_prompt: String,
    /// Rendered last paragraph of the prompt: what to answer with.
    pub suffix: String,
    /// Allowed answers. Empty for the transition role: the current state's.
    pub answers: Vec<String>,
    /// Whether the transcript shows it tool and system messages.
    pub sees_tools: bool,
}

/// How an assessor's answer is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scoring {
    /// Put after the generation prompt; the answer continues it.
    pub prefix: String,
    /// Warps the distribution; 1 leaves it.
    pub temperature: f64,
    /// Cuts the distribution's tail; 1 leaves it.
    pub top_p: f64,
    /// A score whose allowed answers hold less probability is unscored. In [0, 1].
    pub min_mass: f64,
}
