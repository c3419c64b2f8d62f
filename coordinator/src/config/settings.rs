//! An experiment's settings, validated: no value here can be out of its range.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use influence_proto::{
    Algorithm, Digest, FineTuningSpec, LoraSpec, OptimiserSpec, RunId, Sampling, Schedule, TrainedAgent,
    TrainingBackend,
};
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
    /// Multiplies the learning rate in each further iteration.
    pub learning_rate_factor: f64,
    /// Rows per optimiser step.
    pub batch_size: u32,
    /// Passes over the rows.
    pub epochs: u32,
    /// Who trains, and what can be said about it.
    #[serde(flatten)]
    pub trainer: Trainer,
    /// Rows that come from a file.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_data: Option<StaticData>,
}

/// Who trains, with the settings that only this one has. Workers, whose settings stood alone before, are not named, so
/// that older runs go on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Trainer {
    /// A worker, an adapter.
    Local(LocalTraining),
    /// The server that answers for the agent, another model.
    Api(ApiTraining),
}

/// A worker's training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalTraining {
    /// Shape of the adapter.
    pub lora: LoraSpec,
    /// Of iteration 0.
    pub learning_rate: f64,
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
    /// Longest row in tokens.
    pub max_length: u32,
    /// What happens to longer ones.
    pub long_rows: LongRows,
}

/// A training by a server's fine-tuning API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ApiTraining {
    /// Always `api`: what tells it from [`LocalTraining`].
    pub backend: &'static str,
    /// Of iteration 0; none: the server's choice.
    pub learning_rate_multiplier: Option<f64>,
    /// Stands in the new models' names, before the iteration; none: the run's name.
    pub suffix: Option<String>,
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
    /// The optimiser of an iteration, of a worker's training: its learning rate is `learning_rate * factor^iteration`.
    pub fn optimiser(&self, local: &LocalTraining, iteration: u32) -> OptimiserSpec {
        OptimiserSpec {
            learning_rate: self.in_iteration(local.learning_rate, iteration),
            schedule: local.schedule,
            warmup: local.warmup,
            weight_decay: local.weight_decay,
            max_grad_norm: local.max_grad_norm,
            batch_size: self.batch_size,
            epochs: self.epochs,
            max_length: local.max_length,
            cut_long_rows: local.long_rows == LongRows::Cut,
        }
    }

    /// The job of an iteration that continues from `start`. `Err`: an agent that this trainer cannot continue from.
    pub(crate) fn job(
        &self,
        run: &RunId,
        iteration: u32,
        start: Option<TrainedAgent>,
    ) -> Result<TrainingBackend, TrainedAgent> {
        match (&self.trainer, start) {
            (Trainer::Local(_), Some(start @ TrainedAgent::Served { .. }))
            | (Trainer::Api(_), Some(start @ TrainedAgent::Adapter(_))) => Err(start),
            (Trainer::Local(local), start) => Ok(TrainingBackend::Local {
                start: start.and_then(|agent| agent.adapter()),
                lora: local.lora.clone(),
                optimiser: self.optimiser(local, iteration),
            }),
            (Trainer::Api(api), start) => {
                let plain = |c: char| if c == ':' { '-' } else { c };
                let suffix = api.suffix.as_deref().unwrap_or(run.as_str());
                let suffix: String = suffix.chars().map(plain).take(LONGEST_SUFFIX).collect();
                let multiplier = api.learning_rate_multiplier.map(|rate| self.in_iteration(rate, iteration));
                let fine_tuning = FineTuningSpec {
                    start: start.as_ref().and_then(TrainedAgent::served).map(Into::into),
                    epochs: self.epochs,
                    batch_size: self.batch_size,
                    learning_rate_multiplier: multiplier,
                    suffix: format!("{suffix}-{iteration}"),
                };
                Ok(TrainingBackend::Api(fine_tuning))
            }
        }
    }

    fn in_iteration(&self, rate: f64, iteration: u32) -> f64 {
        (0..iteration).fold(rate, |rate, _| rate * self.learning_rate_factor)
    }
}

/// Of the part before the iteration: servers allow 64 characters and fewer in all.
pub(super) const LONGEST_SUFFIX: usize = 48;

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

/// A trained agent that an experiment begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StartAgent {
    /// Whose it is, for people, as in `demo/iteration-0`.
    pub agent: String,
    /// What it is.
    #[serde(rename = "adapter")]
    pub trained: TrainedAgent,
}
