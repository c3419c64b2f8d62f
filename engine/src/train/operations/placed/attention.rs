//! Causal attention of rows on a device: those of about one length are batched, padded to the longest.

use super::HeadLayout;
use crate::attention::{Scores, softcap};
#[cfg(feature = "cuda")]
use crate::cuda;
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::ops::softmax_last_dim;
use std::sync::{Arc, OnceLock};

/// Scores of one head that a batch may have: longer rows stand alone, so that little is padded.
const HEAD_SCORES: usize = 1 << 23;
/// Scores that may exist at once, but for a key and value head's of a single row, which are computed together in any case.
const SCORES: usize = 1 << 27;

/// The rows of a pass in batches.
#[derive(Debug, Clone)]
pub(in crate::train) struct Groups {
    groups: Vec<Group>,
    /// Of each token, its place in the batches' outputs one after the other, if they are not in order.
    back: Option<Tensor>,
}

#[derive(Debug, Clone)]
struct Group {
    rows: usize,
    /// Tokens of the longest.
    len: usize,
    /// What stands where: `None` is the whole pass as it is.
    padded: Option<Padded>,
    device: Device,
    masks: Arc<Masks>,
}

/// `[len, len]`: 0 where a token looks, minus infinity elsewhere; of all layers, and of those with a window. Made when they
/// are needed.
#[derive(Debug, Default)]
struct Masks {
    seen: OnceLock<Tensor>,
    windowed: OnceLock<Tensor>,
}

/// The token of each place, `[rows * len]` in u32.
#[derive(Debug, Clone)]
struct Padded {
    /// Padding repeats its row's last token: it is seen by no token of the row.
    tokens: Tensor,
    /// Padding is the row of zeros behind the last token: its own output is wanted by nobody.
    gradients: Tensor,
}

impl Groups {
    /// For rows of these lengths, one after the other.
    pub(super) fn new(lengths: &[usize], device: &Device) -> Result<Self> {
        let Some(longest) = lengths.iter().max().copied() else { bail!("a pass needs a row") };
        let fits = lengths.len() == 1 || lengths.len() * longest * longest <= HEAD_SCORES;
        if fits && lengths.iter().all(|len| *len == longest) {
            return Ok(Self { groups: vec![Group::new(lengths.len(), longest, None, device)], back: None });
        }
        let firsts: Vec<usize> = lengths.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
        let total: usize = lengths.iter().sum();
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
        let (mut groups, mut back, mut place) = (Vec::new(), vec![0u32; total], 0);
        while let Some(first) = order.first() {
            let len = lengths[*first];
            let count = (HEAD_SCORES / (len * len)).clamp(1, order.len());
            let (mut tokens, mut gradients) = (Vec::new(), Vec::new());
            for row in order.drain(..count) {
                for position in 0..len {
                    let token = (firsts[row] + position.min(lengths[row] - 1)) as u32;
                    tokens.push(token);
                    if position < lengths[row] {
                        back[token as usize] = place;
                        gradients.push(token);
                    } else {
                        gradients.push(total as u32);
                    }
                    place += 1;
                }
            }
            let padded = Padded { tokens: Tensor::new(tokens, device)?, gradients: Tensor::new(gradients, device)? };
            groups.push(Group::new(count, len, Some(padded), device));
        }
        Ok(Self { groups, back: Some(Tensor::new(back, device)?) })
    }

    /// Of queries, keys and values, each `[tokens, heads * width]`: as the queries are.
    pub(super) fn attend(&self, qkv: [&Tensor; 3], heads: HeadLayout, scores: Scores) -> Result<Tensor> {
        let attended = |group: &Group| group.attend(&group.split(qkv, heads)?, heads, scores);
        self.in_order(self.groups.iter().map(attended).collect::<Result<_>>()?)
    }

    /// The gradients of queries, keys and values.
    pub(super) fn attend_back(
        &self,
        qkv: [&Tensor; 3],
        grad: &Tensor,
        heads: HeadLayout,
        scores: Scores,
    ) -> Result<[Tensor; 3]> {
        let mut gradients: [Vec<Tensor>; 3] = Default::default();
        for group in &self.groups {
            let qkv = group.split(qkv, heads)?;
            let grad = group.by_head(&group.gradients(grad)?, heads)?;
            for (all, found) in gradients.iter_mut().zip(group.attend_back(&qkv, &grad, heads, scores)?) {
                all.push(found);
            }
        }
        let [q, k, v] = gradients;
        Ok([self.in_order(q)?, self.in_order(k)?, self.in_order(v)?])
    }

    /// The batches' places to the order of the tokens.
    fn in_order(&self, parts: Vec<Tensor>) -> Result<Tensor> {
        let all = Tensor::cat(&parts, 0)?;
        match &self.back {
            Some(back) => all.index_select(back, 0),
            None => Ok(all),
        }
    }
}

impl Group {
    fn new(rows: usize, len: usize, padded: Option<Padded>, device: &Device) -> Self {
        Self { rows, len, padded, device: device.clone(), masks: Arc::default() }
    }

    /// The mask of layers with this window.
    fn mask(&self, window: Option<usize>) -> Result<Tensor> {
        let kept = if window.is_some() { &self.masks.windowed } else { &self.masks.seen };
        if let Some(mask) = kept.get() {
            return Ok(mask.clone());
        }
        let (len, window) = (self.len, window.unwrap_or(self.len));
        let looks = |token: usize, other: usize| other <= token && token < other + window;
        let all = (0..len * len).map(|i| if looks(i / len, i % len) { 0.0 } else { f32::NEG_INFINITY });
        let mask = Tensor::from_iter(all, &self.device)?.reshape((len, len))?;
        Ok(kept.get_or_init(|| mask).clone())
    }

    fn tokens(&self, x: &Tensor) -> Result<Tensor> {
        match &self.padded {
            Some(padded) => x.index_select(&padded.tokens, 0),
            None => Ok(x.clone()),
        }
    }

    fn gradients(&self, x: &Tensor) -> Result<Tensor> {
        match &self.padded {
            Some(padded) => x.pad_with_zeros(0, 0, 1)?.index_select(&padded.gradients, 0),
            None => Ok(x.clone()),
        }
    }

    /// Of `[tokens, heads * width]`: `[kv_heads, rows, heads of each * len, width]`.
    fn by_head(&self, x: &Tensor, heads: HeadLayout) -> Result<Tensor> {
        let HeadLayout { kv_heads, width, .. } = heads;
        let each = x.dim(1)? / (kv_heads * width);
        let x = x.reshape((self.rows, self.len, kv_heads, each, width))?.permute((2, 0, 3, 1, 4))?;
        x.contiguous()?.reshape((kv_heads, self.rows, each * self.len, width))
    }

    /// Back from there.
    fn joined(&self, parts: &[Tensor], heads: HeadLayout) -> Result<Tensor> {
        let HeadLayout { kv_heads, width, .. } = heads;
        let x = Tensor::cat(parts, 0)?;
        let each = x.dim(2)? / self.len;
        let x = x.reshape((kv_heads, self.rows, each, self.len, width))?.permute((1, 3, 0, 2, 4))?;
        x.contiguous()?.reshape((self.rows * self.len, kv_heads * each * width))
    }

    fn split(&self, qkv: [&Tensor; 3], heads: HeadLayout) -> Result<[Tensor; 3]> {
        let [q, k, v] = qkv.map(|x| self.by_head(&self.tokens(x)?, heads));
        Ok([q?, k?, v?])
    }

    /// Key and value heads that are computed at once: the first, and how many.
    fn stretches(&self, heads: HeadLayout) -> impl Iterator<Item = (usize, usize)> {
        let each = self.rows * self.len * self.len * heads.group();
        let most = (SCORES / each).clamp(1, heads.kv_heads);
        (0..heads.kv_heads).step_by(most).map(move |first| (first, most.min(heads.kv_heads - first)))
    }

    fn attend(&self, [q, k, v]: &[Tensor; 3], heads: HeadLayout, scores: Scores) -> Result<Tensor> {
        let part = |(first, count)| {
            let (q, k, v) = (q.narrow(0, first, count)?, k.narrow(0, first, count)?, v.narrow(0, first, count)?);
            #[cfg(feature = "cuda")]
            if cuda::has_kernels(&q) {
                return cuda::training::softmax(&q.matmul(&k.t()?)?, scores)?.matmul(&v);
            }
            self.weights(&q, &k, heads, scores)?.0.to_dtype(q.dtype())?.matmul(&v)
        };
        self.joined(&self.stretches(heads).map(part).collect::<Result<Vec<_>>>()?, heads)
    }

    /// With `P` the weights and `dP = dO Vᵀ`: `dV = Pᵀ dO`, `dS = P * (dP - sum(P * dP)) * slope`, `dQ = dS K`, `dK = dSᵀ Q`.
    fn attend_back(&self, qkv: &[Tensor; 3], grad: &Tensor, heads: HeadLayout, scores: Scores) -> Result<[Tensor; 3]> {
        let dtype = grad.dtype();
        let mut gradients: [Vec<Tensor>; 3] = Default::default();
        for (first, count) in self.stretches(heads) {
            let part = |x: &Tensor| x.narrow(0, first, count);
            let [q, k, v] = [part(&qkv[0])?, part(&qkv[1])?, part(&qkv[2])?];
            let grad = part(grad)?;
            #[cfg(feature = "cuda")]
            if cuda::has_kernels(&q) {
                let changes = grad.matmul(&v.t()?)?;
                let weights = cuda::training::softmax_back(&q.matmul(&k.t()?)?, &changes, scores)?;
                gradients[0].push(changes.matmul(&k)?);
                gradients[1].push(changes.t()?.matmul(&q)?);
                gradients[2].push(weights.t()?.matmul(&grad)?);
                continue;
            }
            let (weights, slopes) = self.weights(&q, &k, heads, scores)?;
            let through = grad.matmul(&v.t()?)?.to_dtype(DType::F32)?;
            let along = (&weights * &through)?.sum_keepdim(D::Minus1)?;
            let changes = (&weights * through.broadcast_sub(&along)?)?.affine(f64::from(scores.scale), 0.0)?;
            let changes = match slopes {
                Some(slopes) => (changes * slopes)?,
                None => changes,
            };
            let (weights, changes) = (weights.to_dtype(dtype)?, changes.to_dtype(dtype)?);
            gradients[0].push(changes.matmul(&k)?);
            gradients[1].push(changes.t()?.matmul(&q)?);
            gradients[2].push(weights.t()?.matmul(&grad)?);
        }
        let [q, k, v] = gradients.map(|parts| self.joined(&parts, heads));
        Ok([q?, k?, v?])
    }

    /// The softmax weights `[.., heads of each * len, len]` in f32, and where scores are bounded, the slope of the bound.
    fn weights(&self, q: &Tensor, k: &Tensor, heads: HeadLayout, scores: Scores) -> Result<(Tensor, Option<Tensor>)> {
        let products = q.matmul(&k.t()?)?.to_dtype(DType::F32)?.affine(f64::from(scores.scale), 0.0)?;
        let shape = products.shape().clone();
        let (products, slopes) = match scores.softcap {
            Some(cap) => {
                let bounded = softcap(&products, cap)?;
                let slopes = (bounded.affine(1.0 / f64::from(cap), 0.0)?.sqr()?.neg()? + 1.0)?;
                (bounded, Some(slopes))
            }
            None => (products, None),
        };
        let seen = self.mask(scores.window)?;
        let apart = (q.dim(0)?, self.rows, heads.group(), self.len, self.len);
        let weights = softmax_last_dim(&products.reshape(apart)?.broadcast_add(&seen)?)?;
        Ok((weights.reshape(shape)?, slopes))
    }
}
