//! Text of training rows to tokens.

use influence_engine::chat::ChatMessage;
use influence_engine::model::Model;
use influence_engine::train::Sequence;
use influence_proto::RowMessage;
use influence_proto::prompts::ChatRole;
use serde_json::Value;

use super::RowError;
use super::rows::parse;
use crate::backend::role_of_engine;

/// Encodes for one model.
pub(super) struct Texts<'a> {
    pub(super) model: &'a Model,
}

impl Texts<'_> {
    /// A conversation, whose assistant messages are the targets, but for those with weight 0.
    pub(super) fn messages(&self, messages: Value, field: &str, line: usize) -> Result<Sequence, RowError> {
        self.conversation(conversation(messages, field, line)?, line)
    }

    /// A prompt and how it goes on, which is the target: two texts, or two lists of messages. Without a prompt, a list of
    /// messages is a prompt and its last reply.
    pub(super) fn prompted(
        &self,
        prompt: Option<Value>,
        completion: Value,
        field: &str,
        line: usize,
    ) -> Result<Sequence, RowError> {
        match (prompt, completion) {
            (Some(Value::String(prompt)), Value::String(completion)) => self.plain(&prompt, &completion, line),
            (Some(prompt @ Value::Array(_)), completion @ Value::Array(_)) => {
                let mut all = conversation(prompt, "prompt", line)?;
                all.iter_mut().for_each(|message| message.weight = Some(0));
                all.extend(conversation(completion, field, line)?);
                self.conversation(all, line)
            }
            (None, completion @ Value::Array(_)) => {
                let mut all = conversation(completion, field, line)?;
                let before = all.len().saturating_sub(1);
                all[..before].iter_mut().for_each(|message| message.weight = Some(0));
                self.conversation(all, line)
            }
            (_, Value::Null) => Err(RowError::field(line, field, "is missing")),
            _ => {
                let message = "must go with `prompt`: both texts, or both lists of messages";
                Err(RowError::field(line, field, message))
            }
        }
    }

    fn plain(&self, prompt: &str, completion: &str, line: usize) -> Result<Sequence, RowError> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| RowError::field(line, "prompt", e.to_string());
        let mut ids = self.model.encode(prompt).map_err(failed)?;
        let before = ids.len();
        if before == 0 {
            return Err(RowError::field(line, "prompt", "is empty"));
        }
        let onward = self.model.chat.onward_tokenizer().encode_fast(completion, false).map_err(failed)?;
        ids.extend(onward.get_ids());
        ids.extend(self.model.chat.stop_ids().first());
        Ok(Sequence { mask: (0..ids.len()).map(|place| place >= before).collect(), ids })
    }

    fn conversation(&self, messages: Vec<RowMessage>, line: usize) -> Result<Sequence, RowError> {
        let learns: Vec<bool> = messages.iter().map(|m| m.role == ChatRole::Assistant && m.weight != Some(0)).collect();
        let chat: Vec<ChatMessage> =
            messages.into_iter().map(|m| ChatMessage::new(role_of_engine(m.role), m.content)).collect();
        let marked = self.model.chat.training_ids_of(&chat, |index| learns.get(index).is_some_and(|learns| *learns));
        let (ids, mask) = marked.map_err(|source| RowError::Chat { line, source })?;
        Ok(Sequence { ids, mask })
    }
}

fn conversation(messages: Value, field: &str, line: usize) -> Result<Vec<RowMessage>, RowError> {
    let Value::Array(values) = messages else {
        return Err(RowError::field(line, field, "must be a list"));
    };
    let message = |(index, value)| {
        let place = format!("{field}[{index}]");
        let message: RowMessage = parse(value, &place, line)?;
        match message.weight {
            Some(weight @ 2..) => {
                Err(RowError::field(line, &format!("{place}.weight"), format!("must be 0 or 1, but is {weight}")))
            }
            _ => Ok(message),
        }
    };
    values.into_iter().enumerate().map(message).collect()
}
