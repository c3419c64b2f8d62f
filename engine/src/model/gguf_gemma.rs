//! Gemma's own numbers, as GGUF files have them. What they leave out is what llama.cpp's readers take then.

use super::gguf::GgufFile;
use super::{Architecture, Gemma, LoadError, ModelConfig};

/// Layers of the models of 27B parameters, whose queries are scaled as if their heads shared the hidden size.
const LARGEST_GEMMA2: usize = 46;
const LARGEST_GEMMA3: usize = 62;
/// Of the first files, which do not say it.
const GEMMA2_WINDOW: usize = 4096;

/// Reads the keys of `family`.
pub(super) fn read(file: &GgufFile, family: &str, config: &ModelConfig) -> Result<Gemma, LoadError> {
    let second = config.architecture == Architecture::Gemma2;
    let (largest, pattern) = if second { (LARGEST_GEMMA2, 2) } else { (LARGEST_GEMMA3, 6) };
    let key = |rest: &str| format!("{family}.{rest}");
    let positive = |key: String, otherwise: Option<f32>| match file.optional_float(&key)?.or(otherwise) {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            Err(file.invalid(&key, &value.to_string(), "a positive number"))
        }
        value => Ok(value),
    };
    let window_key = key("attention.sliding_window");
    let window = match file.optional_number(&window_key)? {
        Some(0) => return Err(file.invalid(&window_key, "0", "1 or more")),
        Some(window) => window,
        None if second => GEMMA2_WINDOW,
        None => file.number(&window_key)?,
    };
    let query_width = if config.layers == largest { config.hidden_size / config.heads.max(1) } else { config.head_dim };
    Ok(Gemma {
        attention_scale: (query_width as f32).powf(-0.5),
        attention_softcap: positive(key("attn_logit_softcapping"), second.then_some(50.0))?,
        logit_softcap: positive(key("final_logit_softcapping"), second.then_some(30.0))?,
        window,
        // Every so many layers, the last of them sees everything.
        sliding: (1..=config.layers).map(|layer| !layer.is_multiple_of(pattern)).collect(),
        sliding_rope_theta: match second {
            true => None,
            false => positive(key("rope.freq_base_swa"), Some(10_000.0))?,
        },
    })
}
