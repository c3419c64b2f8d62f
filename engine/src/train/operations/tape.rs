//! What operations leave for the backward pass: a graph without candle's, which begins every gradient with zeros and adds to
//! them on a single thread.

use super::held;
use candle_core::{DType, Result, Tensor, TensorId};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Numbers of which one task makes the sums.
pub(super) const CHUNK: usize = 1 << 14;

/// The operations of a pass in their order, or none of them.
pub(in crate::train) struct Tape {
    steps: Option<RefCell<Vec<Step>>>,
}

struct Step {
    inputs: Vec<TensorId>,
    output: TensorId,
    backward: Box<dyn FnOnce(Tensor) -> Result<Vec<Tensor>>>,
}

/// Gradients, by the tensors that they are of.
#[derive(Debug, Default)]
pub(in crate::train) struct TapeGradients(HashMap<TensorId, Tensor>);

impl Tape {
    /// Remembers every operation.
    pub(in crate::train) fn on() -> Self {
        Self { steps: Some(RefCell::default()) }
    }

    /// Remembers nothing: for values only.
    pub(in crate::train) fn off() -> Self {
        Self { steps: None }
    }

    /// Returns `output`, which was made of `inputs`. `backward` makes the gradients of those from the one of the output.
    pub(super) fn record<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        output: Tensor,
        backward: impl FnOnce(&Tensor) -> Result<[Tensor; N]> + 'static,
    ) -> Tensor {
        if let Some(steps) = &self.steps {
            let backward = Box::new(|gradient: Tensor| backward(&gradient).map(Vec::from));
            let inputs = inputs.map(Tensor::id).to_vec();
            steps.borrow_mut().push(Step { inputs, output: output.id(), backward });
        }
        output
    }

    /// `x + y`, of one shape.
    pub(in crate::train) fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let total = sum(x, y)?;
        Ok(self.record([x, y], total, |grad| Ok([grad.clone(), grad.clone()])))
    }

    /// `cap * tanh(x / cap)`, elementwise.
    pub(in crate::train) fn bounded(&self, x: &Tensor, cap: f64) -> Result<Tensor> {
        let bounded = (x.affine(1.0 / cap, 0.0)?.tanh()? * cap)?;
        let kept = bounded.clone();
        Ok(self
            .record([x], bounded, move |grad| Ok([(grad * kept.affine(1.0 / cap, 0.0)?.sqr()?.affine(-1.0, 1.0)?)?])))
    }

    /// The gradients of the tensors that no operation made, `gradient` being that of `output`.
    pub(in crate::train) fn backward(self, output: &Tensor, gradient: Tensor) -> Result<TapeGradients> {
        let mut slopes = HashMap::from([(output.id(), gradient)]);
        for step in self.steps.map(RefCell::into_inner).unwrap_or_default().into_iter().rev() {
            // What led nowhere has none.
            let Some(gradient) = slopes.remove(&step.output) else { continue };
            for (input, gradient) in step.inputs.into_iter().zip((step.backward)(gradient)?) {
                match slopes.entry(input) {
                    Entry::Vacant(place) => {
                        place.insert(gradient);
                    }
                    Entry::Occupied(mut place) => {
                        let total = sum(place.get(), &gradient)?;
                        place.insert(total);
                    }
                }
            }
        }
        Ok(TapeGradients(slopes))
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps = self.steps.as_ref().map(|steps| steps.borrow().len());
        formatter.debug_tuple("Tape").field(&steps).finish()
    }
}

impl TapeGradients {
    /// The gradient of `tensor`, if anything depends on it.
    pub(in crate::train) fn of(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.get(&tensor.id())
    }
}

/// `x + y`, of one shape; on the CPU by all threads.
fn sum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() || x.dtype() != DType::F32 || x.dims() != y.dims() {
        return x + y;
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let (left, right) = (held(&x)?, held(&y)?);
    let mut total = vec![0.0f32; left.len()];
    total.par_chunks_mut(CHUNK).zip(left.par_chunks(CHUNK).zip(right.par_chunks(CHUNK))).for_each(
        |(total, (left, right))| {
            for (total, (left, right)) in total.iter_mut().zip(left.iter().zip(right)) {
                *total = left + right;
            }
        },
    );
    Tensor::from_vec(total, x.shape(), x.device())
}
