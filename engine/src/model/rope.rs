//! Rotary position tables.

use candle_core::{Device, Tensor};

use super::ModelConfig;

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

    /// The rows of the given positions, each table `[positions, head_dim / 2]`.
    pub fn gather(&self, positions: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        Ok((self.cos.index_select(positions, 0)?, self.sin.index_select(positions, 0)?))
    }
}

/// Radians per position of each pair, after scaling.
fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let plain = plain_frequencies(config.rope_theta, config.head_dim);
    let Some(scaling) = config.rope_scaling else {
        return plain;
    };
    let original = scaling.original_context as f32;
    let longest_kept = original / scaling.high_freq_factor;
    let shortest_scaled = original / scaling.low_freq_factor;
    plain
        .into_iter()
        .map(|frequency| {
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < longest_kept {
                frequency
            } else if wavelength > shortest_scaled {
                frequency / scaling.factor
            } else {
                let smooth = (original / wavelength - scaling.low_freq_factor)
                    / (scaling.high_freq_factor - scaling.low_freq_factor);
                (1.0 - smooth) * frequency / scaling.factor + smooth * frequency
            }
        })
        .collect()
}

fn plain_frequencies(theta: f32, head_dim: usize) -> Vec<f32> {
    (0..head_dim).step_by(2).map(|i| 1f32 / theta.powf(i as f32 / head_dim as f32)).collect()
}
