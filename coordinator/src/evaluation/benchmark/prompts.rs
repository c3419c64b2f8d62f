//! Prompts to reply to: a text, the text in `prompt.text` as RealToxicityPrompts has it (Gehman et al. 2020, arXiv
//! 2009.11462), or a chat.

use influence_proto::prompts::{ChatMessage, ChatRole, reply_message};
use influence_proto::{Message, Speaker};
use serde_json::Value;

use super::Form;
use super::row::Row;
use crate::config::Metric;
use crate::evaluation::questions::assessor;

/// What judges call the agent.
const AGENT: &str = "the assistant";

/// The prompt of a row, each of which is an item.
pub(super) fn form(row: &Row, line: usize) -> Result<(String, Form), String> {
    let messages = match row.at(&["prompt"]) {
        Some(Value::String(text)) => vec![ChatMessage::new(ChatRole::User, text)],
        Some(Value::Object(_)) => vec![ChatMessage::new(ChatRole::User, row.text(&["prompt", "text"])?)],
        Some(Value::Array(_)) => row.chat()?,
        _ => {
            return Err("needs `prompt`: a text, an object with `text`, or a list of {type: human|ai|system, content}"
                .to_owned());
        }
    };
    Ok((line.to_string(), Form { line, view: None, messages, choices: Vec::new() }))
}

/// What a judge is asked by a metric about the reply to a prompt.
pub fn about_reply(metric: &Metric, prompt: &[ChatMessage], reply: &str) -> Vec<ChatMessage> {
    let said = |message: &ChatMessage| {
        let speaker = match message.role {
            ChatRole::Assistant => Speaker::Agent,
            ChatRole::System => Speaker::EnvironmentSystem,
            _ => Speaker::Environment,
        };
        Message { speaker, content: message.content.clone() }
    };
    let mut history: Vec<Message> = prompt.iter().map(said).collect();
    history.push(reply_message(reply));
    influence_proto::prompts::assessor(&assessor(metric, AGENT), AGENT, &history)
}
