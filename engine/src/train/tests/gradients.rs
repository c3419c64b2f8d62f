use super::super::draws::DropoutDraw;
use super::super::gradients::{Backward, Gradients, Ran};
use super::super::layer::{Base, Pass};
use super::super::loss::logits;
use super::super::operations::{BaseWeight, Tape};
use super::super::parameters::Parameters;
use super::super::rows::{Check, ReadyRow};
use super::super::{TrainError, TrainRow};
use super::operations::compare;
use super::{Noise, family_model, model, name, options, parameters, placed_model, row};
use crate::linear::{FrozenLinear, PlacedLinear};
use crate::lora::{Adapter, Projection};
use crate::model::{LogitRows, Model, Segment};
use candle_core::{D, Device, Tensor, Var};

/// What the loss of a test is multiplied by: a power of two, so that it makes no difference to rounding where.
const WEIGHT: f64 = 0.25;

fn ready(row: &TrainRow) -> ReadyRow {
    Check { options: &options(), vocabulary: 300 }.rows(std::slice::from_ref(row)).unwrap().rows.remove(0)
}

fn dropout() -> DropoutDraw {
    DropoutDraw { seed: 5, rate: 0.3, step: 2, row: 1 }
}

fn base(model: &Model) -> Base<'_, FrozenLinear> {
    Base { config: &model.config, weights: &model.weights }
}

fn placed_base(model: &Model) -> Base<'_, PlacedLinear> {
    Base { config: &model.config, weights: model.placed_weights().unwrap() }
}

fn pass<'a, B: BaseWeight>(
    base: Base<'a, B>,
    parameters: &'a Parameters,
    row: &ReadyRow,
    dropout: Option<DropoutDraw>,
) -> Pass<'a, B> {
    Pass::new(base, parameters, &[row], dropout.into_iter().collect()).unwrap()
}

/// The last layer's output.
fn hidden<B: BaseWeight>(pass: &Pass<'_, B>, row: &ReadyRow, tape: &Tape) -> Tensor {
    let mut x = pass.embed(&[row]).unwrap();
    for layer in 0..pass.base.config.layers {
        x = pass.layer(layer, &x, tape).unwrap();
    }
    x
}

fn loss<B: BaseWeight>(pass: &Pass<'_, B>, row: &ReadyRow) -> f64 {
    WEIGHT * pass.losses(&[row]).unwrap()[0]
}

/// Of the sum of `rows`' losses, each times its factor.
fn gradients_of<B: BaseWeight>(
    parameters: &Parameters,
    pass: Pass<'_, B>,
    rows: &[&ReadyRow],
    factors: &[f64],
) -> Vec<Vec<f32>> {
    let mut gradients = Gradients::new(parameters);
    let losses = pass.losses(rows).unwrap();
    let ran = Box::new(Ran::new(parameters, pass, rows, 0).unwrap());
    assert_eq!(ran.losses(), losses, "with and without a graph");
    ran.add_gradients(factors, &mut gradients).unwrap();
    gradients.into_values(parameters).unwrap()
}

fn gradients<B: BaseWeight>(parameters: &Parameters, pass: Pass<'_, B>, row: &ReadyRow) -> Vec<Vec<f32>> {
    gradients_of(parameters, pass, &[row], &[WEIGHT])
}

/// The loss's slope along `direction` from where `var` stands, by central differences.
fn slope(var: &Var, direction: &[f64], mut loss: impl FnMut() -> f64) -> f64 {
    const STEP: f64 = 4e-3;
    let start = var.as_detached_tensor().copy().unwrap();
    let values: Vec<f32> = start.flatten_all().unwrap().to_vec1().unwrap();
    let mut at = |distance: f64| {
        let moved =
            values.iter().zip(direction).map(|(value, direction)| (f64::from(*value) + distance * direction) as f32);
        let moved = Tensor::from_iter(moved, &Device::Cpu).unwrap();
        var.set(&moved.reshape(start.shape()).unwrap()).unwrap();
        loss()
    };
    // Two widths, so that the error of third order cancels.
    let narrow = (at(STEP) - at(-STEP)) / (2.0 * STEP);
    let wide = (at(2.0 * STEP) - at(-2.0 * STEP)) / (4.0 * STEP);
    var.set(&start).unwrap();
    (4.0 * narrow - wide) / 3.0
}

fn check_against_differences<B: BaseWeight>(model: &Model, base: Base<'_, B>, dropout: Option<DropoutDraw>) {
    let row = ready(&row(9, 5, 1));
    let parameters = parameters(model);
    let gradients = gradients(&parameters, pass(base, &parameters, &row, dropout), &row);
    let pass = pass(base, &parameters, &row, dropout);
    let mut noise = Noise(99);
    let mut checked = 0;
    for ((place, var), gradient) in parameters.vars().zip(&gradients) {
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-4, "{}: the gradient is zero", name(&place));
        let steepest: Vec<f64> = gradient.iter().map(|g| f64::from(*g) / norm).collect();
        let anywhere: Vec<f64> = gradient.iter().map(|_| f64::from(noise.next())).collect();
        let length = anywhere.iter().map(|d| d * d).sum::<f64>().sqrt();
        let anywhere: Vec<f64> = anywhere.iter().map(|d| d / length).collect();
        for direction in [steepest, anywhere] {
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
            let found = slope(var, &direction, || loss(&pass, &row));
            assert!(
                (found - expected).abs() < 0.01 * norm + 2e-4,
                "{}: the gradient says {expected}, the loss moves by {found} (norm {norm})",
                name(&place)
            );
        }
        checked += 1;
    }
    assert_eq!(checked, model.config.layers * 7 * 2);
}

/// Protects: every gradient of every A and B is the slope of the loss.
#[test]
fn every_gradient_agrees_with_finite_differences() {
    let (model, placed) = (model(), placed_model("llama"));
    check_against_differences(&model, base(&model), None);
    check_against_differences(&placed, placed_base(&placed), None);
}

/// Protects: the same through bounded scores and logits, windows that are shorter than the row, and norms on both sides.
#[test]
fn every_gradient_of_gemma_agrees_with_finite_differences() {
    for family in ["gemma2", "gemma3_text"] {
        let model = family_model(family);
        assert!(model.config.gemma.as_ref().is_some_and(|gemma| gemma.window < 8 && gemma.sliding.contains(&false)));
        check_against_differences(&model, base(&model), None);
    }
}

/// Protects: dropout is the same in both runs of a layer, so the gradient is that of the loss that was reported.
#[test]
fn gradients_under_dropout_agree_with_finite_differences() {
    let model = model();
    check_against_differences(&model, base(&model), Some(dropout()));
}

/// Protects: running layers again gives the gradients of the one whole graph.
#[test]
fn checkpointing_changes_no_gradient() {
    let (model, row) = (model(), ready(&row(12, 7, 2)));
    let parameters = parameters(&model);
    let ours = gradients(&parameters, pass(base(&model), &parameters, &row, Some(dropout())), &row);
    let tape = Tape::on();
    let x = hidden(&pass(base(&model), &parameters, &row, Some(dropout())), &row, &tape);
    // The losses before the first target count nothing.
    let logits = logits(base(&model), &x, &tape).unwrap();
    let losses = FrozenLinear::losses(&logits, &row.ids[1..], &tape).unwrap();
    let first = row.targets[0] - 1;
    let wanted = (0..losses.dim(0).unwrap()).map(|place| if place < first { 0.0 } else { WEIGHT as f32 });
    let wanted = Tensor::from_iter(wanted, &Device::Cpu).unwrap();
    let slopes = tape.backward(&losses, wanted).unwrap();
    for ((place, var), ours) in parameters.vars().zip(ours) {
        let whole = slopes.of(var).unwrap();
        let whole: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
        for (a, b) in ours.iter().zip(&whole) {
            assert!((a - b).abs() < 1e-6 + 1e-5 * b.abs(), "{}: {a} is not {b}", name(&place));
        }
    }
}

/// Protects: a forward pass with an operation that has no backward pass is refused by name, not trained in part.
#[test]
fn a_forward_pass_that_cuts_a_gradient_is_refused() {
    let model = model();
    let parameters = parameters(&model);
    let weights = &model.weights.layers[0];
    let x = Noise(1).tensor(&[6, 48], 1.0);
    let (tape, cut) = (Tape::on(), Tape::off());
    let adapted = |frozen: &FrozenLinear, projection, x: &Tensor, tape: &Tape| {
        let pair = parameters.pair(0, projection).unwrap();
        frozen.adapted([x, &pair.a, &pair.b], 1.0, None, tape).unwrap()
    };
    // A twin of a layer that forgets one of its norms: nothing before it gets a gradient.
    let q = adapted(&weights.q, Projection::Q, &x, &tape);
    let normed = FrozenLinear::rms_norm(&q, &weights.attn_norm, 1e-5, &cut).unwrap();
    let y = adapted(&weights.o, Projection::O, &normed, &tape);
    let slopes = tape.backward(&y, y.ones_like().unwrap()).unwrap();
    let mut gradients = Gradients::new(&parameters);
    match gradients.add(&parameters, 0, &slopes, 1.0) {
        Err(TrainError::MissingGradient { layer: 0, projection: Projection::Q, factor: "lora_A" }) => {}
        other => panic!("the cut gradient of q_proj was not refused: {other:?}"),
    }
    assert!(slopes.of(&parameters.pair(0, Projection::O).unwrap().b).is_some());
}

/// Protects: what is trained is what is then served: both forward passes give the same logits.
#[test]
fn training_and_inference_give_the_same_logits() {
    for family in ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"] {
        let (model, row) = (family_model(family), ready(&row(40, 39, 6)));
        let parameters = parameters(&model);
        let x = hidden(&pass(base(&model), &parameters, &row, None), &row, &Tape::off());
        let ours = logits(base(&model), &x, &Tape::off()).unwrap();
        let adapter = Adapter::pack(&parameters.weights()).unwrap();
        let mut cache = model.new_cache(64).unwrap();
        let mut segments =
            [Segment { tokens: &row.ids[..39], cache: &mut cache, adapter: Some(&adapter), logits: LogitRows::All }];
        let theirs = model.forward(&mut segments).unwrap().unwrap();
        let worst = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap();
        let worst = worst.to_scalar::<f32>().unwrap();
        assert!(worst < 1e-4, "{family}: logits differ by {worst}");
    }
}

/// Protects: rows that go through the model together give what each gives alone, on the CPU bit for bit in their losses;
/// and a device gives what the CPU gives, for every family, for rows of one length and of several, with dropout and without.
#[test]
fn packed_rows_are_rows_alone_and_a_device_agrees_with_the_cpu() {
    let ragged = [ready(&row(9, 5, 1)), ready(&row(14, 3, 2)), ready(&row(3, 2, 3)), ready(&row(14, 13, 4))];
    let equal = [ready(&row(8, 5, 1)), ready(&row(8, 3, 2)), ready(&row(8, 7, 3))];
    let factors = [0.5, -0.125, 2.0, 0.25];
    let draws = |row: usize| DropoutDraw { row, ..dropout() };
    for family in ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"] {
        let (model, placed) = (family_model(family), placed_model(family));
        let parameters = parameters(&model);
        for (rows, dropped) in [(&ragged[..], false), (&equal, false), (&ragged, true)] {
            let rows: Vec<&ReadyRow> = rows.iter().collect();
            let draws: Vec<DropoutDraw> = (0..rows.len()).filter(|_| dropped).map(draws).collect();
            let mut alone = Gradients::new(&parameters);
            let mut losses = Vec::new();
            for (place, row) in rows.iter().enumerate() {
                let draw = draws.get(place).copied();
                let ran = Ran::new(&parameters, pass(base(&model), &parameters, row, draw), &[row], 0).unwrap();
                losses.extend_from_slice(ran.losses());
                Box::new(ran).add_gradients(&factors[place..=place], &mut alone).unwrap();
            }
            let alone = alone.into_values(&parameters).unwrap();
            let packed = Pass::new(base(&model), &parameters, &rows, draws.clone()).unwrap();
            assert_eq!(packed.losses(&rows).unwrap(), losses.clone());
            let there = Pass::new(placed_base(&placed), &parameters, &rows, draws).unwrap();
            for (ours, theirs) in there.losses(&rows).unwrap().iter().zip(&losses) {
                assert!((ours - theirs).abs() < 1e-4, "{family}: a loss of {ours}, not {theirs}");
            }
            let factors = &factors[..rows.len()];
            let packed = gradients_of(&parameters, packed, &rows, factors);
            let there = gradients_of(&parameters, there, &rows, factors);
            for (((place, _), alone), found) in parameters.vars().zip(&alone).zip(packed.iter().zip(&there)) {
                let largest = alone.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for (what, found) in [("packed", found.0), ("on a device", found.1)] {
                    let worst = alone.iter().zip(found).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
                    assert!(worst < 1e-4 * largest, "{family} {what}, {}: {worst} of {largest}", name(&place));
                }
            }
        }
    }
}

/// Protects: the loss is the negative log-likelihood, and its gradient softmax minus the target; and which targets come first.
#[test]
fn the_cross_entropy_agrees_with_plain_operations() {
    let logits = Noise(4).tensor(&[5, 300], 9.0);
    let best = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[2];
    let targets = [0u32, 299, best, 17, 150];
    let index = Tensor::new(&targets, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let theirs = |x: &[Tensor]| candle_nn::ops::log_softmax(&x[0], D::Minus1)?.gather(&index, 1)?.neg()?.squeeze(1);
    let leaves = [logits.clone()];
    compare(&leaves, |x, tape| FrozenLinear::losses(&x[0], &targets, tape), theirs);
    compare(&leaves, |x, tape| PlacedLinear::losses(&x[0], &targets, tape), theirs);
    assert_eq!(FrozenLinear::correct(&logits, &targets).unwrap(), 1);
    assert_eq!(PlacedLinear::correct(&logits, &targets).unwrap(), 1);
    assert!(FrozenLinear::losses(&logits, &[300, 0, 0, 0, 0], &Tape::off()).is_err());
}
