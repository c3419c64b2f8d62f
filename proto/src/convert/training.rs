use crate::wire;
use crate::{
    AdapterRef, Algorithm, Digest, InvalidMessage, LoraSpec, OptimiserSpec, Schedule, StepLoss, TrainingReport,
    TrainingSpec,
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

impl From<TrainingSpec> for wire::TrainingWork {
    fn from(spec: TrainingSpec) -> Self {
        let LoraSpec { rank, alpha, dropout, rank_stabilised, targets } = spec.lora;
        let o = spec.optimiser;
        Self {
            model: spec.model,
            dataset_sha256: spec.dataset.into(),
            start: spec.start.map(Into::into),
            algorithm: Some(match spec.algorithm {
                Algorithm::Sft => wire::training_work::Algorithm::Sft(wire::Sft {}),
                Algorithm::Kto { beta, desirable_weight, target_ratio } => {
                    wire::training_work::Algorithm::Kto(wire::Kto { beta, desirable_weight, target_ratio })
                }
                Algorithm::Dpo { beta } => wire::training_work::Algorithm::Dpo(wire::Dpo { beta }),
            }),
            lora: Some(wire::Lora { rank, alpha, dropout, rank_stabilised, targets }),
            optimiser: Some(wire::Optimiser {
                learning_rate: o.learning_rate,
                weight_decay: o.weight_decay,
                max_grad_norm: o.max_grad_norm,
                batch_size: o.batch_size,
                epochs: o.epochs,
                max_length: o.max_length,
                cut_long_rows: o.cut_long_rows,
                schedule: wire::Schedule::from(o.schedule).into(),
                warmup: o.warmup,
            }),
            seed: spec.seed,
        }
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
        Ok(Self {
            model: work.model,
            dataset: Digest::parse(&work.dataset_sha256)?,
            start: optional(work.start, "start")?,
            algorithm,
            lora: nested(work.lora, "lora")?,
            optimiser: nested(work.optimiser, "optimiser")?,
            seed: work.seed,
        })
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
        let TrainingReport { adapter, steps, rows, dropped_rows, tokens, first_loss, last_loss, losses } = report;
        let losses = losses.into_iter().map(|StepLoss { step, loss }| wire::StepLoss { step, loss }).collect();
        Self { adapter: Some(adapter.into()), steps, rows, dropped_rows, tokens, first_loss, last_loss, losses }
    }
}

impl TryFrom<wire::TrainingDone> for TrainingReport {
    type Error = InvalidMessage;
    fn try_from(done: wire::TrainingDone) -> Result<Self, InvalidMessage> {
        let wire::TrainingDone { adapter, steps, rows, dropped_rows, tokens, first_loss, last_loss, losses } = done;
        let loss = |value: f64, field| bounded(value, field, f64::MIN..=f64::MAX);
        Ok(Self {
            adapter: nested(adapter, "adapter")?,
            steps,
            rows,
            dropped_rows,
            tokens,
            first_loss: loss(first_loss, "first_loss")?,
            last_loss: loss(last_loss, "last_loss")?,
            losses: losses
                .into_iter()
                .map(|wire::StepLoss { step, loss: value }| Ok(StepLoss { step, loss: loss(value, "losses")? }))
                .collect::<Result<_, InvalidMessage>>()?,
        })
    }
}
