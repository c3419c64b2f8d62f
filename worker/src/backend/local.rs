//! Models that this process runs itself.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use influence_engine::batch::{Engine, FinishReason, RequestError};
use influence_engine::chat::{ChatError, ChatMessage as EngineMessage, Role as EngineRole};
use influence_engine::sample::{AnswerTree, SamplingOptions};
use influence_engine::{batch, chat};
use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::{Sampling, ScoreMethod};

use super::{
    AnswerMasses, Backend, BackendError, GenerateRequest, Generation, Prompt, PromptSeen, ScoreRequest, TokenStream,
    Variant, counted,
};

/// Sets of answers whose trees are kept. Experiments have a handful; the bound is there for what an experiment is not.
const KEPT_TREES: usize = 256;

/// A model on the local engine.
#[derive(Debug)]
pub struct LocalBackend {
    engine: Engine,
    trees: Mutex<HashMap<Vec<String>, Arc<AnswerTree>>>,
}

impl LocalBackend {
    /// Serves the model of a running engine.
    pub fn new(engine: Engine) -> Self {
        Self { engine, trees: Mutex::default() }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn chat(&self) -> &chat::ChatFormat {
        &self.engine.model().chat
    }

    fn ids(&self, prompt: Prompt) -> Result<Vec<u32>, BackendError> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids),
            Prompt::Messages(messages) => self.prompt(&messages),
        }
    }

    fn tree(&self, answers: &[String]) -> Result<Arc<AnswerTree>, BackendError> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = trees.get(answers) {
            return Ok(tree.clone());
        }
        let tree = AnswerTree::new(self.chat().onward_tokenizer(), answers);
        let tree = Arc::new(tree.map_err(|e| BackendError::Refused(e.to_string()))?);
        if trees.len() >= KEPT_TREES {
            trees.clear();
        }
        trees.insert(answers.to_vec(), tree.clone());
        Ok(tree)
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn tokens(&self) -> Option<&dyn TokenStream> {
        Some(self)
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError> {
        let adapter = adapter(request.variant)?;
        let ids = self.ids(request.prompt)?;
        let prompt = PromptSeen::of(&ids);
        let reply = self.engine.generate(batch::GenerateRequest {
            prompt: ids,
            max_tokens: request.sampling.max_tokens as usize,
            sampling: sampling(&request.sampling),
            stop: request.sampling.stop,
            seed: request.seed,
            adapter,
            label: request.role.name(),
            session: request.session,
        });
        let reply = reply.await.map_err(refused)?;
        Ok(Generation {
            text: reply.text,
            generated_tokens: counted(reply.token_ids.len()),
            prompt_ids: None,
            token_ids: reply.token_ids,
            nanodollars: 0,
            cut_off: reply.finish != FinishReason::Stop,
            prompt: PromptSeen { reused: counted(reply.reused_tokens), ..prompt },
        })
    }

    async fn score(&self, request: ScoreRequest) -> Result<AnswerMasses, BackendError> {
        let scoring = &request.scoring;
        let ids = self.chat().scored_prompt(&of_engine(&request.messages), &scoring.prefix).map_err(misshapen)?;
        let prompt = PromptSeen::of(&ids);
        let score = self.engine.score(batch::ScoreRequest {
            prompt: ids,
            answers: self.tree(&request.answers)?,
            adapter: adapter(request.variant)?,
            temperature: scoring.temperature as f32,
            top_p: scoring.top_p as f32,
            label: request.role.name(),
            session: request.session,
        });
        let score = score.await.map_err(refused)?;
        let masses = score.probabilities.into_iter().map(|(answer, p)| (answer, p * score.mass)).collect();
        let prompt = PromptSeen { reused: counted(score.reused_tokens), ..prompt };
        Ok(AnswerMasses { masses, method: ScoreMethod::Exact, prompt, generated_tokens: 0, nanodollars: 0 })
    }

    async fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), BackendError> {
        self.engine.load_adapter(name, folder).await.map_err(refused)
    }

    fn drop_adapter(&self, name: &str) {
        let (engine, name) = (self.engine.clone(), name.to_owned());
        // Without a runtime the worker is ending, and the engine with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.drop_adapter(name).await.ok() });
        }
    }
}

impl TokenStream for LocalBackend {
    fn prompt(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, BackendError> {
        self.chat().prompt(&of_engine(messages)).map_err(misshapen)
    }

    fn extend(
        &self,
        messages: &[ChatMessage],
        reply: &[u32],
        closed: bool,
        added: &[ChatMessage],
    ) -> Result<Option<Vec<u32>>, BackendError> {
        self.chat().extend(&of_engine(messages), reply, closed, &of_engine(added)).map_err(misshapen)
    }
}

/// The name of a loaded adapter; none: the base weights.
fn adapter(variant: Option<Variant>) -> Result<Option<String>, BackendError> {
    match variant {
        None => Ok(None),
        Some(Variant::Adapter(name)) => Ok(Some(name)),
        Some(Variant::Served(model)) => Err(BackendError::Refused(format!(
            "the agent is the model `{model}` of a server, and this worker has loaded its model from files: start it without `--model` for that"
        ))),
    }
}

/// Messages as the engine knows them.
fn of_engine(messages: &[ChatMessage]) -> Vec<EngineMessage> {
    messages.iter().map(|m| EngineMessage::new(role_of_engine(m.role), m.content.as_str())).collect()
}

/// A role as the engine knows it.
pub const fn role_of_engine(role: ChatRole) -> EngineRole {
    match role {
        ChatRole::System => EngineRole::System,
        ChatRole::User => EngineRole::User,
        ChatRole::Assistant => EngineRole::Assistant,
        ChatRole::FunctionCall => EngineRole::FunctionCall,
        ChatRole::Ipython => EngineRole::Ipython,
    }
}

fn sampling(sampling: &Sampling) -> SamplingOptions {
    SamplingOptions {
        temperature: sampling.temperature as f32,
        top_p: sampling.top_p as f32,
        top_k: (sampling.top_k > 0).then_some(sampling.top_k as usize),
        min_p: sampling.min_p as f32,
    }
}

fn misshapen(error: ChatError) -> BackendError {
    BackendError::Refused(error.to_string())
}

fn refused(error: RequestError) -> BackendError {
    match error {
        RequestError::TooLong { prompt, more, context } => {
            BackendError::TooLong { prompt, reply: more, limit: context }
        }
        RequestError::Stopped => BackendError::Unavailable(error.to_string()),
        // A worker with more memory for keys and values may have room.
        RequestError::TooLarge { .. } => BackendError::Unavailable(error.to_string()),
        // A dropped adapter can be loaded again, by this worker or another.
        RequestError::UnknownAdapter { .. } => BackendError::Unavailable(error.to_string()),
        other => BackendError::Refused(other.to_string()),
    }
}
