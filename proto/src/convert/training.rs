use crate::wire;
use crate::{
    AdapterRef, Algorithm, Digest, FineTuningSpec, InvalidMessage, LoraSpec, OptimiserSpec, Schedule, StepLoss,
    TrainedAgent, TrainingBackend, TrainingReport, TrainingSpec,
};

use super::{bounded, nested, optional, positive, required};

impl From<AdapterRef> for wire::Adapter {
    fn from(adapter: AdapterRef) -> Self {
        Self { config_sha256: adapter.config.into(), weights_sha256: adapter.weights.into() }
    }
}

impl TryFrom<wire::Adapter> for AdapterRef {
    type Error = InvalidMessage;
    fn try_from(adapter: wire::Adapter) -> Result<Self, InvalidMessage> {
        Ok(Self { config: Digest::parse(&adapter.config_sha256)?, weights: Digest::parse(&adapter.weights_sha256)? })
    }
}

impl From<TrainedAgent> for wire::episode_spec::Trained {
    fn from(agent: TrainedAgent) -> Self {
        match agent {
            TrainedAgent::Adapter(adapter) => Self::Adapter(adapter.into()),
            TrainedAgent::Served { model } => Self::ServedModel(model.to_string()),
        }
    }
}

impl TryFrom<wire::episode_spec::Trained> for TrainedAgent {
    type Error = InvalidMessage;
    fn try_from(agent: wire::episode_spec::Trained) -> Result<Self, InvalidMessage> {
        Ok(match agent {
            wire::episode_spec::Trained::Adapter(adapter) => {
                Self::Adapter(adapter.try_into().map_err(|e: InvalidMessage| e.inside("adapter"))?)
            }
            wire::episode_spec::Trained::ServedModel(model) => {
                Self::Served { model: model_name(&model, "served_model")?.into() }
            }
        })
    }
}

/// A server's name for a model: it goes into requests, addresses and tables.
fn model_name<'a>(name: &'a str, field: &str) -> Result<&'a str, InvalidMessage> {
    if !name.is_empty() && name.len() <= 256 && name.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(name);
    }
    let shown: String = name.chars().take(40).flat_map(char::escape_default).collect();
    Err(InvalidMessage::new(field, format!("must be 1 to 256 printable characters without spaces, but is `{shown}`")))
}

impl From<TrainingSpec> for wire::TrainingWork {
    fn from(spec: TrainingSpec) -> Self {
        let (start, lora, optimiser, fine_tuning) = match spec.backend {
            TrainingBackend::Local { start, lora, optimiser } => (start, Some(lora), Some(optimiser), None),
            TrainingBackend::Api(fine_tuning) => (None, None, None, Some(fine_tuning)),
        };
        Self {
            model: spec.model,
            dataset_sha256: spec.dataset.into(),
            start: start.map(Into::into),
            algorithm: Some(match spec.algorithm {
                Algorithm::Sft => wire::training_work::Algorithm::Sft(wire::Sft {}),
                Algorithm::Kto { beta, desirable_weight, target_ratio } => {
                    wire::training_work::Algorithm::Kto(wire::Kto { beta, desirable_weight, target_ratio })
                }
                Algorithm::Dpo { beta } => wire::training_work::Algorithm::Dpo(wire::Dpo { beta }),
            }),
            lora: lora.map(Into::into),
            optimiser: optimiser.map(Into::into),
            seed: spec.seed,
            fine_tuning: fine_tuning.map(Into::into),
        }
    }
}

impl From<LoraSpec> for wire::Lora {
    fn from(lora: LoraSpec) -> Self {
        let LoraSpec { rank, alpha, dropout, rank_stabilised, targets } = lora;
        Self { rank, alpha, dropout, rank_stabilised, targets }
    }
}

impl From<OptimiserSpec> for wire::Optimiser {
    fn from(o: OptimiserSpec) -> Self {
        Self {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            max_grad_norm: o.max_grad_norm,
            batch_size: o.batch_size,
            epochs: o.epochs,
            max_length: o.max_length,
            cut_long_rows: o.cut_long_rows,
            schedule: wire::Schedule::from(o.schedule).into(),
            warmup: o.warmup,
        }
    }
}

impl From<FineTuningSpec> for wire::FineTuning {
    fn from(spec: FineTuningSpec) -> Self {
        let FineTuningSpec { start, epochs, batch_size, learning_rate_multiplier, suffix } = spec;
        let start = start.map(|name| name.to_string()).unwrap_or_default();
        Self { start, epochs, batch_size, learning_rate_multiplier, suffix }
    }
}

impl TryFrom<wire::FineTuning> for FineTuningSpec {
    type Error = InvalidMessage;
    fn try_from(spec: wire::FineTuning) -> Result<Self, InvalidMessage> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if spec.suffix.is_empty() || spec.suffix.len() > 64 || !spec.suffix.chars().all(plain) {
            return Err(InvalidMessage::new("suffix", "must be 1 to 64 letters, digits, `-`, `_` and `.`"));
        }
        let start = (!spec.start.is_empty()).then(|| model_name(&spec.start, "start").map(Into::into)).transpose()?;
        let multiplier = spec.learning_rate_multiplier;
        Ok(Self {
            start,
            epochs: positive(spec.epochs, "epochs")?,
            batch_size: positive(spec.batch_size, "batch_size")?,
            learning_rate_multiplier: multiplier.map(|m| above_zero(m, "learning_rate_multiplier")).transpose()?,
            suffix: spec.suffix,
        })
    }
}

impl TryFrom<wire::TrainingWork> for TrainingSpec {
    type Error = InvalidMessage;
    fn try_from(work: wire::TrainingWork) -> Result<Self, InvalidMessage> {
        let algorithm = match required(work.algorithm, "algorithm")? {
            wire::training_work::Algorithm::Sft(_) => Algorithm::Sft,
            wire::training_work::Algorithm::Kto(kto) => Algorithm::Kto {
                beta: above_zero(kto.beta, "beta")?,
                desirable_weight: above_zero(kto.desirable_weight, "desirable_weight")?,
                target_ratio: above_zero(kto.target_ratio, "target_ratio")?,
            },
            wire::training_work::Algorithm::Dpo(dpo) => Algorithm::Dpo { beta: above_zero(dpo.beta, "beta")? },
        };
        let backend = match optional(work.fine_tuning, "fine_tuning")? {
            Some(_) if work.start.is_some() || work.lora.is_some() || work.optimiser.is_some() => {
                return Err(InvalidMessage::new(
                    "fine_tuning",
                    "is beside start, lora or optimiser, which it replaces",
                ));
            }
            Some(_) if matches!(algorithm, Algorithm::Kto { .. }) => {
                return Err(InvalidMessage::new("fine_tuning", "is beside kto, which no fine-tuning API has"));
            }
            Some(fine_tuning) => TrainingBackend::Api(fine_tuning),
            None => TrainingBackend::Local {
                start: optional(work.start, "start")?,
                lora: nested(work.lora, "lora")?,
                optimiser: nested(work.optimiser, "optimiser")?,
            },
        };
        let dataset = Digest::parse(&work.dataset_sha256)?;
        Ok(Self { model: work.model, dataset, algorithm, backend, seed: work.seed })
    }
}

impl TryFrom<wire::Lora> for LoraSpec {
    type Error = InvalidMessage;
    fn try_from(lora: wire::Lora) -> Result<Self, InvalidMessage> {
        if lora.targets.is_empty() {
            return Err(InvalidMessage::new("targets", "is empty"));
        }
        Ok(Self {
            rank: positive(lora.rank, "rank")?,
            alpha: bounded(lora.alpha, "alpha", f64::MIN_POSITIVE..=1e6)?,
            dropout: bounded(lora.dropout, "dropout", 0.0..=BELOW_ONE)?,
            rank_stabilised: lora.rank_stabilised,
            targets: lora.targets,
        })
    }
}

impl TryFrom<wire::Optimiser> for OptimiserSpec {
    type Error = InvalidMessage;
    fn try_from(o: wire::Optimiser) -> Result<Self, InvalidMessage> {
        Ok(Self {
            learning_rate: bounded(o.learning_rate, "learning_rate", 0.0..=10.0)?,
            weight_decay: bounded(o.weight_decay, "weight_decay", 0.0..=10.0)?,
            max_grad_norm: bounded(o.max_grad_norm, "max_grad_norm", f64::MIN_POSITIVE..=1e9)?,
            batch_size: positive(o.batch_size, "batch_size")?,
            epochs: positive(o.epochs, "epochs")?,
            max_length: positive(o.max_length, "max_length")?,
            cut_long_rows: o.cut_long_rows,
            schedule: o.schedule().try_into()?,
            warmup: bounded(o.warmup, "warmup", 0.0..=BELOW_ONE)?,
        })
    }
}

impl From<Schedule> for wire::Schedule {
    fn from(schedule: Schedule) -> Self {
        match schedule {
            Schedule::Constant => Self::Constant,
            Schedule::Linear => Self::Linear,
            Schedule::Cosine => Self::Cosine,
        }
    }
}

impl TryFrom<wire::Schedule> for Schedule {
    type Error = InvalidMessage;
    fn try_from(schedule: wire::Schedule) -> Result<Self, InvalidMessage> {
        match schedule {
            wire::Schedule::Constant => Ok(Self::Constant),
            wire::Schedule::Linear => Ok(Self::Linear),
            wire::Schedule::Cosine => Ok(Self::Cosine),
            wire::Schedule::Unspecified => Err(InvalidMessage::new("schedule", "is missing")),
        }
    }
}

const BELOW_ONE: f64 = 1.0_f64.next_down();

fn above_zero(value: f64, field: &'static str) -> Result<f64, InvalidMessage> {
    bounded(value, field, f64::MIN_POSITIVE..=1e6)
}

impl From<TrainingReport> for wire::TrainingDone {
    fn from(report: TrainingReport) -> Self {
        let TrainingReport { agent, steps, rows, dropped_rows, tokens, first_loss, last_loss, losses, nanodollars } =
            report;
        let agent = Some(match agent {
            TrainedAgent::Adapter(adapter) => wire::training_done::Agent::Adapter(adapter.into()),
            TrainedAgent::Served { model } => wire::training_done::Agent::ServedModel(model.to_string()),
        });
        let losses = losses.into_iter().map(|StepLoss { step, loss }| wire::StepLoss { step, loss }).collect();
        Self { agent, steps, rows, dropped_rows, tokens, first_loss, last_loss, losses, nanodollars }
    }
}

impl TryFrom<wire::TrainingDone> for TrainingReport {
    type Error = InvalidMessage;
    fn try_from(done: wire::TrainingDone) -> Result<Self, InvalidMessage> {
        let wire::TrainingDone { agent, steps, rows, dropped_rows, tokens, first_loss, last_loss, losses, nanodollars } =
            done;
        let loss = |value: f64, field| bounded(value, field, f64::MIN..=f64::MAX);
        let agent = match required(agent, "agent")? {
            wire::training_done::Agent::Adapter(adapter) => TrainedAgent::Adapter(nested(Some(adapter), "adapter")?),
            wire::training_done::Agent::ServedModel(model) => {
                TrainedAgent::Served { model: model_name(&model, "served_model")?.into() }
            }
        };
        Ok(Self {
            agent,
            steps,
            rows,
            dropped_rows,
            tokens,
            first_loss: first_loss.map(|value| loss(value, "first_loss")).transpose()?,
            last_loss: last_loss.map(|value| loss(value, "last_loss")).transpose()?,
            nanodollars,
            losses: losses
                .into_iter()
                .map(|wire::StepLoss { step, loss: value }| Ok(StepLoss { step, loss: loss(value, "losses")? }))
                .collect::<Result<_, InvalidMessage>>()?,
        })
    }
}
