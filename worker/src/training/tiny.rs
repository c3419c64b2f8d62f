//! A tiny random Llama with a byte tokenizer and a ChatML template, written as a Hugging Face folder.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use influence_proto::stream;
use serde_json::{Map, Value, json};

const HIDDEN: usize = 16;
const INNER: usize = 32;
const LAYERS: usize = 2;
/// The bytes, and the two control tokens.
const VOCABULARY: usize = 258;
pub(crate) const END: u32 = 257;
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes the model's files into `folder`.
pub(crate) fn write(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 2048, "tie_word_embeddings": true, "bos_token_id": 256, "eos_token_id": END,
    });
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let vocabulary: Map<String, Value> =
        (0..=255_u8).map(|byte| (letter_of(byte).to_string(), json!(u32::from(byte)))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(256, "<|im_start|>"), special(END, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    let tokenizer_config = json!({"chat_template": TEMPLATE, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"});
    for (name, value) in
        [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", tokenizer_config)]
    {
        fs::write(folder.join(name), value.to_string()).unwrap();
    }
    fs::write(folder.join("model.safetensors"), weights()).unwrap();
}

/// The letter by which byte-level tokenizers write a byte.
fn letter_of(byte: u8) -> char {
    let plain = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !plain(*b)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

/// The safetensors format: length of the header, the header, the numbers.
fn weights() -> Vec<u8> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend([
            (name("input_layernorm"), vec![HIDDEN]),
            (name("self_attn.q_proj"), vec![HIDDEN, HIDDEN]),
            (name("self_attn.k_proj"), vec![HIDDEN / 2, HIDDEN]),
            (name("self_attn.v_proj"), vec![HIDDEN / 2, HIDDEN]),
            (name("self_attn.o_proj"), vec![HIDDEN, HIDDEN]),
            (name("post_attention_layernorm"), vec![HIDDEN]),
            (name("mlp.gate_proj"), vec![INNER, HIDDEN]),
            (name("mlp.up_proj"), vec![INNER, HIDDEN]),
            (name("mlp.down_proj"), vec![HIDDEN, INNER]),
        ]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    let (mut header, mut data) = (Map::new(), Vec::<u8>::new());
    for (name, shape) in tensors {
        let start = data.len();
        for index in 0..shape.iter().product::<usize>() {
            let draw = stream::uniform(stream::derive(index as u64, &[&name])) as f32 - 0.5;
            let value = if name.contains("norm") { 1.0 } else { draw };
            data.extend(value.to_le_bytes());
        }
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &data].concat()
}
