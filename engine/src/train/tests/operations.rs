use super::super::operations::{BaseWeight, Dropout, HeadLayout, Mask, Rotation, Tape};
use super::{Noise, plain};
use crate::attention::{Activation, Scores};
use crate::linear::{FrozenLinear, PlacedLinear};
use crate::model::RopeTable;
use candle_core::{DType, Device, Result, Tensor, Var};

/// Applies both functions to the same leaves and compares values and all gradients: ours by what they leave on the tape, theirs
/// by candle's graph.
pub(super) fn compare(
    leaves: &[Tensor],
    ours: impl Fn(&[Tensor], &Tape) -> Result<Tensor>,
    theirs: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let vars: Vec<Var> = leaves.iter().map(|leaf| Var::from_tensor(leaf).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = theirs(&tensors).unwrap();
    // A gradient that differs from element to element.
    let gradient = Noise(77).tensor(y.dims(), 1.0);
    let store = (&y * &gradient).unwrap().sum_all().unwrap().backward().unwrap();
    let tape = Tape::on();
    let found = ours(leaves, &tape).unwrap();
    let slopes = tape.backward(&found, gradient).unwrap();
    let mut pairs = vec![(found, y.detach())];
    for (leaf, tensor) in leaves.iter().zip(&tensors) {
        pairs.push((slopes.of(leaf).expect("a leaf has no gradient").clone(), store.get(tensor).unwrap().clone()));
    }
    for (place, (ours, theirs)) in pairs.into_iter().enumerate() {
        assert_eq!(ours.dims(), theirs.dims());
        let worst = (&ours - &theirs).unwrap().abs().unwrap().max_all().unwrap();
        let worst = worst.to_scalar::<f32>().unwrap();
        let largest = theirs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst <= 2e-5 * largest + 1e-7, "result {place} differs by {worst} of {largest}");
    }
}

fn table(tokens: usize, half: usize) -> RopeTable {
    let mut noise = Noise(5);
    let angles = noise.tensor(&[tokens, half], 3.0);
    RopeTable { cos: angles.cos().unwrap(), sin: angles.sin().unwrap() }
}

/// Protects: norm, value and gradient.
#[test]
fn the_norm_agrees_with_plain_operations() {
    let mut noise = Noise(1);
    let weight = noise.tensor(&[48], 1.0);
    let leaves = [noise.tensor(&[7, 48], 2.0)];
    let theirs = |x: &[Tensor]| plain::rms_norm(&x[0], &weight, 1e-5);
    compare(&leaves, |x, tape| FrozenLinear::rms_norm(&x[0], &weight, 1e-5, tape), theirs);
    compare(&leaves, |x, tape| PlacedLinear::rms_norm(&x[0], &weight, 1e-5, tape), theirs);
    // Of every head of a row.
    let weight = weight.narrow(0, 0, 12).unwrap();
    let theirs = |x: &[Tensor]| plain::rms_norm(&x[0].reshape((28, 12))?, &weight, 1e-5)?.reshape((7, 48));
    compare(&leaves, |x, tape| FrozenLinear::rms_norm(&x[0], &weight, 1e-5, tape), theirs);
    compare(&leaves, |x, tape| PlacedLinear::rms_norm(&x[0], &weight, 1e-5, tape), theirs);
}

/// Protects: both gated units, values and both gradients, also far from zero and over several tasks.
#[test]
fn gated_units_agree_with_plain_operations() {
    let mut noise = Noise(2);
    let leaves = [noise.tensor(&[60, 80], 30.0), noise.tensor(&[60, 80], 2.0)];
    let silu = |x: &[Tensor]| x[0].silu()? * &x[1];
    compare(&leaves, |x, tape| FrozenLinear::gated(&x[0], &x[1], Activation::Silu, tape), silu);
    compare(&leaves, |x, tape| PlacedLinear::gated(&x[0], &x[1], Activation::Silu, tape), silu);
    // candle's `gelu` is the approximation.
    let gelu = |x: &[Tensor]| x[0].gelu()? * &x[1];
    compare(&leaves, |x, tape| FrozenLinear::gated(&x[0], &x[1], Activation::GeluTanh, tape), gelu);
    compare(&leaves, |x, tape| PlacedLinear::gated(&x[0], &x[1], Activation::GeluTanh, tape), gelu);
}

/// Protects: the rotation, value and gradient.
#[test]
fn the_rotation_agrees_with_plain_operations() {
    let table = table(9, 4);
    // Two rows.
    let positions = Tensor::new(&[0u32, 1, 2, 3, 0, 1], &Device::Cpu).unwrap();
    let rotation = Rotation::new(&table, &positions).unwrap();
    let (cos, sin) = table.gather(&positions).unwrap();
    let leaves = [Noise(3).tensor(&[6, 24], 1.0)];
    let theirs = |x: &[Tensor]| {
        let heads = x[0].reshape((6, 3, 8))?.transpose(0, 1)?.contiguous()?;
        plain::rotate(&heads, &cos, &sin)?.transpose(0, 1)?.reshape((6, 24))
    };
    compare(&leaves, |x, tape| FrozenLinear::rotate(&x[0], &rotation, tape), theirs);
    compare(&leaves, |x, tape| PlacedLinear::rotate(&x[0], &rotation, tape), theirs);
}

/// Protects: causal attention, values and the gradients of queries, keys and values, for one token, for blocks
/// and panels that are not full, and for heads that are no multiple of a panel; with a window and bounded scores, and without.
#[test]
fn attention_agrees_with_plain_operations() {
    let shapes = [(1, 2, 1, 4), (5, 3, 3, 8), (8, 6, 2, 8), (33, 4, 2, 40), (100, 3, 1, 64)];
    let bounds = [(None, None), (Some(1.5), None), (None, Some(3)), (Some(4.0), Some(7)), (None, Some(40))];
    for ((tokens, heads, kv_heads, width), (softcap, window)) in
        shapes.into_iter().flat_map(|shape| bounds.map(|bounds| (shape, bounds)))
    {
        let scores = Scores { scale: 0.3, softcap, window };
        let mut noise = Noise(4);
        let leaves = [
            noise.tensor(&[tokens, heads * width], 2.0),
            noise.tensor(&[tokens, kv_heads * width], 2.0),
            noise.tensor(&[tokens, kv_heads * width], 1.0),
        ];
        let layout = HeadLayout { heads, kv_heads, width };
        let split = |x: &Tensor, count| x.reshape((tokens, count, width))?.transpose(0, 1)?.contiguous();
        let mask = plain::causal_mask(tokens, window.unwrap_or(tokens)).unwrap();
        let theirs = |x: &[Tensor]| {
            let (q, k, v) = (split(&x[0], heads)?, split(&x[1], kv_heads)?, split(&x[2], kv_heads)?);
            plain::attention(&q, &k, &v, scores, &mask)?.transpose(0, 1)?.reshape((tokens, heads * width))
        };
        let rows = FrozenLinear::arrange(&[tokens], &Device::Cpu).unwrap();
        compare(&leaves, |x, tape| FrozenLinear::attention([&x[0], &x[1], &x[2]], layout, scores, &rows, tape), theirs);
        let rows = PlacedLinear::arrange(&[tokens], &Device::Cpu).unwrap();
        compare(&leaves, |x, tape| PlacedLinear::attention([&x[0], &x[1], &x[2]], layout, scores, &rows, tape), theirs);
    }
}

/// Protects: the adapted projection, its value and the gradients of input, A and B, with dropout and without.
#[test]
fn the_adapted_projection_agrees_with_plain_operations() {
    let mut noise = Noise(6);
    let weight = noise.tensor(&[70, 48], 0.3);
    let frozen = FrozenLinear::new(&weight, None).unwrap();
    let leaves = [noise.tensor(&[13, 48], 1.0), noise.tensor(&[5, 48], 1.0), noise.tensor(&[70, 5], 1.0)];
    let dropped = noise.tensor(&[13, 48], 1.0).ge(0.0).unwrap();
    let dropped = (dropped.to_dtype(DType::F32).unwrap() * 2.0).unwrap();
    let mask = || Mask {
        kept: dropped.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|factor| *factor > 0.0).collect(),
        factor: 2.0,
    };
    let placed = PlacedLinear::new(&frozen, &Device::Cpu, DType::F32).unwrap();
    for factors in [None, Some(&dropped)] {
        let dropout = factors.is_some().then_some(Dropout { mask: &mask, key: 0, rate: 0.5 });
        let theirs = |x: &[Tensor]| {
            let input = match factors {
                None => x[0].clone(),
                Some(factors) => (&x[0] * factors)?,
            };
            let update = input.matmul(&x[1].t()?)?.matmul(&x[2].t()?)?;
            x[0].matmul(&weight.t()?)? + (update * 1.5)?
        };
        compare(&leaves, |x, tape| frozen.adapted([&x[0], &x[1], &x[2]], 1.5, dropout, tape), theirs);
        compare(&leaves, |x, tape| placed.adapted([&x[0], &x[1], &x[2]], 1.5, dropout, tape), theirs);
    }
    let theirs = |x: &[Tensor]| x[0].matmul(&weight.t()?);
    compare(&leaves[..1], |x, tape| frozen.frozen(&x[0], tape), theirs);
    compare(&leaves[..1], |x, tape| placed.frozen(&x[0], tape), theirs);
}

/// Protects: what is used more than once gets the sum of its gradients, on all threads too, and bounds let them through.
#[test]
fn sums_and_bounds_agree_with_plain_operations() {
    let mut noise = Noise(8);
    let leaves = [noise.tensor(&[150, 120], 2.0), noise.tensor(&[150, 120], 2.0)];
    let ours = |x: &[Tensor], tape: &Tape| {
        let sum = tape.add(&x[0], &x[1])?;
        let bounded = tape.bounded(&sum, 1.5)?;
        tape.add(&bounded, &tape.add(&sum, &x[0])?)
    };
    let theirs = |x: &[Tensor]| {
        let sum = (&x[0] + &x[1])?;
        ((&sum / 1.5)?.tanh()? * 1.5)? + (&sum + &x[0])?
    };
    compare(&leaves, ours, theirs);
}
