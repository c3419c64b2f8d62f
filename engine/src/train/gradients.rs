//! The gradients of rows, layer by layer. The layers whose graphs memory does not hold are run again (activation checkpointing,
//! arXiv 1604.06174).

use super::TrainError;
use super::layer::Pass;
use super::loss::{HeadLoss, head_loss, head_sums};
use super::operations::{BaseWeight, Tape, TapeGradients};
use super::parameters::Parameters;
use super::rows::ReadyRow;
use candle_core::{DType, Tensor};

/// The sum of the gradients so far, in the order of [`Parameters::vars`].
#[derive(Debug)]
pub(super) struct Gradients {
    sums: Vec<Option<Tensor>>,
}

impl Gradients {
    pub(super) fn new(parameters: &Parameters) -> Self {
        Self { sums: parameters.vars().map(|_| None).collect() }
    }

    /// Adds what a backward pass gave the variables of layer `layer`, times `factor`; each must have got something.
    pub(super) fn add(
        &mut self,
        parameters: &Parameters,
        layer: usize,
        slopes: &TapeGradients,
        factor: f64,
    ) -> Result<(), TrainError> {
        for (sum, (place, var)) in self.sums.iter_mut().zip(parameters.vars()) {
            if place.0 != layer {
                continue;
            }
            let Some(gradient) = slopes.of(var) else {
                return Err(TrainError::MissingGradient { layer, projection: place.1, factor: place.2 });
            };
            let gradient = gradient.affine(factor, 0.0)?;
            *sum = Some(match sum.take() {
                None => gradient,
                Some(sum) => (sum + gradient)?,
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

/// Rows that went through the model, with what their backward pass needs of every layer: its graph where memory allows, else
/// its input, from which it is run again with a graph.
///
/// From the last layer to the first, the gradient of a layer's output is made one of its input.
#[derive(Debug)]
pub(super) struct Ran<'a, B: BaseWeight> {
    parameters: &'a Parameters,
    pass: Pass<'a, B>,
    lengths: Vec<usize>,
    layers: Vec<Kept>,
    head: HeadLoss,
}

/// The same, wherever the model is.
pub(super) trait Backward {
    /// Of each row, the sum of its targets' negative log-likelihoods, in nats.
    fn losses(&self) -> &[f64];

    /// Targets that the model would have chosen.
    fn correct(&self) -> usize;

    /// Adds the gradients of the sum of each row's loss times its factor.
    fn add_gradients(self: Box<Self>, factors: &[f64], gradients: &mut Gradients) -> Result<(), TrainError>;
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
    input: Tensor,
    output: Tensor,
    tape: Tape,
}

impl Graphed {
    fn run<B: BaseWeight>(pass: &Pass<'_, B>, layer: usize, input: Tensor) -> Result<Self, TrainError> {
        let tape = Tape::on();
        let output = pass.layer(layer, &input, &tape)?;
        Ok(Self { input, output, tape })
    }
}

impl<'a, B: BaseWeight> Ran<'a, B> {
    /// `memory` is for the graphs, in bytes.
    pub(super) fn new(
        parameters: &'a Parameters,
        pass: Pass<'a, B>,
        rows: &[&ReadyRow],
        memory: usize,
    ) -> Result<Self, TrainError> {
        let mut x = pass.embed(rows)?;
        let count = pass.base.weights.layers.len();
        // The last layer's backward pass comes first.
        let graphs = (memory / pass.graph_bytes()).clamp(1, count);
        let mut layers = Vec::with_capacity(count);
        for layer in 0..count {
            let (kept, output) = if layer + graphs < count {
                let output = pass.layer(layer, &x, &Tape::off())?;
                (Kept::Input(x), output)
            } else {
                let graphed = Graphed::run(&pass, layer, x)?;
                let output = graphed.output.clone();
                (Kept::Graph(graphed), output)
            };
            layers.push(kept);
            x = output;
        }
        let head = head_loss(&pass, &x, rows)?;
        let lengths = rows.iter().map(|row| row.ids.len() - 1).collect();
        Ok(Self { parameters, pass, lengths, layers, head })
    }

    /// The gradient of the last layer's outputs, each row's times its factor.
    fn weighted(&self, factors: &[f64]) -> candle_core::Result<Tensor> {
        let gradient = &self.head.gradient;
        let rows = factors.iter().zip(&self.lengths);
        let factors: Vec<f32> =
            rows.flat_map(|(factor, tokens)| std::iter::repeat_n(*factor as f32, *tokens)).collect();
        let factors = Tensor::new(factors, gradient.device())?.unsqueeze(1)?;
        gradient.to_dtype(DType::F32)?.broadcast_mul(&factors)?.to_dtype(gradient.dtype())
    }
}

impl<B: BaseWeight> Backward for Ran<'_, B> {
    fn losses(&self) -> &[f64] {
        &self.head.sums
    }

    fn correct(&self) -> usize {
        self.head.correct
    }

    fn add_gradients(self: Box<Self>, factors: &[f64], gradients: &mut Gradients) -> Result<(), TrainError> {
        // On their way through the layers, gradients are of the size of a single row's: 16 bits do not reach much lower.
        let largest = factors.iter().fold(0.0f64, |largest, factor| largest.max(factor.abs()));
        let largest = if largest > 0.0 { largest } else { 1.0 };
        let shares: Vec<f64> = factors.iter().map(|factor| factor / largest).collect();
        let mut gradient = self.weighted(&shares)?;
        let Self { parameters, pass, layers, .. } = *self;
        for (layer, kept) in layers.into_iter().enumerate().rev() {
            let Graphed { input, output, tape } = match kept {
                Kept::Graph(graphed) => graphed,
                Kept::Input(x) => Graphed::run(&pass, layer, x)?,
            };
            let slopes = tape.backward(&output, gradient)?;
            gradients.add(parameters, layer, &slopes, largest)?;
            gradient = match slopes.of(&input) {
                Some(gradient) => gradient.clone(),
                None => {
                    return Err(candle_core::Error::Msg(format!("layer {layer} cut the gradient of its input")).into());
                }
            };
        }
        Ok(())
    }
}

impl<B: BaseWeight> Pass<'_, B> {
    /// As [`Backward::losses`], of rows that need no gradient.
    pub(super) fn losses(&self, rows: &[&ReadyRow]) -> Result<Vec<f64>, TrainError> {
        let mut x = self.embed(rows)?;
        for layer in 0..self.base.weights.layers.len() {
            x = self.layer(layer, &x, &Tape::off())?;
        }
        Ok(head_sums(self, &x, rows)?)
    }
}
