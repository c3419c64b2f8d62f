//! An experiment's settings, validated: no value here can be out of its range.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use influence_proto::{AdapterRef, Algorithm, Digest, LoraSpec, OptimiserSpec, Sampling, Schedule};
use serde::{Deserialize, Serialize};

use crate::environments::InfluencePrompts;
use crate::selection::Fraction;

/// Which conversations are rolled out in an iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentSettings {
    /// Name of the class folder.
    pub class: String,
    /// The text before the first `_` of an environment's name, or `*` for every environment that no
    /// other key names, to its share of the initial states. Sums to 1. An environment whose share is
    /// 0 is evaluated but never trained on; one that no key covers is not used.
    pub fractions: BTreeMap<String, Fraction>,
    /// Per environment and iteration, on average over the environments.
    pub initial_states: u32,
    /// Episodes per initial state.
    pub siblings: u32,
    /// How initial states are taken from the pool.
    pub order: Order,
    /// Share of each pool that training never sees; evaluation uses nothing else.
    pub held_out: Fraction,
    /// The longest conversation, in turns.
    pub max_turns: u32,
}

/// How the n initial states of an iteration are taken from an environment's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The next n, from the beginning again after the last.
    Sequential,
    /// Any n, without replacement unless the pool is smaller.
    Random,
    /// The same first n in every iteration.
    Fixed,
}

/// What serves each role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleSettings {
    /// The model under training.
    pub agent: GeneratorSettings,
    /// Plays the user.
    pub environment: GeneratorSettings,
    /// Rates the agent's replies.
    pub preference: AssessorSettings,
    /// Predicts the next state.
    pub transition: AssessorSettings,
    /// Detects harmful influence, where enabled.
    pub influence: Option<InfluenceSettings>,
    /// What comes first in the prompts of preference, transition and influence.
    #[serde(default, skip_serializing_if = "AssessorLayout::is_default")]
    pub assessor_layout: AssessorLayout,
}

/// The order of an assessor's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssessorLayout {
    /// Its system prompt, then the transcript.
    #[default]
    InstructionsFirst,
    /// The transcript, then the text of its system prompt: assessors that see the same transcript share its computation,
    /// and so do an episode's turns.
    TranscriptFirst,
}

impl AssessorLayout {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::InstructionsFirst
    }
}

/// A role that writes text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorSettings {
    /// Name in the model table.
    pub model: String,
    /// How it samples.
    pub sampling: Sampling,
}

/// A role that answers from a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssessorSettings {
    /// Name in the model table.
    pub model: String,
}

/// The influence role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfluenceSettings {
    /// Name in the model table.
    pub model: String,
    /// Which of the class's prompts it gets.
    pub prompts: InfluencePrompts,
    /// Whether its transcript holds tool and system messages.
    pub sees_tools: bool,
}

/// What an episode is worth. A turn's reward is its expected rating less the penalty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RewardSettings {
    /// Which turns count.
    pub turns: RewardTurns,
    /// Rating points per character of the agent's trimmed reply.
    pub length_penalty: f64,
}

/// The turns that an episode's reward uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardTurns {
    /// The mean over all.
    Mean,
    /// The last alone.
    Final,
}

/// Which episodes are trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelectionSettings {
    /// The groups inside which episodes compete.
    pub level: SelectionLevel,
    /// Share of each group that is rewarded.
    pub best: Fraction,
    /// Share of each group that is punished.
    pub worst: Fraction,
    /// Keeps harmful episodes out.
    pub veto: Option<VetoSettings>,
}

/// The group inside which episodes compete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionLevel {
    /// Siblings.
    InitialState,
    /// All of an environment.
    Environment,
    /// All of a class.
    EnvironmentClass,
}

/// When the influence role keeps an episode out of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VetoSettings {
    /// A mean influence score that reaches this is vetoed.
    pub threshold: f64,
    /// Whether a vetoed episode may still be one of the worst.
    pub negatives_on_vetoed: bool,
}

/// How the agent is trained on what was selected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingSettings {
    /// The loss.
    pub algorithm: Algorithm,
    /// How episodes become rows.
    pub rows: RowMode,
    /// Shape of the adapter.
    pub lora: LoraSpec,
    /// Of iteration 0.
    pub learning_rate: f64,
    /// Multiplies the learning rate in each further iteration.
    pub learning_rate_factor: f64,
    /// How it goes over an iteration's steps. What it was before it could be set is left out, so that older runs go on.
    #[serde(skip_serializing_if = "is_constant")]
    pub schedule: Schedule,
    /// Share of an iteration's steps in which it grows from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub max_grad_norm: f64,
    /// Rows per optimiser step.
    pub batch_size: u32,
    /// Passes over the rows.
    pub epochs: u32,
    /// Longest row in tokens.
    pub max_length: u32,
    /// What happens to longer ones.
    pub long_rows: LongRows,
    /// Rows that come from a file.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_data: Option<StaticData>,
}

/// Published preferences beside what was rolled out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StaticData {
    /// JSON lines.
    #[serde(skip)]
    pub path: PathBuf,
    /// What identifies the file.
    pub sha256: Digest,
    /// Its rows.
    #[serde(skip)]
    pub rows: usize,
    /// Share of an iteration's rows that come from it.
    pub fraction: Fraction,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_constant(schedule: &Schedule) -> bool {
    *schedule == Schedule::Constant
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl TrainingSettings {
    /// The optimiser of an iteration: its learning rate is `learning_rate * factor^iteration`.
    pub fn optimiser(&self, iteration: u32) -> OptimiserSpec {
        let learning_rate = (0..iteration).fold(self.learning_rate, |rate, _| rate * self.learning_rate_factor);
        OptimiserSpec {
            learning_rate,
            schedule: self.schedule,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            batch_size: self.batch_size,
            epochs: self.epochs,
            max_length: self.max_length,
            cut_long_rows: self.long_rows == LongRows::Cut,
        }
    }
}

/// How episodes become training rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowMode {
    /// One row that trains each reply once.
    PerEpisode,
    /// A row per turn that trains all replies so far: reply 1 of T counts T times, as in the
    /// published Python benchmark.
    PerTurn,
}

/// What happens to rows longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LongRows {
    /// Left out, and counted.
    Drop,
    /// Cut at the limit.
    Cut,
}

/// When and on what the agent is evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EvaluationSettings {
    /// Held-out initial states per environment.
    pub initial_states: u32,
    /// Episodes per initial state.
    pub siblings: u32,
    /// After how many trainings: 0 is the untrained agent, k is the adapter of iteration k - 1.
    pub after: BTreeSet<u32>,
}

/// How long a worker may be silent, or slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSettings {
    /// A lease that is not renewed for this long expires.
    pub seconds: u32,
    /// An episode that takes this long, and twice as long as others, may be given to a second worker
    /// too once there is nothing else to give.
    pub straggler_seconds: u32,
}

/// An adapter that an agent begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StartAdapter {
    /// Whose it is, for people, as in `demo/iteration-0`.
    pub agent: String,
    /// Its files.
    pub adapter: AdapterRef,
}
