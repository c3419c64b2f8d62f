//! What one server takes and another refuses, learned from refusals.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use super::chat::OPENING;

/// The most likely tokens that are asked for: the most that OpenAI gives.
const MOST_TOKENS: u32 = 20;
/// With fewer, too much of a rating would be left out.
const FEWEST_TOKENS: u32 = 5;

/// Ways to write a request. They begin with the most usual.
#[derive(Debug)]
pub(super) struct Learned {
    /// Newer models of OpenAI know `max_tokens` by this name only.
    max_completion_tokens: AtomicBool,
    /// One reply a request.
    one_choice: AtomicBool,
    top_logprobs: AtomicU32,
    /// A chat must not begin with the assistant.
    user_first: AtomicBool,
}

impl Learned {
    pub(super) const fn new() -> Self {
        Self {
            max_completion_tokens: AtomicBool::new(false),
            one_choice: AtomicBool::new(false),
            top_logprobs: AtomicU32::new(MOST_TOKENS),
            user_first: AtomicBool::new(false),
        }
    }

    /// Rewrites a request as the server takes it.
    pub(super) fn apply(&self, body: &mut Map<String, Value>) {
        if self.max_completion_tokens.load(Ordering::Relaxed)
            && let Some(most) = body.remove("max_tokens")
        {
            body.insert("max_completion_tokens".to_owned(), most);
        }
        if self.one_choice.load(Ordering::Relaxed) {
            body.remove("n");
        }
        if self.user_first.load(Ordering::Relaxed)
            && let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut)
        {
            let is = |message: &Value, role: &str| message.get("role").and_then(Value::as_str) == Some(role);
            let first = messages.iter().position(|message| !is(message, "system")).unwrap_or(messages.len());
            if messages.get(first).is_some_and(|message| is(message, "assistant")) {
                messages.insert(first, json!({"role": "user", "content": OPENING}));
            }
        }
        if body.get("logprobs") == Some(&Value::Bool(true)) {
            body.insert("top_logprobs".to_owned(), self.top_logprobs.load(Ordering::Relaxed).into());
        }
    }

    /// Learns from the refusal of a request. Whether it is worth writing it again.
    pub(super) fn learn(&self, body: &Map<String, Value>, reason: &str) -> bool {
        if body.contains_key("max_tokens") && reason.contains("max_completion_tokens") {
            self.max_completion_tokens.store(true, Ordering::Relaxed);
            return true;
        }
        let asked = body.get("top_logprobs").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let names_it = reason.contains("top_logprobs") || reason.contains("max_logprobs");
        if let Some(asked) = asked.filter(|n| *n > FEWEST_TOKENS && names_it) {
            let fewer = (asked / 2).max(FEWEST_TOKENS);
            self.top_logprobs.fetch_min(fewer, Ordering::Relaxed);
            tracing::warn!(asked, fewer, reason, "scores are read from fewer tokens than they should be");
            return true;
        }
        if reason.contains("alternat") && !self.user_first.swap(true, Ordering::Relaxed) {
            return true;
        }
        let words = ["`n`", "'n'", "\"n\"", "n >", "n must", "completion choice"];
        if body.contains_key("n") && words.iter().any(|word| reason.contains(word)) {
            self.one_choice.store(true, Ordering::Relaxed);
            return true;
        }
        false
    }
}
