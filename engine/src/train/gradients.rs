//! A row's gradients, one layer's graph at a time (activation checkpointing, arXiv 1604.06174).

use super::TrainError;
use super::layer::{Graph, Pass};
use super::loss::head_loss;
use super::parameters::Parameters;
use super::rows::ReadyRow;
use crate::model::Model;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

/// The sum of the gradients so far, in the order of [`Parameters::vars`].
#[derive(Debug)]
pub(super) struct Gradients {
    sums: Vec<Option<Tensor>>,
}

impl Gradients {
    pub(super) fn new(parameters: &Parameters) -> Self {
        Self { sums: parameters.vars().map(|_| None).collect() }
    }

    /// Adds what a backward pass gave the variables of layer `layer`; each must have got something.
    pub(super) fn add(&mut self, parameters: &Parameters, layer: usize, store: &GradStore) -> Result<(), TrainError> {
        for (sum, (place, var)) in self.sums.iter_mut().zip(parameters.vars()) {
            if place.0 != layer {
                continue;
            }
            let Some(gradient) = store.get(var.as_tensor()) else {
                return Err(TrainError::MissingGradient { layer, projection: place.1, factor: place.2 });
            };
            *sum = Some(match sum.take() {
                None => gradient.detach(),
                Some(sum) => (sum + gradient)?.detach(),
            });
        }
        Ok(())
    }

    /// The gradients as numbers, one list per variable, in their order.
    pub(super) fn into_values(self, parameters: &Parameters) -> Result<Vec<Vec<f32>>, TrainError> {
        self.sums
            .into_iter()
            .zip(parameters.vars())
            .map(|(sum, ((layer, projection, factor), _))| match sum {
                Some(sum) => Ok(sum.flatten_all()?.to_vec1()?),
                None => Err(TrainError::MissingGradient { layer, projection, factor }),
            })
            .collect()
    }
}

/// Adds the gradients of `weight * loss` of a row, and returns the loss: the sum of its targets' negative
/// log-likelihoods, in nats.
///
/// The layers are run without a graph, keeping each one's input; then, from the last to the first, each is
/// run again with a graph from a fresh leaf, and `sum(output * gradient of output)` is differentiated.
pub(super) fn add_row_gradients(
    model: &Model,
    parameters: &Parameters,
    pass: &Pass<'_>,
    row: &ReadyRow,
    weight: f64,
    gradients: &mut Gradients,
) -> Result<f64, TrainError> {
    let last = model.weights.layers.len() - 1;
    // The last target is predicted, never read.
    let mut x = pass.embed(&row.ids[..row.ids.len() - 1])?;
    let mut inputs = Vec::with_capacity(last);
    for layer in 0..last {
        inputs.push(x.clone());
        x = pass.layer(layer, &x, Graph::Off)?;
    }
    let mut input = Var::from_tensor(&x)?;
    let mut output = pass.layer(last, &input, Graph::On)?;
    let loss = head_loss(model, &output.detach(), &row.ids, &row.targets, weight)?;
    let mut gradient = loss.gradient;
    for layer in (0..=last).rev() {
        let store = (output * gradient)?.sum_all()?.backward()?;
        gradients.add(parameters, layer, &store)?;
        let Some(previous) = layer.checked_sub(1) else {
            break;
        };
        gradient = match store.get(input.as_tensor()) {
            Some(gradient) => gradient.detach(),
            None => {
                return Err(candle_core::Error::Msg(format!("layer {layer} cut the gradient of its input")).into());
            }
        };
        input = Var::from_tensor(&inputs[previous])?;
        output = pass.layer(previous, &input, Graph::On)?;
        inputs.truncate(previous);
    }
    Ok(loss.sum)
}
