//! Calls on behalf of an episode's turn.

use influence_engine::batch::Session;
use influence_proto::prompts::{self, ChatMessage};
use influence_proto::{AssessorRole, Call, EpisodeSpec, GeneratorRole, Message, Role, Score, stream};

use super::EpisodeError;
use super::sessions::Sessions;
use crate::backend::{Backend, BackendError, GenerateRequest, Generation, Models, Prompt, ScoreRequest, Variant};
use crate::calls;

/// Asks on behalf of one turn of one episode.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) spec: &'a EpisodeSpec,
    pub(super) turn: u32,
    /// Which of several replies this is about; 0 where there is one.
    pub(super) candidate: u32,
    pub(super) models: &'a Models,
    pub(super) sessions: &'a Sessions,
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
        variant: Option<Variant>,
        messages: impl FnOnce() -> Vec<ChatMessage>,
    ) -> Result<(Generation, Call), EpisodeError> {
        let (seed, sampling) = (self.seed(role.name()), generator.sampling.clone());
        let backend = self.backend(role, &generator.model)?;
        let session = Some(self.session(role));
        let request = GenerateRequest { role, prompt, sampling, seed, variant, session };
        let reply = calls::reply(backend, &generator.model, request, messages).await;
        (self.moved)();
        reply.map_err(|e| self.failed(role, e))
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
        let request = ScoreRequest {
            role,
            messages: prompts::assessor(assessor, &self.spec.agent_name, history),
            answers: answers.to_vec(),
            scoring: self.spec.scoring.clone(),
            // The name alone is the stream of what is drawn from the answers.
            seed: self.seed(&format!("{} samples", role.name())),
            variant: None,
            session: Some(self.session(role)),
        };
        let read = calls::score(backend, &assessor.model, request).await;
        (self.moved)();
        let (score, call) = read.map_err(|e| self.failed(role, e))?;
        if let Some(reason) = &score.unscored {
            tracing::debug!(episode = %self.spec.id, turn = self.turn, role = role.name(), %reason, "unscored");
        }
        Ok((score, call))
    }

    fn session(&self, role: Role) -> Session {
        self.sessions.of(role, self.candidate, self.turn, self.spec)
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
