//! Models behind an API: OpenAI's chat completions, as many servers speak them, and Anthropic's messages.

mod answers;
mod cache;
mod chat;
mod endpoint;
mod failure;
mod fine_tuning;
mod gate;
mod learned;
mod scores;
mod tries;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use influence_proto::{ApiModel, Digest, Sampling};
use serde_json::{Map, Value, json};

use super::{
    AnswerMasses, Backend, BackendError, GenerateRequest, Generation, Prompt, PromptSeen, ScoreRequest, TokenStream,
    Variant,
};
use cache::Request;
use chat::{Reply, Usage};
use endpoint::{Address, Endpoint};
use failure::Failure;
use learned::Learned;

pub use fine_tuning::{FineTuning, FineTuningJob, JobRequest, JobState};

/// A token has about so many characters, where a budget of tokens wants to know before the server says.
const CHARACTERS_PER_TOKEN: usize = 4;

/// The servers that a process talks to. Models of one server with one key and the same limits share its window.
#[derive(Debug, Default)]
pub struct ApiServers {
    /// Where answers are kept, if so.
    cache: Option<PathBuf>,
    known: Mutex<HashMap<Address, Arc<Endpoint>>>,
}

impl ApiServers {
    /// None yet. `cache`: a folder in which answers are kept, and looked for before a server is asked.
    pub fn new(cache: Option<PathBuf>) -> Self {
        Self { cache, known: Mutex::default() }
    }

    /// A model, after its server was asked whether it is there.
    ///
    /// # Errors
    /// In words: the key is missing or refused, or the server does not answer.
    pub async fn open(&self, api: &ApiModel) -> Result<ApiBackend, String> {
        let address = Address::new(api.protocol, &api.url, api.key_variable.as_deref(), api.limits);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        let endpoint = match known {
            Some(endpoint) => endpoint,
            None => Arc::new(Endpoint::new(&address, self.cache.clone())?),
        };
        if let Some(models) = endpoint.models().await?
            && !models.contains(&api.model)
        {
            let few: Vec<_> = models.iter().take(10).map(String::as_str).collect();
            tracing::warn!(url = %api.url, model = %api.model, known = few.join(", "), "the server does not list this model");
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = known.entry(address).or_insert(endpoint).clone();
        Ok(ApiBackend { endpoint, api: api.clone(), learned: Learned::new(), process: this_process() })
    }

    /// Requests that were answered by a failure, and are made again and again now.
    pub fn backing_off(&self) -> u32 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().map(|endpoint| endpoint.backing_off()).sum()
    }

    /// Says what every server was asked.
    pub fn log(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|endpoint| endpoint.log());
    }
}

/// A model behind an API.
#[derive(Debug)]
pub struct ApiBackend {
    endpoint: Arc<Endpoint>,
    api: ApiModel,
    learned: Learned,
    /// Keeps the adapters of this process apart from those of others at the same server.
    process: String,
}

impl ApiBackend {
    /// The adapter's name at the server.
    fn adapter(&self, name: &str) -> String {
        format!("{name}-{}", self.process)
    }

    /// The server's interface for training this model.
    pub fn fine_tuning(&self) -> FineTuning {
        FineTuning::new(self.endpoint.clone(), self.api.clone())
    }

    /// What the server calls the model, or a variant of it.
    fn model(&self, variant: Option<&Variant>) -> Result<String, BackendError> {
        match variant {
            None => Ok(self.api.model.clone()),
            Some(Variant::Served(model)) => Ok(model.clone()),
            Some(Variant::Adapter(name)) if self.api.adapters => Ok(self.adapter(name)),
            Some(Variant::Adapter(_)) => {
                Err(BackendError::Refused(format!("`{}` is behind an API, which takes no adapters", self.api.model)))
            }
        }
    }

    /// Up to `count` replies of the model, or of a variant of it, with what they used.
    async fn replies(
        &self,
        variant: Option<&Variant>,
        messages: &[(&'static str, String)],
        sampling: &Sampling,
        seed: u64,
        count: usize,
    ) -> Result<(Vec<Reply>, Usage), BackendError> {
        let protocol = self.api.protocol;
        let model = self.model(variant)?;
        let mut body = chat::request(protocol, &model, messages, sampling, seed)
            .map_err(|problem| BackendError::Refused(format!("`{}` cannot be asked so: {problem}", self.api.model)))?;
        if count > 1 && protocol == influence_proto::ApiProtocol::OpenAi {
            body.insert("n".to_owned(), count.into());
        }
        if self.api.adapters {
            body.insert("return_token_ids".to_owned(), true.into());
        }
        self.ask(chat::path(protocol), body, messages, seed, |answer| chat::replies(protocol, answer)).await
    }

    /// Sends a request, written as this server takes it.
    async fn ask<T>(
        &self,
        path: &str,
        body: Map<String, Value>,
        messages: &[(&'static str, String)],
        seed: u64,
        read: impl Fn(&Value) -> Result<(T, Usage), String>,
    ) -> Result<(T, Usage), BackendError> {
        let number = |key: &str| body.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let characters: usize = messages.iter().map(|(_, text)| text.len()).sum();
        let sampled = number("max_tokens").unwrap_or(0).saturating_mul(number("n").unwrap_or(1));
        let tokens = u32::try_from(characters / CHARACTERS_PER_TOKEN + sampled).unwrap_or(u32::MAX);
        loop {
            let mut written = body.clone();
            self.learned.apply(&mut written);
            let text = Value::Object(written.clone()).to_string();
            let read = |answer: &Value| {
                let (read, usage) = read(answer)?;
                Ok(((read, usage), usage.all()))
            };
            match self.endpoint.post(Request { path, body: &text, seed }, tokens, read).await {
                Err(Failure::Refused { status: 400 | 422, reason }) if self.learned.learn(&written, &reason) => {
                    tracing::debug!(url = %self.api.url, %reason, "the request is written in another way");
                }
                Err(failure) => return Err(self.endpoint.explain(failure)),
                Ok(((read, mut usage), asked)) => {
                    if let Some(price) = self.api.price.filter(|_| asked) {
                        let tuned = written.get("model").is_some_and(|model| model != self.api.model.as_str());
                        usage.nanodollars = price.of(usage.prompt, usage.generated, tuned);
                    }
                    return Ok((read, usage));
                }
            }
        }
    }

    /// Messages as they were sent.
    fn seen(&self, messages: &[(&'static str, String)], usage: Usage) -> PromptSeen {
        let sha256 = Digest::of(Value::Array(scores::as_json(messages)).to_string());
        PromptSeen { tokens: usage.prompt, reused: usage.reused, sha256 }
    }
}

#[async_trait]
impl Backend for ApiBackend {
    fn tokens(&self) -> Option<&dyn TokenStream> {
        None
    }

    fn provider(&self) -> &'static str {
        match self.api.protocol {
            influence_proto::ApiProtocol::OpenAi => "openai",
            influence_proto::ApiProtocol::Anthropic => "anthropic",
        }
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError> {
        let refused =
            |what: &str| BackendError::Refused(format!("`{}` is behind an API, which {what}", self.api.model));
        let Prompt::Messages(messages) = request.prompt else { return Err(refused("takes no token ids")) };
        let messages = chat::arranged(self.api.protocol, &messages);
        let variant = request.variant.as_ref();
        let (replies, usage) = self.replies(variant, &messages, &request.sampling, request.seed, 1).await?;
        let reply = replies.into_iter().next().ok_or_else(|| refused("gave no reply"))?;
        if self.api.adapters && reply.tokens.is_none() {
            return Err(refused(
                "shows no tokens, though `adapters: true` says so: nothing could be trained on its replies",
            ));
        }
        let (prompt_ids, token_ids) = reply.tokens.map(|tokens| (tokens.prompt, tokens.reply)).unzip();
        Ok(Generation {
            text: reply.text,
            prompt_ids,
            token_ids: token_ids.unwrap_or_default(),
            generated_tokens: usage.generated,
            nanodollars: usage.nanodollars,
            cut_off: reply.cut_off,
            prompt: self.seen(&messages, usage),
        })
    }

    async fn score(&self, request: ScoreRequest) -> Result<AnswerMasses, BackendError> {
        scores::read(self, &request).await
    }

    async fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), BackendError> {
        if !self.api.adapters {
            let model = &self.api.model;
            return Err(BackendError::Refused(format!("`{model}` is behind an API, which takes no adapters")));
        }
        // The server may run in another folder.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let body = json!({"lora_name": self.adapter(name), "lora_path": folder});
        let loaded = self.endpoint.command("/load_lora_adapter", &body.to_string()).await;
        loaded.map_err(|failure| self.endpoint.explain(failure))
    }

    fn drop_adapter(&self, name: &str) {
        let (endpoint, body) = (self.endpoint.clone(), json!({"lora_name": self.adapter(name)}));
        // Without a runtime the worker is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(failure) = endpoint.command("/unload_lora_adapter", &body.to_string()).await {
                    tracing::warn!(?failure, "an adapter stays at its server");
                }
            });
        }
    }
}

/// Different for each process that ever was.
fn this_process() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let digest = Digest::of(format!("{} {}", std::process::id(), since.as_nanos())).to_string();
    digest.chars().take(12).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
