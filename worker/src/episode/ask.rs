//! One call of a model, with its record.

use std::time::Instant;

use influence_proto::prompts::{self, ChatMessage};
use influence_proto::{AssessorRole, Call, EpisodeSpec, GeneratorRole, Message, Role, Score, stream};

use tracing::{Instrument as _, Span};

use super::{EpisodeError, traced};
use crate::backend::{Backend, BackendError, GenerateRequest, Generation, Models, Prompt, PromptSeen, ScoreRequest};
use crate::metrics;

/// Asks on behalf of one turn of one episode.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) spec: &'a EpisodeSpec,
    pub(super) turn: u32,
    /// Which of several replies this is about; 0 where there is one.
    pub(super) candidate: u32,
    pub(super) models: &'a Models,
    /// Told after every answer: the work moves on.
    pub(super) moved: &'a (dyn Fn() + Sync),
}

impl<'a> Asker<'a> {
    pub(super) fn backend(&self, role: Role, model: &str) -> Result<&'a dyn Backend, EpisodeError> {
        self.models.get(model).map(|backend| &**backend).map_err(|e| self.failed(role, e))
    }

    /// Samples a reply of `role`, from the stream of that role in this turn. `messages` are what the prompt was made of.
    pub(super) async fn generate(
        &self,
        role: Role,
        generator: &GeneratorRole,
        prompt: Prompt,
        adapter: Option<String>,
        messages: impl FnOnce() -> Vec<ChatMessage>,
    ) -> Result<(Generation, Call), EpisodeError> {
        let seed = self.seed(role.name());
        let backend = self.backend(role, &generator.model)?;
        let span = traced::call(role, &generator.model, backend, Some((&generator.sampling, seed)));
        let request = GenerateRequest { role, prompt, sampling: generator.sampling.clone(), seed, adapter };
        let started = Instant::now();
        let reply = backend.generate(request).instrument(span.clone()).await;
        let reply = reply.map_err(|e| self.call_failed(role, &span, e))?;
        (self.moved)();
        let call = record(role, reply.prompt, (reply.generated_tokens, reply.nanodollars), started);
        traced::answered(&span, &call);
        traced::said(&span, messages, Some(&reply.text));
        Ok((reply, call))
    }

    /// Reads the probabilities of `answers`, as `role` sees the conversation.
    pub(super) async fn score(
        &self,
        role: Role,
        assessor: &AssessorRole,
        answers: &[String],
        history: &[Message],
    ) -> Result<(Score, Call), EpisodeError> {
        let backend = self.backend(role, &assessor.model)?;
        let span = traced::call(role, &assessor.model, backend, None);
        let request = ScoreRequest {
            role,
            messages: prompts::assessor(assessor, &self.spec.agent_name, history),
            answers: answers.to_vec(),
            scoring: self.spec.scoring.clone(),
            // The name alone is the stream of what is drawn from the answers.
            seed: self.seed(&format!("{} samples", role.name())),
            adapter: None,
        };
        let started = Instant::now();
        let read = backend.score(request).instrument(span.clone()).await;
        let read = read.map_err(|e| self.call_failed(role, &span, e))?;
        (self.moved)();
        let score = Score::from_masses(read.masses, self.spec.scoring.min_mass).read_by(read.method);
        if let Some(reason) = &score.unscored {
            metrics::unscored(role);
            tracing::debug!(episode = %self.spec.id, turn = self.turn, role = role.name(), %reason, "unscored");
        }
        let call = record(role, read.prompt, (read.generated_tokens, read.nanodollars), started);
        traced::answered(&span, &call);
        traced::judged(&span, role, &score);
        traced::said(&span, || prompts::assessor(assessor, &self.spec.agent_name, history), score.most_probable());
        Ok((score, call))
    }

    fn call_failed(&self, role: Role, span: &Span, source: BackendError) -> EpisodeError {
        traced::failed(span, &source);
        metrics::call_failed(role, source.kind());
        self.failed(role, source)
    }

    /// Of a stream of its own for each candidate; the first one's is that of an only reply.
    fn seed(&self, purpose: &str) -> u64 {
        let named = match self.candidate {
            0 => purpose.to_owned(),
            candidate => format!("{purpose} of candidate {candidate}"),
        };
        stream::of_turn(self.spec.seed, self.turn, &named)
    }

    pub(super) fn failed(&self, role: Role, source: BackendError) -> EpisodeError {
        EpisodeError::Call { episode: self.spec.id.clone(), turn: self.turn, role, source }
    }
}

fn record(role: Role, prompt: PromptSeen, (generated_tokens, nanodollars): (u32, u64), started: Instant) -> Call {
    metrics::call(role, started.elapsed());
    Call {
        role,
        prompt_tokens: prompt.tokens,
        generated_tokens,
        nanodollars,
        prompt_sha256: prompt.sha256,
        milliseconds: u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX),
    }
}
