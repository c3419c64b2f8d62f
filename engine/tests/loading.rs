//! Models from files: what is accepted, and what is refused with which words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use influence_engine::model::{LoadError, LogitRows, Model, Segment};

fn logits(model: &Model, tokens: &[u32]) -> Vec<u32> {
    let mut cache = model.new_cache(tokens.len()).unwrap();
    let segment = Segment { tokens, cache: &mut cache, adapter: None, logits: LogitRows::All };
    let logits = model.forward(&mut [segment]).unwrap().unwrap();
    let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

/// Protects: a GGUF file and a Hugging Face folder of one model are one model, in each family: weights (Llama's rows of
/// queries and keys put back in order), configuration, tokenizer and template.
#[test]
fn gguf_and_folder_are_the_same_model() {
    let gemma = serde_json::json!({
        "query_pre_attn_scalar": tiny::HEAD, "head_dim": tiny::HEAD, "sliding_window": 9,
        "attn_logit_softcapping": null, "final_logit_softcapping": null, "hidden_act": "gelu_pytorch_tanh",
    });
    for family in ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"] {
        let folder = tempfile::tempdir().unwrap();
        let weights = tiny::family_weights(family, 12);
        tiny::write_folder(folder.path(), &weights);
        let mut config = tiny::config_json();
        config["model_type"] = family.into();
        if family.starts_with("gemma") {
            config.as_object_mut().unwrap().extend(gemma.as_object().unwrap().clone());
        }
        if family == "gemma2" {
            (config["attn_logit_softcapping"], config["final_logit_softcapping"]) = (50.0.into(), 30.0.into());
        }
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let file = folder.path().join("model.gguf");
        let metadata = tiny::family_gguf_metadata(family);
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (&**key, value.clone())).collect();
        tiny::write_gguf(&file, &metadata, &tiny::family_gguf_tensors(family, &weights));
        let from_folder = Model::load(folder.path()).unwrap();
        let from_file = Model::load(&file).unwrap();
        let tokens: Vec<u32> = (3..60).collect();
        assert_eq!(logits(&from_folder, &tokens), logits(&from_file, &tokens), "{family}");
        assert_eq!(from_file.chat.stop_ids(), [2]);
        assert_eq!(from_folder.chat.stop_ids(), [2]);
        for text in ["the inn", "Yes! 42\n\n¿ñ? <|im_end|> x", "   indented\ttabs"] {
            assert_eq!(from_folder.encode(text).unwrap(), from_file.encode(text).unwrap(), "{text}");
        }
        let mut config = from_folder.config.clone();
        config.rms_norm_eps = from_file.config.rms_norm_eps;
        assert_eq!(config, from_file.config, "but for the epsilon's rounding to f32");
    }
}

/// Protects: a GGUF file's scaled frequencies, by name or as a tensor, are those of the same scaling in a folder.
#[test]
fn scaled_frequencies_of_a_gguf_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(12);
    tiny::write_folder(folder.path(), &weights);
    let tokens: Vec<u32> = (3..60).collect();
    let plain = logits(&Model::load(folder.path()).unwrap(), &tokens);
    let mut config = tiny::config_json();
    config["rope_scaling"] = serde_json::json!({"type": "linear", "factor": 4.0});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let expected = logits(&Model::load(folder.path()).unwrap(), &tokens);
    assert_ne!(plain, expected);

    let file = folder.path().join("model.gguf");
    let (mut metadata, mut tensors) = (tiny::gguf_metadata(), tiny::gguf_tensors(&weights));
    let divisors = |count: usize, value: f32| {
        let tensor = Tensor::full(value, count, &Device::Cpu).unwrap();
        ("rope_freqs.weight".to_owned(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
    };
    tensors.push(divisors(tiny::HEAD / 2, 4.0));
    tiny::write_gguf(&file, &metadata, &tensors);
    assert_eq!(logits(&Model::load(&file).unwrap(), &tokens), expected);
    for (wrong, message) in [(divisors(3, 4.0), "rope_freqs.weight"), (divisors(tiny::HEAD / 2, 0.0), "positive")] {
        tensors.pop();
        tensors.push(wrong);
        tiny::write_gguf(&file, &metadata, &tensors);
        let refused = refusal(&file).to_string();
        assert!(refused.contains(message), "{refused}");
    }
    tensors.pop();
    metadata.push(("llama.rope.scaling.type", Value::String("linear".into())));
    metadata.push(("llama.rope.scaling.factor", Value::F32(4.0)));
    tiny::write_gguf(&file, &metadata, &tensors);
    assert_eq!(logits(&Model::load(&file).unwrap(), &tokens), expected);
}

/// Protects: a sharded folder is the same model as a whole one.
#[test]
fn shards_are_put_together() {
    let (whole, sharded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let weights = tiny::weights(13);
    tiny::write_folder(whole.path(), &weights);
    tiny::write_folder(sharded.path(), &weights);
    std::fs::remove_file(sharded.path().join("model.safetensors")).unwrap();
    let (mut first, mut second) = (weights.clone(), weights.clone());
    first.retain(|name, _| name.contains("mlp"));
    second.retain(|name, _| !name.contains("mlp"));
    candle_core::safetensors::save(&first, sharded.path().join("a.safetensors")).unwrap();
    candle_core::safetensors::save(&second, sharded.path().join("b.safetensors")).unwrap();
    let file = |name: &str| {
        if name.contains("mlp") { "a.safetensors" } else { "b.safetensors" }
    };
    let map: serde_json::Map<String, serde_json::Value> =
        weights.keys().map(|name| (name.clone(), file(name).into())).collect();
    let index = sharded.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let tokens: Vec<u32> = (3..40).collect();
    let expected = logits(&Model::load(whole.path()).unwrap(), &tokens);
    assert_eq!(expected, logits(&Model::load(sharded.path()).unwrap(), &tokens));
    let escape = serde_json::json!({ "weight_map": { "x": "../elsewhere.safetensors" } });
    std::fs::write(&index, escape.to_string()).unwrap();
    assert!(matches!(Model::load(sharded.path()), Err(LoadError::InvalidValue { .. })));
}

fn refusal(path: &Path) -> LoadError {
    Model::load(path).expect_err("this must be refused")
}

/// Protects: a SentencePiece vocabulary is read with its scores, and refused without them.
#[test]
fn pieces_of_a_gguf_file_need_their_scores() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pieces.gguf");
    let weights = tiny::gguf_tensors(&tiny::weights(1));
    let mut metadata = tiny::gguf_metadata();
    metadata.retain(|(key, _)| !["tokenizer.ggml.model", "tokenizer.ggml.merges"].contains(key));
    metadata.push(("tokenizer.ggml.model", Value::String("llama".into())));
    let scores =
        |count: usize| ("tokenizer.ggml.scores", Value::Array((0..count).map(|id| Value::F32(-(id as f32))).collect()));
    metadata.push(scores(tiny::tokens().0.len()));
    tiny::write_gguf(&file, &metadata, &weights);
    let text = Model::load(&file).unwrap().encode("the").unwrap();
    assert_eq!(text.len(), 2, "`t` and `he`: no piece holds the space before them: {text:?}");
    metadata.pop();
    metadata.push(scores(3));
    tiny::write_gguf(&file, &metadata, &weights);
    assert!(refusal(&file).to_string().contains("a number for every token"));
}

/// Protects: a GGUF file that was cut off anywhere is an error that names the file, never a panic.
#[test]
fn a_truncated_gguf_is_refused_wherever_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.gguf");
    tiny::write_gguf(&file, &tiny::gguf_metadata(), &tiny::gguf_tensors(&tiny::weights(1)));
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 3, 11, 40, 500, 3000, 9000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let refused = refusal(&file);
        assert!(refused.to_string().contains("cut.gguf"), "cut at {cut}: {refused}");
    }
}

/// Protects: damage inside the header (a flipped byte anywhere) is an error or another valid file, never a panic.
#[test]
fn a_damaged_gguf_header_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.gguf");
    let mut metadata = tiny::gguf_metadata();
    metadata.push(("general.alignment", Value::U32(32)));
    tiny::write_gguf(&file, &metadata, &tiny::gguf_tensors(&tiny::weights(1)));
    let whole = std::fs::read(&file).unwrap();
    let mut noise = tiny::Noise(77);
    for _ in 0..60 {
        let mut damaged = whole.clone();
        for _ in 0..3 {
            let place = noise.below(12_000) as usize;
            damaged[place] = noise.below(256) as u8;
        }
        std::fs::write(&file, &damaged).unwrap();
        let _ = Model::load(&file);
    }
    let key = b"general.alignment";
    let at = whole.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    let mut zero = whole;
    zero[at..at + 4].fill(0);
    std::fs::write(&file, &zero).unwrap();
    assert!(matches!(refusal(&file), LoadError::Malformed { .. }));
}

/// Protects: each wrong or missing piece of a GGUF file is named, with what would be supported.
#[test]
fn wrong_pieces_of_a_gguf_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let tensors = tiny::gguf_tensors(&tiny::weights(1));
    let with = |key: &'static str, value: Option<Value>| {
        let mut metadata = tiny::gguf_metadata();
        metadata.retain(|(name, _)| *name != key);
        metadata.extend(value.map(|value| (key, value)));
        tiny::write_gguf(&file, &metadata, &tensors);
        refusal(&file).to_string()
    };
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let cases = [
        (with("general.architecture", text("mamba")), vec!["mamba", "supported: llama"]),
        (with("tokenizer.ggml.pre", text("tekken")), vec!["tekken", "smollm"]),
        (with("tokenizer.ggml.model", text("bert")), vec!["tokenizer.ggml.model", "gpt2", "llama"]),
        (with("llama.block_count", None), vec!["no key `llama.block_count`"]),
        (with("llama.block_count", Some(Value::U32(4))), vec!["no tensor `blk.3."]),
        (with("llama.block_count", Some(Value::U32(u32::MAX))), vec!["4294967295"]),
        (with("llama.feed_forward_length", Some(Value::U32(96))), vec!["shape [80, 48]", "[96, 48]"]),
        (with("llama.attention.head_count_kv", Some(Value::U32(4))), vec!["divisor of the head count 6"]),
        (with("llama.rope.scaling.type", text("yarn")), vec!["yarn", "none"]),
        (with("llama.vocab_size", Some(Value::U32(12))), vec!["vocabulary size"]),
        (with("tokenizer.chat_template", text("{% if %}")), vec!["chat template does not parse"]),
    ];
    for (message, expected) in &cases {
        for part in expected {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

/// Protects: the same for a folder.
#[test]
fn wrong_pieces_of_a_folder_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = refusal(&folder.path().join("nowhere"));
    assert!(matches!(nothing, LoadError::NotFound { .. }), "{nothing}");
    assert!(refusal(folder.path()).to_string().contains("model.safetensors"));
    let stray = folder.path().join("weights.bin");
    std::fs::write(&stray, "x").unwrap();
    assert!(refusal(&stray).to_string().contains(".gguf"));
    let weights = tiny::weights(1);
    let with_config = |key: &str, value: serde_json::Value| {
        tiny::write_folder(folder.path(), &weights);
        let mut config = tiny::config_json();
        config[key] = value;
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        refusal(folder.path()).to_string()
    };
    let cases = [
        (with_config("model_type", "gpt_neox".into()), "gpt_neox"),
        (with_config("attention_bias", true.into()), "attention_bias"),
        (with_config("rope_scaling", serde_json::json!({"type": "yarn", "factor": 2.0})), "yarn"),
        (with_config("rope_scaling", serde_json::json!({"type": "linear", "factor": 0.0})), "rope_scaling.factor"),
        (with_config("hidden_size", 50.into()), "[300, 48]"),
        (with_config("num_key_value_heads", 0.into()), "key/value head count"),
        (with_config("rms_norm_eps", "small".into()), "config.json"),
    ];
    for (message, expected) in &cases {
        assert!(message.contains(expected), "`{expected}` is not in: {message}");
    }
    tiny::write_folder(folder.path(), &weights);
    let file = folder.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 5, 200, whole.len() - 7] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let refused = refusal(folder.path()).to_string();
        assert!(refused.contains("model.safetensors"), "cut at {cut}: {refused}");
    }
    tiny::write_folder(folder.path(), &weights);
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert!(refusal(folder.path()).to_string().contains("tokenizer.json"));
}

/// Protects: rotary settings in their newer place are read, not replaced by a default base.
#[test]
fn rope_parameters_in_their_newer_place_are_read() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::weights(1));
    let mut config = tiny::config_json();
    config.as_object_mut().unwrap().remove("rope_theta");
    config["rope_parameters"] = serde_json::json!({"rope_theta": 123456.0, "rope_type": "default"});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let model = Model::load(folder.path()).unwrap();
    assert_eq!((model.config.rope_theta, model.config.rope_scaling), (123456.0, None));
}
