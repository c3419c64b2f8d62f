#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use candle_core::IndexOp;
use candle_core::quantized::GgmlDType;
use proptest::prelude::*;

/// Values that round in every product, with a wide spread of magnitudes.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let unit = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            unit * (1.0 + (state & 7) as f32)
        })
        .collect()
}

fn tensor(values: Vec<f32>, shape: (usize, usize)) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Protects: one order of summation on every instruction set, for any shape.
    #[test]
    fn every_instruction_set_gives_the_same_bits(
        rows in 1usize..40, inputs in 1usize..150, outputs in 1usize..150, seed: u64,
    ) {
        let panels = Panels::pack(&noise(outputs * inputs, seed), outputs, inputs).unwrap();
        let bias = noise(outputs, seed ^ 1);
        let x = noise(rows * inputs, seed ^ 2);
        let grad = noise(rows * outputs, seed ^ 3);
        let results: Vec<_> = Instructions::available().into_iter().map(|instructions| (
            bits(&product::forward(instructions, &[Layer { bias: Some(&bias), ..Weights::Plain(&panels).into() }], &Interleaved::new(&x, inputs)).remove(0)),
            bits(&product::backward(instructions, Weights::Plain(&panels), None, &Interleaved::new(&grad, outputs))),
        )).collect();
        for pair in results.windows(2) {
            prop_assert_eq!(&pair[0], &pair[1]);
        }
    }

    /// Protects: a row's result does not know its neighbours, forward and backward.
    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch(
        rows in 2usize..150, inputs in 1usize..80, outputs in 1usize..80, seed: u64, pick: prop::sample::Index,
    ) {
        let panels = Panels::pack(&noise(outputs * inputs, seed), outputs, inputs).unwrap();
        let x = noise(rows * inputs, seed ^ 2);
        let grad = noise(rows * outputs, seed ^ 3);
        let row = pick.index(rows);
        let best = Instructions::best();
        let all = product::forward(best, &[Weights::Plain(&panels).into()], &Interleaved::new(&x, inputs)).remove(0);
        let alone = product::forward(best, &[Weights::Plain(&panels).into()], &Interleaved::new(&x[row * inputs..][..inputs], inputs)).remove(0);
        prop_assert_eq!(bits(&all[row * outputs..][..outputs]), bits(&alone));
        let all = product::backward(best, Weights::Plain(&panels), None, &Interleaved::new(&grad, outputs));
        let alone = product::backward(best, Weights::Plain(&panels), None, &Interleaved::new(&grad[row * outputs..][..outputs], outputs));
        prop_assert_eq!(bits(&all[row * inputs..][..inputs]), bits(&alone));
    }

    /// Protects: it is the right product, against plain sums in f64.
    #[test]
    fn both_products_agree_with_plain_sums(
        rows in 1usize..20, inputs in 1usize..90, outputs in 1usize..90, seed: u64,
    ) {
        let weight = noise(outputs * inputs, seed);
        let panels = Panels::pack(&weight, outputs, inputs).unwrap();
        let x = noise(rows * inputs, seed ^ 2);
        let grad = noise(rows * outputs, seed ^ 3);
        let y = product::forward(Instructions::best(), &[Weights::Plain(&panels).into()], &Interleaved::new(&x, inputs)).remove(0);
        let back = product::backward(Instructions::best(), Weights::Plain(&panels), None, &Interleaved::new(&grad, outputs));
        let at = |o: usize, i: usize| f64::from(weight[o * inputs + i]);
        for row in 0..rows {
            for o in 0..outputs {
                let sum: f64 = (0..inputs).map(|i| at(o, i) * f64::from(x[row * inputs + i])).sum();
                prop_assert!((sum - f64::from(y[row * outputs + o])).abs() < 1e-3);
            }
            for i in 0..inputs {
                let sum: f64 = (0..outputs).map(|o| at(o, i) * f64::from(grad[row * outputs + o])).sum();
                prop_assert!((sum - f64::from(back[row * inputs + i])).abs() < 1e-3);
            }
        }
    }
}

/// Protects: products large enough for threads and for several panel blocks keep both promises.
#[test]
fn large_products_do_not_depend_on_threads_or_rows() {
    let (rows, inputs, outputs) = (70, 100, 2500);
    let panels = Panels::pack(&noise(outputs * inputs, 5), outputs, inputs).unwrap();
    let x = noise(rows * inputs, 6);
    let grad = noise(rows * outputs, 7);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let best = Instructions::best();
            (
                bits(
                    &product::forward(best, &[Weights::Plain(&panels).into()], &Interleaved::new(&x, inputs)).remove(0),
                ),
                bits(&product::backward(best, Weights::Plain(&panels), None, &Interleaved::new(&grad, outputs))),
            )
        })
    };
    let one = run(1);
    assert_eq!(one, run(3));
    let portable =
        product::backward(Instructions::Portable, Weights::Plain(&panels), None, &Interleaved::new(&grad, outputs));
    assert_eq!(one.1, bits(&portable));
    let alone = product::backward(
        Instructions::best(),
        Weights::Plain(&panels),
        None,
        &Interleaved::new(&grad[69 * outputs..], outputs),
    );
    assert_eq!(bits(&alone), one.1[69 * inputs..]);
}

/// Protects: the layer takes views and a leading batch dimension, adds its bias, and gives the gradient of its input.
#[test]
fn a_layer_agrees_with_plain_operations_there_and_back() {
    let weight = tensor(noise(48 * 20, 1), (48, 20));
    let bias = Tensor::from_vec(noise(48, 2), 48, &Device::Cpu).unwrap();
    let layer = FrozenLinear::new(&weight, Some(bias.clone())).unwrap();
    let x = tensor(noise(20 * 6, 3), (20, 6)).t().unwrap();
    let grad = tensor(noise(48 * 6, 4), (6, 48));
    let ours = layer.forward(&x.reshape((2, 3, 20)).unwrap()).unwrap();
    assert_eq!(ours.dims(), [2, 3, 48]);
    let theirs = x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
    let pairs = [
        (ours.reshape((6, 48)).unwrap(), theirs),
        (Linear::backward(&layer, &grad).unwrap(), grad.matmul(&weight).unwrap()),
    ];
    for (ours, theirs) in pairs {
        let apart = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(apart < 1e-3, "{apart}");
    }
}

/// Protects: what is added to a product, forward and backward, over several panels and blocks of the backward sum.
#[test]
fn another_product_can_be_added() {
    let (rows, inputs, outputs, rank) = (29, 100, 2500, 5);
    let layer = FrozenLinear::new(&tensor(noise(outputs * inputs, 5), (outputs, inputs)), None).unwrap();
    let (x, grad) = (noise(rows * inputs, 6), noise(rows * outputs, 7));
    let inner = Interleaved::new(&noise(rows * rank, 8), rank);
    let check = |width: usize, product: &dyn Fn(Option<Plus<'_>>) -> Vec<f32>| {
        let panels = Panels::pack(&noise(width * rank, 9), width, rank).unwrap();
        let (alone, other) = (product(None), panels.multiply(&inner));
        let both = product(Some(Plus { panels: &panels, x: &inner, scale: 0.5 }));
        for ((both, alone), other) in both.iter().zip(alone).zip(other) {
            assert!((both - (alone + 0.5 * other)).abs() < 1e-3);
        }
    };
    check(outputs, &|plus| layer.multiply(&Interleaved::new(&x, inputs), plus));
    check(inputs, &|plus| layer.multiply_back(&Interleaved::new(&grad, outputs), plus));
}

/// Protects: products that are taken together are those that are taken one by one, kept as they may be.
#[test]
fn products_together_are_products_alone() {
    let weights = [64usize, 71, 33].map(|outputs| tensor(noise(outputs * 96, outputs as u64), (outputs, 96)));
    let bias = Tensor::from_vec(noise(33, 2), 33, &Device::Cpu).unwrap();
    let codes = QTensor::quantize(&weights[1], GgmlDType::Q4_1).unwrap();
    let layers = [
        FrozenLinear::new(&weights[0], None).unwrap(),
        FrozenLinear::quantised(&codes, |output| output, None).unwrap(),
        FrozenLinear::new(&weights[2], Some(bias)).unwrap(),
    ];
    for rows in [1, 13, 150] {
        let x = tensor(noise(rows * 96, 3), (rows, 96));
        let together = FrozenLinear::infer(&[&layers[0], &layers[1], &layers[2]], &x).unwrap();
        for (layer, together) in layers.iter().zip(together) {
            let alone = layer.forward(&x).unwrap();
            assert_eq!(alone.to_vec2::<f32>().unwrap(), together.to_vec2::<f32>().unwrap());
        }
    }
    let other = FrozenLinear::new(&tensor(noise(40, 1), (4, 10)), None).unwrap();
    let x = tensor(noise(96, 3), (1, 96));
    assert!(FrozenLinear::infer(&[&layers[0], &other], &x).is_err());
}

/// Protects: packing loses nothing.
#[test]
fn the_weight_comes_back_unchanged() {
    let weight = tensor(noise(45 * 7, 9), (45, 7));
    let layer = FrozenLinear::new(&weight, None).unwrap();
    assert_eq!((layer.out_features(), layer.in_features()), (45, 7));
    let back = layer.weight().unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(weight.to_vec2::<f32>().unwrap(), back);
    let single = layer.forward(&weight.i(3..4).unwrap()).unwrap();
    assert_eq!(single.dims(), [1, 45]);
}

/// Protects: weights that are kept in 16 bits or as codes give the bits of the same weights in f32: forward, backward, by
/// row, and with the rows in another order.
#[test]
fn what_is_kept_compact_gives_the_bits_of_what_is_spread_out() {
    let (outputs, inputs) = (71, 256);
    let weight = tensor(noise(outputs * inputs, 3), (outputs, inputs));
    let order: Vec<usize> = (0..outputs).map(|output| (output * 5 + 3) % outputs).collect();
    let indices = Tensor::new(order.iter().map(|row| *row as u32).collect::<Vec<_>>(), &Device::Cpu).unwrap();
    let mut pairs = Vec::new();
    for kind in [DType::BF16, DType::F16] {
        let kept = weight.to_dtype(kind).unwrap();
        pairs.push((FrozenLinear::new(&kept, None).unwrap(), kept.to_dtype(DType::F32).unwrap()));
    }
    for kind in [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q5_1] {
        let kept = QTensor::quantize(&weight, kind).unwrap();
        let spread = kept.dequantize(&Device::Cpu).unwrap().index_select(&indices, 0).unwrap();
        pairs.push((FrozenLinear::quantised(&kept, |output| order[output], None).unwrap(), spread));
    }
    let ids = Tensor::new(&[70u32, 0, 33], &Device::Cpu).unwrap();
    for (kept, spread) in pairs {
        let plain = FrozenLinear::new(&spread, None).unwrap();
        assert_eq!(spread.to_vec2::<f32>().unwrap(), kept.weight().unwrap().to_vec2::<f32>().unwrap());
        for rows in [1, 13, 75] {
            let x = Interleaved::new(&noise(rows * inputs, 6), inputs);
            let grad = Interleaved::new(&noise(rows * outputs, 7), outputs);
            assert_eq!(bits(&kept.multiply(&x, None)), bits(&plain.multiply(&x, None)));
            assert_eq!(bits(&kept.multiply_back(&grad, None)), bits(&plain.multiply_back(&grad, None)));
        }
        let picked = kept.rows(&ids).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(picked, spread.index_select(&ids, 0).unwrap().to_vec2::<f32>().unwrap());
        assert!(kept.rows(&Tensor::new(&[71u32], &Device::Cpu).unwrap()).is_err());
    }
}

/// Protects: a wrong shape or type is an error that names both shapes, not a panic.
#[test]
fn wrong_shapes_and_types_are_errors() {
    let weight = tensor(noise(12, 9), (4, 3));
    let layer = FrozenLinear::new(&weight, None).unwrap();
    let message = layer.forward(&weight.t().unwrap()).unwrap_err().to_string();
    assert!(message.contains("rows of 3") && message.contains("[3, 4]"), "{message}");
    assert!(layer.forward(&weight.to_dtype(DType::F64).unwrap()).is_err());
    let bias = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let message = FrozenLinear::new(&weight, Some(bias)).unwrap_err().to_string();
    assert!(message.contains("4 outputs"), "{message}");
    let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(FrozenLinear::new(&empty, None).is_err());
    let none = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(layer.forward(&none).unwrap().dims(), [0, 4]);
}

/// Prints the speed of the product on this machine; run it with `--run-ignored all --no-capture`.
#[test]
#[ignore = "a measurement: run by hand, with --run-ignored all --no-capture"]
fn speed() {
    for (inputs, outputs) in [(576, 576), (576, 1536), (1536, 576), (576, 49152)] {
        let weight = tensor(noise(outputs * inputs, 5), (outputs, inputs));
        let codes = QTensor::quantize(&weight, GgmlDType::Q4_1).unwrap();
        let layers = [
            ("f32", FrozenLinear::new(&weight, None).unwrap()),
            ("bf16", FrozenLinear::new(&weight.to_dtype(DType::BF16).unwrap(), None).unwrap()),
            ("4 bits", FrozenLinear::quantised(&codes, |output| output, None).unwrap()),
        ];
        for rows in [1, 8, 32, 72, 256, 400] {
            let x = noise(rows * inputs, 6);
            let grad = noise(rows * outputs, 7);
            for (kept, layer) in &layers {
                let flops = 2.0 * (rows * inputs * outputs) as f64;
                let times = (2e9 / flops).ceil() as usize;
                let speed = |product: &dyn Fn() -> Vec<f32>| {
                    let start = std::time::Instant::now();
                    (0..times).for_each(|_| drop(std::hint::black_box(product())));
                    flops * times as f64 / start.elapsed().as_secs_f64() / 1e9
                };
                let forward = speed(&|| layer.multiply(&Interleaved::new(&x, inputs), None));
                let backward = speed(&|| layer.multiply_back(&Interleaved::new(&grad, outputs), None));
                eprintln!(
                    "{inputs}x{outputs} rows {rows} {kept}: forward {forward:.0}, backward {backward:.0} GFLOP/s"
                );
            }
        }
    }
}
