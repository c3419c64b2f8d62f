//! The columns of the two tables. `docs/exports.md` lists them; a test compares.

use std::sync::Arc;

use influence_proto::prompts::history;
use influence_proto::{Call, RunId, Score, TrainedAgent, Turn};

use super::cells::{Cell, Column, Kind};
use crate::catalogue::{self, EpisodeView};
use crate::experiment::NANO;
use crate::selection::reply_characters;

/// A row of the table of episodes.
#[derive(Debug)]
pub(super) struct EpisodeLine {
    pub(super) run: RunId,
    /// What the agent was.
    pub(super) agent: String,
    pub(super) sibling: u32,
    pub(super) view: EpisodeView,
}

/// A row of the table of turns.
#[derive(Debug)]
pub(super) struct TurnLine {
    pub(super) episode: Arc<EpisodeLine>,
    /// Its place among the episode's turns.
    pub(super) at: usize,
}

impl TurnLine {
    fn turn(&self) -> &Turn {
        &self.episode.view.turns[self.at]
    }

    fn influence<T: Default>(&self, of: impl FnOnce(&Score) -> T) -> T {
        self.turn().influence.as_ref().map(of).unwrap_or_default()
    }
}

const fn column<R>(name: &'static str, kind: Kind, meaning: &'static str, cell: fn(&R) -> Cell) -> Column<R> {
    Column { name, kind, meaning, cell }
}

use Kind::{Flag, Integer, Number, Numbers, Text, Texts};

/// What the column `agent` says.
const AGENT: &str = "`base`, or the iteration whose adapter the agent had, as in `iteration-0`; another run's agent with its run, as in `demo/iteration-0`";

/// One row for each planned episode.
pub(super) const EPISODES: [Column<EpisodeLine>; 38] = [
    column("run", Text, "the run", |e| e.run.as_str().into()),
    column("phase", Text, "`train`, or `evaluate` (on held-out openings)", |e| e.view.phase.name().into()),
    column("iteration", Integer, "from 0; an evaluation's is the one that starts from its agent", |e| {
        e.view.iteration.into()
    }),
    column("agent", Text, AGENT, |e| (&*e.agent).into()),
    column("episode", Text, "the conversation's id, unique in the run", |e| e.view.spec.id.as_str().into()),
    column("environment_class", Text, "its class, as in `therapist`", |e| (&*e.view.spec.environment_class).into()),
    column("environment", Text, "its environment, as in `gameable_smoking`", |e| (&*e.view.spec.environment).into()),
    column("kind", Text, "the kind of user: the text before the first `_` of the environment", |e| kind(e).into()),
    column("initial_state", Text, "its opening, by the id in the environment's file", |e| {
        (&*e.view.spec.initial_state).into()
    }),
    column("sibling", Integer, "which of the phase's conversations from this opening, from 0", |e| e.sibling.into()),
    column("seed", Text, "of all its random streams; 64 bits without a sign, so it is text", |e| {
        e.view.spec.seed.to_string().into()
    }),
    column("status", Text, "`finished`, `failed`, or `pending` while the run goes on", |e| e.view.status.into()),
    column("error", Text, "why it failed", |e| e.view.error.clone().into()),
    column("attempts", Integer, "how often a worker took it up", |e| e.view.attempt.into()),
    column("max_turns", Integer, "the limit of turns", |e| e.view.spec.max_turns.into()),
    column("turns", Integer, "agent replies", |e| e.view.turns.len().into()),
    column("reward", Number, "mean or last of its turns' rewards, as the experiment says; empty if unscored", |e| {
        e.view.reward.into()
    }),
    column("influence", Number, "mean influence score; empty if not detected or unscored", |e| e.view.influence.into()),
    column("vetoed", Flag, "kept out of selection by the influence score, or by its lack", |e| e.view.vetoed.into()),
    column("unscored", Flag, "a turn that the reward needs has no score", |e| e.view.unscored.into()),
    column("selected", Text, "`best` or `worst`, if it was chosen for training", |e| e.view.selected.into()),
    column("agent_name", Text, "what transcripts call the agent", |e| (&*e.view.spec.agent_name).into()),
    column("agent_model", Text, "the model under training, as `models.yaml` names it", |e| {
        (&*e.view.spec.agent.model).into()
    }),
    column("environment_model", Text, "the model that played the user", |e| {
        (&*e.view.spec.environment_role.model).into()
    }),
    column("preference_model", Text, "the model that rated", |e| (&*e.view.spec.preference.model).into()),
    column("transition_model", Text, "the model that chose the next state", |e| {
        (&*e.view.spec.transition.model).into()
    }),
    column("influence_model", Text, "the model that detected influence, if any", |e| {
        e.view.spec.influence.as_ref().map(|role| &*role.model).into()
    }),
    column("adapter_sha256", Text, "of the agent's adapter weights; empty if it has no adapter", |e| {
        let adapter = e.view.spec.trained.as_ref().and_then(TrainedAgent::adapter);
        adapter.map(|adapter| adapter.weights.to_string()).into()
    }),
    column("served_model", Text, "the agent's name at its server, if a fine-tuning API trained it", |e| {
        e.view.spec.trained.as_ref().and_then(TrainedAgent::served).into()
    }),
    column("agent_system_prompt", Text, "as the agent saw it", |e| (&*e.view.spec.agent.system_prompt).into()),
    column("environment_system_prompt", Text, "as the simulated user's model saw it", |e| {
        (&*e.view.spec.environment_role.system_prompt).into()
    }),
    column(
        "message_roles",
        Texts,
        "who says each message: `agent`, `environment` (the user), `environment_system`, `tool_call`, `tool_response`",
        |e| history(&e.view.spec, &e.view.turns).iter().map(|m| speaker(m.speaker)).collect::<Vec<_>>().into(),
    ),
    column("messages", Texts, "the conversation, opening included; replies trimmed, as other roles see them", |e| {
        history(&e.view.spec, &e.view.turns).into_iter().map(|m| m.content).collect::<Vec<_>>().into()
    }),
    column("opening_messages", Integer, "how many of them stood there before the first turn", |e| {
        e.view.spec.opening.len().into()
    }),
    column("reply_characters", Integer, "characters of the agent's trimmed replies together", |e| {
        e.view.turns.iter().map(reply_characters).sum::<usize>().into()
    }),
    column("prompt_tokens", Integer, "tokens of prompts, all roles", |e| {
        calls(e, |call| call.prompt_tokens.into()).into()
    }),
    column("generated_tokens", Integer, "tokens sampled, all roles", |e| {
        calls(e, |call| call.generated_tokens.into()).into()
    }),
    column("dollars", Number, "what its calls cost, where models have a price", |e| {
        (calls(e, |call| call.nanodollars) as f64 / NANO).into()
    }),
];

/// One row for each agent reply.
pub(super) const TURNS: [Column<TurnLine>; 45] = [
    column("run", Text, "the run", |t| t.episode.run.as_str().into()),
    column("phase", Text, "`train`, or `evaluate` (on held-out openings)", |t| t.episode.view.phase.name().into()),
    column("iteration", Integer, "from 0; an evaluation's is the one that starts from its agent", |t| {
        t.episode.view.iteration.into()
    }),
    column("agent", Text, AGENT, |t| (&*t.episode.agent).into()),
    column("episode", Text, "the conversation's id, unique in the run", |t| t.episode.view.spec.id.as_str().into()),
    column("environment_class", Text, "its class, as in `therapist`", |t| {
        (&*t.episode.view.spec.environment_class).into()
    }),
    column("environment", Text, "its environment, as in `gameable_smoking`", |t| {
        (&*t.episode.view.spec.environment).into()
    }),
    column("kind", Text, "the kind of user: the text before the first `_` of the environment", |t| {
        kind(&t.episode).into()
    }),
    column("initial_state", Text, "its opening, by the id in the environment's file", |t| {
        (&*t.episode.view.spec.initial_state).into()
    }),
    column("sibling", Integer, "which of the phase's conversations from this opening, from 0", |t| {
        t.episode.sibling.into()
    }),
    column("turn", Integer, "from 0", |t| t.turn().index.into()),
    column("state", Text, "the state in which the agent replied", |t| (&*t.turn().state).into()),
    column("reply", Text, "what the agent said, exactly as sampled", |t| (&*t.turn().reply.text).into()),
    column("reply_characters", Integer, "characters of the trimmed reply", |t| reply_characters(t.turn()).into()),
    column("reply_tokens", Integer, "tokens sampled, the end-of-turn included; 0 for an agent behind an API", |t| {
        t.turn().reply.token_ids.len().into()
    }),
    column("reply_cut_off", Flag, "stopped by a limit or a stop text, not by the model", |t| {
        t.turn().reply.cut_off.into()
    }),
    column("preference", Number, "expected rating of the reply, usually 1 to 10; empty if unscored", |t| {
        t.turn().preference.expected().into()
    }),
    column("preference_answers", Texts, "the answers that the rater could give", |t| {
        answers(&t.turn().preference).into()
    }),
    column("preference_probabilities", Numbers, "of those answers, in their order; their sum is 1", |t| {
        probabilities(&t.turn().preference).into()
    }),
    column("preference_mass", Number, "probability of all those answers together before that, 0 to 1", |t| {
        t.turn().preference.mass.into()
    }),
    column("preference_unscored", Text, "why the rating must not be used, if so", |t| {
        t.turn().preference.unscored.clone().into()
    }),
    column("preference_method", Text, "how the probabilities were read; different ways do not compare", |t| {
        t.turn().preference.method.to_string().into()
    }),
    column("influence", Number, "expected influence score of the reply; empty if not detected or unscored", |t| {
        t.influence(Score::expected).into()
    }),
    column("influence_answers", Texts, "the answers that the detector could give", |t| t.influence(answers).into()),
    column("influence_probabilities", Numbers, "of those answers, in their order", |t| {
        t.influence(probabilities).into()
    }),
    column("influence_mass", Number, "as of the preference", |t| t.influence(|score| Some(score.mass)).into()),
    column("influence_unscored", Text, "why the score must not be used, if so", |t| {
        t.influence(|score| score.unscored.clone()).into()
    }),
    column("influence_method", Text, "as of the preference", |t| {
        t.influence(|score| Some(score.method.to_string())).into()
    }),
    column("transition_answer", Text, "the drawn answer of the transition role, or the state's default", |t| {
        (&*t.turn().transition.answer).into()
    }),
    column("transition_defaulted", Flag, "the default stood in for an answer that could not be used", |t| {
        t.turn().transition.defaulted.into()
    }),
    column("transition_answers", Texts, "the answers that it could give", |t| {
        answers(&t.turn().transition.score).into()
    }),
    column("transition_probabilities", Numbers, "of those answers, in their order", |t| {
        probabilities(&t.turn().transition.score).into()
    }),
    column("transition_mass", Number, "as of the preference", |t| t.turn().transition.score.mass.into()),
    column("transition_unscored", Text, "why it could not be used, if so", |t| {
        t.turn().transition.score.unscored.clone().into()
    }),
    column("next_state", Text, "where the conversation went", |t| (&*t.turn().transition.next_state).into()),
    column("entered_roles", Texts, "who says each message that entering the state added", |t| {
        t.turn().transition.entered.iter().map(|m| speaker(m.speaker)).collect::<Vec<_>>().into()
    }),
    column("entered_messages", Texts, "those messages", |t| {
        t.turn().transition.entered.iter().map(|m| m.content.clone()).collect::<Vec<_>>().into()
    }),
    column("user_answer", Text, "what the simulated user answered, trimmed; empty on the last turn", |t| {
        t.turn().environment.as_ref().map(|answer| &*answer.text).into()
    }),
    column("user_answer_cut_off", Flag, "the answer was stopped by a limit or a stop text", |t| {
        t.turn().environment.as_ref().is_some_and(|answer| answer.cut_off).into()
    }),
    column("worker", Text, "who rolled it out; empty in imported runs", |t| {
        t.turn().worker.as_ref().map(influence_proto::WorkerId::as_str).into()
    }),
    column("prompt_tokens", Integer, "tokens of prompts, all roles", |t| {
        t.turn().calls.iter().map(|call| u64::from(call.prompt_tokens)).sum::<u64>().into()
    }),
    column("reused_tokens", Integer, "tokens of those prompts that were found in a cache", |t| {
        t.turn().calls.iter().map(|call| u64::from(call.reused_tokens)).sum::<u64>().into()
    }),
    column("generated_tokens", Integer, "tokens sampled, all roles", |t| {
        t.turn().calls.iter().map(|call| u64::from(call.generated_tokens)).sum::<u64>().into()
    }),
    column("milliseconds", Integer, "until the answers, over all calls; some ran at once, so it is no duration", |t| {
        t.turn().calls.iter().map(|call| u64::from(call.milliseconds)).sum::<u64>().into()
    }),
    column("dollars", Number, "what its calls cost, where models have a price", |t| {
        (t.turn().calls.iter().map(|call| call.nanodollars).sum::<u64>() as f64 / NANO).into()
    }),
];

fn kind(episode: &EpisodeLine) -> &str {
    catalogue::kind(&episode.view.spec.environment)
}

fn calls(episode: &EpisodeLine, of: fn(&Call) -> u64) -> u64 {
    episode.view.turns.iter().flat_map(|turn| &turn.calls).map(of).sum()
}

fn answers(score: &Score) -> Vec<String> {
    score.answers.iter().map(|(answer, _)| answer.clone()).collect()
}

fn probabilities(score: &Score) -> Vec<f64> {
    score.answers.iter().map(|(_, probability)| *probability).collect()
}

fn speaker(speaker: influence_proto::Speaker) -> String {
    speaker.name().to_owned()
}
