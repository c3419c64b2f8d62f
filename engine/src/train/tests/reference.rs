//! Training against PEFT and TRL, whose figures `tests/reference/training.py` wrote.

use super::super::gradients::Gradients;
use super::super::objective::{Dpo, Kto, KtoWeights, Measures, Objective, Supervised, Trained};
use super::super::optimizer::AdamW;
use super::super::parameters::{Parameters, Place};
use super::super::rows::Check;
use super::super::{DpoOptions, KtoRow, PreferenceRow, Sequence, TrainOptions, TrainRow};
use super::{adapter, model, name, placed_model};
use crate::lora::{Adapter, LoraConfig, LoraWeights};
use crate::model::{LogitRows, Model, Segment};
use safetensors::SafeTensors;
use serde_json::Value;
use std::ops::ControlFlow;

const ROWS: usize = 4;
const STEPS: usize = 5;
const BETA: f64 = 0.3;

fn tokens(count: u32, seed: u32) -> Vec<u32> {
    (0..count).map(|k| 3 + (7 * k * k + 11 * k + 13 * seed) % 250).collect()
}

fn prompt(row: u32) -> Vec<u32> {
    tokens(6 + 2 * row, row)
}

/// Without a distance between the replies, those of mismatched pairs become more probable too, and KL rises.
fn completion(row: u32, apart: u32) -> Vec<u32> {
    tokens(4 + row, 10 + apart * row)
}

fn sequence(prompt: &[u32], reply: &[u32]) -> Sequence {
    let ids = [prompt, reply].concat();
    Sequence { mask: (0..ids.len()).map(|place| place >= prompt.len()).collect(), ids }
}

fn options() -> TrainOptions {
    let lora = LoraConfig { rank: 2, alpha: 8.0, ..LoraConfig::default() };
    TrainOptions { lora, learning_rate: 5e-3, max_length: 64, ..TrainOptions::default() }
}

fn kto(check: &Check<'_>, labels: [bool; ROWS], apart: u32) -> Box<dyn Objective> {
    let rows: Vec<KtoRow> = (0..)
        .zip(labels)
        .map(|(row, desirable)| KtoRow {
            prompt: prompt(row),
            completion: completion(row, apart),
            desirable,
            weight: 1.0,
        })
        .collect();
    let weights = KtoWeights { beta: BETA, desirable: 1.0, undesirable: 0.7 };
    Box::new(Kto::new(check.kto(&rows).unwrap().rows, weights, 64))
}

fn objective(case: &str, options: &TrainOptions) -> Box<dyn Objective> {
    let check = Check { options, vocabulary: 300 };
    let rows = 0..ROWS as u32;
    match case {
        "sft" => {
            let row = |row| {
                let Sequence { ids, mask } = sequence(&prompt(row), &completion(row, 1));
                TrainRow { ids, mask, weight: 1.0 }
            };
            Box::new(Supervised::new(check.rows(&rows.map(row).collect::<Vec<_>>()).unwrap().rows))
        }
        "kto" => kto(&check, [true, false, true, false], 1),
        "kto-desirable" => kto(&check, [true; ROWS], 0),
        "dpo" => {
            let row = |row| PreferenceRow {
                chosen: sequence(&prompt(row), &completion(row, 1)),
                rejected: sequence(&prompt(row), &tokens(3 + row, 20 + row)),
            };
            let pairs = check.pairs(&rows.map(row).collect::<Vec<_>>()).unwrap().rows;
            Box::new(Dpo::new(pairs, DpoOptions { beta: BETA }))
        }
        other => panic!("{other}"),
    }
}

/// What every step measures, the first step's gradients, and the adapter after the last.
fn trained(model: &Model, case: &str, pack_tokens: usize) -> (Vec<Measures>, Vec<Vec<f32>>, Parameters) {
    let options = options();
    let (start, device) = (adapter(model, options.lora.clone(), 3), model.training_device());
    let parameters = Parameters::from_weights(&start, options.lora.clone(), device).unwrap();
    let mut objective = objective(case, &options);
    let batch: Vec<usize> = (0..ROWS).collect();
    let mut optimizer = AdamW::new(&parameters, 0.0);
    let (mut measures, mut first) = (Vec::new(), Vec::new());
    let trained = Trained { model, parameters: &parameters, options: &options, graph_memory: 0, pack_tokens };
    let batches = vec![batch.clone(); STEPS];
    let references = objective.references(trained, &batches, &mut |_, _| ControlFlow::Continue(())).unwrap();
    objective.refer(references, &batches);
    for step in 1..=STEPS {
        let mut gradients = Gradients::new(&parameters);
        measures.push(objective.batch(trained, step, &batch, &mut gradients).unwrap());
        let gradients = gradients.into_values(&parameters).unwrap();
        optimizer.step(&parameters, &gradients, options.learning_rate).unwrap();
        if step == 1 {
            first = gradients;
        }
    }
    (measures, first, parameters)
}

/// `norm(ours - theirs) / norm(theirs)`.
fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut theirs.iter().map(|b| f64::from(*b)))).sqrt()
}

/// On the CPU, row by row and with all rows at once; and on a device, with two rows at once or so.
fn check_case(case: &str) {
    check_case_on(&model(), case, 0);
    check_case_on(&model(), case, 1000);
    check_case_on(&placed_model("llama"), case, 40);
}

fn check_case_on(model: &Model, case: &str, pack_tokens: usize) {
    let bytes = include_bytes!("../../../tests/reference/training.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let steps: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["steps"]).unwrap();
    let theirs = |what: &str, (layer, projection, factor): &Place| -> Vec<f32> {
        let view = file.tensor(&format!("{case}.{what}.{layer}.{projection}.{factor}")).unwrap();
        view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (measures, gradients, parameters) = trained(model, case, pack_tokens);
    let (mut worst_measure, mut worst_gradient, mut worst_after) = (0f64, 0f64, 0f64);
    for (step, (ours, theirs)) in measures.iter().zip(steps[case].as_array().unwrap()).enumerate() {
        let pairs = [
            ("loss", Some(ours.loss)),
            ("kl", ours.kl),
            (if case == "dpo" { "rewards/accuracies" } else { "mean_token_accuracy" }, ours.accuracy),
            ("rewards/chosen", ours.chosen_reward),
            ("rewards/rejected", ours.rejected_reward),
        ];
        for (key, ours) in pairs {
            let Some(ours) = ours else { continue };
            // At first both replies' rewards are 0, on a device but for rounding: which is larger says nothing.
            if key == "rewards/accuracies" && step == 0 && model.placed_weights().is_some() {
                continue;
            }
            let theirs = theirs[key].as_f64().unwrap_or_else(|| panic!("{case} has no {key}: {theirs}"));
            let difference = (ours - theirs).abs();
            assert!(difference < 1e-4, "{case}, step {step}, {key}: {ours} is not {theirs}");
            worst_measure = worst_measure.max(difference);
        }
    }
    for ((place, var), gradient) in parameters.vars().zip(&gradients) {
        let of_gradient = error(gradient, &theirs("gradient", &place));
        let after: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let of_after = error(&after, &theirs("after", &place));
        assert!(of_gradient < 1e-3, "{case}, gradient of {}: off by {of_gradient}", name(&place));
        assert!(of_after < 1e-3, "{case}, {} after {STEPS} steps: off by {of_after}", name(&place));
        (worst_gradient, worst_after) = (worst_gradient.max(of_gradient), worst_after.max(of_after));
    }
    eprintln!("{case}: measures {worst_measure:.1e}, gradients {worst_gradient:.1e}, adapter {worst_after:.1e}");
}

/// Protects: supervised training is PEFT's and TRL's.
#[test]
fn supervised_training_is_trls() {
    check_case("sft");
}

/// Protects: KTO is TRL's, its estimate of the distance included, with and without undesirable rows in a batch.
#[test]
fn kto_is_trls() {
    check_case("kto");
    check_case("kto-desirable");
}

/// Protects: DPO is TRL's.
#[test]
fn dpo_is_trls() {
    check_case("dpo");
}

/// Protects: the folder that PEFT saved is the adapter that PEFT ran, and the folder that we write has PEFT's names, shapes
/// and settings.
#[test]
fn pefts_folder_is_read_and_ours_is_the_same() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/peft");
    let model = model();
    let weights = LoraWeights::read(&folder, &model.config).unwrap();
    let adapter = Adapter::pack(&weights).unwrap();
    let mut cache = model.new_cache(20).unwrap();
    let prompt = tokens(20, 5);
    let segment = Segment { tokens: &prompt, cache: &mut cache, adapter: Some(&adapter), logits: LogitRows::All };
    let ours: Vec<Vec<f32>> = model.forward(&mut [segment]).unwrap().unwrap().to_vec2().unwrap();
    let theirs = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let theirs: Vec<Vec<f32>> = serde_json::from_str(&theirs).unwrap();
    let rows = ours.iter().step_by(6).zip(&theirs);
    let worst = rows.flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    eprintln!("logits with PEFT's adapter: {worst:.1e}");
    assert!(theirs.len() == 4 && worst < 1e-4, "logits differ by {worst}");

    let written = tempfile::tempdir().unwrap();
    let written = written.path().join("adapter");
    weights.write(&written, None).unwrap();
    let file = |folder: &std::path::Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let (theirs, ours) = (file(&folder), file(&written));
    let (theirs, ours) = (SafeTensors::deserialize(&theirs).unwrap(), SafeTensors::deserialize(&ours).unwrap());
    let mut names = [theirs.names(), ours.names()];
    names.iter_mut().for_each(|names| names.sort_unstable());
    assert_eq!(names[0], names[1]);
    for name in ours.names() {
        let (theirs, ours) = (theirs.tensor(name).unwrap(), ours.tensor(name).unwrap());
        assert_eq!((theirs.shape(), theirs.data()), (ours.shape(), ours.data()), "{name}");
    }
    let config = |folder: &std::path::Path| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (theirs, ours) = (config(&folder), config(&written));
    for key in ["peft_type", "task_type", "use_rslora", "bias", "fan_in_fan_out"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    for key in ["r", "lora_alpha", "lora_dropout"] {
        assert_eq!(ours[key].as_f64(), theirs[key].as_f64(), "{key}");
    }
}
