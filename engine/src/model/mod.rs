//! Models: their files, configuration and weights, and the forward pass of inference.
//!
//! A model is a `.gguf` file or a Hugging Face folder. Whatever it came from, weights end up on the CPU, in the Hugging Face
//! layout (so that PEFT adapters fit), with matrices packed for the engine's own product as the file keeps them: in f32, in
//! 16 bits or in quantised codes. What is computed is f32 all the same, unless the placement says otherwise.

mod config;
mod error;
mod folder;
mod forward;
mod gemma;
mod gguf;
mod gguf_gemma;
mod gguf_sentencepiece;
mod gguf_tokenizer;
mod placement;
mod rope;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use tokenizers::Tokenizer;

pub use config::{Architecture, ModelConfig};
pub use error::LoadError;
pub(crate) use forward::brought;
pub use forward::{LogitRows, Segment};
pub use gemma::Gemma;
pub use placement::{Placement, PlacementError};
pub use rope::{Llama3Scaling, RopeScaling, RopeTable};
pub use weights::{DecoderWeights, HeadNorms, LayerWeights, PostNorms};

use crate::attention::KvType;
use crate::chat::{ChatFormat, ChatSource};
use crate::linear::PlacedLinear;
use folder::ModelFolder;
use gguf::GgufFile;
use weights::WeightSource;

/// Weights on a device.
#[derive(Debug)]
struct Placed {
    weights: DecoderWeights<PlacedLinear>,
    device: Device,
    dtype: DType,
}

impl Placed {
    /// Call it on a thread that may drop what is on the device.
    fn bind_thread(&self) {
        #[cfg(feature = "cuda")]
        crate::cuda::bind(&self.device);
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.bind_thread();
    }
}

/// A loaded model, immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Model {
    /// Its shape.
    pub config: ModelConfig,
    /// Its weights, packed on the CPU.
    pub weights: DecoderWeights,
    /// A copy that inference uses instead, if it was loaded for a device.
    placed: Option<Placed>,
    /// How keys and values are kept, if it was not.
    kv: KvType,
    /// The model's own tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's own chat template, and everything that goes from messages to tokens.
    pub chat: ChatFormat,
}

impl Model {
    /// Loads a `.gguf` file, or a folder with `config.json`, `tokenizer.json`, `tokenizer_config.json` and safetensors
    /// (one file or sharded).
    ///
    /// # Errors
    /// [`LoadError`], which names the file, the key or tensor, and what would have been accepted.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::load_for(path, &Placement::CPU)
    }

    /// As [`Self::load`], for inference at `placement`.
    ///
    /// # Errors
    /// As [`Self::load`], and when the device has no room.
    pub fn load_for(path: &Path, placement: &Placement) -> Result<Self, LoadError> {
        if path.is_dir() {
            Self::load_folder(path, placement)
        } else if path.is_file() {
            Self::load_gguf(path, placement)
        } else {
            Err(LoadError::NotFound { path: path.to_owned() })
        }
    }

    fn load_gguf(path: &Path, placement: &Placement) -> Result<Self, LoadError> {
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("gguf")) {
            return Err(LoadError::NotAModel {
                path: path.to_owned(),
                reason: "a single file must be a .gguf file".to_owned(),
            });
        }
        let mut file = GgufFile::open(path)?;
        let config = file.config()?;
        let tokenizer = gguf_tokenizer::from_gguf(&file)?;
        let token_text = |key: &str| -> Result<Option<String>, LoadError> {
            let id = file.token_id(key)?;
            Ok(id.and_then(|id| tokenizer.id_to_token(id)))
        };
        let source = ChatSource {
            template: file.optional_text("tokenizer.chat_template")?.map(str::to_owned),
            bos: token_text("tokenizer.ggml.bos_token_id")?,
            eos: token_text("tokenizer.ggml.eos_token_id")?,
        };
        Self::assemble(&mut file, config, tokenizer, source, placement)
    }

    fn load_folder(path: &Path, placement: &Placement) -> Result<Self, LoadError> {
        let mut folder = ModelFolder::open(path)?;
        let config = folder.config()?;
        let tokenizer = folder.tokenizer()?;
        let files = folder.chat_files()?;
        let source = ChatSource { template: files.template, bos: files.bos, eos: files.eos };
        Self::assemble(&mut folder, config, tokenizer, source, placement)
    }

    fn assemble(
        source: &mut dyn WeightSource,
        config: ModelConfig,
        tokenizer: Tokenizer,
        chat: ChatSource,
        placement: &Placement,
    ) -> Result<Self, LoadError> {
        let path = source.path().to_owned();
        let failed = |tensor: &'static str| {
            let path = path.clone();
            move |source| LoadError::Tensor { path, tensor: tensor.to_owned(), source: Box::new(source) }
        };
        check_vocabulary(&tokenizer, &config, &path)?;
        let tokenizer = Arc::new(tokenizer);
        let chat = ChatFormat::new(chat, tokenizer.clone(), &config.eos)
            .map_err(|source| LoadError::Chat { path: path.clone(), source })?;
        let mut weights = DecoderWeights::read(source, &config)?;
        if matches!(placement, Placement::Cpu { int8: true, .. }) {
            weights.turn_into_integers(&config);
        }
        tracing::info!(
            path = %path.display(),
            layers = config.layers,
            vocab = config.vocab_size,
            weights_mib = weights.bytes(&config) >> 20,
            "model loaded"
        );
        let (kv, placed) = match placement {
            Placement::Cpu { kv, .. } => (*kv, None),
            Placement::Device { device, dtype } => {
                let placed = weights.place(&config, device, *dtype).map_err(failed("the copy on the device"))?;
                (KvType::default(), Some(Placed { weights: placed, device: device.clone(), dtype: *dtype }))
            }
        };
        Ok(Self { config, weights, placed, kv, tokenizer, chat })
    }

    /// The weights on the device, if it was loaded for one.
    pub(crate) fn placed_weights(&self) -> Option<&DecoderWeights<PlacedLinear>> {
        self.placed.as_ref().map(|placed| &placed.weights)
    }

    /// Prepares this thread to drop what is on the device.
    pub(crate) fn bind_thread(&self) {
        if let Some(placed) = &self.placed {
            placed.bind_thread();
        }
    }

    /// Where an adapter is trained: where inference runs.
    pub(crate) fn training_device(&self) -> &Device {
        self.placed.as_ref().map_or(&Device::Cpu, |placed| &placed.device)
    }

    /// Encodes plain text: no special tokens are added, and special tokens that the text spells out are recognised.
    ///
    /// # Errors
    /// What the tokenizer reports.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        Ok(self.tokenizer.encode_fast(text, false)?.get_ids().to_vec())
    }
}

/// A tokenizer that can produce ids without an embedding belongs to another model.
fn check_vocabulary(tokenizer: &Tokenizer, config: &ModelConfig, path: &Path) -> Result<(), LoadError> {
    let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
    if highest >= config.vocab_size {
        return Err(LoadError::InvalidValue {
            path: path.to_owned(),
            key: "vocabulary size".to_owned(),
            value: config.vocab_size.to_string(),
            expected: format!("more than {highest}, the tokenizer's highest id"),
        });
    }
    Ok(())
}
