//! Loops over rows of numbers, on whatever vectors the processor has, in one order on all of them.

use crate::attention::exp;
use crate::instruction_sets::for_each_instruction_set;
use crate::lanes::{LANES, fold};

for_each_instruction_set! {
    /// The largest value; minus infinity of none.
    pub(super) fn highest(values: &[f32]) -> f32 = highest_body
}

#[inline(always)]
fn highest_body(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, b| larger(a, *b))
}

for_each_instruction_set! {
    /// The sum of the products.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}

#[inline(always)]
fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a.1.iter().zip(b.1).enumerate() {
        lanes[lane] += a * b;
    }
    fold(lanes)
}

for_each_instruction_set! {
    /// The sum of `grad * weight * x`, in f64.
    pub(super) fn along(grad: &[f32], weight: &[f32], x: &[f32]) -> f64 = along_body
}

#[inline(always)]
fn along_body(grad: &[f32], weight: &[f32], x: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (grad, weight, x) = (grad.as_chunks::<LANES>(), weight.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    for ((grad, weight), x) in grad.0.iter().zip(weight.0).zip(x.0) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(grad[lane] * weight[lane]) * f64::from(x[lane]);
        }
    }
    for (lane, ((grad, weight), x)) in grad.1.iter().zip(weight.1).zip(x.1).enumerate() {
        lanes[lane] += f64::from(grad * weight) * f64::from(*x);
    }
    fold(lanes)
}

for_each_instruction_set! {
    /// Scores to softmax weights; returns the logarithm of what they were divided by.
    pub(super) fn softmax(scores: &mut [f32]) -> f32 = softmax_body
}

#[inline(always)]
fn softmax_body(scores: &mut [f32]) -> f32 {
    let highest = highest_body(scores);
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in &mut *chunks {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - highest);
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, score) in rest.iter_mut().enumerate() {
        *score = exp(*score - highest);
        lanes[lane] += *score;
    }
    let total = fold(lanes);
    for weight in chunks.as_flattened_mut().iter_mut().chain(rest) {
        *weight /= total;
    }
    highest + total.ln()
}

for_each_instruction_set! {
    /// Scores to softmax weights of which these are the logarithms of the sums.
    pub(super) fn weights(scores: &mut [f32], logs: &[f32]) = weights_body
}

#[inline(always)]
fn weights_body(scores: &mut [f32], logs: &[f32]) {
    for (score, log) in scores.iter_mut().zip(logs) {
        *score = exp(*score - log);
    }
}

for_each_instruction_set! {
    /// Logits to softmax weights times `factor`, of which this is the logarithm of the sum.
    pub(super) fn weights_times(logits: &[f32], log: f32, factor: f32, weights: &mut [f32]) = weights_times_body
}

#[inline(always)]
fn weights_times_body(logits: &[f32], log: f32, factor: f32, weights: &mut [f32]) {
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = exp(logit - log) * factor;
    }
}

/// What the gradients of a gate and of what it lets through are written to.
pub(super) struct GatedGradients<'a> {
    pub(super) gate: &'a mut [f32],
    pub(super) up: &'a mut [f32],
}

for_each_instruction_set! {
    /// Of `silu(gate) * up`, from the gradient of it.
    pub(super) fn silu_back(gate: &[f32], up: &[f32], grad: &[f32], found: GatedGradients<'_>) = silu_back_body
}

#[inline(always)]
fn silu_back_body(gate: &[f32], up: &[f32], grad: &[f32], found: GatedGradients<'_>) {
    gated_back(gate, up, grad, found, |x| (x, 1.0));
}

for_each_instruction_set! {
    /// Of `gelu(gate) * up`, from the gradient of it.
    pub(super) fn gelu_back(gate: &[f32], up: &[f32], grad: &[f32], found: GatedGradients<'_>) = gelu_back_body
}

/// `2 sqrt(2 / pi)`, and that times 0.044715.
const GELU: (f32, f32) = (1.595_769, 0.071_354_81);

#[inline(always)]
fn gelu_back_body(gate: &[f32], up: &[f32], grad: &[f32], found: GatedGradients<'_>) {
    gated_back(gate, up, grad, found, |x| (x * (GELU.0 + GELU.1 * x * x), GELU.0 + 3.0 * GELU.1 * x * x));
}

/// Both activations are `x * s` with `s` the sigmoid of a bend of x, which `bend` returns with its slope: x itself for SiLU; for
/// GELU, by its approximation, `2 sqrt(2 / pi) (x + 0.044715 x^3)`. The gradients: `grad * up * s * (1 + gate * (1 - s) * slope)` and `grad * gate * s`.
#[inline(always)]
fn gated_back(gate: &[f32], up: &[f32], grad: &[f32], found: GatedGradients<'_>, bend: impl Fn(f32) -> (f32, f32)) {
    let inputs = gate.iter().zip(up).zip(grad);
    for (((gate, up), grad), (to_gate, to_up)) in inputs.zip(found.gate.iter_mut().zip(found.up)) {
        let (bent, slope) = bend(*gate);
        let sigmoid = 1.0 / (1.0 + exp(-bent));
        *to_gate = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid) * slope);
        *to_up = grad * gate * sigmoid;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: the same bits on every processor, of rows that fill the lanes and of those that do not.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for length in [1, 15, 16, 1003] {
            let a: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
            let b: Vec<f32> = (0..length).map(|i| (i as f32 * 0.53).cos()).collect();
            assert_eq!(highest(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(dot(&a, &b).to_bits(), dot_body(&a, &b).to_bits());
            assert_eq!(along(&a, &b, &a).to_bits(), along_body(&a, &b, &a).to_bits());
            let (mut fast, mut plain) = (a.clone(), a.clone());
            assert_eq!(softmax(&mut fast).to_bits(), softmax_body(&mut plain).to_bits());
            assert_eq!(fast, plain);
            let [mut gate, mut up, mut plain_gate, mut plain_up] = std::array::from_fn(|_| vec![0f32; length]);
            gelu_back(&a, &b, &b, GatedGradients { gate: &mut gate, up: &mut up });
            gelu_back_body(&a, &b, &b, GatedGradients { gate: &mut plain_gate, up: &mut plain_up });
            assert_eq!((gate, up), (plain_gate, plain_up));
        }
    }
}
