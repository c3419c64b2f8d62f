//! Chats, replies and token probabilities as servers write them.

use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::{ApiProtocol, Sampling};
use serde_json::{Map, Value, json};

/// Begins a chat that would begin with the assistant, where a server wants the user first.
pub(super) const OPENING: &str = "Begin.";

/// One reply of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) text: String,
    /// Stopped by something else than the model.
    pub(super) cut_off: bool,
    /// What was continued, and what was sampled, where the server shows it.
    pub(super) tokens: Option<Tokens>,
}

/// A prompt and its reply as the server encoded and sampled them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) prompt: Vec<u32>,
    pub(super) reply: Vec<u32>,
}

/// What a request used, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    /// Of the prompt's tokens, those that the server had in a cache.
    pub(super) reused: u32,
    pub(super) generated: u32,
    /// What it cost.
    pub(super) nanodollars: u64,
}

impl Usage {
    pub(super) fn all(self) -> u32 {
        self.prompt.saturating_add(self.generated)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.saturating_add(other.prompt),
            reused: self.reused.saturating_add(other.reused),
            generated: self.generated.saturating_add(other.generated),
            nanodollars: self.nanodollars.saturating_add(other.nanodollars),
        }
    }
}

/// The messages as a server takes them: tool calls are the assistant's, their answers the user's, and neighbours of one
/// role are one message, because many servers' templates want the roles to alternate.
pub(super) fn arranged(protocol: ApiProtocol, messages: &[ChatMessage]) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    for message in messages {
        let role = match message.role {
            ChatRole::System => "system",
            ChatRole::User | ChatRole::Ipython => "user",
            ChatRole::Assistant | ChatRole::FunctionCall => "assistant",
        };
        match all.last_mut() {
            Some((last, text)) if *last == role => {
                text.push_str("\n\n");
                text.push_str(&message.content);
            }
            _ => all.push((role, message.content.clone())),
        }
    }
    let first = all.iter().position(|(role, _)| *role != "system").unwrap_or(all.len());
    if protocol == ApiProtocol::Anthropic && all.get(first).is_none_or(|(role, _)| *role == "assistant") {
        all.insert(first, ("user", OPENING.to_owned()));
    }
    all
}

/// A request for one or more replies. `Err`: what this protocol cannot do.
pub(super) fn request(
    protocol: ApiProtocol,
    model: &str,
    messages: &[(&'static str, String)],
    sampling: &Sampling,
    seed: u64,
) -> Result<Map<String, Value>, String> {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("model", model.into());
    let as_json = |(role, text): &(&str, String)| json!({"role": role, "content": text});
    put("temperature", sampling.temperature.into());
    put("max_tokens", sampling.max_tokens.into());
    if sampling.top_p < 1.0 {
        put("top_p", sampling.top_p.into());
    }
    if sampling.top_k > 0 {
        put("top_k", sampling.top_k.into());
    }
    match protocol {
        ApiProtocol::OpenAi => {
            put("messages", messages.iter().map(as_json).collect());
            // Servers differ in how wide a seed may be; all take 31 bits.
            put("seed", (seed >> 33).into());
            if sampling.min_p > 0.0 {
                put("min_p", sampling.min_p.into());
            }
            if !sampling.stop.is_empty() {
                put("stop", sampling.stop.clone().into());
            }
        }
        ApiProtocol::Anthropic => {
            if sampling.temperature > 1.0 {
                return Err(format!("its temperature is {}, and this protocol allows 0 to 1", sampling.temperature));
            }
            if sampling.min_p > 0.0 {
                return Err("min_p is set, which this protocol does not know".to_owned());
            }
            let (system, rest): (Vec<_>, Vec<_>) = messages.iter().partition(|(role, _)| *role == "system");
            put("messages", rest.into_iter().map(as_json).collect());
            if !system.is_empty() {
                let texts: Vec<&str> = system.iter().map(|(_, text)| text.as_str()).collect();
                put("system", texts.join("\n\n").into());
            }
            if !sampling.stop.is_empty() {
                put("stop_sequences", sampling.stop.clone().into());
            }
        }
    }
    Ok(body)
}

/// The path of such requests.
pub(super) const fn path(protocol: ApiProtocol) -> &'static str {
    match protocol {
        ApiProtocol::OpenAi => "/chat/completions",
        ApiProtocol::Anthropic => "/messages",
    }
}

/// The replies, one or more, and what they used.
pub(super) fn replies(protocol: ApiProtocol, answer: &Value) -> Result<(Vec<Reply>, Usage), String> {
    let usage = usage(answer);
    let replies: Vec<Reply> = match protocol {
        ApiProtocol::OpenAi => {
            let choices = answer.get("choices").and_then(Value::as_array).ok_or("it has no `choices`")?;
            let prompt = answer.get("prompt_token_ids");
            choices.iter().map(|reply| choice(reply, prompt)).collect::<Result<_, _>>()?
        }
        ApiProtocol::Anthropic => {
            let content = answer.get("content").and_then(Value::as_array).ok_or("it has no `content`")?;
            let text = content.iter().filter_map(|block| block.get("text")?.as_str()).collect();
            let stop = answer.get("stop_reason").and_then(Value::as_str);
            vec![Reply { text, cut_off: stop != Some("end_turn"), tokens: None }]
        }
    };
    if replies.is_empty() { Err("it has no reply".to_owned()) } else { Ok((replies, usage)) }
}

fn choice(choice: &Value, prompt: Option<&Value>) -> Result<Reply, String> {
    let message = choice.get("message").ok_or("a choice has no `message`")?;
    // A reply that was withheld has no content.
    let text = message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
    let cut_off = choice.get("finish_reason").and_then(Value::as_str) != Some("stop");
    let reply = choice.get("token_ids").and_then(ids);
    let tokens = prompt.and_then(ids).zip(reply).map(|(prompt, reply)| Tokens { prompt, reply });
    Ok(Reply { text, cut_off, tokens })
}

fn ids(list: &Value) -> Option<Vec<u32>> {
    list.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// Zeros where a server does not say.
pub(super) fn usage(answer: &Value) -> Usage {
    let count = |names: &[&str]| {
        let numbers = names.iter().filter_map(|name| answer.pointer(&format!("/usage/{name}"))?.as_u64());
        u32::try_from(numbers.sum::<u64>()).unwrap_or(u32::MAX)
    };
    Usage {
        prompt: count(&["prompt_tokens", "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"]),
        reused: count(&["prompt_tokens_details/cached_tokens", "cache_read_input_tokens"]),
        generated: count(&["completion_tokens", "output_tokens"]),
        nanodollars: 0,
    }
}

/// The most likely first tokens of a reply with their probabilities; none when the server does not tell.
pub(super) fn first_tokens(answer: &Value) -> Option<Vec<(String, f64)>> {
    let first = answer.get("choices")?.get(0)?.get("logprobs")?.get("content")?.get(0)?;
    let listed = first.get("top_logprobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let read = |entry: &Value| Some((token_text(entry)?, entry.get("logprob")?.as_f64()?.min(0.0).exp()));
    let mut tokens: Vec<(String, f64)> = listed.iter().filter_map(read).collect();
    // The sampled one need not be among them. Different tokens may look alike: those that are listed all count.
    tokens.extend(read(first).filter(|(text, _)| !tokens.iter().any(|(known, _)| known == text)));
    // One token alone is no distribution.
    if listed.is_empty() { None } else { Some(tokens) }
}

/// Its bytes, where they are given: the text may have been mended.
fn token_text(entry: &Value) -> Option<String> {
    let bytes = entry.get("bytes").and_then(Value::as_array).and_then(|bytes| {
        let bytes: Option<Vec<u8>> = bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
        String::from_utf8(bytes?).ok()
    });
    bytes.filter(|text| !text.is_empty()).or_else(|| Some(entry.get("token")?.as_str()?.to_owned()))
}
