//! Rotary position tables.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{LoadError, ModelConfig};

/// How the frequencies of a model were changed after its pretraining, for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// All are slowed down by this factor (arXiv 2306.15595).
    Linear(f32),
    /// Low ones are.
    Llama3(Llama3Scaling),
    /// Each pair's is divided by its own number.
    Divisors(Vec<f32>),
}

/// Frequency scaling of Llama 3.1 and later for contexts beyond the one they were pretrained on.
/// Source: the reference implementation's `apply_scaling` (Llama 3.1 release).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Llama3Scaling {
    /// By how much low frequencies are slowed down.
    pub factor: f32,
    /// Wavelengths longer than `original_context / low_freq_factor` are scaled in full.
    pub low_freq_factor: f32,
    /// Wavelengths shorter than `original_context / high_freq_factor` are left alone.
    pub high_freq_factor: f32,
    /// The context length of pretraining, in tokens.
    #[serde(rename = "original_max_position_embeddings")]
    pub original_context: usize,
}

impl RopeScaling {
    /// From the `rope_scaling` of a `config.json`, which is not the default.
    pub(super) fn read(scaling: &serde_json::Value, path: &Path) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Linear {
            factor: f32,
        }
        let malformed = |e: serde_json::Error| LoadError::Malformed { path: path.to_owned(), reason: e.to_string() };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(serde_json::Value::as_str);
        let (read, factor) = match kind {
            Some("linear") => {
                let Linear { factor } = serde_json::from_value(scaling.clone()).map_err(malformed)?;
                (Self::Linear(factor), factor)
            }
            Some("llama3") => {
                let read: Llama3Scaling = serde_json::from_value(scaling.clone()).map_err(malformed)?;
                (Self::Llama3(read), read.factor)
            }
            other => {
                return Err(LoadError::Unsupported {
                    path: path.to_owned(),
                    key: "rope_scaling.rope_type".to_owned(),
                    value: other.unwrap_or("nothing").to_owned(),
                    supported: "default, linear, llama3".to_owned(),
                });
            }
        };
        if factor.is_finite() && factor > 0.0 {
            return Ok(read);
        }
        Err(LoadError::InvalidValue {
            path: path.to_owned(),
            key: "rope_scaling.factor".to_owned(),
            value: factor.to_string(),
            expected: "a positive number".to_owned(),
        })
    }
}

/// Cosines and sines of every position's angles (RoPE, arXiv 2104.09864, in the half-split pairing of Hugging Face).
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[context, head_dim / 2]`, f32.
    pub cos: Tensor,
    /// `[context, head_dim / 2]`, f32.
    pub sin: Tensor,
}

impl RopeTable {
    pub(super) fn new(config: &ModelConfig) -> candle_core::Result<Self> {
        Self::of(frequencies(config), config)
    }

    /// The table of layers that see a window only, if the model has one of its own for them.
    pub(super) fn sliding(config: &ModelConfig) -> candle_core::Result<Option<Self>> {
        let own = config.gemma.as_ref().and_then(|gemma| gemma.sliding_rope_theta);
        own.map(|theta| Self::of(plain_frequencies(theta, config.head_dim), config)).transpose()
    }

    fn of(frequencies: Vec<f32>, config: &ModelConfig) -> candle_core::Result<Self> {
        let size = config.context_length * frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for position in 0..config.context_length {
            for frequency in &frequencies {
                // The angle is rounded to f32 as the reference does: far positions would drift apart otherwise.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let shape = (config.context_length, frequencies.len());
        Ok(Self { cos: Tensor::from_vec(cos, shape, &Device::Cpu)?, sin: Tensor::from_vec(sin, shape, &Device::Cpu)? })
    }

    /// A copy on a device.
    pub(super) fn place(&self, device: &Device, dtype: DType) -> candle_core::Result<Self> {
        let place = |table: &Tensor| table.to_dtype(dtype)?.to_device(device);
        Ok(Self { cos: place(&self.cos)?, sin: place(&self.sin)? })
    }

    /// The rows of the given positions, each table `[positions, head_dim / 2]`.
    pub fn gather(&self, positions: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        Ok((self.cos.index_select(positions, 0)?, self.sin.index_select(positions, 0)?))
    }
}

/// Radians per position of each pair, after scaling.
fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let plain = plain_frequencies(config.rope_theta, config.head_dim).into_iter();
    match &config.rope_scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear(factor)) => plain.map(|frequency| frequency / factor).collect(),
        Some(RopeScaling::Divisors(divisors)) => {
            plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
        }
        Some(RopeScaling::Llama3(scaling)) => plain.map(|frequency| scaling.scaled(frequency)).collect(),
    }
}

impl Llama3Scaling {
    fn scaled(&self, frequency: f32) -> f32 {
        let original = self.original_context as f32;
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < original / self.high_freq_factor {
            frequency
        } else if wavelength > original / self.low_freq_factor {
            frequency / self.factor
        } else {
            let smooth =
                (original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

fn plain_frequencies(theta: f32, head_dim: usize) -> Vec<f32> {
    (0..head_dim).step_by(2).map(|i| 1f32 / theta.powf(i as f32 / head_dim as f32)).collect()
}
