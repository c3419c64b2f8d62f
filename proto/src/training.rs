use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::prompts::ChatRole;
use crate::{Digest, EpisodeId, InvalidMessage};

/// A LoRA adapter as the two files of its PEFT directory, addressed by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdapterRef {
    /// `adapter_config.json`.
    pub config: Digest,
    /// `adapter_model.safetensors`.
    pub weights: Digest,
}

/// What training has made of the agent's model. An agent that is none of these is the untrained model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TrainedAgent {
    /// Weights beside those of the model.
    Adapter(AdapterRef),
    /// Another model of the server that answers for the untrained one.
    Served {
        /// What the server calls it.
        #[serde(rename = "served_model")]
        model: Arc<str>,
    },
}

impl TrainedAgent {
    /// The adapter, if it is one.
    pub const fn adapter(&self) -> Option<AdapterRef> {
        match self {
            Self::Adapter(adapter) => Some(*adapter),
            Self::Served { .. } => None,
        }
    }

    /// What its server calls it, if it is a model of its own.
    pub fn served(&self) -> Option<&str> {
        match self {
            Self::Adapter(_) => None,
            Self::Served { model } => Some(model),
        }
    }
}

/// A training job: self-contained, like an episode's spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredSpec", into = "StoredSpec")]
pub struct TrainingSpec {
    /// Name of the model to train.
    pub model: String,
    /// JSON lines, one training row each.
    pub dataset: Digest,
    /// What is optimised.
    pub algorithm: Algorithm,
    /// Who optimises it, and how.
    pub backend: TrainingBackend,
    /// Of initial weights, shuffling and dropout.
    pub seed: u64,
}

/// Who trains.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingBackend {
    /// A worker, whose result is an adapter.
    Local {
        /// The adapter to continue from.
        start: Option<AdapterRef>,
        /// The adapter's shape. Ignored where `start` brings one: it must agree.
        lora: LoraSpec,
        /// How it is optimised.
        optimiser: OptimiserSpec,
    },
    /// The server that answers for the model, whose result is another model there. The dataset is sent as it is.
    Api(FineTuningSpec),
}

/// A job as it is stored. Stores compare what they hold letter by letter, so that its names and their order are those of
/// the releases that knew no other backend.
#[derive(Serialize, Deserialize)]
struct StoredSpec {
    model: String,
    dataset: Digest,
    #[serde(default)]
    start: Option<AdapterRef>,
    algorithm: Algorithm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<LoraSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    optimiser: Option<OptimiserSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fine_tuning: Option<FineTuningSpec>,
    seed: u64,
}

impl From<TrainingSpec> for StoredSpec {
    fn from(spec: TrainingSpec) -> Self {
        let TrainingSpec { model, dataset, algorithm, backend, seed } = spec;
        let (start, lora, optimiser, fine_tuning) = match backend {
            TrainingBackend::Local { start, lora, optimiser } => (start, Some(lora), Some(optimiser), None),
            TrainingBackend::Api(fine_tuning) => (None, None, None, Some(fine_tuning)),
        };
        Self { model, dataset, start, algorithm, lora, optimiser, fine_tuning, seed }
    }
}

impl TryFrom<StoredSpec> for TrainingSpec {
    type Error = InvalidMessage;
    fn try_from(stored: StoredSpec) -> Result<Self, InvalidMessage> {
        let StoredSpec { model, dataset, start, algorithm, lora, optimiser, fine_tuning, seed } = stored;
        let backend = match (lora, optimiser, fine_tuning) {
            (Some(lora), Some(optimiser), None) => TrainingBackend::Local { start, lora, optimiser },
            (None, None, Some(fine_tuning)) => TrainingBackend::Api(fine_tuning),
            _ => return Err(InvalidMessage::new("lora", "and `optimiser` must be there, or `fine_tuning` alone")),
        };
        Ok(Self { model, dataset, algorithm, backend, seed })
    }
}

/// A job of a server's fine-tuning API, as OpenAI's is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FineTuningSpec {
    /// The model to continue from, by the server's name; none for the untrained one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Arc<str>>,
    /// Passes over the rows, 1 or more.
    pub epochs: u32,
    /// Rows per optimiser step, 1 or more.
    pub batch_size: u32,
    /// Multiplies the learning rate that the server chooses, above 0; none: that is its choice, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate_multiplier: Option<f64>,
    /// A part of the new model's name, 1 to 64 of `A-Z`, `a-z`, `0-9`, `-`, `_` and `.`.
    pub suffix: String,
}

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Supervised fine-tuning: cross-entropy on the rows' target tokens.
    Sft,
    /// Kahneman-Tversky optimisation (arXiv 2402.01306).
    Kto {
        /// How hard the agent is held to what it was, above 0.
        beta: f64,
        /// By which the losses of desirable rows are multiplied.
        desirable_weight: f64,
        /// Desirable rows that an undesirable one is to count for: those are weighted by `desirable * desirable_weight /
        /// (undesirable * target_ratio)`, counting rows.
        target_ratio: f64,
    },
    /// Direct preference optimisation (arXiv 2305.18290).
    Dpo {
        /// As of KTO.
        beta: f64,
    },
}

impl Algorithm {
    /// The name that experiments have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Kto { .. } => "kto",
            Self::Dpo { .. } => "dpo",
        }
    }
}

/// How the learning rate goes over the steps, after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// Down to 0 in a straight line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
}

/// Shape of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraSpec {
    /// Rank r, 1 or more.
    pub rank: u32,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Of the adapter's input while training, in [0, 1).
    pub dropout: f64,
    /// Scale alpha/sqrt(r) rather than alpha/r.
    pub rank_stabilised: bool,
    /// Projections by name: `q_proj` ... `down_proj`.
    pub targets: Vec<String>,
}

/// AdamW and the data order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimiserSpec {
    /// Step size.
    pub learning_rate: f64,
    /// How it goes over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Share of the steps in which it grows from 0, below 1.
    #[serde(default)]
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub max_grad_norm: f64,
    /// Rows per optimiser step, 1 or more.
    pub batch_size: u32,
    /// Passes over the rows, 1 or more.
    pub epochs: u32,
    /// Longest row in tokens.
    pub max_length: u32,
    /// Longer rows are cut rather than dropped.
    pub cut_long_rows: bool,
}

/// What a training job did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingReport {
    /// What came of it.
    #[serde(rename = "adapter")]
    pub agent: TrainedAgent,
    /// Optimiser steps; 0 where a server does not tell.
    pub steps: u32,
    /// Rows trained on.
    pub rows: u32,
    /// Rows left out for their length.
    pub dropped_rows: u32,
    /// Target tokens, over all epochs; of a server's job, the tokens that it bills.
    pub tokens: u64,
    /// Loss of the first step; none where a server does not tell.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Of the steps, or of an even share of many. Those before a checkpoint that another process wrote are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<StepLoss>,
    /// What it cost, where the server's model has a price for it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nanodollars: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// A training step's loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepLoss {
    /// From 1.
    pub step: u32,
    /// Of its batch, before the step.
    pub loss: f64,
}

/// One line of a training dataset: tokens as they were sampled, or text to tokenise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TrainingRow {
    /// From a rollout: token in, token out.
    Tokens {
        /// The whole sequence.
        token_ids: Vec<u32>,
        /// Half-open ranges of the tokens that are trained on, in order and apart.
        targets: Vec<(u32, u32)>,
        /// The episode that it comes from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        episode: Option<EpisodeId>,
    },
    /// A reply of a rollout, for KTO.
    Reply {
        /// What the model saw.
        prompt_ids: Vec<u32>,
        /// What it wrote.
        completion_ids: Vec<u32>,
        /// Whether that is to become more probable.
        label: bool,
        /// The episode that it comes from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        episode: Option<EpisodeId>,
    },
    /// Two rollouts from one initial state, for DPO.
    Pair {
        /// The one to favour.
        chosen: TokenRow,
        /// The other one.
        rejected: TokenRow,
    },
    /// A reply from a file, for KTO.
    Completion {
        /// The conversation before it.
        prompt: Vec<RowMessage>,
        /// The reply.
        completion: Vec<RowMessage>,
        /// Whether it is to become more probable.
        label: bool,
    },
    /// Two replies from a file, for DPO: whole conversations that differ in their last message.
    Preference {
        /// The one to favour.
        chosen: Vec<RowMessage>,
        /// The other one.
        rejected: Vec<RowMessage>,
    },
    /// From a file: the loss is on assistant messages.
    Messages {
        /// The conversation, in the roles of a chat template.
        messages: Vec<RowMessage>,
    },
}

/// One side of a [`TrainingRow::Pair`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRow {
    /// The whole sequence.
    pub token_ids: Vec<u32>,
    /// Half-open ranges of the tokens that the model wrote, in order and apart.
    pub targets: Vec<(u32, u32)>,
    /// The episode that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<EpisodeId>,
}

/// A message of a [`TrainingRow::Messages`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowMessage {
    /// Who speaks, as the template sees it.
    pub role: ChatRole,
    /// The text.
    pub content: String,
    /// 0 takes an assistant message out of the loss; 1 (or absent) leaves it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
}
