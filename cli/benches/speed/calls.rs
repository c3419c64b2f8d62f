//! Every call of a model, by its tokens, in the order in which a lockstep loop would make them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use influence_engine::chat::{ChatMessage as EngineMessage, Role as EngineRole};
use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::{Digest, Role, Turn};
use influence_worker::backend::{
    AnswerMasses, Backend, BackendError, GenerateRequest, Generation, LocalBackend, Prompt, PromptSeen, ScoreRequest,
    TokenStream,
};
use serde_json::{Value, json};

/// The roles of a turn, as a loop asks them one after the other.
const ORDER: [Role; 5] = [Role::Agent, Role::Transition, Role::Preference, Role::Influence, Role::Environment];

/// A backend that remembers what it was asked, but for sessions, which would not end; nothing is worked out while the clock runs.
#[derive(Debug)]
pub(crate) struct Recorder {
    inner: LocalBackend,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Debug)]
enum Asked {
    Generate(GenerateRequest, Generation),
    Score(ScoreRequest),
}

/// One call: its prompt, what was sampled (nothing for a score), and the temperature.
pub(crate) struct TokenCall {
    prompt: Vec<u32>,
    sampled: Vec<u32>,
    temperature: f64,
}

impl Recorder {
    pub(crate) fn new(inner: LocalBackend) -> Self {
        Self { inner, asked: Mutex::default() }
    }

    /// By the prompt's digest. Siblings may share a prompt: each takes one of its calls.
    pub(crate) fn calls(&self) -> HashMap<Digest, Vec<TokenCall>> {
        let mut calls: HashMap<Digest, Vec<TokenCall>> = HashMap::new();
        for asked in self.asked.lock().expect("no one panicked").iter() {
            let call = self.by_tokens(asked);
            calls.entry(PromptSeen::of(&call.prompt).sha256).or_default().push(call);
        }
        calls
    }

    fn by_tokens(&self, asked: &Asked) -> TokenCall {
        match asked {
            Asked::Generate(request, reply) => TokenCall {
                prompt: match &request.prompt {
                    Prompt::Tokens(ids) => ids.clone(),
                    Prompt::Messages(messages) => self.inner.prompt(messages).expect("it was encoded before"),
                },
                sampled: reply.token_ids.clone(),
                temperature: request.sampling.temperature,
            },
            Asked::Score(request) => {
                let messages: Vec<EngineMessage> = request.messages.iter().map(of_assessor).collect();
                let chat = &self.inner.engine().model().chat;
                let prompt = chat.scored_prompt(&messages, &request.scoring.prefix).expect("it was encoded before");
                TokenCall { prompt, sampled: Vec::new(), temperature: 1.0 }
            }
        }
    }

    fn remember(&self, asked: Asked) {
        self.asked.lock().expect("no one panicked").push(asked);
    }
}

/// Assessors see instructions and one message.
fn of_assessor(message: &ChatMessage) -> EngineMessage {
    let role = if message.role == ChatRole::System { EngineRole::System } else { EngineRole::User };
    EngineMessage::new(role, message.content.as_str())
}

#[async_trait]
impl Backend for Recorder {
    fn tokens(&self) -> Option<&dyn TokenStream> {
        self.inner.tokens()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError> {
        let reply = self.inner.generate(request.clone()).await?;
        self.remember(Asked::Generate(GenerateRequest { session: None, ..request }, reply.clone()));
        Ok(reply)
    }

    async fn score(&self, request: ScoreRequest) -> Result<AnswerMasses, BackendError> {
        let masses = self.inner.score(request.clone()).await?;
        self.remember(Asked::Score(ScoreRequest { session: None, ..request }));
        Ok(masses)
    }

    async fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), BackendError> {
        self.inner.load_adapter(name, folder).await
    }

    fn drop_adapter(&self, name: &str) {
        self.inner.drop_adapter(name);
    }
}

/// `[{turn, role, temperature, rows: [{prompt, sampled}]}]`: per turn and role, the calls of all episodes together.
pub(crate) fn lockstep(episodes: &[Vec<Turn>], calls: &mut HashMap<Digest, Vec<TokenCall>>) -> Vec<Value> {
    let longest = episodes.iter().map(Vec::len).max().unwrap_or(0);
    let mut batches = Vec::new();
    for turn in 0..longest {
        for role in ORDER {
            let of_role = episodes.iter().filter_map(|turns| turns.get(turn)).flat_map(|turn| &turn.calls);
            let batch: Vec<TokenCall> = of_role
                .filter(|call| call.role == role)
                .map(|call| calls.get_mut(&call.prompt_sha256).and_then(Vec::pop).expect("every call was recorded"))
                .collect();
            let Some(first) = batch.first() else { continue };
            let rows: Vec<Value> =
                batch.iter().map(|call| json!({ "prompt": call.prompt, "sampled": call.sampled })).collect();
            batches.push(json!({ "turn": turn, "role": role.name(), "temperature": first.temperature, "rows": rows }));
        }
    }
    batches
}
