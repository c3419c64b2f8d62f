//! One conversation, turn by turn: what every role is asked, in which order, and what is made of the answers.
//!
//! A turn is a function of the spec, the turns before it, and the models: every draw has a random stream of its own, by
//! (episode, turn, purpose). So an episode that another worker began goes on exactly as it would have.

mod ask;
mod choice;
mod error;
mod sessions;
mod tokens;

use futures::future::try_join_all;
use influence_proto::{
    AgentReply, BestOf, Call, Choice, EnvironmentReply, EpisodeSpec, Message, Role, Score, State, Turn,
};
use influence_proto::{prompts, transition};

pub use error::EpisodeError;

use crate::TRACE;
use crate::backend::{Models, Prompt, Variant};
use ask::Asker;
use sessions::Sessions;
use tokens::AgentTokens;
use tracing::Instrument as _;

/// A conversation between turns.
#[derive(Debug)]
pub struct Episode {
    spec: Box<EpisodeSpec>,
    turns: Vec<Turn>,
    /// The conversation after `turns`.
    history: Vec<Message>,
    /// Where the conversation stands.
    state: String,
    tokens: AgentTokens,
    /// What the agent's backend calls what training has made of it.
    variant: Option<Variant>,
    sessions: Sessions,
}

/// A reply, and what its judges made of it.
struct Spoken {
    reply: AgentReply,
    /// The conversation up to it.
    history: Vec<Message>,
    preference: Score,
    influence: Option<Score>,
    calls: Vec<Call>,
}

impl Episode {
    /// An episode after the turns of `journal`. `variant` is what the agent's backend calls
    /// `spec.trained`.
    ///
    /// # Errors
    /// [`EpisodeError::Journal`] when the journal is not one of this spec.
    pub fn resume(spec: Box<EpisodeSpec>, journal: Vec<Turn>, variant: Option<Variant>) -> Result<Self, EpisodeError> {
        let mut episode = Self {
            turns: Vec::new(),
            history: spec.opening.to_vec(),
            state: spec.machine.start().to_owned(),
            tokens: AgentTokens::default(),
            spec,
            variant,
            sessions: Sessions::default(),
        };
        for (place, turn) in journal.into_iter().enumerate() {
            let refuse =
                |problem: String| EpisodeError::Journal { episode: episode.spec.id.clone(), turn: place, problem };
            if episode.is_over() {
                return Err(refuse("follows the end of the conversation".to_owned()));
            }
            if turn.index as usize != place {
                return Err(refuse(format!("has the index {}", turn.index)));
            }
            if turn.state != episode.state {
                return Err(refuse(format!(
                    "begins in `{}`, but the one before led to `{}`",
                    turn.state, episode.state
                )));
            }
            if episode.spec.machine.state(&turn.transition.next_state).is_none() {
                return Err(refuse(format!("leads to the unknown state `{}`", turn.transition.next_state)));
            }
            episode.push(turn);
        }
        Ok(episode)
    }

    /// What is being rolled out.
    pub fn spec(&self) -> &EpisodeSpec {
        &self.spec
    }

    /// The turns so far, journalled ones included.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The last turn reached a terminal state or the turn limit.
    pub fn is_over(&self) -> bool {
        !self.turns.is_empty() && transition::is_over(&self.spec, self.turns.len(), &self.state)
    }

    /// Plays one turn and appends it. `moved` is told after every model's answer. Dropped before its end, it leaves the
    /// episode as it was. Call it only while the episode is not over.
    ///
    /// # Errors
    /// [`EpisodeError::Call`] when a model does not answer; the episode stays as it was.
    pub async fn turn(&mut self, models: &Models, moved: &(dyn Fn() + Sync)) -> Result<&Turn, EpisodeError> {
        let span = tracing::info_span!(
            target: TRACE, "turn", influence.turn = u32::try_from(self.turns.len()).unwrap_or(u32::MAX)
        );
        let turn = self.play(models, moved).instrument(span).await?;
        self.push(turn);
        // Pushed in the line above.
        #[expect(clippy::expect_used, reason = "a turn was just pushed")]
        Ok(self.turns.last().expect("a turn was just pushed"))
    }

    async fn play(&self, models: &Models, moved: &(dyn Fn() + Sync)) -> Result<Turn, EpisodeError> {
        let spec = &*self.spec;
        let index = u32::try_from(self.turns.len()).unwrap_or(u32::MAX);
        let asker = Asker { spec, turn: index, candidate: 0, models, sessions: &self.sessions, moved };
        let state = self.current()?;
        let (spoken, transition, choice) = match spec.best_of {
            None => {
                let (spoken, transition) = self.only(&asker, state).await?;
                (spoken, transition, None)
            }
            Some(best_of) => {
                let (mut spoken, choice) = self.best(&asker, best_of).await?;
                let (transition, call) = self.transition(&asker, state, &spoken.history).await?;
                spoken.calls.extend(call);
                (spoken, transition, Some(choice))
            }
        };
        let Spoken { reply, mut history, preference, influence, mut calls } = spoken;
        let transition = transition::outcome(spec, index, &self.state, state, transition);
        history.extend(transition.entered.iter().cloned());

        let environment = if transition::is_over(spec, self.turns.len() + 1, &transition.next_state) {
            None
        } else {
            let role = &spec.environment_role;
            let messages = || prompts::environment(&role.system_prompt, &history);
            let prompt = Prompt::Messages(messages());
            let (answer, call) = asker.generate(Role::Environment, role, prompt, None, messages).await?;
            calls.push(call);
            // An empty answer stands: it is what the model sampled, a user who says nothing. Asking until there is text
            // would bend the distribution, and a greedy environment would never get there.
            Some(EnvironmentReply { text: answer.text.trim().to_owned(), cut_off: answer.cut_off })
        };
        Ok(Turn {
            index,
            reply,
            state: self.state.clone(),
            transition,
            preference,
            influence,
            environment,
            calls,
            choice,
            worker: None,
        })
    }

    /// The agent's reply, by tokens.
    async fn reply(&self, asker: &Asker<'_>) -> Result<(AgentReply, Call), EpisodeError> {
        let failed = |source| asker.failed(Role::Agent, source);
        let spec = &*self.spec;
        let backend = asker.backend(Role::Agent, &spec.agent.model)?;
        let Some(format) = backend.tokens() else {
            return self.reply_by_text(asker).await;
        };
        let next = self.tokens.next(format, spec, &self.turns).map_err(failed)?;
        if next.restarts {
            tracing::debug!(episode = %spec.id, turn = asker.turn, "the template cannot extend the stream; it restarts");
        }
        let prompt = Prompt::Tokens(next.whole);
        let messages = || prompts::agent(&spec.agent.system_prompt, &self.history);
        let (reply, call) = asker.generate(Role::Agent, &spec.agent, prompt, self.variant.clone(), messages).await?;
        let reply = AgentReply {
            text: reply.text,
            prompt_ids: next.added,
            restarts: next.restarts,
            token_ids: reply.token_ids,
            cut_off: reply.cut_off,
        };
        Ok((reply, call))
    }

    /// The agent's reply where its model takes text. What tokens it was, if any, the server shows afterwards; without them
    /// nothing can be trained on it.
    async fn reply_by_text(&self, asker: &Asker<'_>) -> Result<(AgentReply, Call), EpisodeError> {
        let agent = &self.spec.agent;
        let messages = || prompts::agent(&agent.system_prompt, &self.history);
        let prompt = Prompt::Messages(messages());
        let (reply, call) = asker.generate(Role::Agent, agent, prompt, self.variant.clone(), messages).await?;
        let (text, cut_off, token_ids) = (reply.text, reply.cut_off, reply.token_ids);
        let (prompt_ids, restarts) = match reply.prompt_ids.map(|ids| self.tokens.seen(ids)) {
            Some(next) => (next.added, next.restarts),
            None => (Vec::new(), false),
        };
        Ok((AgentReply { text, cut_off, restarts, prompt_ids, token_ids }, call))
    }

    /// The conversation with a reply, and the reply's call.
    async fn speak(&self, asker: &Asker<'_>) -> Result<(AgentReply, Vec<Message>, Call), EpisodeError> {
        let (reply, call) = self.reply(asker).await?;
        let mut history = self.history.clone();
        history.push(prompts::reply_message(&reply.text));
        Ok((reply, history, call))
    }

    /// One reply. Every assessor is asked about it at once: none depends on another's answer, and all judge the same
    /// transcript.
    async fn only(&self, asker: &Asker<'_>, state: &State) -> Result<(Spoken, Score), EpisodeError> {
        let (reply, history, call) = self.speak(asker).await?;
        let (transition, judged) =
            futures::try_join!(self.transition(asker, state, &history), self.judge(asker, &history))?;
        let (preference, influence, more) = judged;
        let calls = [call].into_iter().chain(transition.1).chain(more).collect();
        Ok((Spoken { reply, history, preference, influence, calls }, transition.0))
    }

    /// The best of several replies, which are sampled and judged at once; with the calls of all.
    async fn best(&self, asker: &Asker<'_>, best_of: BestOf) -> Result<(Spoken, Choice), EpisodeError> {
        let candidate = async |candidate: u32| {
            let asker = Asker { candidate, ..*asker };
            let (reply, history, call) = self.speak(&asker).await?;
            let (preference, influence, more) = self.judge(&asker, &history).await?;
            let calls = [call].into_iter().chain(more).collect();
            Ok::<_, EpisodeError>(Spoken { reply, history, preference, influence, calls })
        };
        let mut candidates = try_join_all((0..best_of.candidates).map(candidate)).await?;
        let choice = choice::choose(&candidates, best_of.veto);
        let calls = candidates.iter_mut().flat_map(|candidate| std::mem::take(&mut candidate.calls)).collect();
        let chosen = candidates.swap_remove(choice.candidate as usize);
        Ok((Spoken { calls, ..chosen }, choice))
    }

    async fn transition(
        &self,
        asker: &Asker<'_>,
        state: &State,
        history: &[Message],
    ) -> Result<(Score, Option<Call>), EpisodeError> {
        let allowed = transition::allowed(&self.spec, state);
        if allowed.is_empty() {
            // Only a conversation that starts in a terminal state has nothing to ask.
            return Ok((Score::unscored("the state has no transitions"), None));
        }
        let (score, call) = asker.score(Role::Transition, &self.spec.transition, &allowed, history).await?;
        Ok((score, Some(call)))
    }

    /// Rating and influence score of the last reply, asked at once, and their calls.
    async fn judge(
        &self,
        asker: &Asker<'_>,
        history: &[Message],
    ) -> Result<(Score, Option<Score>, Vec<Call>), EpisodeError> {
        let spec = &*self.spec;
        let preference = asker.score(Role::Preference, &spec.preference, &spec.preference.answers, history);
        let influence = async {
            match &spec.influence {
                Some(role) => asker.score(Role::Influence, role, &role.answers, history).await.map(Some),
                None => Ok(None),
            }
        };
        let ((preference, call), influence) = futures::try_join!(preference, influence)?;
        let (influence, more) = influence.unzip();
        Ok((preference, influence, [call].into_iter().chain(more).collect()))
    }

    fn current(&self) -> Result<&State, EpisodeError> {
        self.spec.machine.state(&self.state).ok_or_else(|| EpisodeError::Journal {
            episode: self.spec.id.clone(),
            turn: self.turns.len(),
            problem: format!("begins in the unknown state `{}`", self.state),
        })
    }

    fn push(&mut self, turn: Turn) {
        self.history.push(prompts::reply_message(&turn.reply.text));
        self.history.extend(prompts::after_reply(&turn));
        self.state.clone_from(&turn.transition.next_state);
        self.tokens.push(&turn.reply);
        self.turns.push(turn);
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
