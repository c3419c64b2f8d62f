//! One conversation, step by step: what is needed next, and what is made of what comes.

use influence_proto::prompts::{self, ChatMessage};
use influence_proto::{
    AgentReply, Ask, AssessorRole, Call, EnvironmentReply, EpisodeSpec, GeneratorRole, Message, ModelAnswer, ModelCall,
    Role, Said, Score, State, Turn, stream, transition,
};

/// Whom a person plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Agent,
    User,
}

/// What a conversation needs to go on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Need {
    /// Answers to these, all at once.
    Models(Vec<ModelCall>),
    /// Words of the person who plays this part.
    Words(Part),
    /// Nothing: it is over.
    Nothing,
}

/// Where a turn stands.
#[derive(Debug, Clone)]
enum Stage {
    /// The agent is to reply.
    Reply,
    /// The reply is to be judged.
    Judge {
        reply: AgentReply,
        calls: Vec<Call>,
    },
    /// The user is to answer; the turn lacks nothing else.
    Answer(Box<Turn>),
    Over,
}

/// A conversation as a worker would roll it out, but for the words that a person says in it.
#[derive(Debug, Clone)]
pub(crate) struct Play {
    pub(crate) spec: EpisodeSpec,
    /// Whom a person plays; none: who only watches.
    pub(crate) you: Option<Part>,
    turns: Vec<Turn>,
    stage: Stage,
}

impl Play {
    pub(crate) const fn new(spec: EpisodeSpec, you: Option<Part>) -> Self {
        Self { spec, you, turns: Vec::new(), stage: Stage::Reply }
    }

    /// The turns so far; the last one may lack the user's answer still.
    pub(crate) fn turns(&self) -> Vec<Turn> {
        let mut turns = self.turns.clone();
        if let Stage::Answer(turn) = &self.stage {
            turns.push((**turn).clone());
        }
        turns
    }

    /// A reply that is not judged yet.
    pub(crate) fn unjudged(&self) -> Option<&str> {
        match &self.stage {
            Stage::Judge { reply, .. } => Some(&reply.text),
            _ => None,
        }
    }

    /// What comes next.
    pub(crate) fn need(&self) -> Need {
        let spec = &self.spec;
        match (&self.stage, self.you) {
            (Stage::Over, _) => Need::Nothing,
            (Stage::Reply, Some(Part::Agent)) => Need::Words(Part::Agent),
            (Stage::Answer(_), Some(Part::User)) => Need::Words(Part::User),
            (Stage::Reply, _) => {
                let messages = prompts::agent(&spec.agent.system_prompt, &self.history());
                Need::Models(vec![self.reply(Role::Agent, &spec.agent, messages)])
            }
            (Stage::Judge { reply, .. }, _) => Need::Models(self.judges(&reply.text)),
            (Stage::Answer(turn), _) => {
                let mut history = self.history();
                history.push(prompts::reply_message(&turn.reply.text));
                history.extend(turn.transition.entered.iter().cloned());
                let role = &spec.environment_role;
                let messages = prompts::environment(&role.system_prompt, &history);
                Need::Models(vec![self.reply(Role::Environment, role, messages)])
            }
        }
    }

    /// Takes what the person said, if it is their turn.
    pub(crate) fn say(&mut self, text: String) -> bool {
        match self.need() {
            Need::Words(Part::Agent) => self.replied(text, false, None),
            Need::Words(Part::User) => self.answered(text, false, None),
            _ => return false,
        }
        true
    }

    /// Takes the answers to what was needed of models. Of other calls they are let go.
    pub(crate) fn hear(&mut self, answers: Vec<ModelAnswer>) {
        if matches!(self.stage, Stage::Judge { .. }) {
            return self.judged(answers);
        }
        let Some(ModelAnswer { call, said: Said::Reply { text, cut_off } }) = answers.into_iter().next() else {
            return;
        };
        match self.stage {
            Stage::Reply => self.replied(text, cut_off, call),
            _ => self.answered(text, cut_off, call),
        }
    }

    fn replied(&mut self, text: String, cut_off: bool, call: Option<Call>) {
        let reply = AgentReply { text, cut_off, restarts: false, prompt_ids: Vec::new(), token_ids: Vec::new() };
        self.stage = Stage::Judge { reply, calls: call.into_iter().collect() };
    }

    /// The judges that are asked about a reply.
    fn judges(&self, reply: &str) -> Vec<ModelCall> {
        let spec = &self.spec;
        let mut history = self.history();
        history.push(prompts::reply_message(reply));
        let mut calls = vec![self.score(Role::Preference, &spec.preference, spec.preference.answers.clone(), &history)];
        calls.extend(
            spec.influence.as_ref().map(|role| self.score(Role::Influence, role, role.answers.clone(), &history)),
        );
        let allowed = self.state().map(|state| transition::allowed(spec, state)).unwrap_or_default();
        // Only a conversation that starts in a terminal state has nothing to ask.
        if !allowed.is_empty() {
            calls.push(self.score(Role::Transition, &spec.transition, allowed, &history));
        }
        calls
    }

    fn judged(&mut self, answers: Vec<ModelAnswer>) {
        let Stage::Judge { reply, mut calls } = std::mem::replace(&mut self.stage, Stage::Over) else { return };
        let mut scores = Vec::new();
        for answer in answers {
            calls.extend(answer.call);
            scores.extend(match answer.said {
                Said::Score(score) => Some(score),
                Said::Reply { .. } => None,
            });
        }
        let mut scores = scores.into_iter();
        let mut next = |missing: &str| scores.next().unwrap_or_else(|| Score::unscored(missing));
        let preference = next("it was not rated");
        let influence = self.spec.influence.is_some().then(|| next("it was not asked for"));
        let (index, from) = (self.index(), self.at().to_owned());
        let Some(state) = self.spec.machine.state(&from) else { return };
        let transition = transition::outcome(&self.spec, index, &from, state, next("the state has no transitions"));
        let over = transition::is_over(&self.spec, self.turns.len() + 1, &transition.next_state);
        let (environment, choice) = (None, None);
        let (state, worker) = (from, None);
        let turn = Turn { index, reply, state, transition, preference, influence, environment, calls, choice, worker };
        if over {
            self.turns.push(turn);
        } else {
            self.stage = Stage::Answer(Box::new(turn));
        }
    }

    fn answered(&mut self, text: String, cut_off: bool, call: Option<Call>) {
        let Stage::Answer(turn) = std::mem::replace(&mut self.stage, Stage::Reply) else { return };
        let mut turn = *turn;
        turn.environment = Some(EnvironmentReply { text: text.trim().to_owned(), cut_off });
        turn.calls.extend(call);
        self.turns.push(turn);
    }

    fn history(&self) -> Vec<Message> {
        prompts::history(&self.spec, &self.turns)
    }

    fn at(&self) -> &str {
        self.turns.last().map_or_else(|| self.spec.machine.start(), |turn| &turn.transition.next_state)
    }

    fn state(&self) -> Option<&State> {
        self.spec.machine.state(self.at())
    }

    fn index(&self) -> u32 {
        u32::try_from(self.turns.len()).unwrap_or(u32::MAX)
    }

    fn reply(&self, role: Role, generator: &GeneratorRole, messages: Vec<ChatMessage>) -> ModelCall {
        let trained = self.spec.trained.clone().filter(|_| role == Role::Agent);
        let ask = Ask::Reply { sampling: generator.sampling.clone(), trained };
        let seed = stream::of_turn(self.spec.seed, self.index(), role.name());
        ModelCall { role, model: generator.model.clone(), messages, seed, ask }
    }

    fn score(&self, role: Role, assessor: &AssessorRole, answers: Vec<String>, history: &[Message]) -> ModelCall {
        ModelCall {
            role,
            model: assessor.model.clone(),
            messages: prompts::assessor(assessor, &self.spec.agent_name, history),
            // As a worker's are: the name alone is the stream of what is drawn from the answers.
            seed: stream::of_turn(self.spec.seed, self.index(), &format!("{} samples", role.name())),
            ask: Ask::Score { answers, scoring: self.spec.scoring.clone() },
        }
    }
}
