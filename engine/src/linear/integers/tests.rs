#![allow(clippy::unwrap_used)]
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::super::{FrozenLinear, Kept, Linear};
use super::rows::round_plain;
use super::*;

const KINDS: [Option<GgmlDType>; 7] = [
    Some(GgmlDType::Q4_0),
    Some(GgmlDType::Q4_1),
    Some(GgmlDType::Q8_0),
    Some(GgmlDType::Q4K),
    Some(GgmlDType::Q5K),
    Some(GgmlDType::Q6K),
    // In f32, to be rounded.
    None,
];

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// A layer with its weight as its file keeps it, `[outputs, inputs]`, and a bias.
fn layer(kind: Option<GgmlDType>, outputs: usize, inputs: usize, seed: u64) -> FrozenLinear {
    let weight = Tensor::from_vec(noise(outputs * inputs, seed), (outputs, inputs), &Device::Cpu).unwrap();
    let bias = Some(Tensor::new(noise(outputs, seed ^ 1), &Device::Cpu).unwrap());
    match kind {
        Some(kind) => FrozenLinear::quantised(&QTensor::quantize(&weight, kind).unwrap(), |o| o, bias).unwrap(),
        None => FrozenLinear::new(&weight, bias).unwrap(),
    }
}

fn integers(layer: &FrozenLinear) -> (&Integers, Option<&[f32]>) {
    assert!(matches!(layer.packed.weight, Kept::Integers(_)));
    layer.packed.integers().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The inputs that the rounding stands for.
fn as_rounded(x: &[f32], width: usize) -> Vec<f64> {
    let of_row = |row: &[f32]| {
        let mut blocks = vec![Rounded::ZERO; width.div_ceil(BLOCK)];
        round(row, &mut blocks);
        let at = |input: usize| (f64::from(blocks[input / BLOCK].factor), blocks[input / BLOCK].codes[input % BLOCK]);
        (0..width).map(|input| at(input).0 * f64::from(at(input).1)).collect::<Vec<_>>()
    };
    x.chunks_exact(width).flat_map(of_row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Protects: it is the right product, of the weight's very values with the rounded inputs, whatever kind of codes; what is
    /// rounded is near; both kernels give equal bits, and so does a row alone.
    #[test]
    fn products_in_integers_are_right_and_the_same_everywhere(
        kind in prop::sample::select(&KINDS[..]), rows in 1usize..100, blocks in 1usize..4, outputs in 1usize..80, odd in 0usize..7,
        seed: u64, pick: prop::sample::Index,
    ) {
        let inputs = match kind {
            Some(GgmlDType::Q4K | GgmlDType::Q5K | GgmlDType::Q6K) => 256 * blocks.min(2),
            Some(_) => 32 * blocks,
            None => 32 * blocks - odd,
        };
        let plain = layer(kind, outputs, inputs, seed);
        let rounded = plain.in_integers();
        let weight = values(&rounded.weight().unwrap());
        if kind.is_some() {
            prop_assert_eq!(bits(&weight), bits(&values(&plain.weight().unwrap())), "codes stand for the same values");
        }
        let bias = values(&rounded.bias().unwrap().unwrap());
        let x = noise(rows * inputs, seed ^ 2);
        let y = forward(&[integers(&rounded)], &x).remove(0);
        prop_assert_eq!(bits(&y), bits(&multiply(&[integers(&rounded)], &x, None).remove(0)));
        let row = pick.index(rows);
        let alone = forward(&[integers(&rounded)], &x[row * inputs..][..inputs]).remove(0);
        prop_assert_eq!(bits(&y[row * outputs..][..outputs]), bits(&alone));

        let near = as_rounded(&x, inputs);
        for (row, y) in y.chunks_exact(outputs).enumerate() {
            for (output, y) in y.iter().enumerate() {
                let (near, exact) = (0..inputs).fold((0.0, 0.0), |(near_sum, sum), input| {
                    let weight = f64::from(weight[output * inputs + input]);
                    let at = row * inputs + input;
                    (near_sum + weight * near[at], sum + weight * f64::from(x[at]))
                });
                let y = f64::from(*y) - f64::from(bias[output]);
                prop_assert!((y - near).abs() < 1e-4, "{kind:?}: {y}, not {near}");
                // Of 7 bits and a sign, each input is off by half of the last, with any sign.
                prop_assert!((y - exact).abs() < 0.01 * (inputs as f64).sqrt(), "{kind:?}: {y}, not near {exact}");
            }
        }
    }
}

/// Protects: inputs are rounded alike by every instruction set, halves between two codes too.
#[test]
fn every_instruction_set_rounds_alike() {
    let halves: Vec<f32> = (-127..=127).map(|code| code as f32 + 0.5).chain([127.0]).collect();
    for x in [noise(1000, 8), halves] {
        let mut rounded = [(); 2].map(|()| vec![Rounded::ZERO; x.len().div_ceil(BLOCK)]);
        let [best, plain] = &mut rounded;
        round(&x, best);
        round_plain(&x, plain);
        assert_eq!(best, plain);
    }
}

/// Protects: layers of one input together, of every kind, are what each is alone; what is not inference is computed in f32.
#[test]
fn inference_alone_is_rounded() {
    let x = Tensor::from_vec(noise(5 * 512, 3), (5, 512), &Device::Cpu).unwrap();
    let plain: Vec<FrozenLinear> = KINDS.iter().map(|kind| layer(*kind, 50, 512, 9)).collect();
    let rounded: Vec<FrozenLinear> = plain.iter().map(FrozenLinear::in_integers).collect();
    let together = FrozenLinear::infer(&rounded.iter().collect::<Vec<_>>(), &x).unwrap();
    for ((kind, layers), y) in KINDS.iter().zip(plain.iter().zip(&rounded)).zip(together) {
        let (plain, rounded) = layers;
        assert_eq!(bits(&values(&y)), bits(&values(&FrozenLinear::infer(&[rounded], &x).unwrap()[0])), "{kind:?}");
        assert_ne!(bits(&values(&y)), bits(&values(&rounded.forward(&x).unwrap())), "{kind:?}");
        if kind.is_some() {
            assert_eq!(bits(&values(&plain.forward(&x).unwrap())), bits(&values(&rounded.forward(&x).unwrap())));
            let (back, same) = (plain.backward(&y).unwrap(), rounded.backward(&y).unwrap());
            assert_eq!(bits(&values(&back)), bits(&values(&same)), "{kind:?}");
        } else {
            assert!(rounded.bytes() * 3 < plain.bytes(), "{} of {} bytes", rounded.bytes(), plain.bytes());
        }
        let ids = Tensor::new(&[49u32, 0, 7], &Device::Cpu).unwrap();
        let expected = values(&rounded.weight().unwrap().index_select(&ids, 0).unwrap());
        assert_eq!(bits(&values(&rounded.rows(&ids).unwrap())), bits(&expected));
    }
}

/// Protects: what is no finite number is not rounded to one, and touches no other row; zeros and numbers near them are fine.
#[test]
fn broken_numbers_are_seen() {
    let layer = layer(Some(GgmlDType::Q8_0), 40, 64, 4).in_integers();
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = noise(3 * 64, 5);
        x[64 + 40] = broken;
        let y = forward(&[integers(&layer)], &x).remove(0);
        assert!(y[40..80].iter().all(|y| y.is_nan()), "{broken}");
        assert!(y[..40].iter().chain(&y[80..]).all(|y| y.is_finite()), "{broken}");
    }
    let bias = values(&layer.bias().unwrap().unwrap());
    for small in [0.0, 1e-40] {
        assert_eq!(bits(&forward(&[integers(&layer)], &[small; 64]).remove(0)), bits(&bias));
    }
}
