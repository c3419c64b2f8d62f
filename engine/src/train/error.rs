//! Why a training cannot start or go on.

use std::path::PathBuf;

use crate::lora::AdapterError;

/// A failure of a training. Rows count from 0, steps from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting out of its bounds.
    #[error("{setting} = {value}: give {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// There is nothing to train on.
    #[error("no rows to train on: {given} given, {dropped} of them left out as longer than max_length {max_length}")]
    NoRows {
        /// Rows given.
        given: usize,
        /// Rows left out.
        dropped: usize,
        /// The limit.
        max_length: usize,
    },
    /// Tokens and mask do not belong together.
    #[error("row {row} has {tokens} tokens and a mask of {mask}: give one mask entry per token")]
    MaskLength {
        /// The row.
        row: usize,
        /// Its tokens.
        tokens: usize,
        /// Its mask's entries.
        mask: usize,
    },
    /// No token is a target.
    #[error(
        "row {row} has no target among its {tokens} tokens: its mask is all false, so there is nothing to learn; mark the assistant's tokens"
    )]
    EmptyMask {
        /// The row.
        row: usize,
        /// Its tokens.
        tokens: usize,
    },
    /// The first token is a target.
    #[error(
        "row {row} marks its first token as a target (the mask marks {targets} of {tokens} tokens): nothing stands before it to predict it from; mark the assistant's tokens only"
    )]
    FirstTokenMasked {
        /// The row.
        row: usize,
        /// Its targets.
        targets: usize,
        /// Its tokens.
        tokens: usize,
    },
    /// A token that the model does not know.
    #[error(
        "row {row}, token {position}: id {id} is outside the model's vocabulary of {vocabulary}; was the row encoded for another model?"
    )]
    UnknownToken {
        /// The row.
        row: usize,
        /// The token's place in it.
        position: usize,
        /// Its id.
        id: u32,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// A weight that is no weight.
    #[error("row {row} has weight {weight}: give a finite number above 0, or leave the row out")]
    Weight {
        /// The row.
        row: usize,
        /// Its weight.
        weight: f32,
    },
    /// The adapter that training starts from has other settings.
    #[error(
        "the adapter to continue from has {setting} = {found}, and this training {wanted}: train with its settings or start without it"
    )]
    StartMismatch {
        /// The setting.
        setting: &'static str,
        /// The adapter's value.
        found: String,
        /// The training's value.
        wanted: String,
    },
    /// The forward pass cut a gradient: an operation without a backward pass stands in it.
    #[error(
        "no gradient reached {factor} of {projection} in layer {layer}: the forward pass has an operation that cuts gradients"
    )]
    MissingGradient {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: crate::lora::Projection,
        /// `lora_A` or `lora_B`.
        factor: &'static str,
    },
    /// KTO's weights balance rows of both kinds.
    #[error(
        "{positives} desirable rows and {negatives} undesirable ones fit: KTO needs both; give some of each, or a larger max_length"
    )]
    OneSided {
        /// Desirable rows.
        positives: usize,
        /// Undesirable rows.
        negatives: usize,
    },
    /// A loss that compares the rows of a batch.
    #[error(
        "{examples} rows in batches of {batch_size}: this loss compares the rows of a batch, so give {least} or more of both"
    )]
    SmallBatch {
        /// Rows that fit.
        examples: usize,
        /// The setting.
        batch_size: usize,
        /// The least.
        least: usize,
    },
    /// A checkpoint of other rows or settings.
    #[error("{} is a checkpoint of another training: its rows, settings or start differ; remove it to start afresh", file.display())]
    OtherTraining {
        /// The checkpoint.
        file: PathBuf,
    },
    /// A checkpoint that cannot be read.
    #[error("the checkpoint {} is damaged: {reason}; remove it to start afresh", file.display())]
    Damaged {
        /// The checkpoint.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk refuses a checkpoint.
    #[error("the checkpoint {}: {source}", file.display())]
    Disk {
        /// The checkpoint.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The training diverged.
    #[error("step {step}: the {what} is {value}; lower the learning rate, or look at the rows of this step: {rows:?}")]
    NotFinite {
        /// The step.
        step: usize,
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The step's rows.
        rows: Vec<usize>,
    },
    /// The caller asked to stop; nothing was written.
    #[error("stopped after step {step} of {total}; no adapter was written")]
    Stopped {
        /// The last step taken.
        step: usize,
        /// All steps.
        total: usize,
    },
    /// The adapter could not be read or written.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The arithmetic library failed.
    #[error("training arithmetic: {0}")]
    Tensor(#[from] candle_core::Error),
}
