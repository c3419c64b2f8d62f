//! One request at work.

use std::sync::Arc;

use tokenizers::Tokenizer;
use tracing::Span;

use super::admission::Reply;
use super::prefix::Salt;
use super::request::{FinishReason, Follow, FollowedToken, Generation, RequestError, Score};
use super::session::Session;
use crate::attention::{BLOCK, KvCache};
use crate::lora::Adapter;
use crate::model::Model;
use crate::sample::{NotANumber, Sampled, Sampler, ScoreWalk, Step, Uncut, most_probable};

/// A sequence that is being run, and what it is run for.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) work: Work,
    pub(super) label: &'static str,
    pub(super) session: Option<Session>,
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) cache: KvCache,
    /// Tokens to run; the first `fed` are in the cache.
    feed: Vec<u32>,
    fed: usize,
    /// Whole blocks of the prompt that later rows may know of.
    shared: usize,
    /// Tokens that were in the cache before it ran.
    reused: usize,
    /// Of its time with the engine. To be ended before the asker hears, who may end the caller's span at once.
    pub(super) span: Span,
}

/// Which computations an adapter's rows may share.
pub(super) fn salt(adapter: Option<&Arc<Adapter>>) -> Salt {
    adapter.map(|adapter| adapter.number())
}

/// What a row is run for.
#[derive(Debug)]
pub(super) enum Work {
    Generate(Generating),
    Score(Scoring),
}

/// What becomes of a row after it was handed logits.
#[derive(Debug)]
pub(super) enum After {
    /// It needs another step.
    Continues,
    /// It is complete, or failed: its asker can be answered.
    Finished(Result<Outcome, RequestError>),
}

impl After {
    /// How the row with this index ended, if it did.
    pub(super) fn finished(self, index: usize) -> Option<(usize, Result<Outcome, RequestError>)> {
        match self {
            Self::Continues => None,
            Self::Finished(result) => Some((index, result)),
        }
    }
}

/// What a finished row returns.
#[derive(Debug)]
pub(super) enum Outcome {
    Generation(Generation),
    Score(Score),
}

/// What a row needs after its logits.
enum Next {
    Append { token: u32 },
    Revisit { kept: usize, token: u32 },
    Complete(Outcome),
}

/// What a step needs of a row, beside its numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending<'a> {
    pub(super) stop_ids: &'a [u32],
    pub(super) tokenizer: &'a Tokenizer,
}

impl<'a> Ending<'a> {
    pub(super) fn of(model: &'a Model) -> Self {
        Self { stop_ids: model.chat.stop_ids(), tokenizer: &model.tokenizer }
    }
}

impl Row {
    pub(super) fn new(
        work: Work,
        label: &'static str,
        session: Option<Session>,
        adapter: Option<Arc<Adapter>>,
        cache: KvCache,
        prompt: Vec<u32>,
        span: Span,
    ) -> Self {
        let fed = cache.len();
        Self { work, label, session, adapter, cache, feed: prompt, fed, shared: fed / BLOCK, reused: fed, span }
    }

    pub(super) fn salt(&self) -> Salt {
        salt(self.adapter.as_ref())
    }

    /// The prompt.
    pub(super) fn prompt(&self) -> &[u32] {
        &self.feed[..self.work.prompt_tokens()]
    }

    /// Whether more of the prompt's whole blocks are in the cache than at the last call.
    pub(super) fn has_more_to_share(&mut self) -> bool {
        let whole = self.whole_blocks().len() / BLOCK;
        std::mem::replace(&mut self.shared, whole) < whole
    }

    /// The tokens of the prompt's whole blocks that are in the cache.
    pub(super) fn whole_blocks(&self) -> &[u32] {
        &self.feed[..self.fed.min(self.work.prompt_tokens()) / BLOCK * BLOCK]
    }

    /// The tokens in the cache that may come again: answers that were only tried do not.
    pub(super) fn lasting(&self) -> &[u32] {
        let lasting = match &self.work {
            Work::Generate(_) => self.fed,
            Work::Score(work) => self.fed.min(work.prompt_tokens),
        };
        &self.feed[..lasting]
    }

    /// Tokens that wait to be run.
    pub(super) fn remaining(&self) -> usize {
        self.feed.len() - self.fed
    }

    /// The next `count` tokens and the cache that they extend.
    pub(super) fn next_tokens(&mut self, count: usize) -> (&[u32], &mut KvCache, Option<&Adapter>) {
        let tokens = &self.feed[self.fed..self.fed + count];
        (tokens, &mut self.cache, self.adapter.as_deref())
    }

    /// Counts `count` tokens as run.
    pub(super) fn ran(&mut self, count: usize) {
        self.fed += count;
    }

    /// The prompt has not been run in full.
    pub(super) fn is_prefilling(&self) -> bool {
        self.fed < self.work.prompt_tokens()
    }

    /// The draw that is all it needs of its logits, if that is so.
    pub(super) fn draw(&self) -> Option<Uncut> {
        match &self.work {
            Work::Generate(work) if work.follow.is_none() => work.sampler.uncut(work.token_ids.len() as u64),
            _ => None,
        }
    }

    /// Takes the token that was drawn by [`Self::draw`].
    pub(super) fn accept_drawn(&mut self, drawn: Result<Sampled, NotANumber>, ending: Ending<'_>) -> After {
        match &mut self.work {
            Work::Generate(work) => {
                let next = drawn.map_err(Refusal::from).and_then(|sampled| work.append(sampled, self.reused, ending));
                self.go_on(next)
            }
            // A score draws nothing.
            Work::Score(_) => After::Continues,
        }
    }

    /// Takes the logits after the last token that was fed.
    pub(super) fn accept(&mut self, logits: &[f32], ending: Ending<'_>) -> After {
        let next = match &mut self.work {
            Work::Generate(work) => work.next(logits, self.reused, ending),
            Work::Score(work) => work.next(logits, self.reused),
        };
        self.go_on(next)
    }

    fn go_on(&mut self, next: Result<Next, Refusal>) -> After {
        match next {
            Ok(Next::Append { token }) => self.feed.push(token),
            Ok(Next::Revisit { kept, token }) => {
                let len = self.work.prompt_tokens() + kept;
                self.cache.truncate(len);
                self.feed.truncate(len);
                self.fed = self.fed.min(len);
                self.feed.push(token);
            }
            Ok(Next::Complete(outcome)) => return After::Finished(Ok(outcome)),
            Err(Refusal::Broken(source)) => {
                let position = self.fed;
                return After::Finished(Err(RequestError::Broken { position, source }));
            }
            Err(Refusal::Decode(reason)) => {
                return After::Finished(Err(RequestError::Decode(reason)));
            }
        }
        After::Continues
    }
}

impl Work {
    pub(super) fn prompt_tokens(&self) -> usize {
        match self {
            Self::Generate(work) => work.prompt_tokens,
            Self::Score(work) => work.prompt_tokens,
        }
    }

    /// The asker has gone away.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Generate(work) => work.reply.is_closed(),
            Self::Score(work) => work.reply.is_closed(),
        }
    }

    /// Answers the asker. One who has gone away just now does not mind.
    pub(super) fn answer(self, result: Result<Outcome, RequestError>) {
        match (self, result) {
            (Self::Generate(work), Ok(Outcome::Generation(reply))) => {
                let _ = work.reply.send(Ok(reply));
            }
            (Self::Score(work), Ok(Outcome::Score(score))) => {
                let _ = work.reply.send(Ok(score));
            }
            (Self::Generate(work), Err(error)) => {
                let _ = work.reply.send(Err(error));
            }
            (Self::Score(work), Err(error)) => {
                let _ = work.reply.send(Err(error));
            }
            // A generation never completes as a score, nor the other way round; the asker would see `Stopped`.
            (Self::Generate(_) | Self::Score(_), Ok(_)) => {}
        }
    }
}

enum Refusal {
    Broken(NotANumber),
    Decode(String),
}

impl From<NotANumber> for Refusal {
    fn from(found: NotANumber) -> Self {
        Self::Broken(found)
    }
}

/// A reply in the making.
#[derive(Debug)]
pub(super) struct Generating {
    sampler: Sampler,
    max_tokens: usize,
    stop: Vec<String>,
    prompt_tokens: usize,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    follow: Option<Follow>,
    reply: Reply<Generation>,
}

impl Generating {
    pub(super) fn new(
        sampler: Sampler,
        max_tokens: usize,
        stop: Vec<String>,
        prompt_tokens: usize,
        follow: Option<Follow>,
        reply: Reply<Generation>,
    ) -> Self {
        let (token_ids, logprobs) = (Vec::new(), Vec::new());
        Self { sampler, max_tokens, stop, prompt_tokens, token_ids, logprobs, follow, reply }
    }

    fn next(&mut self, logits: &[f32], reused_tokens: usize, ending: Ending<'_>) -> Result<Next, Refusal> {
        let sampled = self.sampler.sample(logits, self.token_ids.len() as u64)?;
        if let Some(Follow { tokens, top }) = &self.follow {
            // One who no longer listens may still want the reply.
            let _ = tokens.send(FollowedToken { sampled, top: most_probable(logits, *top)? });
        }
        self.append(sampled, reused_tokens, ending)
    }

    fn append(&mut self, sampled: Sampled, reused_tokens: usize, ending: Ending<'_>) -> Result<Next, Refusal> {
        self.token_ids.push(sampled.token);
        self.logprobs.push(sampled.logprob);
        let ended = ending.stop_ids.contains(&sampled.token);
        let full = self.token_ids.len() >= self.max_tokens;
        if !ended && !full && self.stop.is_empty() {
            return Ok(Next::Append { token: sampled.token });
        }
        let visible = self.token_ids.len() - usize::from(ended);
        let text = ending.tokenizer.decode(&self.token_ids[..visible], true);
        let mut text = text.map_err(|e| Refusal::Decode(e.to_string()))?;
        let stop_text = self.stop.iter().filter_map(|stop| text.find(stop)).min();
        let finish = match stop_text {
            Some(end) => {
                text.truncate(end);
                FinishReason::StopText
            }
            None if ended => FinishReason::Stop,
            None if full => FinishReason::Length,
            None => return Ok(Next::Append { token: sampled.token }),
        };
        Ok(Next::Complete(Outcome::Generation(Generation {
            text,
            token_ids: std::mem::take(&mut self.token_ids),
            logprobs: std::mem::take(&mut self.logprobs),
            finish,
            prompt_tokens: self.prompt_tokens,
            reused_tokens,
        })))
    }
}

/// A score in the making.
#[derive(Debug)]
pub(super) struct Scoring {
    walk: ScoreWalk,
    prompt_tokens: usize,
    reply: Reply<Score>,
}

impl Scoring {
    pub(super) fn new(walk: ScoreWalk, prompt_tokens: usize, reply: Reply<Score>) -> Self {
        Self { walk, prompt_tokens, reply }
    }

    fn next(&mut self, logits: &[f32], reused_tokens: usize) -> Result<Next, Refusal> {
        Ok(match self.walk.accept(logits)? {
            Step::Visit { kept, token } => Next::Revisit { kept, token },
            Step::Done(found) => Next::Complete(Outcome::Score(Score {
                probabilities: found.probabilities,
                mass: found.mass,
                prompt_tokens: self.prompt_tokens,
                reused_tokens,
            })),
        })
    }
}
