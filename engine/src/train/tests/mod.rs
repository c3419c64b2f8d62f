#![allow(clippy::unwrap_used, clippy::expect_used)]

mod gradients;
mod objectives;
mod operations;
mod optimizer;
mod plain;
mod reference;
mod resume;
mod rows;
#[path = "../../../tests/tiny/mod.rs"]
mod tiny;
mod training;

use super::parameters::Parameters;
use super::{Progress, Step, TrainError, TrainOptions, TrainReport, TrainRow, TrainingData, TrainingFiles};
use crate::lora::{LoraConfig, LoraPair, LoraWeights, Projection};
use crate::model::{Model, Placement};
use candle_core::{DType, Device};
use std::ops::ControlFlow;
use std::path::Path;
use tiny::Noise;

/// A tiny random Llama.
fn model() -> Model {
    family_model("llama")
}

fn family_model(family: &str) -> Model {
    family_model_at(family, &Placement::CPU)
}

/// Its weights are where a device would have them.
fn placed_model(family: &str) -> Model {
    family_model_at(family, &Placement::Device { device: Device::Cpu, dtype: DType::F32 })
}

fn family_model_at(family: &str, placement: &Placement) -> Model {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::family_weights(family, 7));
    let mut config = tiny::config_json();
    config["model_type"] = family.into();
    // Qwen3's heads have a width of their own.
    config["head_dim"] = tiny::HEAD.into();
    if family.starts_with("gemma") {
        let change = serde_json::json!({
            "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "query_pre_attn_scalar": 9.0,
            "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "attn_logit_softcapping": if family == "gemma2" { 2.0.into() } else { serde_json::Value::Null },
            "final_logit_softcapping": if family == "gemma2" { 3.0.into() } else { serde_json::Value::Null },
            "rope_local_base_freq": 100.0,
        });
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Model::load_for(folder.path(), placement).unwrap()
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() }
}

fn options() -> TrainOptions {
    TrainOptions {
        lora: lora(),
        learning_rate: 5e-3,
        max_length: 64,
        batch_size: 2,
        seed: 11,
        ..TrainOptions::default()
    }
}

/// Trains without checkpoints, and keeps what was told of every step.
fn train(
    model: &Model,
    start: Option<&Path>,
    data: &TrainingData,
    options: &TrainOptions,
    output: &Path,
) -> Result<(TrainReport, Vec<Step>), TrainError> {
    let mut steps = Vec::new();
    let files = TrainingFiles { start, output, checkpoints: None };
    let report = super::train(model, data, options, &files, &mut |progress| {
        if let Progress::Step(step) = progress {
            steps.push(step);
        }
        ControlFlow::Continue(())
    })?;
    Ok((report, steps))
}

fn supervised(rows: &[TrainRow]) -> TrainingData {
    TrainingData::Supervised(rows.to_vec())
}

/// An adapter whose B is not zero, so that A's gradient is not either.
fn adapter(model: &Model, config: LoraConfig, seed: u64) -> LoraWeights {
    let mut noise = Noise(seed);
    let pairs = (0..model.config.layers)
        .flat_map(|layer| config.targets.iter().map(move |target| (layer, *target)))
        .map(|(layer, projection)| {
            let (inputs, outputs) = projection.widths(&model.config);
            let pair = LoraPair {
                a: noise.tensor(&[config.rank, inputs], 0.3),
                b: noise.tensor(&[outputs, config.rank], 0.1),
            };
            ((layer, projection), pair)
        })
        .collect();
    LoraWeights { config, pairs }
}

fn parameters(model: &Model) -> Parameters {
    Parameters::from_weights(&adapter(model, lora(), 3), lora(), model.training_device()).unwrap()
}

/// A random row whose last `targets` tokens are to be learnt.
fn row(tokens: usize, targets: usize, seed: u64) -> TrainRow {
    let mut noise = Noise(seed);
    TrainRow {
        ids: (0..tokens).map(|_| noise.below(tiny::VOCABULARY as u32)).collect(),
        mask: (0..tokens).map(|place| place >= tokens - targets).collect(),
        weight: 1.0,
    }
}

/// `model.layers.0.q_proj.lora_A` and the like, for messages.
fn name(place: &(usize, Projection, &str)) -> String {
    format!("layer {} {} {}", place.0, place.1, place.2)
}
