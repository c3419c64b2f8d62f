//! What can be asked of the engine, and what comes back.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::session::Session;
use crate::sample::{AnswerTree, NotANumber, Sampled, SamplingError, SamplingOptions};

/// Limits of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Rows in one step, at most.
    pub max_rows: usize,
    /// Prompt tokens in one step, at most; longer prompts go through in chunks.
    pub prefill_chunk: usize,
    /// Bytes for keys and values, of running rows and remembered; requests beyond wait.
    pub kv_bytes: usize,
    /// Whether what was computed is remembered for prompts that begin alike. Results do not depend on it.
    pub prefix_cache: bool,
    /// Requests that may wait; beyond, asking itself waits.
    pub queue: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_rows: 16, prefill_chunk: 256, kv_bytes: 1 << 30, prefix_cache: true, queue: 256 }
    }
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A limit that would never let anything run.
    #[error("the engine option `{0}` is 0; give 1 or more")]
    ZeroLimit(&'static str),
    /// No thread for the step loop.
    #[error("the engine's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// No room for keys and values.
    #[error("the memory for keys and values cannot be had: {0}")]
    Memory(#[from] candle_core::Error),
}

/// A request for a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// The most tokens to sample; at least one.
    pub max_tokens: usize,
    /// How to sample.
    pub sampling: SamplingOptions,
    /// Texts that end the reply; each has at least one character.
    pub stop: Vec<String>,
    /// Token `i` of the reply is drawn from `(seed, i)` alone.
    pub seed: u64,
    /// The name of a loaded adapter; `None` is the base model.
    pub adapter: Option<String>,
    /// For whom it is; requests are counted by it.
    pub label: &'static str,
    /// Whose earlier prompts it continues; without one, it stands alone.
    pub session: Option<Session>,
}

/// How a reply is followed while it is made.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Takes every token as soon as it is sampled, all of them before the reply is complete. The step loop never waits for
    /// whoever reads; no more than the request's `max_tokens` are sent.
    pub tokens: mpsc::UnboundedSender<FollowedToken>,
    /// So many of the most probable tokens are told with each.
    pub top: usize,
}

/// A token of a reply that is followed.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowedToken {
    /// What was drawn.
    pub sampled: Sampled,
    /// The most probable tokens, in order, equal ones by id; as many as were asked for.
    pub top: Vec<Sampled>,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It came to a stop text.
    StopText,
    /// It reached the most tokens allowed.
    Length,
}

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The sampled ids, those that ended the reply included.
    pub token_ids: Vec<u32>,
    /// Per sampled id, its natural log-probability in the untempered, uncut distribution.
    pub logprobs: Vec<f32>,
    /// The text, special tokens and what follows from a stop text on left out.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// How many of those were in the prefix cache.
    pub reused_tokens: usize,
}

/// A request for the probabilities of allowed answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// Token ids; at least one. Usually from [`crate::chat::ChatFormat::scored_prompt`].
    pub prompt: Vec<u32>,
    /// The allowed answers.
    pub answers: Arc<AnswerTree>,
    /// The name of a loaded adapter; `None` is the base model.
    pub adapter: Option<String>,
    /// 1, but for comparisons with implementations that temper scores; above 0.
    pub temperature: f32,
    /// 1, but for such comparisons; in (0, 1].
    pub top_p: f32,
    /// For whom it is; requests are counted by it.
    pub label: &'static str,
    /// Whose earlier prompts it continues; without one, it stands alone.
    pub session: Option<Session>,
}

/// Probabilities of the allowed answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Each answer, in the order asked, with its probability given that the reply is one of them. All 0 if `mass` is.
    pub probabilities: Vec<(String, f64)>,
    /// The probability that the reply is an allowed answer at all.
    pub mass: f64,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// How many of those were in the prefix cache.
    pub reused_tokens: usize,
}

/// A request that cannot be served. Every other request goes on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Nothing to continue.
    #[error("the prompt is empty; it needs at least one token")]
    EmptyPrompt,
    /// Nothing to generate.
    #[error("max_tokens is 0; ask for 1 or more")]
    NoTokens,
    /// A stop text that every reply begins with.
    #[error("a stop text is empty, which would end every reply at once; leave it out")]
    EmptyStop,
    /// It does not fit the model's context.
    #[error(
        "a prompt of {prompt} tokens and {more} more exceed the model's context of {context}: shorten the prompt or ask for fewer tokens"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that may follow: those to generate, or those of the longest answer.
        more: usize,
        /// The model's limit.
        context: usize,
    },
    /// It fits the model, but never this engine's memory.
    #[error(
        "a request of {positions} tokens needs {needed} bytes of keys and values, and the engine may use {available}: raise its limit or shorten the request"
    )]
    TooLarge {
        /// Tokens of prompt and reply.
        positions: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes allowed for all rows together.
        available: usize,
    },
    /// An id that the model has no embedding for.
    #[error("token {token} at position {position} of the prompt is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Where it stands.
        position: usize,
        /// Ids go up to one less.
        vocabulary: usize,
    },
    /// An adapter that was not loaded, or dropped.
    #[error("no adapter `{name}` is loaded; loaded: {loaded}")]
    UnknownAdapter {
        /// The name that was asked for.
        name: String,
        /// The names that exist, or `none`.
        loaded: String,
    },
    /// An adapter that cannot be loaded.
    #[error("the adapter `{name}` cannot be loaded: {reason}")]
    Adapter {
        /// Its name.
        name: String,
        /// What is wrong with its files.
        reason: String,
    },
    /// Sampling options outside their range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The forward pass gave something that is no distribution.
    #[error("the model's output is broken after {position} tokens: {source}")]
    Broken {
        /// Tokens of the sequence at that point.
        position: usize,
        /// What was found.
        source: NotANumber,
    },
    /// The forward pass failed.
    #[error("the forward pass failed: {0}")]
    Compute(String),
    /// The sampled ids could not be turned into text.
    #[error("the reply cannot be decoded: {0}")]
    Decode(String),
    /// The engine was stopped, or its thread ended.
    #[error("the engine has stopped")]
    Stopped,
}
