//! A tiny Llama with random weights, as a Hugging Face folder and as a GGUF file, and the oracle's view of it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

use std::collections::HashMap;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

pub const HIDDEN: usize = 48;
pub const INNER: usize = 80;
pub const LAYERS: usize = 3;
pub const HEADS: usize = 6;
pub const KV_HEADS: usize = 2;
pub const HEAD: usize = 8;
pub const VOCABULARY: usize = 300;
pub const CONTEXT: usize = 256;

/// The ChatML template in its plainest form.
pub const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A small generator of its own, so that the weights never change with a library.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
    }

    pub fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.next() * scale).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub fn below(&mut self, limit: u32) -> u32 {
        ((self.next() + 1.0) / 2.0 * limit as f32) as u32 % limit
    }
}

/// The weights by their Hugging Face names.
pub fn weights(seed: u64) -> HashMap<String, Tensor> {
    let mut noise = Noise(seed);
    let mut all = HashMap::new();
    let mut put = |name: String, shape: &[usize]| {
        let tensor = match shape {
            [_] => (noise.tensor(shape, 0.2) + 1.0).unwrap(),
            [_, inputs] => noise.tensor(shape, 2.5 / (*inputs as f32).sqrt()),
            _ => unreachable!(),
        };
        all.insert(name, tensor);
    };
    put("model.embed_tokens.weight".into(), &[VOCABULARY, HIDDEN]);
    put("lm_head.weight".into(), &[VOCABULARY, HIDDEN]);
    put("model.norm.weight".into(), &[HIDDEN]);
    for l in 0..LAYERS {
        let name = |rest: &str| format!("model.layers.{l}.{rest}.weight");
        put(name("input_layernorm"), &[HIDDEN]);
        put(name("self_attn.q_proj"), &[HEADS * HEAD, HIDDEN]);
        put(name("self_attn.k_proj"), &[KV_HEADS * HEAD, HIDDEN]);
        put(name("self_attn.v_proj"), &[KV_HEADS * HEAD, HIDDEN]);
        put(name("self_attn.o_proj"), &[HIDDEN, HEADS * HEAD]);
        put(name("post_attention_layernorm"), &[HIDDEN]);
        put(name("mlp.gate_proj"), &[INNER, HIDDEN]);
        put(name("mlp.up_proj"), &[INNER, HIDDEN]);
        put(name("mlp.down_proj"), &[HIDDEN, INNER]);
    }
    all
}

/// The weights of a model of this family (its `model_type`), as `reference/logits.py` draws them.
pub fn family_weights(family: &str, seed: u64) -> HashMap<String, Tensor> {
    let mut all = weights(seed);
    let mut noise = Noise(seed + 1);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        match family {
            "qwen2" => {
                for (part, heads) in [("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)] {
                    all.insert(name(&format!("{part}_proj.bias")), noise.tensor(&[heads * HEAD], 0.5));
                }
            }
            "qwen3" => {
                for part in ["q", "k"] {
                    all.insert(name(&format!("{part}_norm.weight")), (noise.tensor(&[HEAD], 0.2) + 1.0).unwrap());
                }
            }
            "gemma2" | "gemma3_text" => {
                let norm = |part: &str| format!("model.layers.{layer}.{part}_feedforward_layernorm.weight");
                for part in ["pre", "post"] {
                    all.insert(norm(part), (noise.tensor(&[HIDDEN], 0.2) + 1.0).unwrap());
                }
                for part in if family == "gemma2" { [].as_slice() } else { &["q", "k"] } {
                    all.insert(name(&format!("{part}_norm.weight")), (noise.tensor(&[HEAD], 0.2) + 1.0).unwrap());
                }
                // It is the embedding.
                all.remove("lm_head.weight");
            }
            _ => {}
        }
    }
    all
}

pub fn config_json() -> serde_json::Value {
    serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": VOCABULARY,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    })
}

/// Tokens of a byte-level tokenizer: three control tokens, the bytes, a few merges.
pub fn tokens() -> (Vec<String>, Vec<(String, String)>) {
    let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).into();
    let mut bytes: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    bytes.sort();
    tokens.extend(bytes);
    let merges: Vec<(String, String)> = ["Ġ t", "h e", "Ġt he", "i n", "Y e", "Ye s", "Ġ Yes"]
        .iter()
        .map(|merge| merge.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect();
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    (tokens, merges)
}

pub fn tokenizer() -> Tokenizer {
    let (tokens, merges) = tokens();
    let vocabulary: tokenizers::models::bpe::Vocab =
        tokens.into_iter().enumerate().map(|(id, token)| (token, id as u32)).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true))).with_decoder(Some(ByteLevel::default()));
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    tokenizer.add_special_tokens(specials.map(|t| AddedToken::from(t, true))).unwrap();
    tokenizer
}

/// Writes a model folder and returns it.
pub fn write_folder(folder: &Path, weights: &HashMap<String, Tensor>) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    candle_core::safetensors::save(weights, folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), config_json().to_string()).unwrap();
    tokenizer().save(folder.join("tokenizer.json"), false).unwrap();
    let config = serde_json::json!({
        "chat_template": CHATML, "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"},
    });
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder.to_owned()
}

/// Metadata of the same model as a GGUF file.
pub fn gguf_metadata() -> Vec<(&'static str, Value)> {
    let leak = |(key, value): (String, Value)| (&*key.leak(), value);
    family_gguf_metadata("llama").into_iter().map(leak).collect()
}

/// Metadata of the same model as a GGUF file of this family.
pub fn family_gguf_metadata(family: &str) -> Vec<(String, Value)> {
    let (tokens, merges) = tokens();
    let texts = |values: Vec<String>| Value::Array(values.into_iter().map(Value::String).collect());
    let kinds = (0..tokens.len()).map(|id| Value::I32(if id < 3 { 3 } else { 1 })).collect();
    let count = |n: usize| Value::U32(n as u32);
    // GGUF's name for Gemma 3 is shorter.
    let family = family.trim_end_matches("_text");
    let mut entries = vec![
        ("general.architecture", Value::String(family.into())),
        ("llama.block_count", count(LAYERS)),
        ("llama.context_length", count(CONTEXT)),
        ("llama.embedding_length", count(HIDDEN)),
        ("llama.feed_forward_length", count(INNER)),
        ("llama.attention.head_count", count(HEADS)),
        ("llama.attention.head_count_kv", count(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10000.0)),
        ("llama.rope.dimension_count", count(HEAD)),
        ("llama.vocab_size", count(VOCABULARY)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", texts(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", texts(merges.into_iter().map(|(a, b)| format!("{a} {b}")).collect())),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.chat_template", Value::String(CHATML.into())),
    ];
    if family.starts_with("gemma") {
        entries.push(("llama.attention.sliding_window", count(9)));
        entries.push(("llama.attention.key_length", count(HEAD)));
    }
    entries.into_iter().map(|(key, value)| (key.replace("llama.", &format!("{family}.")), value)).collect()
}

/// The weights under their GGUF names, Llama's query and key rows interleaved as GGUF has them.
pub fn gguf_tensors(weights: &HashMap<String, Tensor>) -> Vec<(String, QTensor)> {
    family_gguf_tensors("llama", weights)
}

/// As [`gguf_tensors`], of this family.
pub fn family_gguf_tensors(family: &str, weights: &HashMap<String, Tensor>) -> Vec<(String, QTensor)> {
    let interleave = |tensor: &Tensor, heads: usize| {
        let (rows, columns) = tensor.dims2().unwrap();
        let split = tensor.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
        let swapped = split.transpose(1, 2).unwrap().contiguous().unwrap();
        swapped.reshape((rows, columns)).unwrap()
    };
    let is_gemma = family.starts_with("gemma");
    let renames = [
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("post_attention_layernorm", if is_gemma { "post_attention_norm" } else { "ffn_norm" }),
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let mut all: Vec<(String, QTensor)> = weights
        .iter()
        .map(|(name, tensor)| {
            let tensor = match name {
                n if family == "llama" && n.contains("q_proj") => interleave(tensor, HEADS),
                n if is_gemma && n.contains("norm") => (tensor + 1.0).unwrap(),
                n if family == "llama" && n.contains("k_proj") => interleave(tensor, KV_HEADS),
                _ => tensor.clone(),
            };
            let renamed = renames.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
            (renamed, QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

pub fn write_gguf(path: &Path, metadata: &[(&str, Value)], tensors: &[(String, QTensor)]) {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

/// candle's own Llama on the same weights.
pub struct Oracle {
    model: Llama,
    config: Config,
}

impl Oracle {
    pub fn new(weights: HashMap<String, Tensor>, config_json: serde_json::Value) -> Self {
        let config: candle_transformers::models::llama::LlamaConfig = serde_json::from_value(config_json).unwrap();
        let config = config.into_config(false);
        let builder = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        Self { model: Llama::load(builder, &config).unwrap(), config }
    }

    /// Feeds the prompt, then each of `reply`, and counts how often the oracle would have chosen another token although its
    /// two best logits differ by more than 1e-3.
    pub fn disagreements(&self, prompt: &[u32], reply: &[u32]) -> Vec<String> {
        let mut cache = Cache::new(true, DType::F32, &self.config, &Device::Cpu).unwrap();
        let mut found = Vec::new();
        let mut feed = prompt.to_vec();
        let mut position = 0;
        for (index, token) in reply.iter().enumerate() {
            let input = Tensor::new(&feed[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let logits = self.model.forward(&input, position, &mut cache).unwrap();
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            position += feed.len();
            let (best, gap) = best_and_gap(&logits);
            if best != *token && gap > 1e-3 {
                found.push(format!("token {index}: {token}, the oracle says {best} by {gap}"));
            }
            feed = vec![*token];
        }
        found
    }
}

fn best_and_gap(logits: &[f32]) -> (u32, f32) {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    (order[0], logits[order[0] as usize] - logits[order[1] as usize])
}

/// Ragged prompts of plain tokens.
pub fn ragged_prompts(count: usize, longest: u32, seed: u64) -> Vec<Vec<u32>> {
    let mut noise = Noise(seed);
    (0..count)
        .map(|_| {
            let length = 1 + noise.below(longest);
            (0..length).map(|_| 3 + noise.below(VOCABULARY as u32 - 40)).collect()
        })
        .collect()
}
