//! AdamW, gradient clipping and the schedule.

use super::parameters::Parameters;
use super::{Schedule, TrainError, TrainOptions};
use candle_core::Tensor;
use rayon::prelude::*;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The learning rate of step `step` of `total`, from 1, as a share of the configured one: as Hugging Face's schedules have
/// it, so that the first step of a warm-up is taken with 0.
pub(super) fn share_of_rate(options: &TrainOptions, step: usize, total: usize) -> f64 {
    // A warm-up of all steps would take the only one of a short training with 0.
    let warmup = (options.warmup * total as f64).ceil().min(total as f64 - 1.0);
    let done = step as f64 - 1.0;
    if done < warmup {
        return done / warmup;
    }
    let way = (done - warmup) / (total as f64 - warmup).max(1.0);
    match options.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - way,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * way).cos()),
    }
}

/// The Euclidean norm of all gradients together.
pub(super) fn global_norm(gradients: &[Vec<f32>]) -> f64 {
    let squares = |values: &Vec<f32>| values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>();
    // Each sum is one thread's, so that their order stays.
    let sums: Vec<f64> = gradients.par_iter().map(squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// Scales the gradients down to the norm `highest` if theirs, `norm`, is larger.
pub(super) fn clip(gradients: &mut [Vec<f32>], norm: f64, highest: f64) {
    if norm > highest {
        let factor = (highest / norm) as f32;
        for value in gradients.iter_mut().flatten() {
            *value *= factor;
        }
    }
}

/// AdamW: Adam (arXiv 1412.6980) with decoupled weight decay (arXiv 1711.05101, algorithm 2).
#[derive(Debug)]
pub(super) struct AdamW {
    steps: i32,
    weight_decay: f64,
    moments: Vec<Vec<Moments>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    first: f32,
    second: f32,
}

impl AdamW {
    pub(super) fn new(parameters: &Parameters, weight_decay: f64) -> Self {
        let moments = parameters.vars().map(|(_, var)| vec![Moments::default(); var.elem_count()]).collect();
        Self { steps: 0, weight_decay, moments }
    }

    /// The moments of the parameter with this index, first and second.
    pub(super) fn moments(&self, index: usize) -> (Vec<f32>, Vec<f32>) {
        self.moments[index].iter().map(|moments| (moments.first, moments.second)).unzip()
    }

    /// Takes moments back.
    pub(super) fn restore(&mut self, index: usize, first: &[f32], second: &[f32]) {
        let moments = first.iter().zip(second).map(|(first, second)| Moments { first: *first, second: *second });
        self.moments[index] = moments.collect();
    }

    /// Steps that were taken before the moments were kept.
    pub(super) fn set_steps(&mut self, steps: usize) {
        self.steps = i32::try_from(steps).unwrap_or(i32::MAX);
    }

    /// One step against the gradients, which come in the order of the parameters.
    pub(super) fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &[Vec<f32>],
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        self.steps += 1;
        let correction1 = 1.0 - BETA1.powi(self.steps);
        let correction2 = 1.0 - BETA2.powi(self.steps);
        let kept = 1.0 - learning_rate * self.weight_decay;
        for ((moments, gradient), (_, var)) in self.moments.iter_mut().zip(gradients).zip(parameters.vars()) {
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            values.par_iter_mut().zip(gradient).zip(moments).for_each(|((value, gradient), moments)| {
                let gradient = f64::from(*gradient);
                let first = BETA1 * f64::from(moments.first) + (1.0 - BETA1) * gradient;
                let second = BETA2 * f64::from(moments.second) + (1.0 - BETA2) * gradient * gradient;
                let direction = first / correction1 / ((second / correction2).sqrt() + EPSILON);
                *value = (f64::from(*value) * kept - learning_rate * direction) as f32;
                moments.first = first as f32;
                moments.second = second as f32;
            });
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }
}
