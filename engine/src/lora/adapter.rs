//! A loaded adapter, for inference.

use super::{AdapterError, LoraConfig, LoraWeights, Projection};
use crate::linear::{FrozenLinear, Linear, PlacedLinear};
use crate::model::ModelConfig;
use candle_core::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Adapters that were packed so far.
static PACKED: AtomicU64 = AtomicU64::new(0);

/// An adapter whose matrices are packed for the engine's own product, so a row's update does not depend on
/// its neighbours either.
#[derive(Debug)]
pub struct Adapter {
    number: u64,
    config: LoraConfig,
    pairs: Pairs,
}

/// A and B by layer and projection.
type Matrices<L> = BTreeMap<(usize, Projection), (L, L)>;

#[derive(Debug)]
enum Pairs {
    Packed(Matrices<FrozenLinear>),
    Placed(Matrices<PlacedLinear>),
}

impl Adapter {
    /// Reads and packs a PEFT folder.
    ///
    /// # Errors
    /// Those of [`LoraWeights::read`].
    pub fn load(folder: &Path, model: &ModelConfig) -> std::result::Result<Self, AdapterError> {
        Self::pack(&LoraWeights::read(folder, model)?)
    }

    /// Packs an adapter that is in memory.
    ///
    /// # Errors
    /// When a tensor is not a matrix.
    pub fn pack(weights: &LoraWeights) -> std::result::Result<Self, AdapterError> {
        Self::pack_for(weights, None)
    }

    /// As [`Self::pack`], for inference on a device if one is given.
    pub(crate) fn pack_for(
        weights: &LoraWeights,
        place: Option<(&Device, DType)>,
    ) -> std::result::Result<Self, AdapterError> {
        let (mut packed, mut placed) = (BTreeMap::new(), BTreeMap::new());
        for ((layer, projection), pair) in &weights.pairs {
            let tensor = |source| AdapterError::Tensor { layer: *layer, projection: *projection, source };
            let key = (*layer, *projection);
            let a = FrozenLinear::new(&pair.a, None).map_err(tensor)?;
            let b = FrozenLinear::new(&pair.b, None).map_err(tensor)?;
            if let Some((device, dtype)) = place {
                let place = |packed| PlacedLinear::new(packed, device, dtype).map_err(tensor);
                placed.insert(key, (place(&a)?, place(&b)?));
            } else {
                packed.insert(key, (a, b));
            }
        }
        let pairs = if place.is_some() { Pairs::Placed(placed) } else { Pairs::Packed(packed) };
        Ok(Self { number: PACKED.fetch_add(1, Relaxed), config: weights.config.clone(), pairs })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// A number that no other adapter of this process has, even if it was read from the same files.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// What the adapter adds to the projection's output for `x [rows, in]`: `scale * B A x`, `[rows, out]`;
    /// nothing where it has no update.
    ///
    /// # Errors
    /// When `x` does not have the projection's width.
    pub fn delta(&self, layer: usize, projection: Projection, x: &Tensor) -> Result<Option<Tensor>> {
        let key = (layer, projection);
        match &self.pairs {
            Pairs::Packed(pairs) => pairs.get(&key).map(|pair| self.scaled(pair, x)).transpose(),
            Pairs::Placed(pairs) => pairs.get(&key).map(|pair| self.scaled(pair, x)).transpose(),
        }
    }

    fn scaled<L: Linear>(&self, (a, b): &(L, L), x: &Tensor) -> Result<Tensor> {
        b.forward(&a.forward(x)?)? * self.config.scale()
    }
}
