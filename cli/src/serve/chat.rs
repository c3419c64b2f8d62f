//! `/v1/chat/completions`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream, Peekable, SelectAll, select_all};
use futures::{Stream, StreamExt as _};
use influence_engine::batch::{FinishReason, FollowedToken, GenerateRequest, Generation, RequestError};
use influence_engine::chat::ChatFormat;
use influence_engine::sample::Sampled;
use influence_proto::stream::derive;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::error::{ApiError, answer};
use super::models::{Served, now};
use super::reply::{Piece, pieces};
use super::request::{Body, ChatRequest, Wanted};

/// OpenAI's word for a probability of 0, which JSON has no logarithm of.
const IMPOSSIBLE: f32 = -9999.0;

/// The pieces of all replies to a request, each with its reply's index.
type Pieces = Peekable<SelectAll<BoxStream<'static, (usize, Result<Piece, RequestError>)>>>;

pub(super) async fn complete(
    State(served): State<Served>,
    Body(request): Body<ChatRequest>,
) -> Result<Response, ApiError> {
    let model = request.model.clone();
    let adapter = served.adapter(&model)?;
    let wanted = request.check()?;
    let seed = match wanted.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(|e| ApiError::broken(format!("there is no random seed to be had: {e}")))?,
    };
    let head = Head::new(model, &served, &wanted)?;
    let (stream, replies) = (wanted.stream, wanted.replies as usize);
    let ids = wanted.ids;
    let (prompt, mut pieces) = ask(&served, wanted, seed, adapter).await?;
    if !stream {
        return Ok(answer(StatusCode::OK, &head.whole(pieces, replies, ids.then_some(prompt)).await?));
    }
    // Until something has come, what is wrong is still an error of the whole request.
    if let Some((_, Err(error))) = Pin::new(&mut pieces).peek().await {
        return Err(error.clone().into());
    }
    let events = head.events(pieces).map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Begins all replies to a prompt. Dropping them cancels them.
async fn ask(
    served: &Served,
    wanted: Wanted,
    seed: u64,
    adapter: Option<String>,
) -> Result<(Vec<u32>, Pieces), ApiError> {
    let engine = &served.engine;
    let (model, messages) = (engine.model().clone(), wanted.messages);
    // A long conversation takes its time to encode, and others wait for this thread.
    let prompt = spawn_blocking(move || model.chat.prompt(&messages)).await;
    let prompt = prompt.map_err(|e| ApiError::broken(format!("the prompt was not encoded: {e}")))??;
    let room = engine.longest_request().saturating_sub(prompt.len()).max(1);
    let request = |index: usize| GenerateRequest {
        prompt: prompt.clone(),
        max_tokens: wanted.max_tokens.map_or(room, |tokens| tokens as usize),
        sampling: wanted.sampling,
        stop: wanted.stop.clone(),
        // The first is what one reply alone would be.
        seed: if index == 0 { seed } else { derive(seed, &["reply", &index.to_string()]) },
        adapter: adapter.clone(),
        label: "chat",
        session: None,
    };
    let top = wanted.logprobs.unwrap_or(0);
    let reply = |index| pieces(engine, request(index), top).map(move |piece| (index, piece)).boxed();
    let pieces = select_all((0..wanted.replies as usize).map(reply)).peekable();
    Ok((prompt, pieces))
}

/// What all parts of an answer have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
    chat: ChatFormat,
    logprobs: bool,
    stream_usage: bool,
}

#[derive(Debug, Default)]
struct Usage {
    prompt: usize,
    completion: usize,
}

impl Usage {
    fn count(&mut self, reply: &Generation) {
        self.prompt = reply.prompt_tokens;
        self.completion += reply.token_ids.len();
    }

    fn json(&self) -> Value {
        let Self { prompt, completion } = self;
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }
}

impl Head {
    fn new(model: String, served: &Served, wanted: &Wanted) -> Result<Self, ApiError> {
        let id = getrandom::u64().map_err(|e| ApiError::broken(format!("there is no random id to be had: {e}")))?;
        Ok(Self {
            id: format!("chatcmpl-{id:016x}"),
            created: now(),
            model,
            chat: served.engine.model().chat.clone(),
            logprobs: wanted.logprobs.is_some(),
            stream_usage: wanted.stream_usage,
        })
    }

    /// The answer in one piece, with the ids of its tokens where those of the `prompt` are given.
    async fn whole(self, mut pieces: Pieces, replies: usize, prompt: Option<Vec<u32>>) -> Result<Value, ApiError> {
        let mut tokens: Vec<Vec<FollowedToken>> = vec![Vec::new(); replies];
        let mut choices = vec![Value::Null; replies];
        let mut usage = Usage::default();
        while let Some((index, piece)) = pieces.next().await {
            let piece = piece?;
            if self.logprobs {
                tokens[index].extend(piece.tokens);
            }
            if let Some(reply) = piece.end {
                usage.count(&reply);
                choices[index] = json!({
                    "index": index,
                    "message": {"role": "assistant", "content": reply.text, "refusal": null},
                    "logprobs": self.logprobs(&tokens[index]),
                    "finish_reason": reason(reply.finish),
                });
                if prompt.is_some() {
                    choices[index]["token_ids"] = reply.token_ids.into();
                }
            }
        }
        let mut whole = self.object("chat.completion", choices, usage.json());
        if let Some(ids) = prompt {
            whole["prompt_token_ids"] = ids.into();
        }
        Ok(whole)
    }

    /// The answer as the data of server-sent events.
    fn events(self, pieces: Pieces) -> impl Stream<Item = String> {
        let sending =
            Sending { head: self, pieces, begun: BTreeSet::new(), usage: Usage::default(), left: Left::Pieces };
        stream::unfold(sending, Sending::next)
    }

    fn object(&self, kind: &str, choices: Vec<Value>, usage: Value) -> Value {
        let Self { id, created, model, .. } = self;
        json!({"id": id, "object": kind, "created": created, "model": model, "choices": choices, "usage": usage})
    }

    /// Part of a streamed answer. Usage is null in all but the last, and left out unless it was asked for.
    fn chunk(&self, choices: Vec<Value>, usage: Value) -> String {
        let mut chunk = self.object("chat.completion.chunk", choices, usage);
        if let (false, Some(keys)) = (self.stream_usage, chunk.as_object_mut()) {
            keys.remove("usage");
        }
        chunk.to_string()
    }

    /// Null where there is nothing to tell, as in a stream's last chunk.
    fn logprobs(&self, tokens: &[FollowedToken]) -> Value {
        if !self.logprobs || tokens.is_empty() {
            return Value::Null;
        }
        let content: Vec<Value> = tokens
            .iter()
            .map(|token| {
                let mut own = self.token(&token.sampled);
                own["top_logprobs"] = token.top.iter().map(|top| self.token(top)).collect();
                own
            })
            .collect();
        json!({"content": content, "refusal": null})
    }

    fn token(&self, sampled: &Sampled) -> Value {
        let bytes = self.chat.token_bytes(sampled.token).unwrap_or_default();
        json!({"token": text_of(&bytes), "logprob": sampled.logprob.max(IMPOSSIBLE), "bytes": bytes})
    }
}

/// A token as text. One that is no whole character is spelt out, so that different tokens stay different.
fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
    }
}

const fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop | FinishReason::StopText => "stop",
        FinishReason::Length => "length",
    }
}

/// A streamed answer that is being sent.
struct Sending {
    head: Head,
    pieces: Pieces,
    /// Replies of which something was sent.
    begun: BTreeSet<usize>,
    usage: Usage,
    left: Left,
}

/// What is still to be sent.
enum Left {
    Pieces,
    Done,
    Nothing,
}

impl Sending {
    async fn next(mut self) -> Option<(String, Self)> {
        let data = match self.left {
            Left::Nothing => return None,
            Left::Done => {
                self.left = Left::Nothing;
                "[DONE]".to_owned()
            }
            Left::Pieces => match self.pieces.next().await {
                Some((index, Ok(piece))) => self.chunk(index, piece),
                Some((_, Err(error))) => {
                    self.left = Left::Nothing;
                    ApiError::from(error).body().to_string()
                }
                None if self.head.stream_usage => {
                    self.left = Left::Done;
                    self.head.chunk(Vec::new(), self.usage.json())
                }
                None => {
                    self.left = Left::Nothing;
                    "[DONE]".to_owned()
                }
            },
        };
        Some((data, self))
    }

    fn chunk(&mut self, index: usize, piece: Piece) -> String {
        let mut delta = json!({});
        if self.begun.insert(index) {
            delta["role"] = "assistant".into();
        }
        if !piece.text.is_empty() {
            delta["content"] = piece.text.into();
        }
        if let Some(reply) = &piece.end {
            self.usage.count(reply);
        }
        let choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": self.head.logprobs(&piece.tokens),
            "finish_reason": piece.end.map(|reply| reason(reply.finish)),
        });
        self.head.chunk(vec![choice], Value::Null)
    }
}
