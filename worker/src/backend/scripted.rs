//! A backend for tests: it answers by functions of what it is asked, and remembers everything that it was asked.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use influence_proto::ScoreMethod;
use influence_proto::prompts::ChatMessage;

use super::{
    AnswerMasses, Backend, BackendError, GenerateRequest, Generation, Prompt, PromptSeen, ScoreRequest, TokenStream,
    Variant,
};

/// The token that ends a reply; smaller ids are bytes.
pub(crate) const END: u32 = 256;

type Reply = dyn Fn(&str, u64) -> String + Send + Sync;
type OnLoad = dyn Fn(&Path) -> Result<(), BackendError> + Send + Sync;
type Judge = dyn Fn(&ScoreRequest) -> Vec<f64> + Send + Sync;

/// One thing that was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Reply { prompt: String, seed: u64, adapter: Option<String> },
    Score { messages: Vec<ChatMessage>, answers: Vec<String> },
    Load(String),
    Drop(String),
}

pub(crate) struct Scripted {
    reply: Box<Reply>,
    judge: Box<Judge>,
    /// The format can extend a stream.
    pub(crate) extends: bool,
    /// Replies as long as their limit are cut off.
    pub(crate) context: usize,
    /// Told of each adapter's folder before it counts as loaded.
    pub(crate) on_load: Option<Box<OnLoad>>,
    asked: Mutex<Vec<Asked>>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

impl Scripted {
    pub(crate) fn new(
        reply: impl Fn(&str, u64) -> String + Send + Sync + 'static,
        judge: impl Fn(&ScoreRequest) -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        let (reply, judge) = (Box::new(reply), Box::new(judge));
        Self { reply, judge, extends: true, context: usize::MAX, on_load: None, asked: Mutex::default() }
    }

    /// Everything that was asked so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn remember(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }
}

/// The text that ids stand for; the end of a reply shows as `$`.
pub(crate) fn text_of(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap_or(b'$')).collect();
    String::from_utf8(bytes).unwrap()
}

fn ids_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn rendered(messages: &[ChatMessage]) -> String {
    let mut text: String = messages.iter().map(|m| format!("[{}]{}$", m.role.name(), m.content)).collect();
    text.push_str("[assistant]");
    text
}

fn encoded(messages: &[ChatMessage]) -> Vec<u32> {
    ids_of(&rendered(messages)).into_iter().map(|id| if id == u32::from(b'$') { END } else { id }).collect()
}

#[async_trait]
impl Backend for Scripted {
    fn tokens(&self) -> Option<&dyn TokenStream> {
        Some(self)
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError> {
        let ids = match request.prompt {
            Prompt::Tokens(ids) => ids,
            Prompt::Messages(messages) => encoded(&messages),
        };
        let most = request.sampling.max_tokens as usize;
        if ids.len() + most > self.context {
            return Err(BackendError::TooLong { prompt: ids.len(), reply: most, limit: self.context });
        }
        let prompt = text_of(&ids);
        let mut token_ids = ids_of(&(self.reply)(&prompt, request.seed));
        token_ids.push(END);
        let adapter = request.variant.map(|variant| match variant {
            Variant::Adapter(name) | Variant::Served(name) => name,
        });
        self.remember(Asked::Reply { prompt, seed: request.seed, adapter });
        // Other work gets a turn, as it does with a real model.
        tokio::task::yield_now().await;
        let cut_off = token_ids.len() > most;
        token_ids.truncate(most);
        let text = text_of(token_ids.strip_suffix(&[END]).unwrap_or(&token_ids));
        let generated_tokens = token_ids.len() as u32;
        Ok(Generation {
            text,
            prompt_ids: None,
            token_ids,
            generated_tokens,
            nanodollars: 0,
            cut_off,
            prompt: PromptSeen::of(&ids),
        })
    }

    async fn score(&self, request: ScoreRequest) -> Result<AnswerMasses, BackendError> {
        let ids = ids_of(&(rendered(&request.messages) + &request.scoring.prefix));
        if ids.len() > self.context {
            return Err(BackendError::TooLong { prompt: ids.len(), reply: 0, limit: self.context });
        }
        let masses = request.answers.iter().cloned().zip((self.judge)(&request)).collect();
        self.remember(Asked::Score { messages: request.messages, answers: request.answers });
        tokio::task::yield_now().await;
        let (method, prompt) = (ScoreMethod::Exact, PromptSeen::of(&ids));
        Ok(AnswerMasses { masses, method, prompt, generated_tokens: 0, nanodollars: 0 })
    }

    async fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), BackendError> {
        if !folder.is_dir() {
            return Err(BackendError::Refused(format!("{} is no folder", folder.display())));
        }
        if let Some(on_load) = &self.on_load {
            on_load(folder)?;
        }
        self.remember(Asked::Load(name.to_owned()));
        Ok(())
    }

    fn drop_adapter(&self, name: &str) {
        self.remember(Asked::Drop(name.to_owned()));
    }
}

impl TokenStream for Scripted {
    fn prompt(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, BackendError> {
        Ok(encoded(messages))
    }

    fn extend(
        &self,
        _: &[ChatMessage],
        _: &[u32],
        closed: bool,
        added: &[ChatMessage],
    ) -> Result<Option<Vec<u32>>, BackendError> {
        let end = if closed { Vec::new() } else { vec![END] };
        Ok(self.extends.then(|| [end, encoded(added)].concat()))
    }
}
