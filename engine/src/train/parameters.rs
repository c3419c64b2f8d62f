//! The trainable tensors, in one fixed order.

use super::draws;
use super::{TrainError, TrainOptions};
use crate::lora::{LoraConfig, LoraPair, LoraWeights, Projection};
use crate::model::ModelConfig;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use std::path::Path;

/// The adapter in training: A and B of every target as variables.
#[derive(Debug)]
pub(super) struct Parameters {
    config: LoraConfig,
    pairs: BTreeMap<(usize, Projection), VarPair>,
}

/// One projection's variables.
#[derive(Debug)]
pub(super) struct VarPair {
    pub(super) a: Var,
    pub(super) b: Var,
}

/// A variable's place: layer, projection, and which of the pair.
pub(super) type Place = (usize, Projection, &'static str);

impl Parameters {
    /// A fresh adapter from the seed (A random, B zero, so that it changes nothing yet), or the one in `start`.
    pub(super) fn new(
        model: &ModelConfig,
        options: &TrainOptions,
        start: Option<&Path>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        match start {
            None => Self::fresh(model, &options.lora, options.seed, device),
            Some(folder) => {
                let weights = LoraWeights::read(folder, model)?;
                check_start(&weights.config, &options.lora)?;
                Self::from_weights(&weights, options.lora.clone(), device)
            }
        }
    }

    fn fresh(model: &ModelConfig, config: &LoraConfig, seed: u64, device: &Device) -> Result<Self, TrainError> {
        let mut pairs = BTreeMap::new();
        for layer in 0..model.layers {
            for projection in &config.targets {
                let (inputs, outputs) = projection.widths(model);
                let a = draws::initial_a(seed, layer, *projection, config.rank, inputs);
                let a = Tensor::from_vec(a, (config.rank, inputs), &Device::Cpu)?;
                let b = Tensor::zeros((outputs, config.rank), a.dtype(), &Device::Cpu)?;
                pairs.insert((layer, *projection), VarPair::new(&a, &b, device)?);
            }
        }
        Ok(Self { config: config.clone(), pairs })
    }

    /// Variables with the values of `weights`.
    pub(super) fn from_weights(weights: &LoraWeights, config: LoraConfig, device: &Device) -> Result<Self, TrainError> {
        let pairs = weights
            .pairs
            .iter()
            .map(|(place, pair)| Ok((*place, VarPair::new(&pair.a, &pair.b, device)?)))
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(Self { config, pairs })
    }

    /// The values, to be written or packed.
    pub(super) fn weights(&self) -> LoraWeights {
        let pair = |pair: &VarPair| LoraPair { a: pair.a.as_detached_tensor(), b: pair.b.as_detached_tensor() };
        LoraWeights {
            config: self.config.clone(),
            pairs: self.pairs.iter().map(|(place, vars)| (*place, pair(vars))).collect(),
        }
    }

    pub(super) fn config(&self) -> &LoraConfig {
        &self.config
    }

    pub(super) fn pair(&self, layer: usize, projection: Projection) -> Option<&VarPair> {
        self.pairs.get(&(layer, projection))
    }

    /// Every variable with its place, in the order of all lists of gradients and moments.
    pub(super) fn vars(&self) -> impl Iterator<Item = (Place, &Var)> {
        self.pairs.iter().flat_map(|((layer, projection), pair)| {
            [((*layer, *projection, "lora_A"), &pair.a), ((*layer, *projection, "lora_B"), &pair.b)]
        })
    }
}

impl VarPair {
    /// In f32, whatever the base computes in.
    fn new(a: &Tensor, b: &Tensor, device: &Device) -> candle_core::Result<Self> {
        Ok(Self { a: Var::from_tensor(&a.to_device(device)?)?, b: Var::from_tensor(&b.to_device(device)?)? })
    }
}

/// Continuing an adapter under other settings would silently change what it computes.
fn check_start(found: &LoraConfig, wanted: &LoraConfig) -> Result<(), TrainError> {
    let differ = |setting, found: String, wanted: String| {
        if found == wanted {
            return Ok(());
        }
        Err(TrainError::StartMismatch { setting, found, wanted })
    };
    let names = |config: &LoraConfig| {
        let mut targets = config.targets.clone();
        targets.sort_unstable();
        let names: Vec<_> = targets.into_iter().map(Projection::name).collect();
        names.join(", ")
    };
    differ("rank", found.rank.to_string(), wanted.rank.to_string())?;
    differ("alpha", found.alpha.to_string(), wanted.alpha.to_string())?;
    differ("rank_stabilized", found.rank_stabilized.to_string(), wanted.rank_stabilized.to_string())?;
    differ("targets", names(found), names(wanted))
}
