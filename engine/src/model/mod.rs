//! Models: their files, configuration and weights, and the forward pass of inference.
//!
//! A model is a `.gguf` file or a Hugging Face folder. Whatever it came from, weights end up on the CPU, in the Hugging Face
//! layout (so that PEFT adapters fit), with matrices packed for the engine's own product as the file keeps them: in f32, in
//! 16 bits or in quantised codes. What is computed is f32 all the same.

mod config;
mod error;
mod folder;
mod forward;
mod gemma;
mod gguf;
mod gguf_tokenizer;
mod rope;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use tokenizers::Tokenizer;

pub use config::{Architecture, ModelConfig};
pub use error::LoadError;
pub use forward::{LogitRows, Segment};
pub use gemma::Gemma;
pub use rope::{Llama3Scaling, RopeScaling, RopeTable};
pub use weights::{HeadNorms, LayerWeights, PostNorms};

use crate::chat::{ChatFormat, ChatSource};
use crate::linear::FrozenLinear;
use folder::ModelFolder;
use gguf::GgufFile;
use weights::{Weight, WeightSource};

/// A loaded model, immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Model {
    /// Its shape.
    pub config: ModelConfig,
    /// Token embeddings, `[vocab, hidden]`.
    pub embedding: FrozenLinear,
    /// The decoder layers, first to last.
    pub layers: Vec<LayerWeights>,
    /// The last norm, `[hidden]`.
    pub norm: Tensor,
    /// From the last norm's output to logits, `[vocab, hidden]`; often the embedding itself.
    pub lm_head: FrozenLinear,
    /// Rotary tables for the whole context.
    pub rope: RopeTable,
    /// Those of layers that see a window only, where they differ.
    pub sliding_rope: Option<RopeTable>,
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
        if path.is_dir() {
            Self::load_folder(path)
        } else if path.is_file() {
            Self::load_gguf(path)
        } else {
            Err(LoadError::NotFound { path: path.to_owned() })
        }
    }

    fn load_gguf(path: &Path) -> Result<Self, LoadError> {
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
        Self::assemble(&mut file, config, tokenizer, source)
    }

    fn load_folder(path: &Path) -> Result<Self, LoadError> {
        let mut folder = ModelFolder::open(path)?;
        let config = folder.config()?;
        let tokenizer = folder.tokenizer()?;
        let files = folder.chat_files()?;
        let source = ChatSource { template: files.template, bos: files.bos, eos: files.eos };
        Self::assemble(&mut folder, config, tokenizer, source)
    }

    fn assemble(
        source: &mut dyn WeightSource,
        config: ModelConfig,
        tokenizer: Tokenizer,
        chat: ChatSource,
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
        let embedding = source.matrix(Weight::Embedding, None, &config)?;
        let layers = (0..config.layers)
            .map(|layer| LayerWeights::read(source, layer, &config))
            .collect::<Result<Vec<_>, _>>()?;
        let lm_head =
            if config.tie_embeddings { embedding.clone() } else { source.matrix(Weight::Output, None, &config)? };
        let norm = source.vector(Weight::OutputNorm, &config)?;
        let rope = RopeTable::new(&config).map_err(failed("the rotary tables"))?;
        let sliding_rope = RopeTable::sliding(&config).map_err(failed("the rotary tables"))?;
        let head = if config.tie_embeddings { 0 } else { lm_head.bytes() };
        let bytes = embedding.bytes() + head + layers.iter().map(LayerWeights::bytes).sum::<usize>();
        tracing::info!(
            path = %path.display(),
            layers = config.layers,
            vocab = config.vocab_size,
            weights_mib = bytes >> 20,
            "model loaded"
        );
        Ok(Self { config, embedding, layers, norm, lm_head, rope, sliding_rope, tokenizer, chat })
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
