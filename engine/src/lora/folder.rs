//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.

use super::config::PeftConfig;
use super::projection::Factor;
use super::{AdapterError, LoraConfig, Projection};
use crate::model::ModelConfig;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The two matrices of one projection's update, f32 on the CPU.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
}

/// An adapter's content: its settings and a pair for every target of every layer.
#[derive(Debug, Clone)]
pub struct LoraWeights {
    /// The settings.
    pub config: LoraConfig,
    /// The pairs by (layer, projection).
    pub pairs: BTreeMap<(usize, Projection), LoraPair>,
}

impl LoraWeights {
    /// Reads a PEFT folder written for a model of this shape; f16 and bf16 become f32.
    ///
    /// # Errors
    /// A missing or damaged file, a setting that we cannot honour, a tensor that is missing, unknown, of the
    /// wrong shape or not finite: each names the file and the tensor.
    pub fn read(folder: &Path, model: &ModelConfig) -> Result<Self, AdapterError> {
        let config = read_config(&folder.join(CONFIG_FILE))?;
        let path = folder.join(WEIGHTS_FILE);
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| AdapterError::Damaged { path: path.clone(), reason: error.to_string() })?;
        let reader = Reader { path: &path, rank: config.rank, file };
        let mut pairs = BTreeMap::new();
        for layer in 0..model.layers {
            for projection in &config.targets {
                let (inputs, outputs) = projection.widths(model);
                let name = |factor| projection.tensor_name(layer, factor);
                let a = reader.tensor(&name(Factor::A), [config.rank, inputs])?;
                let b = reader.tensor(&name(Factor::B), [outputs, config.rank])?;
                pairs.insert((layer, *projection), LoraPair { a, b });
            }
        }
        reader.refuse_unknown(&config, model.layers)?;
        Ok(Self { config, pairs })
    }

    /// Writes a PEFT folder in the place of what `folder` holds. Both files are written beside it, forced to
    /// the disk and renamed as one, so a folder of that name is always whole, whenever this is interrupted.
    /// `base_model` is what PEFT calls `base_model_name_or_path`.
    ///
    /// # Errors
    /// When the disk refuses, with the file's name.
    pub fn write(&self, folder: &Path, base_model: Option<&str>) -> Result<(), AdapterError> {
        let partial = sibling(folder, "partial");
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(io("create", &partial))?;
        let config = PeftConfig::of(&self.config, base_model);
        let path = partial.join(CONFIG_FILE);
        let json = serde_json::to_vec_pretty(&config)
            .map_err(|error| AdapterError::Config { path: path.clone(), reason: error.to_string() })?;
        write_synced(&path, &json)?;
        let path = partial.join(WEIGHTS_FILE);
        write_synced(&path, &self.serialize(&path)?)?;
        sync_folder(&partial)?;
        replace(&partial, folder)
    }

    fn serialize(&self, path: &Path) -> Result<Vec<u8>, AdapterError> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for ((layer, projection), pair) in &self.pairs {
            for (factor, tensor) in [(Factor::A, &pair.a), (Factor::B, &pair.b)] {
                let values = tensor
                    .flatten_all()
                    .and_then(|tensor| tensor.to_vec1::<f32>())
                    .map_err(|source| AdapterError::Tensor { layer: *layer, projection: *projection, source })?;
                let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
                let name = projection.tensor_name(*layer, factor);
                tensors.push((name, tensor.dims().to_vec(), bytes));
            }
        }
        let damaged = |error: safetensors::SafeTensorError| AdapterError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(damaged)?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata)).map_err(damaged)
    }
}

fn read_config(path: &Path) -> Result<LoraConfig, AdapterError> {
    let text = fs::read_to_string(path).map_err(io("read", path))?;
    let config: PeftConfig = serde_json::from_str(&text)
        .map_err(|error| AdapterError::Config { path: path.to_owned(), reason: error.to_string() })?;
    config.into_config(path)
}

struct Reader<'a> {
    path: &'a Path,
    rank: usize,
    file: SafeTensors<'a>,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, expected: [usize; 2]) -> Result<Tensor, AdapterError> {
        let Ok(view) = self.file.tensor(name) else {
            return Err(AdapterError::MissingTensor { path: self.path.to_owned(), tensor: name.to_owned() });
        };
        if view.shape() != expected {
            return Err(AdapterError::Shape {
                path: self.path.to_owned(),
                tensor: name.to_owned(),
                found: view.shape().to_vec(),
                rank: self.rank,
                expected: expected.to_vec(),
            });
        }
        let damaged = |reason: String| AdapterError::Damaged {
            path: self.path.to_owned(),
            reason: format!("tensor {name}: {reason}"),
        };
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(damaged(format!("{other:?} values; F32, F16, BF16 are read")));
            }
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|error| damaged(error.to_string()))?;
        let values = tensor
            .flatten_all()
            .and_then(|tensor| tensor.to_vec1::<f32>())
            .map_err(|error| damaged(error.to_string()))?;
        if values.iter().all(|value| value.is_finite()) {
            Ok(tensor)
        } else {
            Err(AdapterError::NotFinite { path: self.path.to_owned(), tensor: name.to_owned() })
        }
    }

    /// A tensor that nothing uses would change the model in PEFT and not here.
    fn refuse_unknown(&self, config: &LoraConfig, layers: usize) -> Result<(), AdapterError> {
        let known: HashSet<String> = (0..layers)
            .flat_map(|layer| {
                config.targets.iter().flat_map(move |projection| {
                    [Factor::A, Factor::B].map(|factor| projection.tensor_name(layer, factor))
                })
            })
            .collect();
        let mut names = self.file.names();
        names.sort_unstable();
        match names.into_iter().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(AdapterError::UnknownTensor {
                path: self.path.to_owned(),
                tensor: name.to_owned(),
                targets: config.target_names().join(", "),
                layers,
            }),
        }
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AdapterError {
    let path = path.to_owned();
    move |source| AdapterError::Io { action, path, source }
}

/// `.NAME.suffix` beside `folder`: on the same file system, so that a rename is atomic.
fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{suffix}"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), AdapterError> {
    let mut file = File::create(path).map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("write", path))
}

fn sync_folder(folder: &Path) -> Result<(), AdapterError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("write", folder))
}

fn remove(folder: &Path) -> Result<(), AdapterError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Moves `partial` to `folder`; what stood there steps aside first, since a rename replaces no full folder.
fn replace(partial: &Path, folder: &Path) -> Result<(), AdapterError> {
    let former = sibling(folder, "former");
    remove(&former)?;
    if folder.exists() {
        fs::rename(folder, &former).map_err(io("replace", folder))?;
    }
    fs::rename(partial, folder).map_err(io("create", folder))?;
    if let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) {
        sync_folder(parent)?;
    }
    remove(&former)
}
