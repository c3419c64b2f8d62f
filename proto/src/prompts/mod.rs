//! What each role of a conversation sees, computed from the spec and the turns so far. Workers
//! send it to models; readers of stored episodes recompute it.

mod transcript;

use serde::{Deserialize, Serialize};

use crate::{AssessorRole, EpisodeSpec, Message, Speaker, Turn};

/// A role of a chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatRole {
    /// Instructions.
    System,
    /// Whom the model answers.
    User,
    /// The model itself.
    Assistant,
    /// The model called a tool.
    FunctionCall,
    /// A tool's output.
    Ipython,
}

impl ChatRole {
    /// The role's name in chat templates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::FunctionCall => "function_call",
            Self::Ipython => "ipython",
        }
    }
}

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks, as the template sees it.
    pub role: ChatRole,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// The conversation after `turns`: the opening, then per turn the agent's trimmed reply, what
/// entering a state appended, and the environment's answer.
pub fn history(spec: &EpisodeSpec, turns: &[Turn]) -> Vec<Message> {
    let mut history = spec.opening.to_vec();
    for turn in turns {
        history.push(reply_message(&turn.reply.text));
        history.extend(after_reply(turn));
    }
    history
}

/// What a turn adds to the conversation after the agent's reply.
pub fn after_reply(turn: &Turn) -> Vec<Message> {
    let mut added = turn.transition.entered.clone();
    if let Some(answer) = &turn.environment {
        added.push(Message { speaker: Speaker::Environment, content: answer.text.clone() });
    }
    added
}

/// The agent's reply as the other roles see it.
pub fn reply_message(text: &str) -> Message {
    Message { speaker: Speaker::Agent, content: text.trim().to_owned() }
}

/// The agent's prompt: its system prompt, then the history with itself as the assistant.
pub fn agent(system_prompt: &str, history: &[Message]) -> Vec<ChatMessage> {
    let mut prompt = vec![ChatMessage::new(ChatRole::System, system_prompt)];
    prompt.extend(history.iter().map(as_agent_sees));
    prompt
}

/// One message of the history in the agent's chat.
pub fn as_agent_sees(message: &Message) -> ChatMessage {
    let role = match message.speaker {
        Speaker::Agent => ChatRole::Assistant,
        Speaker::Environment | Speaker::EnvironmentSystem => ChatRole::User,
        Speaker::ToolCall => ChatRole::FunctionCall,
        Speaker::ToolResponse => ChatRole::Ipython,
    };
    ChatMessage::new(role, &message.content)
}

/// The environment's prompt: in character, with the agent as its user and without tool messages.
pub fn environment(system_prompt: &str, history: &[Message]) -> Vec<ChatMessage> {
    let mut prompt = vec![ChatMessage::new(ChatRole::System, system_prompt)];
    prompt.extend(history.iter().filter_map(|message| {
        let role = match message.speaker {
            Speaker::Agent | Speaker::EnvironmentSystem => ChatRole::User,
            Speaker::Environment => ChatRole::Assistant,
            Speaker::ToolCall | Speaker::ToolResponse => return None,
        };
        Some(ChatMessage::new(role, &message.content))
    }));
    prompt
}

/// An assessor's prompt: its system prompt, if it has one, then the transcript and its suffix as one message.
pub fn assessor(role: &AssessorRole, agent_name: &str, history: &[Message]) -> Vec<ChatMessage> {
    let transcript = transcript::of(agent_name, history, role.sees_tools, &role.suffix);
    let system = Some(&role.system_prompt).filter(|text| !text.is_empty());
    let system = system.map(|text| ChatMessage::new(ChatRole::System, text));
    system.into_iter().chain([ChatMessage::new(ChatRole::User, transcript)]).collect()
}
