//! The forward pass of every model family against Hugging Face transformers, on tiny random models. The references are
//! made by `reference/logits.py`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use candle_core::{DType, Device};
use influence_engine::KvType;
use influence_engine::model::{LoadError, LogitRows, Model, Placement, Segment};
use serde_json::Value;

fn load(reference: &Value) -> Result<Model, LoadError> {
    load_for(reference, &Placement::CPU)
}

fn load_for(reference: &Value, placement: &Placement) -> Result<Model, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let family = reference["config"]["model_type"].as_str().unwrap();
    tiny::write_folder(folder.path(), &tiny::family_weights(family, reference["seed"].as_u64().unwrap()));
    std::fs::write(folder.path().join("config.json"), reference["config"].to_string()).unwrap();
    Model::load_for(folder.path(), placement)
}

/// The largest difference in any logit.
fn difference(model: &Model, reference: &Value) -> f32 {
    let prompt: Vec<u32> = numbers(&reference["prompt"]);
    let mut cache = model.new_cache(prompt.len()).unwrap();
    let segment = Segment { tokens: &prompt, cache: &mut cache, adapter: None, logits: LogitRows::All };
    let logits: Vec<Vec<f32>> = model.forward(&mut [segment]).unwrap().unwrap().to_vec2().unwrap();
    let positions = numbers::<usize>(&reference["positions"]).into_iter();
    let rows = positions.zip(reference["logits"].as_array().unwrap());
    rows.flat_map(|(position, expected)| {
        let pairs = logits[position].iter().zip(numbers::<f32>(expected));
        pairs.map(|(ours, theirs)| (ours - theirs).abs()).collect::<Vec<_>>()
    })
    .fold(0.0, f32::max)
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

fn references() -> Vec<Value> {
    serde_json::from_str(include_str!("reference/families.json")).unwrap()
}

/// Protects: each family's graph, its biases, norms and rotary frequencies, within 1e-4 in every logit: by our kernels,
/// and by candle's operations, as on a device.
#[test]
fn logits_are_those_of_transformers() {
    let placements = [Placement::CPU, Placement::Device { device: Device::Cpu, dtype: DType::F32 }];
    for reference in references() {
        let worst = placements.clone().map(|place| difference(&load_for(&reference, &place).unwrap(), &reference));
        let (family, scaling) = (&reference["config"]["model_type"], &reference["config"]["rope_scaling"]);
        eprintln!("{family} {scaling}: largest difference {:e}, on a device {:e}", worst[0], worst[1]);
        assert!(worst.iter().all(|worst| *worst < 1e-4), "{} differs by {worst:?}", reference["config"]);
    }
}

/// Protects: on a device a model can compute in 16 bits, on the CPU it can keep its keys and values so, or multiply in
/// integers, and stays close, for the spread of its logits.
#[test]
fn logits_of_fewer_bits_are_close() {
    let on_device = |dtype| Placement::Device { device: Device::Cpu, dtype };
    let halves = Placement::Cpu { kv: KvType::F16, int8: false };
    let int8 = Placement::Cpu { kv: KvType::F32, int8: true };
    let bounds = [(on_device(DType::BF16), 0.1), (on_device(DType::F16), 0.01), (halves, 0.005), (int8, 0.1)];
    for (placement, bound) in bounds {
        for reference in references() {
            let worst = difference(&load_for(&reference, &placement).unwrap(), &reference);
            let logits: Vec<Vec<f32>> = numbers(&reference["logits"]);
            let highest = logits.concat().into_iter().fold(0f32, |highest, logit| highest.max(logit.abs()));
            eprintln!("{} {placement:?}: {worst} of {highest}", reference["config"]["model_type"]);
            assert!(worst < bound * highest, "{} differs by {worst}", reference["config"]);
        }
    }
}

/// Protects: beyond its window a model that slides would see less than this engine lets it.
#[test]
fn a_sliding_window_bounds_the_context() {
    let context = |index: usize, changes: &[(&str, Value)]| {
        let mut reference = references().remove(index);
        for (key, value) in changes {
            reference["config"][*key] = value.clone();
        }
        load(&reference).unwrap().config.context_length
    };
    let window = ("sliding_window", Value::from(40));
    assert_eq!(context(2, std::slice::from_ref(&window)), 40);
    assert_eq!(context(2, &[("sliding_window", Value::from(4096))]), tiny::CONTEXT);
    assert_eq!(context(3, std::slice::from_ref(&window)), tiny::CONTEXT, "it is there, but not used");
    assert_eq!(context(4, &[window, ("use_sliding_window", true.into())]), 40);
}

/// Protects: a Gemma whose files leave open what its layers see or how its scores are bounded is refused, not run by a
/// guess.
#[test]
fn a_gemma_that_leaves_its_graph_open_is_refused() {
    let refusal = |index: usize, change: &dyn Fn(&mut Value)| {
        let mut reference = references().remove(index);
        change(&mut reference["config"]);
        load(&reference).unwrap_err().to_string()
    };
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        let error = refusal(5, &|config| drop(config.as_object_mut().unwrap().remove(key)));
        assert!(error.contains(key), "{error}");
    }
    let error = refusal(6, &|config| config["layer_types"] = serde_json::json!(["full_attention", "chunked", "x"]));
    assert!(error.contains("chunked") && error.contains("sliding_attention"), "{error}");
    let error = refusal(6, &|config| config["layer_types"] = serde_json::json!(["full_attention"]));
    assert!(error.contains("layer_types") && error.contains('3'), "{error}");
}
