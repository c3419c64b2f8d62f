use super::super::optimizer::{AdamW, clip, global_norm};
use super::{Noise, model, parameters};
use candle_core::{Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

/// Protects: the update is AdamW's, as candle's own optimiser computes it.
#[test]
fn steps_agree_with_the_optimiser_of_candle() {
    let model = model();
    let ours = parameters(&model);
    let theirs: Vec<Var> =
        ours.vars().map(|(_, var)| Var::from_tensor(&var.as_detached_tensor().copy().unwrap()).unwrap()).collect();
    let settings = ParamsAdamW { lr: 3e-3, weight_decay: 0.1, ..ParamsAdamW::default() };
    let mut reference = candle_nn::AdamW::new(theirs.clone(), settings).unwrap();
    let mut optimizer = AdamW::new(&ours, 0.1);
    for step in 0..4 {
        let mut noise = Noise(step);
        let gradients: Vec<Tensor> = theirs.iter().map(|var| noise.tensor(var.dims(), 0.1)).collect();
        // A loss whose gradient is what we want it to be.
        let products = theirs.iter().zip(&gradients);
        let loss = products
            .map(|(var, gradient)| (var.as_tensor() * gradient).unwrap().sum_all().unwrap())
            .reduce(|a, b| (a + b).unwrap())
            .unwrap();
        reference.backward_step(&loss).unwrap();
        let gradients: Vec<Vec<f32>> =
            gradients.iter().map(|gradient| gradient.flatten_all().unwrap().to_vec1().unwrap()).collect();
        optimizer.step(&ours, &gradients, 3e-3).unwrap();
    }
    for ((_, ours), theirs) in ours.vars().zip(&theirs) {
        let worst = (ours.as_tensor() - theirs.as_tensor()).unwrap().abs().unwrap();
        assert!(worst.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }
}

/// Protects: one norm over all gradients, and no scaling up.
#[test]
fn clipping_scales_all_gradients_by_their_common_norm() {
    let mut gradients = vec![vec![3.0f32], vec![0.0, 4.0]];
    let norm = global_norm(&gradients);
    assert_eq!(norm, 5.0);
    clip(&mut gradients, norm, 10.0);
    assert_eq!(gradients, [vec![3.0], vec![0.0, 4.0]]);
    clip(&mut gradients, norm, f64::INFINITY);
    assert_eq!(gradients, [vec![3.0], vec![0.0, 4.0]]);
    clip(&mut gradients, norm, 0.5);
    assert!((global_norm(&gradients) - 0.5).abs() < 1e-6);
}
