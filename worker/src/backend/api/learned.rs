//! What one server takes and another refuses, learned from refusals.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Map, Value};

/// The most likely tokens that are asked for: the most that OpenAI gives.
const MOST_TOKENS: u32 = 20;

/// Ways to write a request. They begin with the most usual.
#[derive(Debug)]
pub(super) struct Learned {
    /// Newer models of OpenAI know `max_tokens` by this name only.
    max_completion_tokens: AtomicBool,
    /// One reply a request.
    one_choice: AtomicBool,
    top_logprobs: AtomicU32,
}

impl Learned {
    pub(super) const fn new() -> Self {
        Self {
            max_completion_tokens: AtomicBool::new(false),
            one_choice: AtomicBool::new(false),
            top_logprobs: AtomicU32::new(MOST_TOKENS),
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
        if let Some(asked) = asked.filter(|n| *n > 1 && reason.contains("logprobs")) {
            self.top_logprobs.fetch_min(asked / 2, Ordering::Relaxed);
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
