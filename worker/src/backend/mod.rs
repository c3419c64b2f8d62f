//! Where replies and scores come from: one trait over whatever serves a model.

mod adapters;
mod api;
mod error;
mod local;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod scripted;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use influence_engine::batch::Session;
use influence_proto::prompts::ChatMessage;
use influence_proto::{Digest, Role, Sampling, ScoreMethod, Scoring};

pub use adapters::{AdapterTable, LoadedAdapter};
pub use api::{ApiBackend, ApiServers, FineTuning, FineTuningJob, JobRequest, JobState};
pub use error::BackendError;
pub use local::LocalBackend;
pub use local::role_of_engine;

/// What a model is given to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A chat; the backend applies the model's format.
    Messages(Vec<ChatMessage>),
    /// Token ids, for backends that have a [`TokenStream`].
    Tokens(Vec<u32>),
}

/// One reply, asked of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// Who asks.
    pub role: Role,
    /// What it continues.
    pub prompt: Prompt,
    /// How it samples.
    pub sampling: Sampling,
    /// Of the reply's own random stream.
    pub seed: u64,
    /// What is asked in the place of the model itself.
    pub variant: Option<Variant>,
    /// Whose earlier prompts it continues; without one, it stands alone.
    pub session: Option<Session>,
}

/// What training has made of a model, as its backend knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variant {
    /// An adapter that it has loaded under this name.
    Adapter(String),
    /// Another model of its server.
    Served(String),
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Decoded, without special tokens.
    pub text: String,
    /// What it continued, where a backend without a [`TokenStream`] can tell afterwards.
    pub prompt_ids: Option<Vec<u32>>,
    /// As sampled, the end-of-turn token included when it was; empty where the backend knows of no tokens.
    pub token_ids: Vec<u32>,
    /// How many tokens were sampled.
    pub generated_tokens: u32,
    /// What it cost, where the model has a price.
    pub nanodollars: u64,
    /// Stopped by the limit or a stop text rather than by the model.
    pub cut_off: bool,
    /// What it continued.
    pub prompt: PromptSeen,
}

/// The probabilities of several allowed answers, asked of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// Who asks.
    pub role: Role,
    /// The chat whose next reply is judged.
    pub messages: Vec<ChatMessage>,
    /// The allowed answers, one or more.
    pub answers: Vec<String>,
    /// How they are read.
    pub scoring: Scoring,
    /// Of the score's own random stream, where replies must be sampled.
    pub seed: u64,
    /// What is asked in the place of the model itself.
    pub variant: Option<Variant>,
    /// Whose earlier prompts it continues; without one, it stands alone.
    pub session: Option<Session>,
}

/// The probability that the reply is each of the allowed answers, not normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerMasses {
    /// In the order of the request.
    pub masses: Vec<(String, f64)>,
    /// How they were read.
    pub method: ScoreMethod,
    /// The prompt that was scored.
    pub prompt: PromptSeen,
    /// Tokens that were sampled for it.
    pub generated_tokens: u32,
    /// What it cost, where the model has a price.
    pub nanodollars: u64,
}

/// A prompt, by its size and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptSeen {
    /// Its length.
    pub tokens: u32,
    /// How many of those the model or its server had in a cache.
    pub reused: u32,
    /// Of its token ids as little-endian u32, or of the messages as they were sent.
    pub sha256: Digest,
}

impl PromptSeen {
    /// Describes a prompt.
    pub fn of(ids: &[u32]) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        Self { tokens: counted(ids.len()), reused: 0, sha256: Digest::of(bytes) }
    }
}

fn counted(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// Serves one model. Dropping a pending call takes it back.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// The model's tokens, where the backend can tell: training needs those of the agent.
    fn tokens(&self) -> Option<&dyn TokenStream>;

    /// Whose protocol, or `influence` for models of this process; as traces name it.
    fn provider(&self) -> &'static str {
        "influence"
    }

    /// Samples a reply.
    ///
    /// # Errors
    /// [`BackendError`]: the prompt is too long, is refused, or the backend does not answer.
    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError>;

    /// Reads the probabilities of the allowed answers.
    ///
    /// # Errors
    /// As [`Backend::generate`].
    async fn score(&self, request: ScoreRequest) -> Result<AnswerMasses, BackendError>;

    /// Makes the adapter in a PEFT folder available under a name.
    ///
    /// # Errors
    /// When the folder is no adapter of this model, or the backend takes none.
    async fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), BackendError>;

    /// Forgets an adapter. Calls in progress keep it until they end; unknown names are ignored.
    fn drop_adapter(&self, name: &str);
}

/// From messages to token ids, in a stream that only grows.
pub trait TokenStream: Send + Sync {
    /// The ids of a whole prompt.
    ///
    /// # Errors
    /// When the model's format refuses the chat.
    fn prompt(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, BackendError>;

    /// The ids to append to a prompt and the reply sampled from it, so that the whole is the next prompt. `messages` are
    /// those of that prompt; `closed`: the reply ended by itself. None when this format cannot be extended.
    ///
    /// # Errors
    /// When the model's format refuses the chat.
    fn extend(
        &self,
        messages: &[ChatMessage],
        reply: &[u32],
        closed: bool,
        added: &[ChatMessage],
    ) -> Result<Option<Vec<u32>>, BackendError>;
}

/// The models that this worker serves, by name. Several names may share one loaded model.
#[derive(Debug, Clone, Default)]
pub struct Models {
    by_name: BTreeMap<String, Arc<dyn Backend>>,
}

impl Models {
    /// No models.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `name` by `backend`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, backend: Arc<dyn Backend>) -> Self {
        self.by_name.insert(name.into(), backend);
        self
    }

    /// The backend of a model.
    ///
    /// # Errors
    /// [`BackendError::Refused`] when this worker does not serve it; lists those that it does.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Backend>, BackendError> {
        self.by_name.get(name).ok_or_else(|| {
            let known: Vec<_> = self.by_name.keys().map(|name| format!("`{name}`")).collect();
            BackendError::Refused(format!("this worker serves {}, not the model `{name}`", known.join(", ")))
        })
    }
}
