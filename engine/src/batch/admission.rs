//! Which requests can be served at all, and when.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::Span;

use super::request::{EngineOptions, Follow, GenerateRequest, Generation, RequestError, Score, ScoreRequest};
use super::row::{Generating, Row, Scoring, Work};
use super::session::Session;
use crate::attention::{BLOCK, KvCache};
use crate::lora::Adapter;
use crate::model::Model;
use crate::sample::{Sampler, SamplingError, SamplingOptions, ScoreWalk, Warp};

/// Spans that text logs leave out.
const TARGET: &str = "influence_trace";

/// Where a reply goes; dropping the other end cancels the request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// A request that has been checked and waits for room.
#[derive(Debug)]
pub(super) struct Admissible {
    prompt: Vec<u32>,
    positions: usize,
    pub(super) adapter: Option<String>,
    pub(super) label: &'static str,
    session: Option<Session>,
    pub(super) work: Work,
    spans: Spans,
}

/// Where the time of a request goes, for whoever traces it.
#[derive(Debug)]
struct Spans {
    /// The caller's, which those of the engine are children of.
    caller: Span,
    /// From asking to getting a row and memory.
    queue: Span,
}

impl Spans {
    fn begin() -> Self {
        Self { caller: Span::current(), queue: tracing::info_span!(target: TARGET, "queue") }
    }
}

impl Admissible {
    pub(super) fn generation(
        request: GenerateRequest,
        follow: Option<Follow>,
        reply: Reply<Generation>,
        model: &Model,
        options: &EngineOptions,
    ) -> Result<Self, RequestError> {
        let sampler = check_generation(&request, model, options)?;
        let prompt_tokens = request.prompt.len();
        let generating = Generating::new(sampler, request.max_tokens, request.stop, prompt_tokens, follow, reply);
        Ok(Self {
            positions: prompt_tokens + request.max_tokens,
            prompt: request.prompt,
            adapter: request.adapter,
            label: request.label,
            session: request.session,
            work: Work::Generate(generating),
            spans: Spans::begin(),
        })
    }

    pub(super) fn score(
        request: ScoreRequest,
        reply: Reply<Score>,
        model: &Model,
        options: &EngineOptions,
    ) -> Result<Self, RequestError> {
        check_score(&request, model, options)?;
        let prompt_tokens = request.prompt.len();
        let warp = Warp { temperature: request.temperature, top_p: request.top_p, ..Warp::default() };
        let positions = prompt_tokens + request.answers.depth();
        let walk = ScoreWalk::new(request.answers, warp);
        Ok(Self {
            positions,
            prompt: request.prompt,
            adapter: request.adapter,
            label: request.label,
            session: request.session,
            spans: Spans::begin(),
            work: Work::Score(Scoring::new(walk, prompt_tokens, reply)),
        })
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Tokens that the sequence may grow to.
    pub(super) const fn positions(&self) -> usize {
        self.positions
    }

    /// `cache` may hold the beginning of the prompt already.
    pub(super) fn into_row(self, adapter: Option<Arc<Adapter>>, cache: KvCache) -> Row {
        let Spans { caller, queue } = self.spans;
        drop(queue);
        let (prompt_tokens, reused_tokens) = (self.prompt.len(), cache.len());
        let span = tracing::info_span!(target: TARGET, parent: &caller, "compute", prompt_tokens, reused_tokens);
        Row::new(self.work, self.label, self.session, adapter, cache, self.prompt, span)
    }
}

fn check_generation(
    request: &GenerateRequest,
    model: &Model,
    options: &EngineOptions,
) -> Result<Sampler, RequestError> {
    if request.max_tokens == 0 {
        return Err(RequestError::NoTokens);
    }
    if request.stop.iter().any(String::is_empty) {
        return Err(RequestError::EmptyStop);
    }
    check_prompt(&request.prompt, request.max_tokens, model, options)?;
    Ok(Sampler::new(&request.sampling, request.seed)?)
}

fn check_score(request: &ScoreRequest, model: &Model, options: &EngineOptions) -> Result<(), RequestError> {
    check_prompt(&request.prompt, request.answers.depth(), model, options)?;
    let warp = SamplingOptions { temperature: request.temperature, top_p: request.top_p, ..SamplingOptions::default() };
    Sampler::new(&warp, 0)?;
    if request.temperature < 1e-6 {
        return Err(SamplingError::Temperature(request.temperature).into());
    }
    Ok(())
}

fn check_prompt(prompt: &[u32], more: usize, model: &Model, options: &EngineOptions) -> Result<(), RequestError> {
    if prompt.is_empty() {
        return Err(RequestError::EmptyPrompt);
    }
    let context = model.config.context_length;
    let positions = prompt.len().saturating_add(more);
    if positions > context {
        let prompt = prompt.len();
        return Err(RequestError::TooLong { prompt, more, context });
    }
    let vocabulary = model.config.vocab_size;
    if let Some(position) = prompt.iter().position(|id| *id as usize >= vocabulary) {
        return Err(RequestError::UnknownToken { token: prompt[position], position, vocabulary });
    }
    let needed = positions.div_ceil(BLOCK) * model.kv_block_bytes();
    let available = options.kv_bytes;
    if needed > available {
        return Err(RequestError::TooLarge { positions, needed, available });
    }
    Ok(())
}
