use crate::wire;
use crate::{InvalidMessage, Message, Speaker, State, StateMachine};

use super::list;

impl From<Speaker> for wire::Speaker {
    fn from(speaker: Speaker) -> Self {
        match speaker {
            Speaker::Agent => Self::Agent,
            Speaker::Environment => Self::Environment,
            Speaker::EnvironmentSystem => Self::EnvironmentSystem,
            Speaker::ToolCall => Self::ToolCall,
            Speaker::ToolResponse => Self::ToolResponse,
        }
    }
}

impl From<Message> for wire::Message {
    fn from(message: Message) -> Self {
        Self { speaker: wire::Speaker::from(message.speaker).into(), content: message.content }
    }
}

impl TryFrom<wire::Message> for Message {
    type Error = InvalidMessage;
    fn try_from(message: wire::Message) -> Result<Self, InvalidMessage> {
        let speaker = match message.speaker() {
            wire::Speaker::Agent => Speaker::Agent,
            wire::Speaker::Environment => Speaker::Environment,
            wire::Speaker::EnvironmentSystem => Speaker::EnvironmentSystem,
            wire::Speaker::ToolCall => Speaker::ToolCall,
            wire::Speaker::ToolResponse => Speaker::ToolResponse,
            wire::Speaker::Unspecified => {
                return Err(InvalidMessage::new("speaker", format!("is the unknown value {}", message.speaker)));
            }
        };
        Ok(Self { speaker, content: message.content })
    }
}

impl From<StateMachine> for wire::StateMachine {
    fn from(machine: StateMachine) -> Self {
        let states = machine.states().iter().map(|(name, state)| (name.clone(), state.clone().into())).collect();
        Self { start: machine.start().to_owned(), states }
    }
}

impl TryFrom<wire::StateMachine> for StateMachine {
    type Error = InvalidMessage;
    fn try_from(machine: wire::StateMachine) -> Result<Self, InvalidMessage> {
        let states = machine
            .states
            .into_iter()
            .map(|(name, state)| {
                let state = State::try_from(state).map_err(|e| e.inside(&format!("states.{name}")))?;
                Ok((name, state))
            })
            .collect::<Result<_, InvalidMessage>>()?;
        Self::new(machine.start, states)
    }
}

impl From<State> for wire::State {
    fn from(state: State) -> Self {
        Self {
            entry: state.entry.into_iter().map(Into::into).collect(),
            alternative_entry: state.alternative_entry.into_iter().map(Into::into).collect(),
            transitions: state
                .transitions
                .into_iter()
                .map(|(answer, next_state)| wire::Transition { answer, next_state })
                .collect(),
            default_answer: state.default_answer,
            terminal: state.terminal,
        }
    }
}

impl TryFrom<wire::State> for State {
    type Error = InvalidMessage;
    fn try_from(state: wire::State) -> Result<Self, InvalidMessage> {
        Ok(Self {
            entry: list(state.entry, "entry")?,
            alternative_entry: list(state.alternative_entry, "alternative_entry")?,
            transitions: state.transitions.into_iter().map(|t| (t.answer, t.next_state)).collect(),
            default_answer: state.default_answer,
            terminal: state.terminal,
        })
    }
}
