//! A training's state on disk: the adapter, the optimiser's moments and how far it has come. Everything that is drawn is
//! drawn by counters, so there is no random state.

use super::optimizer::AdamW;
use super::parameters::{Parameters, Place};
use super::{TrainError, TrainOptions, TrainReport, TrainingData};
use crate::model::Model;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a checkpoint belongs to: the model, settings, rows and the adapter at the start.
pub(super) type Fingerprint = String;

const FINGERPRINT: &str = "training";
const REPORT: &str = "report";
const REFERENCE: &str = "reference";

/// Of a training that has not begun.
pub(super) fn fingerprint(
    model: &Model,
    data: &TrainingData,
    options: &TrainOptions,
    start: &Parameters,
) -> Result<Fingerprint, TrainError> {
    let mut hash = Sha256::new();
    // Neither is part of what is computed.
    let options = TrainOptions { base_model: None, graph_memory: None, ..options.clone() };
    let placed = model.placed_weights().map(|weights| weights.norm.dtype());
    hash.update(format!("checkpoint 3, {options:?}, {:?}, {placed:?}", model.config));
    // What a vector becomes depends on every weight that it meets.
    let probe = Tensor::ones((1, model.config.hidden_size), DType::F32, &Device::Cpu)?;
    for layer in &model.weights.layers {
        for projection in [&layer.q, &layer.up] {
            hash.update(bytes(&projection.forward(&probe)?.flatten_all()?.to_vec1()?));
        }
    }
    match data {
        TrainingData::Supervised(rows) => hash_all(&mut hash, rows),
        TrainingData::Kto(rows, options) => {
            hash.update(format!("{options:?}"));
            hash_all(&mut hash, rows);
        }
        TrainingData::Dpo(rows, options) => {
            hash.update(format!("{options:?}"));
            hash_all(&mut hash, rows);
        }
    }
    for (_, var) in start.vars() {
        hash.update(bytes(&var.flatten_all()?.to_vec1()?));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn hash_all<T: std::fmt::Debug>(hash: &mut Sha256, rows: &[T]) {
    for row in rows {
        hash.update(format!("{row:?}"));
    }
}

/// A checkpoint as it was read.
#[derive(Debug)]
pub(super) struct Checkpoint<'a> {
    file: &'a Path,
    bytes: Vec<u8>,
    pub(super) report: TrainReport,
    /// Log-probabilities by the reference, as the objective keeps them.
    pub(super) reference: Vec<f64>,
}

impl<'a> Checkpoint<'a> {
    /// None if there is none.
    pub(super) fn read(file: &'a Path, fingerprint: &Fingerprint) -> Result<Option<Self>, TrainError> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(disk(file, e)),
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(file, e))?;
        let text = |key: &str| header.metadata().as_ref().and_then(|all| all.get(key)).cloned();
        let (Some(of), Some(report), Some(reference)) = (text(FINGERPRINT), text(REPORT), text(REFERENCE)) else {
            return Err(damaged(file, "it says nothing of a training"));
        };
        if of != *fingerprint {
            return Err(TrainError::OtherTraining { file: file.to_owned() });
        }
        let report = serde_json::from_str(&report).map_err(|e| damaged(file, e))?;
        let reference = serde_json::from_str(&reference).map_err(|e| damaged(file, e))?;
        Ok(Some(Self { file, bytes, report, reference }))
    }

    /// Puts parameters and moments back, and returns how far the training had come.
    pub(super) fn restore(self, parameters: &Parameters, optimizer: &mut AdamW) -> Result<TrainReport, TrainError> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| damaged(self.file, e))?;
        let values = |name: String, count: usize| {
            let view = tensors.tensor(&name).map_err(|e| damaged(self.file, e))?;
            let values: Vec<f32> =
                view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            match values.len() == count {
                true => Ok(values),
                false => Err(damaged(self.file, format!("`{name}` has {} values, not {count}", values.len()))),
            }
        };
        for (index, (place, var)) in parameters.vars().enumerate() {
            let [value, first, second] = names(&place).map(|name| values(name, var.elem_count()));
            optimizer.restore(index, &first?, &second?);
            var.set(&Tensor::from_vec(value?, var.shape(), var.device())?)?;
        }
        optimizer.set_steps(self.report.steps);
        Ok(self.report)
    }
}

/// How many steps the training of a checkpoint has done. None where there is no checkpoint that can be read.
pub fn steps_done(file: &Path) -> Option<usize> {
    let bytes = fs::read(file).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let report: TrainReport = serde_json::from_str(header.metadata().as_ref()?.get(REPORT)?).ok()?;
    Some(report.steps)
}

/// Writes a checkpoint in the place of the last one, at once.
pub(super) fn write(
    file: &Path,
    fingerprint: &Fingerprint,
    parameters: &Parameters,
    optimizer: &AdamW,
    report: &TrainReport,
    reference: &[f64],
) -> Result<(), TrainError> {
    let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
    for (index, (place, var)) in parameters.vars().enumerate() {
        let (first, second) = optimizer.moments(index);
        let [value_name, first_name, second_name] = names(&place);
        tensors.push((value_name, bytes(&var.flatten_all()?.to_vec1()?)));
        tensors.push((first_name, bytes(&first)));
        tensors.push((second_name, bytes(&second)));
    }
    let views = tensors.iter().map(|(name, bytes)| {
        TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).map(|view| (name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(file, e))?;
    let report = serde_json::to_string(report).map_err(|e| damaged(file, e))?;
    let reference = serde_json::to_string(reference).map_err(|e| damaged(file, e))?;
    let metadata = [(FINGERPRINT, fingerprint.clone()), (REPORT, report), (REFERENCE, reference)];
    let metadata = HashMap::from(metadata.map(|(key, value)| (key.to_owned(), value)));
    let whole = safetensors::serialize(views, Some(metadata)).map_err(|e| damaged(file, e))?;
    // An attempt that was given up may still write while the next one does.
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".{}-{}.partial", std::process::id(), WRITTEN.fetch_add(1, Relaxed)));
    let partial = PathBuf::from(partial);
    let written = File::create(&partial).and_then(|mut partial| {
        partial.write_all(&whole)?;
        partial.sync_all()
    });
    written.and_then(|()| fs::rename(&partial, file)).map_err(|e| disk(file, e))
}

/// Of a training that has ended.
pub(super) fn remove(file: &Path) -> Result<(), TrainError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(disk(file, e)),
        _ => Ok(()),
    }
}

/// Of a parameter, its first moment and its second.
fn names((layer, projection, factor): &Place) -> [String; 3] {
    ["parameter", "first", "second"].map(|what| format!("{what}.{layer}.{projection}.{factor}"))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn disk(file: &Path, source: std::io::Error) -> TrainError {
    TrainError::Disk { file: file.to_owned(), source }
}

fn damaged(file: &Path, reason: impl ToString) -> TrainError {
    TrainError::Damaged { file: file.to_owned(), reason: reason.to_string() }
}
