#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::model::{Architecture, ModelConfig};
use candle_core::{Device, Tensor};
use std::fs;
use std::path::Path;

fn shape() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 50,
        hidden_size: 12,
        intermediate_size: 20,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        gemma: None,
        tie_embeddings: true,
        context_length: 64,
        bos: None,
        eos: vec![1],
    }
}

fn weights(config: LoraConfig) -> LoraWeights {
    let mut pairs = std::collections::BTreeMap::new();
    for layer in 0..shape().layers {
        for projection in &config.targets {
            let (inputs, outputs) = projection.widths(&shape());
            let ramp = |rows: usize, columns: usize, start: f32| {
                let values = (0..rows * columns).map(|i| start + i as f32 * 0.01);
                Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((rows, columns)).unwrap()
            };
            let a = ramp(config.rank, inputs, layer as f32);
            let b = ramp(outputs, config.rank, -1.0);
            pairs.insert((layer, *projection), LoraPair { a, b });
        }
    }
    LoraWeights { config, pairs }
}

fn written(config: LoraConfig) -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adapter");
    weights(config).write(&folder, Some("org/base")).unwrap();
    (root, folder)
}

fn edit(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("adapter_config.json");
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(&path, json.to_string()).unwrap();
}

fn error(folder: &Path) -> String {
    LoraWeights::read(folder, &shape()).unwrap_err().to_string()
}

/// Protects: nothing is lost between memory and disk, in either scaling and for a part of the targets.
#[test]
fn an_adapter_comes_back_as_it_was_written() {
    for (rank_stabilized, targets) in [(true, Projection::ALL.to_vec()), (false, vec![Projection::Q, Projection::Down])]
    {
        let config = LoraConfig { rank: 3, alpha: 6.0, dropout: 0.25, rank_stabilized, targets };
        let (_root, folder) = written(config.clone());
        let back = LoraWeights::read(&folder, &shape()).unwrap();
        assert_eq!(back.config, config);
        let original = weights(config);
        assert!(back.pairs.keys().eq(original.pairs.keys()));
        for (key, pair) in &original.pairs {
            let read = &back.pairs[key];
            assert_eq!(pair.a.to_vec2::<f32>().unwrap(), read.a.to_vec2::<f32>().unwrap());
            assert_eq!(pair.b.to_vec2::<f32>().unwrap(), read.b.to_vec2::<f32>().unwrap());
        }
    }
}

/// Protects: the names, shapes and keys that PEFT expects.
#[test]
fn the_folder_has_the_form_of_peft() {
    let (_root, folder) = written(LoraConfig::default());
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(json["peft_type"], "LORA");
    assert_eq!(json["task_type"], "CAUSAL_LM");
    assert_eq!(json["base_model_name_or_path"], "org/base");
    assert_eq!(json["use_rslora"], true);
    assert_eq!(json["target_modules"].as_array().unwrap().len(), 7);
    let bytes = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    assert_eq!(file.tensor(name).unwrap().shape(), [8, 16]);
    let name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight";
    assert_eq!(file.tensor(name).unwrap().shape(), [16, 20]);
    assert_eq!(file.len(), 2 * 7 * 2);
}

/// Protects: alpha / sqrt(r) and alpha / r, and that a delta is scale * B A x.
#[test]
fn a_delta_is_the_scaled_product() {
    for (rank_stabilized, scale) in [(true, 4.0), (false, 2.0)] {
        let config = LoraConfig {
            rank: 4,
            alpha: 8.0,
            rank_stabilized,
            targets: vec![Projection::Gate],
            ..LoraConfig::default()
        };
        assert_eq!(config.scale(), scale);
        let content = weights(config);
        let adapter = Adapter::pack(&content).unwrap();
        let x = Tensor::rand(-1f32, 1.0, (5, 12), &Device::Cpu).unwrap();
        let ours = adapter.delta(1, Projection::Gate, &x).unwrap().unwrap();
        let pair = &content.pairs[&(1, Projection::Gate)];
        let plain = x.matmul(&pair.a.t().unwrap()).unwrap().matmul(&pair.b.t().unwrap()).unwrap();
        let plain = (plain * scale).unwrap().to_vec2::<f32>().unwrap();
        for (a, b) in ours.to_vec2::<f32>().unwrap().concat().iter().zip(plain.concat()) {
            assert!((a - b).abs() < 1e-3, "{a} is not {b}");
        }
        assert!(adapter.delta(1, Projection::Up, &x).unwrap().is_none());
    }
}

/// Protects: a damaged or foreign folder is refused with the file, the tensor and the shapes.
#[test]
fn damaged_and_foreign_folders_are_refused() {
    let (_root, folder) = written(LoraConfig::default());
    let file = folder.join("adapter_model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..length]).unwrap();
        let message = error(&folder);
        assert!(message.contains("not a whole safetensors file"), "{message}");
    }
    fs::remove_file(&file).unwrap();
    assert!(error(&folder).contains("adapter_model.safetensors"));
    fs::write(&file, &bytes).unwrap();

    edit(&folder, "r", 8.into());
    let message = error(&folder);
    assert!(message.contains("[16, 12]") && message.contains("[8, 12]"), "{message}");
    edit(&folder, "r", 16.into());
    edit(&folder, "target_modules", serde_json::json!(["q_proj", "v_proj"]));
    assert!(error(&folder).contains("fits none of the targets (q_proj, v_proj)"));
    edit(&folder, "target_modules", "all-linear".into());
    assert!(LoraWeights::read(&folder, &shape()).is_ok());

    let deeper = ModelConfig { layers: 3, ..shape() };
    let message = LoraWeights::read(&folder, &deeper).unwrap_err().to_string();
    assert!(message.contains("layers.2.self_attn.q_proj.lora_A"), "{message}");
    let wider = ModelConfig { hidden_size: 16, ..shape() };
    assert!(LoraWeights::read(&folder, &wider).unwrap_err().to_string().contains("[16, 16]"));

    fs::write(folder.join("adapter_config.json"), "{\"r\": ").unwrap();
    assert!(error(&folder).contains("not a PEFT adapter configuration"));
    fs::remove_file(folder.join("adapter_config.json")).unwrap();
    assert!(error(&folder).contains("adapter_config.json"));
}

/// Protects: a setting that would compute something else is refused, not ignored.
#[test]
fn settings_that_we_cannot_honour_are_refused() {
    for (key, value) in [
        ("peft_type", "IA3".into()),
        ("bias", "all".into()),
        ("use_dora", true.into()),
        ("fan_in_fan_out", true.into()),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("layers_to_transform", serde_json::json!([0])),
        ("rank_pattern", serde_json::json!({"q_proj": 4})),
        ("target_modules", serde_json::json!(["q_proj", "conv"])),
        ("target_modules", ".*proj".into()),
        ("lora_alpha", 0.into()),
        ("lora_dropout", 1.into()),
        ("r", 0.into()),
    ] {
        let (_root, folder) = written(LoraConfig::default());
        edit(&folder, key, value);
        let message = error(&folder);
        let named = key.trim_start_matches("lora_");
        assert!(message.contains(named) || message.contains("rank"), "{key}: {message}");
    }
}

/// Protects: a value that is not a number never reaches a forward pass.
#[test]
fn undefined_values_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adapter");
    let mut content = weights(LoraConfig::default());
    let pair = content.pairs.get_mut(&(1, Projection::K)).unwrap();
    pair.b = (&pair.b * f64::NAN).unwrap();
    content.write(&folder, None).unwrap();
    let message = error(&folder);
    assert!(message.contains("layers.1.self_attn.k_proj.lora_B"), "{message}");
}

/// Protects: what an interrupted write left behind is neither loaded nor in the way, and writing again
/// replaces a whole folder with a whole folder.
#[test]
fn writing_replaces_as_one_and_survives_leftovers() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adapter");
    let partial = root.path().join(".adapter.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("adapter_model.safetensors"), "half").unwrap();
    assert!(LoraWeights::read(&folder, &shape()).is_err());
    for rank in [2, 5] {
        let config = LoraConfig { rank, ..LoraConfig::default() };
        weights(config).write(&folder, None).unwrap();
        assert_eq!(LoraWeights::read(&folder, &shape()).unwrap().config.rank, rank);
    }
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["adapter"]);
    let nowhere = root.path().join("adapter/adapter_config.json/adapter");
    let message = weights(LoraConfig::default()).write(&nowhere, None).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json"), "{message}");
}
