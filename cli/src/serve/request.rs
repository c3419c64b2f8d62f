//! What clients send: OpenAI's chat completion requests, checked.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use influence_engine::chat::{ChatMessage, Role};
use influence_engine::sample::SamplingOptions;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use tokio::time::timeout;

use super::error::{ApiError, shown};

/// Log-probabilities beside a token's own, at most: OpenAI's limit.
const MOST_TOP: u32 = 20;
/// Replies to one request, at most.
const MOST_REPLIES: u32 = 128;
/// Every token of a reply is looked through for them.
const MOST_STOPS: usize = 64;
/// More is no conversation for a model.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;
/// A body that takes longer is not waited for.
const ARRIVAL: Duration = Duration::from_secs(60);

/// A JSON body. Other types are refused: browsers send those to other sites unasked.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = format!(
                "the body must be JSON, with the header `content-type: application/json`, but is `{}`",
                shown(kind)
            );
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, message));
        }
        let body = timeout(ARRIVAL, Bytes::from_request(request, state)).await.map_err(|_| {
            let message = format!("the body has not arrived within {} s", ARRIVAL.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, None, message)
        })?;
        let body = body.map_err(|refused| match refused.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(status, None, format!("the body is larger than {MAX_BODY_BYTES} bytes; send less"))
            }
            status => ApiError::new(status, None, refused.body_text()),
        })?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let unreadable =
            |problem: &str| ApiError::new(StatusCode::BAD_REQUEST, None, format!("the body cannot be read: {problem}"));
        let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (path, problem) = (error.path().to_string(), error.inner().to_string());
            match path.as_str() {
                // The whole, or a place without a name.
                "." | "?" => unreadable(&problem),
                _ => ApiError::bad(path.clone(), format!("`{path}` cannot be read: {problem}")),
            }
        })?;
        json.end().map_err(|error| unreadable(&error.to_string()))?;
        Ok(Self(read))
    }
}

/// A request for one or more replies.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    messages: Vec<Message>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    seed: Option<Number>,
    stop: Option<Value>,
    n: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    /// As vLLM has it.
    return_token_ids: Option<bool>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A message as clients write it.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    role: String,
    content: Option<Value>,
    tool_calls: Option<Value>,
}

/// What is asked for, checked.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) messages: Vec<ChatMessage>,
    /// None: as many as there is room for.
    pub(super) max_tokens: Option<u32>,
    pub(super) sampling: SamplingOptions,
    pub(super) stop: Vec<String>,
    /// None: another one each time.
    pub(super) seed: Option<u64>,
    pub(super) replies: u32,
    pub(super) stream: bool,
    pub(super) stream_usage: bool,
    /// How many tokens to show beside each; none: no log-probabilities.
    pub(super) logprobs: Option<usize>,
    /// The ids of prompt and replies are shown.
    pub(super) ids: bool,
}

impl ChatRequest {
    pub(super) fn check(self) -> Result<Wanted, ApiError> {
        refuse_unsupported(&self.other)?;
        let within = |name: &'static str, value: u32, least: u32, most: u32| match value {
            value if (least..=most).contains(&value) => Ok(value),
            _ => Err(ApiError::bad(name, format!("{name} is {value}; give {least} to {most}"))),
        };
        let top = within("top_logprobs", self.top_logprobs.unwrap_or(0), 0, MOST_TOP)?;
        let logprobs = self.logprobs.unwrap_or(false);
        if top > 0 && !logprobs {
            return Err(ApiError::bad("top_logprobs", "top_logprobs needs `logprobs: true`"));
        }
        let (stream, ids) = (self.stream.unwrap_or(false), self.return_token_ids.unwrap_or(false));
        if stream && ids {
            return Err(ApiError::bad(
                "return_token_ids",
                "return_token_ids is for answers in one piece, without `stream`",
            ));
        }
        let top_k = match self.top_k {
            None | Some(0 | -1) => None,
            Some(k) => Some(
                usize::try_from(k)
                    .map_err(|_| ApiError::bad("top_k", format!("top_k is {k}; give 1 or more, or leave it out")))?,
            ),
        };
        let sampling = SamplingOptions {
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
            top_k,
            min_p: self.min_p.unwrap_or(0.0),
        };
        Ok(Wanted {
            messages: messages(self.messages)?,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling,
            stop: stop(self.stop)?,
            seed: self.seed.as_ref().map(seed).transpose()?,
            replies: within("n", self.n.unwrap_or(1), 1, MOST_REPLIES)?,
            stream,
            ids,
            stream_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            logprobs: logprobs.then_some(top as usize),
        })
    }
}

/// Parameters that would change the reply, and what this server would have to ignore. Others are harmless.
fn refuse_unsupported(other: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in other {
        let neutral = match name.as_str() {
            "tools"
            | "functions"
            | "logit_bias"
            | "presence_penalty"
            | "frequency_penalty"
            | "audio"
            | "prediction"
            | "echo"
            | "continue_final_message"
            | "min_tokens"
            | "ignore_eos"
            | "stop_token_ids"
            | "bad_words"
            | "structured_outputs"
            | "guided_json"
            | "guided_regex"
            | "guided_choice"
            | "guided_grammar"
            | "grammar"
            | "json_schema"
            | "web_search_options"
            | "use_beam_search" => is_nothing(value),
            "tool_choice" | "function_call" => is_nothing(value) || value == "none" || value == "auto",
            "response_format" => is_nothing(value) || value["type"] == "text",
            "modalities" => {
                is_nothing(value) || value.as_array().is_some_and(|all| all.iter().all(|one| one == "text"))
            }
            "repetition_penalty" | "length_penalty" | "best_of" => is_nothing(value) || value.as_f64() == Some(1.0),
            _ => true,
        };
        if !neutral {
            return Err(ApiError::bad(name, format!("`{name}` is not supported here; leave it out")));
        }
    }
    Ok(())
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
    }
}

fn seed(seed: &Number) -> Result<u64, ApiError> {
    let bits = seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned));
    bits.ok_or_else(|| ApiError::bad("seed", format!("seed is {seed}; give a whole number of 64 bits")))
}

fn stop(stop: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::bad("stop", "stop must be a text or a list of texts");
    match stop {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(all)) if all.len() > MOST_STOPS => {
            Err(ApiError::bad("stop", format!("stop has {} texts; give up to {MOST_STOPS}", all.len())))
        }
        Some(Value::Array(all)) => {
            all.into_iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// Messages as the engine knows them.
pub(super) fn messages(messages: Vec<Message>) -> Result<Vec<ChatMessage>, ApiError> {
    messages.into_iter().enumerate().map(|(index, message)| message.read(index)).collect()
}

impl Message {
    fn read(self, index: usize) -> Result<ChatMessage, ApiError> {
        let bad = |key: &str, message: &str| {
            Err(ApiError::bad(format!("messages[{index}].{key}"), format!("messages[{index}].{key}: {message}")))
        };
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            // The agent's own: what an episode with tools has.
            "function_call" => Role::FunctionCall,
            "ipython" => Role::Ipython,
            other => {
                let message = format!("`{}` is not supported; roles are system, user, assistant", shown(other));
                return bad("role", &message);
            }
        };
        if self.tool_calls.is_some_and(|calls| !is_nothing(&calls)) {
            return bad("tool_calls", "tools are not supported here");
        }
        match self.content {
            Some(Value::String(text)) => Ok(ChatMessage::new(role, text)),
            Some(Value::Array(parts)) => {
                let texts: Option<Vec<&str>> = parts.iter().map(text_of).collect();
                match texts {
                    Some(texts) => Ok(ChatMessage::new(role, texts.join("\n"))),
                    None => bad("content", "only parts of the type `text` are supported, each with its `text`"),
                }
            }
            _ => bad("content", "must be a text, or a list of parts of the type `text`"),
        }
    }
}

fn text_of(part: &Value) -> Option<&str> {
    (part["type"] == "text").then(|| part["text"].as_str()).flatten()
}
