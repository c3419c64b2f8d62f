//! The forward pass of inference, over ragged rows of tokens.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{DecoderWeights, LayerWeights, Model, ModelConfig};
use crate::attention::{self, BLOCK, Heads, KvCache, KvPool, KvShape, Pages, Scores, Sequences, with_slices};
use crate::linear::Linear;
use crate::lora::{Adapter, AdapterError, LoraWeights, Projection};
use crate::norm::rms_norm;
use crate::rotary::Angles;

/// Which of a segment's tokens need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: more of the prompt follows.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// One sequence's share of a step: the tokens that follow what its cache holds.
#[derive(Debug)]
pub struct Segment<'a> {
    /// At least one token.
    pub tokens: &'a [u32],
    /// The sequence so far; the step appends to it. It must have room for `tokens`.
    pub cache: &'a mut KvCache,
    /// The adapter that this sequence asks for.
    pub adapter: Option<&'a Adapter>,
    /// The logits that it needs.
    pub logits: LogitRows,
}

/// A stretch of neighbouring rows that use one adapter.
#[derive(Debug, Clone, Copy)]
struct Stretch<'a> {
    first: usize,
    rows: usize,
    adapter: Option<&'a Adapter>,
}

impl Model {
    /// An empty cache with room for `positions` tokens of this model.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new_cache(&self, positions: usize) -> candle_core::Result<KvCache> {
        let pool = self.new_pool(positions.div_ceil(BLOCK))?;
        Ok(KvCache::new(Arc::new(pool), positions))
    }

    /// As many as are asked for, each with room for `positions` tokens. On a device, sequences of one step must come from
    /// one call.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new_caches(&self, count: usize, positions: usize) -> candle_core::Result<Vec<KvCache>> {
        let pool = Arc::new(self.new_pool(count * positions.div_ceil(BLOCK))?);
        Ok((0..count).map(|_| KvCache::new(pool.clone(), positions)).collect())
    }

    /// Where keys and values of up to `blocks` blocks come from.
    pub(crate) fn new_pool(&self, blocks: usize) -> candle_core::Result<KvPool> {
        match &self.placed {
            None => Ok(KvPool::new(self.kv_shape(), self.kv)),
            Some(placed) => Ok(KvPool::on(Pages::new(self.kv_shape(), blocks, &placed.device, placed.dtype)?)),
        }
    }

    /// What a position of this model takes in a cache.
    pub(crate) const fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.config.layers, kv_heads: self.config.kv_heads, width: self.config.head_dim }
    }

    /// Bytes of one block of keys and values.
    pub(crate) fn kv_block_bytes(&self) -> usize {
        let bytes = self.placed.as_ref().map_or(self.kv.bytes(), |placed| placed.dtype.size_in_bytes());
        self.kv_shape().elements_per_block() * bytes
    }

    /// An adapter, for where inference runs.
    pub(crate) fn load_adapter(&self, folder: &Path) -> Result<Adapter, AdapterError> {
        let place = self.placed.as_ref().map(|placed| (&placed.device, placed.dtype));
        Adapter::pack_for(&LoraWeights::read(folder, &self.config)?, place)
    }

    /// Runs all segments in one pass and returns the logits that were asked for, `[rows, vocab]` in f32 on the CPU, in the
    /// order of the segments; `None` when none were. On the CPU a row's bits depend on its own sequence and adapter alone.
    /// Neighbouring segments of one adapter share its products, so sorting them by adapter saves time.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position outside the context or the cache, or what candle reports. The caches
    /// are then as long as before.
    pub fn forward(&self, segments: &mut [Segment<'_>]) -> candle_core::Result<Option<Tensor>> {
        self.forward_in_place(segments)?.map(|logits| brought(&logits)).transpose()
    }

    /// As [`Self::forward`], with the logits where and in the type that they were computed in.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_in_place(&self, segments: &mut [Segment<'_>]) -> candle_core::Result<Option<Tensor>> {
        self.check_segments(segments)?;
        match &self.placed {
            None => self.weights.forward(&self.config, segments, &Device::Cpu),
            Some(placed) => placed.weights.forward(&self.config, segments, &placed.device),
        }
    }

    fn check_segments(&self, segments: &[Segment<'_>]) -> candle_core::Result<()> {
        for segment in segments {
            let end = segment.cache.len() + segment.tokens.len();
            let limit = segment.cache.capacity().min(self.config.context_length);
            if segment.tokens.is_empty() || end > limit {
                candle_core::bail!(
                    "a step of {} tokens up to position {end} does not fit: 1 or more tokens and at most {limit} positions",
                    segment.tokens.len()
                );
            }
            let vocabulary = self.config.vocab_size;
            if let Some(id) = segment.tokens.iter().find(|id| **id as usize >= vocabulary) {
                candle_core::bail!("token {id} is outside the vocabulary of {vocabulary}");
            }
        }
        Ok(())
    }
}

impl<L: Linear> DecoderWeights<L> {
    fn forward(
        &self,
        config: &ModelConfig,
        segments: &mut [Segment<'_>],
        device: &Device,
    ) -> candle_core::Result<Option<Tensor>> {
        let (ids, positions, wanted) = rows_of(segments);
        let stretches = stretches(segments);
        let rows = ids.len();
        let positions = Tensor::from_vec(positions, rows, device)?;
        let rope = self.rope.gather(&positions)?;
        let sliding_rope = self.sliding_rope.as_ref().map(|table| table.gather(&positions)).transpose()?;
        let mut x = self.embed(config, &Tensor::from_vec(ids, rows, device)?)?;
        let mut sequences: Vec<(&mut KvCache, usize)> =
            segments.iter_mut().map(|segment| (&mut *segment.cache, segment.tokens.len())).collect();
        let window = config.gemma.as_ref().map(|gemma| gemma.window);
        let mut sequences = Sequences::new(&mut sequences, window, device)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let pass = LayerPass { config, layer, index, stretches: &stretches };
            let rope = sliding_rope.as_ref().filter(|_| config.window(index).is_some()).unwrap_or(&rope);
            x = pass.run(&x, rope, &mut sequences)?;
        }
        sequences.advance();
        if wanted.is_empty() {
            return Ok(None);
        }
        let count = wanted.len();
        let x = x.index_select(&Tensor::from_vec(wanted, count, device)?, 0)?;
        let x = config.normed::<L>(&x, &self.norm)?;
        let logits = L::infer(&[&self.lm_head], &x)?.remove(0);
        match config.gemma.as_ref().and_then(|gemma| gemma.logit_softcap) {
            Some(cap) => attention::softcap(&logits, cap).map(Some),
            None => Ok(Some(logits)),
        }
    }

    /// The rows of the embedding, as the first layer gets them.
    pub(crate) fn embed(&self, config: &ModelConfig, ids: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.embedding.rows(ids)?;
        match &config.gemma {
            Some(_) => x * f64::from((config.hidden_size as f32).sqrt()),
            None => Ok(x),
        }
    }
}

impl ModelConfig {
    /// Tokens that a layer sees, where it does not see all.
    fn window(&self, layer: usize) -> Option<usize> {
        self.gemma.as_ref().filter(|gemma| gemma.sliding[layer]).map(|gemma| gemma.window)
    }

    /// How a layer scores keys.
    pub(crate) fn scores(&self, layer: usize) -> Scores {
        let gemma = self.gemma.as_ref();
        Scores {
            scale: gemma.map_or_else(|| 1.0 / (self.head_dim as f32).sqrt(), |gemma| gemma.attention_scale),
            softcap: gemma.and_then(|gemma| gemma.attention_softcap),
            window: self.window(layer),
        }
    }

    /// Norms each row of `x [rows, width]` with `weight [width]`.
    fn normed<L: Linear>(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        if !L::KERNELS {
            return candle_nn::ops::rms_norm(x, weight, self.rms_norm_eps as f32);
        }
        if x.dims().last() != weight.dims().first() {
            candle_core::bail!("a norm of shape {:?} cannot take rows of shape {:?}", weight.dims(), x.dims());
        }
        let normed = with_slices([x, weight], |[x, weight]| Ok(rms_norm(x, weight, self.rms_norm_eps)))?;
        Tensor::from_vec(normed, x.shape(), x.device())
    }
}

/// One layer at work on one step's rows.
struct LayerPass<'a, L> {
    config: &'a ModelConfig,
    layer: &'a LayerWeights<L>,
    index: usize,
    stretches: &'a [Stretch<'a>],
}

impl<L: Linear> LayerPass<'_, L> {
    fn run(
        &self,
        x: &Tensor,
        rope: &(Tensor, Tensor),
        sequences: &mut Sequences<'_, '_>,
    ) -> candle_core::Result<Tensor> {
        let (config, layer) = (self.config, self.layer);
        let normed = config.normed::<L>(x, &layer.attn_norm)?;
        let norms = layer.head_norms.as_ref();
        let projections = [(&layer.q, Projection::Q), (&layer.k, Projection::K), (&layer.v, Projection::V)];
        let [q, k, v] = self.project(projections, &normed)?;
        let q = self.turned(&self.head_normed(q, norms.map(|norms| &norms.q))?, rope)?;
        let k = self.turned(&self.head_normed(k, norms.map(|norms| &norms.k))?, rope)?;
        sequences.remember(self.index, &k, &v)?;
        let heads = Heads { query: config.heads, kv: config.kv_heads, width: config.head_dim };
        let attended = sequences.attend(self.index, &q, heads, config.scores(self.index))?;
        let [attended] = self.project([(&layer.o, Projection::O)], &attended)?;
        let post = layer.post_norms.as_ref();
        let x = (x + self.post_normed(attended, post.map(|norms| &norms.attn))?)?;
        let normed = config.normed::<L>(&x, &layer.ffn_norm)?;
        let [gate, up] = self.project([(&layer.gate, Projection::Gate), (&layer.up, Projection::Up)], &normed)?;
        let inner = attention::gated(gate, &up, config.architecture.activation())?;
        let [down] = self.project([(&layer.down, Projection::Down)], &inner)?;
        x + self.post_normed(down, post.map(|norms| &norms.ffn))?
    }

    /// Norms what a block returns, where the family does.
    fn post_normed(&self, x: Tensor, norm: Option<&Tensor>) -> candle_core::Result<Tensor> {
        match norm {
            Some(norm) => self.config.normed::<L>(&x, norm),
            None => Ok(x),
        }
    }

    /// The frozen products of all rows, plus each stretch's own adapter.
    fn project<const N: usize>(
        &self,
        projections: [(&L, Projection); N],
        x: &Tensor,
    ) -> candle_core::Result<[Tensor; N]> {
        let mut products = L::infer(&projections.map(|(weight, _)| weight), x)?;
        if self.stretches.iter().any(|stretch| stretch.adapter.is_some()) {
            for (product, (_, projection)) in products.iter_mut().zip(projections) {
                *product = self.adapted(product, projection, x)?;
            }
        }
        products.try_into().map_err(|_| candle_core::Error::Msg("a product is missing".to_owned()))
    }

    fn adapted(&self, y: &Tensor, projection: Projection, x: &Tensor) -> candle_core::Result<Tensor> {
        let parts = self.stretches.iter().map(|stretch| {
            let part = y.narrow(0, stretch.first, stretch.rows)?;
            let Some(adapter) = stretch.adapter else {
                return Ok(part);
            };
            let input = x.narrow(0, stretch.first, stretch.rows)?;
            match adapter.delta(self.index, projection, &input)? {
                Some(delta) => part + delta,
                None => Ok(part),
            }
        });
        Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)
    }

    /// Norms each head of `[rows, heads * head_dim]`, where the family does.
    fn head_normed(&self, x: Tensor, norm: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let Some(norm) = norm else { return Ok(x) };
        let (rows, width) = x.dims2()?;
        let head = self.config.head_dim;
        self.config.normed::<L>(&x.reshape((rows * (width / head), head))?, norm)?.reshape((rows, width))
    }

    /// Rotates `[rows, heads * head_dim]`, each row by its own position.
    fn turned(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> candle_core::Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let head = self.config.head_dim;
        if L::KERNELS {
            let half = head / 2;
            let turned = with_slices([x, cos, sin], |[x, cos, sin]| Angles { cos, sin, half }.turn(x, width, 1.0))?;
            return Tensor::from_vec(turned, x.shape(), x.device());
        }
        // Every row is a batch of its own, so each brings its own angles.
        let x = x.reshape((rows, 1, width / head, head))?;
        let turned = candle_nn::rotary_emb::rope_thd(&x, &cos.unsqueeze(1)?, &sin.unsqueeze(1)?)?;
        turned.reshape((rows, width))
    }
}

/// Logits in f32 on the CPU.
pub(crate) fn brought(logits: &Tensor) -> candle_core::Result<Tensor> {
    logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// Token ids, positions, and the indices of the rows that need logits.
fn rows_of(segments: &[Segment<'_>]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let (mut ids, mut positions, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for segment in segments {
        let first = ids.len() as u32;
        let start = segment.cache.len() as u32;
        let count = segment.tokens.len() as u32;
        ids.extend_from_slice(segment.tokens);
        positions.extend(start..start + count);
        match segment.logits {
            LogitRows::None => {}
            LogitRows::Last => wanted.push(first + count - 1),
            LogitRows::All => wanted.extend(first..first + count),
        }
    }
    (ids, positions, wanted)
}

fn stretches<'a>(segments: &[Segment<'a>]) -> Vec<Stretch<'a>> {
    let mut all: Vec<Stretch<'a>> = Vec::new();
    let mut first = 0;
    for segment in segments {
        let rows = segment.tokens.len();
        let same = |a: Option<&Adapter>, b: Option<&Adapter>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        };
        match all.last_mut() {
            Some(last) if same(last.adapter, segment.adapter) => last.rows += rows,
            _ => all.push(Stretch { first, rows, adapter: segment.adapter }),
        }
        first += rows;
    }
    all
}
