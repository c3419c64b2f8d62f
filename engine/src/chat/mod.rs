//! From messages to tokens: a pure function of the model's own chat template and tokenizer.
//!
//! Text that a message contains never becomes a control token, even if it spells one out: the control tokens of a prompt
//! are the template's alone. As long as no message does so, the ids are exactly those of encoding the rendered text once.

mod encode;
mod error;
mod extend;
mod functions;
mod reply;
mod roles;
mod spaces;
mod template;
mod training;

use std::sync::Arc;

use tokenizers::Tokenizer;

pub use error::ChatError;
pub use reply::ReplyText;
pub use roles::{ChatMessage, Role};
pub use template::ChatSource;

use encode::Encoder;
use roles::RoleRules;
use template::Template;

/// The text that a scored reply is made to begin with, unless the caller chooses another. Its last space is kept.
pub const SCORE_PREFIX: &str = "The answer is: ";

/// A model's chat format: its template, what that template can render, and the tokenizer.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    /// Missing for models without a template: they can be loaded, but not chatted with.
    template: Option<Template>,
    rules: RoleRules,
    encoder: Encoder,
    stop_ids: Vec<u32>,
}

impl ChatFormat {
    /// Compiles the template and probes what it can render. `declared_stops` are the end tokens from the model's files; the
    /// template's own end of turn is added to them.
    ///
    /// # Errors
    /// A template that does not parse, or that cannot render a plain user message.
    pub fn new(source: ChatSource, tokenizer: Arc<Tokenizer>, declared_stops: &[u32]) -> Result<Self, ChatError> {
        let encoder = Encoder::new(tokenizer)?;
        let template = Template::compile(source)?;
        let rules = match &template {
            Some(template) => RoleRules::probe(template)?,
            None => RoleRules::default(),
        };
        if rules.folds_system() {
            tracing::info!("the chat template takes no system message: its text goes into the first user message");
        }
        let mut parts = Parts { template, rules, encoder, stop_ids: declared_stops.to_vec() };
        let own = parts.end_of_turn();
        parts.stop_ids.extend(own.filter(|id| !declared_stops.contains(id)));
        Ok(Self { parts: Arc::new(parts) })
    }

    /// The tokens that end a reply: those that the model's files declare, and the template's end of turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.parts.stop_ids
    }

    /// The tokenizer for text that goes on from other text: where the model's own puts a space before every text, this one
    /// does not.
    pub fn onward_tokenizer(&self) -> &Tokenizer {
        self.parts.encoder.onward()
    }

    /// The prompt of the next assistant message, as text, generation prompt included.
    ///
    /// # Errors
    /// No template, no messages, or what the template refuses.
    pub fn prompt_text(&self, messages: &[ChatMessage]) -> Result<String, ChatError> {
        let messages = self.parts.arranged(messages)?;
        self.parts.template()?.render(&messages, true)
    }

    /// The prompt of the next assistant message, as ids, generation prompt included.
    ///
    /// # Errors
    /// As [`ChatFormat::prompt_text`].
    pub fn prompt(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, ChatError> {
        self.scored_prompt(messages, "")
    }

    /// The prompt of a scored reply: template, generation prompt and `prefix` (usually [`SCORE_PREFIX`]) as one string,
    /// encoded once.
    ///
    /// # Errors
    /// As [`ChatFormat::prompt_text`].
    pub fn scored_prompt(&self, messages: &[ChatMessage], prefix: &str) -> Result<Vec<u32>, ChatError> {
        let parts = &self.parts;
        let mut messages = parts.arranged(messages)?;
        let shield = parts.encoder.shield(&mut messages, prefix);
        let prefix = shield.hide(prefix);
        let text = parts.template()?.render(&messages, true)? + &prefix;
        parts.encoder.encode(&text, &shield)
    }
}

impl Parts {
    fn template(&self) -> Result<&Template, ChatError> {
        self.template.as_ref().ok_or(ChatError::NoTemplate)
    }

    /// The messages as this template can render them.
    fn arranged(&self, messages: &[ChatMessage]) -> Result<Vec<ChatMessage>, ChatError> {
        Ok(self.rules.arrange(messages)?.into_iter().map(|(message, _)| message).collect())
    }

    /// The control token that closes an assistant message, if the template shows one.
    fn end_of_turn(&self) -> Option<u32> {
        let template = self.template.as_ref()?;
        let reply = template::SENTINEL;
        let chat = [ChatMessage::user("probe"), ChatMessage::assistant(reply)];
        let text = template.render(&self.arranged(&chat).ok()?, false).ok()?;
        let after = text.split_once(reply)?.1.trim_start();
        self.encoder.leading_control(after).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod spaces_tests;
#[cfg(test)]
mod tests;
