//! A row's gradients, layer by layer. The layers whose graphs memory does not hold are run again (activation checkpointing,
//! arXiv 1604.06174).

use super::TrainError;
use super::layer::{Graph, Pass};
use super::loss::{HeadLoss, head_loss, head_sum};
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

/// A row that went through the model, with what its backward pass needs of every layer: its graph where memory allows, else
/// its input, from which it is run again with a graph.
///
/// From the last layer to the first, `sum(output * gradient of output)` is differentiated.
#[derive(Debug)]
pub(super) struct Ran<'p> {
    parameters: &'p Parameters,
    pass: &'p Pass<'p>,
    layers: Vec<Kept>,
    head: HeadLoss,
}

/// What is kept of a layer between its forward and its backward pass.
#[derive(Debug)]
enum Kept {
    Input(Tensor),
    Graph(Graphed),
}

/// A layer's output, with a graph that ends at its input.
#[derive(Debug)]
struct Graphed {
    input: Var,
    output: Tensor,
}

impl Graphed {
    fn run(pass: &Pass<'_>, layer: usize, x: &Tensor) -> Result<Self, TrainError> {
        let input = Var::from_tensor(x)?;
        let output = pass.layer(layer, &input, Graph::On)?;
        Ok(Self { input, output })
    }
}

impl<'p> Ran<'p> {
    /// `memory` is for the graphs, in bytes.
    pub(super) fn new(
        model: &Model,
        parameters: &'p Parameters,
        pass: &'p Pass<'p>,
        row: &ReadyRow,
        memory: usize,
    ) -> Result<Self, TrainError> {
        // The last target is predicted, never read.
        let mut x = pass.embed(&row.ids[..row.ids.len() - 1])?;
        let count = model.weights.layers.len();
        // The last layer's backward pass comes first.
        let graphs = (memory / pass.graph_bytes(row.ids.len())).clamp(1, count);
        let mut layers = Vec::with_capacity(count);
        for layer in 0..count {
            let (kept, output) = if layer + graphs < count {
                let output = pass.layer(layer, &x, Graph::Off)?;
                (Kept::Input(x), output)
            } else {
                let graphed = Graphed::run(pass, layer, &x)?;
                let output = graphed.output.detach();
                (Kept::Graph(graphed), output)
            };
            layers.push(kept);
            x = output;
        }
        let head = head_loss(model, &x, &row.ids, &row.targets)?;
        Ok(Self { parameters, pass, layers, head })
    }

    /// The sum of the targets' negative log-likelihoods, in nats.
    pub(super) fn loss(&self) -> f64 {
        self.head.sum
    }

    /// Targets that the model would have chosen.
    pub(super) fn correct(&self) -> usize {
        self.head.correct
    }

    /// Adds the gradients of `factor * loss`.
    pub(super) fn add_gradients(self, factor: f64, gradients: &mut Gradients) -> Result<(), TrainError> {
        let Self { parameters, pass, layers, head } = self;
        let mut gradient = (head.gradient * factor)?;
        for (layer, kept) in layers.into_iter().enumerate().rev() {
            let Graphed { input, output } = match kept {
                Kept::Graph(graphed) => graphed,
                Kept::Input(x) => Graphed::run(pass, layer, &x)?,
            };
            let store = (output * gradient)?.sum_all()?.backward()?;
            gradients.add(parameters, layer, &store)?;
            gradient = match store.get(input.as_tensor()) {
                Some(gradient) => gradient.detach(),
                None => {
                    return Err(candle_core::Error::Msg(format!("layer {layer} cut the gradient of its input")).into());
                }
            };
        }
        Ok(())
    }
}

impl Pass<'_> {
    /// As [`Ran::loss`], of a row that needs no gradient.
    pub(super) fn loss(&self, row: &ReadyRow) -> Result<f64, TrainError> {
        let model = self.model();
        let mut x = self.embed(&row.ids[..row.ids.len() - 1])?;
        for layer in 0..model.weights.layers.len() {
            x = self.layer(layer, &x, Graph::Off)?;
        }
        Ok(head_sum(model, &x, &row.ids, &row.targets)?)
    }
}
