//! The forward pass of inference, over ragged rows of tokens.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{LayerWeights, Model};
use crate::attention::{self, Heads, KvCache, KvPool, KvShape, Scores};
use crate::linear::FrozenLinear;
use crate::lora::{Adapter, Projection};

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
    pub fn new_cache(&self, positions: usize) -> KvCache {
        KvCache::new(Arc::new(KvPool::new(self.kv_shape())), positions)
    }

    /// What a position of this model takes in a cache.
    pub(crate) const fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.config.layers, kv_heads: self.config.kv_heads, width: self.config.head_dim }
    }

    /// Runs all segments in one pass and returns the logits that were asked for, `[rows, vocab]` in f32, in the order of
    /// the segments; `None` when none were. A row's bits depend on its own sequence and adapter alone. Neighbouring
    /// segments of one adapter share its products, so sorting them by adapter saves time.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position outside the context or the cache, or what candle reports. The caches
    /// are then as long as before.
    pub fn forward(&self, segments: &mut [Segment<'_>]) -> candle_core::Result<Option<Tensor>> {
        self.check_segments(segments)?;
        let (ids, positions, wanted) = rows_of(segments);
        let stretches = stretches(segments);
        let rows = ids.len();
        let positions = Tensor::from_vec(positions, rows, &Device::Cpu)?;
        let rope = self.rope.gather(&positions)?;
        let sliding_rope = self.sliding_rope.as_ref().map(|table| table.gather(&positions)).transpose()?;
        let ids = Tensor::from_vec(ids, rows, &Device::Cpu)?;
        let mut x = self.embed(&ids)?;
        let mut sequences: Vec<(&mut KvCache, usize)> =
            segments.iter_mut().map(|segment| (&mut *segment.cache, segment.tokens.len())).collect();
        for (cache, tokens) in &mut sequences {
            cache.make_room(*tokens);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let pass = LayerPass { model: self, layer, index, stretches: &stretches };
            let rope = sliding_rope.as_ref().filter(|_| self.window(index).is_some()).unwrap_or(&rope);
            x = pass.run(&x, rope, &mut sequences)?;
        }
        for (cache, tokens) in sequences {
            cache.advance(tokens);
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let count = wanted.len();
        let x = x.index_select(&Tensor::from_vec(wanted, count, &Device::Cpu)?, 0)?;
        let logits = self.lm_head.forward(&self.normed(&x, &self.norm)?)?;
        match self.config.gemma.as_ref().and_then(|gemma| gemma.logit_softcap) {
            Some(cap) => attention::softcap(&logits, cap).map(Some),
            None => Ok(Some(logits)),
        }
    }

    /// The rows of the embedding, as the first layer gets them.
    pub(crate) fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.embedding.rows(ids)?;
        match &self.config.gemma {
            Some(_) => x * f64::from((self.config.hidden_size as f32).sqrt()),
            None => Ok(x),
        }
    }

    /// Tokens that a layer sees, where it does not see all.
    fn window(&self, layer: usize) -> Option<usize> {
        self.config.gemma.as_ref().filter(|gemma| gemma.sliding[layer]).map(|gemma| gemma.window)
    }

    fn scores(&self, layer: usize) -> Scores {
        let gemma = self.config.gemma.as_ref();
        Scores {
            scale: gemma.map_or_else(|| 1.0 / (self.config.head_dim as f32).sqrt(), |gemma| gemma.attention_scale),
            softcap: gemma.and_then(|gemma| gemma.attention_softcap),
            window: self.window(layer),
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

    fn normed(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        candle_nn::ops::rms_norm(x, weight, self.config.rms_norm_eps as f32)
    }
}

/// One layer at work on one step's rows.
struct LayerPass<'a> {
    model: &'a Model,
    layer: &'a LayerWeights,
    index: usize,
    stretches: &'a [Stretch<'a>],
}

impl LayerPass<'_> {
    fn run(
        &self,
        x: &Tensor,
        rope: &(Tensor, Tensor),
        sequences: &mut [(&mut KvCache, usize)],
    ) -> candle_core::Result<Tensor> {
        let (model, layer) = (self.model, self.layer);
        let normed = model.normed(x, &layer.attn_norm)?;
        let norms = layer.head_norms.as_ref();
        let q = self.project(&layer.q, Projection::Q, &normed)?;
        let q = self.turned(&self.head_normed(q, norms.map(|norms| &norms.q))?, rope)?;
        let k = self.project(&layer.k, Projection::K, &normed)?;
        let k = self.turned(&self.head_normed(k, norms.map(|norms| &norms.k))?, rope)?;
        let v = self.project(&layer.v, Projection::V, &normed)?;
        attention::remember(&k, &v, sequences, self.index)?;
        let views: Vec<(&KvCache, usize)> = sequences.iter().map(|(c, n)| (&**c, *n)).collect();
        let heads = Heads { query: model.config.heads, kv: model.config.kv_heads, width: model.config.head_dim };
        let attended = attention::attend(&q, &views, self.index, heads, model.scores(self.index))?;
        let attended = self.project(&layer.o, Projection::O, &attended)?;
        let post = layer.post_norms.as_ref();
        let x = (x + self.post_normed(attended, post.map(|norms| &norms.attn))?)?;
        let normed = model.normed(&x, &layer.ffn_norm)?;
        let gate = self.project(&layer.gate, Projection::Gate, &normed)?;
        let up = self.project(&layer.up, Projection::Up, &normed)?;
        let inner = attention::gated(gate, &up, model.config.architecture.activation())?;
        let down = self.project(&layer.down, Projection::Down, &inner)?;
        x + self.post_normed(down, post.map(|norms| &norms.ffn))?
    }

    /// Norms what a block returns, where the family does.
    fn post_normed(&self, x: Tensor, norm: Option<&Tensor>) -> candle_core::Result<Tensor> {
        match norm {
            Some(norm) => self.model.normed(&x, norm),
            None => Ok(x),
        }
    }

    /// The frozen product of all rows, plus each stretch's own adapter.
    fn project(&self, weight: &FrozenLinear, projection: Projection, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = weight.forward(x)?;
        if self.stretches.iter().all(|stretch| stretch.adapter.is_none()) {
            return Ok(y);
        }
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
        let head = self.model.config.head_dim;
        self.model.normed(&x.reshape((rows * (width / head), head))?, norm)?.reshape((rows, width))
    }

    /// Rotates `[rows, heads * head_dim]`, each row by its own position.
    fn turned(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> candle_core::Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let head = self.model.config.head_dim;
        // Every row is a batch of its own, so each brings its own angles.
        let x = x.reshape((rows, 1, width / head, head))?;
        let turned = candle_nn::rotary_emb::rope_thd(&x, &cos.unsqueeze(1)?, &sin.unsqueeze(1)?)?;
        turned.reshape((rows, width))
    }
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
