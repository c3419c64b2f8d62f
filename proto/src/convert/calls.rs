use crate::prompts::{ChatMessage, ChatRole};
use crate::wire;
use crate::{Ask, InvalidMessage, ModelAnswer, ModelCall, Role, Said, TrainedAgent};

use super::{list, nested, optional, required};

impl From<ModelCall> for wire::ModelCall {
    fn from(call: ModelCall) -> Self {
        Self {
            role: wire::Role::from(call.role).into(),
            model: call.model,
            messages: call.messages.into_iter().map(Into::into).collect(),
            seed: call.seed,
            ask: Some(match call.ask {
                Ask::Reply { sampling, trained } => wire::model_call::Ask::Reply(wire::AskReply {
                    sampling: Some(sampling.into()),
                    trained: trained.map(Into::into),
                }),
                Ask::Score { answers, scoring } => {
                    wire::model_call::Ask::Score(wire::AskScore { answers, scoring: Some(scoring.into()) })
                }
            }),
        }
    }
}

impl TryFrom<wire::ModelCall> for ModelCall {
    type Error = InvalidMessage;
    fn try_from(call: wire::ModelCall) -> Result<Self, InvalidMessage> {
        if call.messages.is_empty() {
            return Err(InvalidMessage::new("messages", "is empty"));
        }
        let role = Role::try_from(call.role())?;
        let ask = match required(call.ask, "ask")? {
            wire::model_call::Ask::Reply(reply) => Ask::Reply {
                sampling: nested(reply.sampling, "sampling")?,
                trained: reply.trained.map(TryInto::try_into).transpose()?,
            },
            wire::model_call::Ask::Score(score) if score.answers.is_empty() => {
                return Err(InvalidMessage::new("answers", "is empty"));
            }
            wire::model_call::Ask::Score(score) => {
                Ask::Score { answers: score.answers, scoring: nested(score.scoring, "scoring")? }
            }
        };
        Ok(Self { role, model: call.model, messages: list(call.messages, "messages")?, seed: call.seed, ask })
    }
}

impl From<TrainedAgent> for wire::ask_reply::Trained {
    fn from(agent: TrainedAgent) -> Self {
        match wire::episode_spec::Trained::from(agent) {
            wire::episode_spec::Trained::Adapter(adapter) => Self::Adapter(adapter),
            wire::episode_spec::Trained::ServedModel(model) => Self::ServedModel(model),
        }
    }
}

impl TryFrom<wire::ask_reply::Trained> for TrainedAgent {
    type Error = InvalidMessage;
    fn try_from(agent: wire::ask_reply::Trained) -> Result<Self, InvalidMessage> {
        match agent {
            wire::ask_reply::Trained::Adapter(adapter) => wire::episode_spec::Trained::Adapter(adapter),
            wire::ask_reply::Trained::ServedModel(model) => wire::episode_spec::Trained::ServedModel(model),
        }
        .try_into()
    }
}

impl From<ChatMessage> for wire::ChatMessage {
    fn from(message: ChatMessage) -> Self {
        let role = match message.role {
            ChatRole::System => wire::ChatRole::System,
            ChatRole::User => wire::ChatRole::User,
            ChatRole::Assistant => wire::ChatRole::Assistant,
            ChatRole::FunctionCall => wire::ChatRole::FunctionCall,
            ChatRole::Ipython => wire::ChatRole::Ipython,
        };
        Self { role: role.into(), content: message.content }
    }
}

impl TryFrom<wire::ChatMessage> for ChatMessage {
    type Error = InvalidMessage;
    fn try_from(message: wire::ChatMessage) -> Result<Self, InvalidMessage> {
        let role = match message.role() {
            wire::ChatRole::System => ChatRole::System,
            wire::ChatRole::User => ChatRole::User,
            wire::ChatRole::Assistant => ChatRole::Assistant,
            wire::ChatRole::FunctionCall => ChatRole::FunctionCall,
            wire::ChatRole::Ipython => ChatRole::Ipython,
            wire::ChatRole::Unspecified => {
                return Err(InvalidMessage::new("role", format!("is the unknown value {}", message.role)));
            }
        };
        Ok(Self { role, content: message.content })
    }
}

impl From<ModelAnswer> for wire::ModelAnswer {
    fn from(answer: ModelAnswer) -> Self {
        let said = match answer.said {
            Said::Reply { text, cut_off } => wire::model_answer::Said::Reply(wire::Reply { text, cut_off }),
            Said::Score(score) => wire::model_answer::Said::Score(score.into()),
        };
        Self { call: answer.call.map(Into::into), said: Some(said) }
    }
}

impl TryFrom<wire::ModelAnswer> for ModelAnswer {
    type Error = InvalidMessage;
    fn try_from(answer: wire::ModelAnswer) -> Result<Self, InvalidMessage> {
        let said = match required(answer.said, "said")? {
            wire::model_answer::Said::Reply(wire::Reply { text, cut_off }) => Said::Reply { text, cut_off },
            wire::model_answer::Said::Score(score) => Said::Score(nested(Some(score), "score")?),
        };
        Ok(Self { call: optional(answer.call, "call")?, said })
    }
}
