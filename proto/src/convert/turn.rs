use crate::wire;
use crate::{
    AgentReply, Call, Choice, Digest, EnvironmentReply, InvalidMessage, Role, Score, ScoreMethod, TransitionOutcome,
    Turn,
};

use super::{bounded, list, nested, optional};

impl From<Turn> for wire::Turn {
    fn from(turn: Turn) -> Self {
        let AgentReply { text, prompt_ids, restarts, token_ids, cut_off } = turn.reply;
        Self {
            index: turn.index,
            reply: Some(wire::AgentReply { text, prompt_ids, restarts, token_ids, cut_off }),
            state: turn.state,
            transition: Some(turn.transition.into()),
            preference: Some(turn.preference.into()),
            influence: turn.influence.map(Into::into),
            environment: turn.environment.map(|e| wire::EnvironmentReply { text: e.text, cut_off: e.cut_off }),
            calls: turn.calls.into_iter().map(Into::into).collect(),
            choice: turn.choice.map(|Choice { candidate, passed }| wire::Choice { candidate, passed }),
        }
    }
}

impl TryFrom<wire::Turn> for Turn {
    type Error = InvalidMessage;
    fn try_from(turn: wire::Turn) -> Result<Self, InvalidMessage> {
        Ok(Self {
            index: turn.index,
            reply: nested(turn.reply, "reply")?,
            state: turn.state,
            transition: nested(turn.transition, "transition")?,
            preference: nested(turn.preference, "preference")?,
            influence: optional(turn.influence, "influence")?,
            environment: turn.environment.map(|e| EnvironmentReply { text: e.text, cut_off: e.cut_off }),
            calls: list(turn.calls, "calls")?,
            choice: turn.choice.map(|wire::Choice { candidate, passed }| Choice { candidate, passed }),
            worker: None,
        })
    }
}

impl TryFrom<wire::AgentReply> for AgentReply {
    type Error = InvalidMessage;
    fn try_from(reply: wire::AgentReply) -> Result<Self, InvalidMessage> {
        let wire::AgentReply { text, prompt_ids, restarts, token_ids, cut_off } = reply;
        if token_ids.is_empty() && !prompt_ids.is_empty() {
            return Err(InvalidMessage::new("token_ids", "is empty, but there are prompt_ids"));
        }
        Ok(Self { text, prompt_ids, restarts, token_ids, cut_off })
    }
}

impl From<TransitionOutcome> for wire::TransitionOutcome {
    fn from(outcome: TransitionOutcome) -> Self {
        Self {
            score: Some(outcome.score.into()),
            answer: outcome.answer,
            defaulted: outcome.defaulted,
            next_state: outcome.next_state,
            entered: outcome.entered.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::TransitionOutcome> for TransitionOutcome {
    type Error = InvalidMessage;
    fn try_from(outcome: wire::TransitionOutcome) -> Result<Self, InvalidMessage> {
        Ok(Self {
            score: nested(outcome.score, "score")?,
            answer: outcome.answer,
            defaulted: outcome.defaulted,
            next_state: outcome.next_state,
            entered: list(outcome.entered, "entered")?,
        })
    }
}

impl From<Score> for wire::Score {
    fn from(score: Score) -> Self {
        let answers = score
            .answers
            .into_iter()
            .map(|(answer, probability)| wire::AnswerProbability { answer, probability })
            .collect();
        let (method, samples) = match score.method {
            ScoreMethod::Exact => (wire::ScoreMethod::Exact, 0),
            ScoreMethod::Continued => (wire::ScoreMethod::Continued, 0),
            ScoreMethod::FirstToken => (wire::ScoreMethod::FirstToken, 0),
            ScoreMethod::Samples(count) => (wire::ScoreMethod::Samples, count),
        };
        Self { answers, mass: score.mass, unscored: score.unscored, method: method.into(), samples }
    }
}

impl TryFrom<wire::Score> for Score {
    type Error = InvalidMessage;
    fn try_from(score: wire::Score) -> Result<Self, InvalidMessage> {
        if score.unscored.is_none() && score.answers.is_empty() {
            return Err(InvalidMessage::new("answers", "is empty, but the score is not marked unscored"));
        }
        let method = match score.method() {
            wire::ScoreMethod::Exact => ScoreMethod::Exact,
            wire::ScoreMethod::Continued => ScoreMethod::Continued,
            wire::ScoreMethod::FirstToken => ScoreMethod::FirstToken,
            wire::ScoreMethod::Samples => ScoreMethod::Samples(score.samples),
        };
        let answers = score
            .answers
            .into_iter()
            .map(|a| Ok((a.answer, bounded(a.probability, "answers.probability", 0.0..=1.0 + 1e-9)?)))
            .collect::<Result<_, InvalidMessage>>()?;
        Ok(Self { answers, mass: bounded(score.mass, "mass", 0.0..=1.0 + 1e-6)?, unscored: score.unscored, method })
    }
}

impl From<Role> for wire::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Agent => Self::Agent,
            Role::Environment => Self::Environment,
            Role::Preference => Self::Preference,
            Role::Transition => Self::Transition,
            Role::Influence => Self::Influence,
        }
    }
}

impl TryFrom<wire::Role> for Role {
    type Error = InvalidMessage;
    fn try_from(role: wire::Role) -> Result<Self, InvalidMessage> {
        Ok(match role {
            wire::Role::Agent => Self::Agent,
            wire::Role::Environment => Self::Environment,
            wire::Role::Preference => Self::Preference,
            wire::Role::Transition => Self::Transition,
            wire::Role::Influence => Self::Influence,
            wire::Role::Unspecified => return Err(InvalidMessage::new("role", "is a value that is not known here")),
        })
    }
}

impl From<Call> for wire::Call {
    fn from(call: Call) -> Self {
        Self {
            role: wire::Role::from(call.role).into(),
            prompt_tokens: call.prompt_tokens,
            reused_tokens: call.reused_tokens,
            generated_tokens: call.generated_tokens,
            prompt_sha256: call.prompt_sha256.into(),
            milliseconds: call.milliseconds,
            nanodollars: call.nanodollars,
        }
    }
}

impl TryFrom<wire::Call> for Call {
    type Error = InvalidMessage;
    fn try_from(call: wire::Call) -> Result<Self, InvalidMessage> {
        Ok(Self {
            role: call.role().try_into()?,
            prompt_tokens: call.prompt_tokens,
            reused_tokens: call.reused_tokens,
            generated_tokens: call.generated_tokens,
            prompt_sha256: Digest::parse(&call.prompt_sha256)?,
            milliseconds: call.milliseconds,
            nanodollars: call.nanodollars,
        })
    }
}
