//! Messages, and what a template can render of them.

use super::ChatError;
use super::template::{SENTINEL, Template};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions.
    System,
    /// The other side.
    User,
    /// The model.
    Assistant,
    /// The model's call of a tool.
    FunctionCall,
    /// The tool's answer.
    Ipython,
}

impl Role {
    /// The name that templates know.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::FunctionCall => "function_call",
            Self::Ipython => "ipython",
        }
    }
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of any role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }

    /// Instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// A message to the model.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }
}

/// What a template can render, found by trying it once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RoleRules {
    /// Neighbours of one role are refused: merge them.
    alternate: bool,
    /// A system message is refused: it becomes the user's.
    system_as_user: bool,
    /// `function_call` cannot be rendered: it becomes the assistant's.
    calls_as_assistant: bool,
    /// `ipython` cannot be rendered: it becomes the user's.
    answers_as_user: bool,
}

/// A message as it will be rendered, with the indices of the messages that went into it.
pub(super) type Arranged = (ChatMessage, Vec<usize>);

impl RoleRules {
    pub(super) fn probe(template: &Template) -> Result<Self, ChatError> {
        let asked = ChatMessage::user("probe");
        template.render(std::slice::from_ref(&asked), true)?;
        let shows = |messages: &[ChatMessage]| {
            let text = template.render(messages, true);
            text.is_ok_and(|text| text.contains(SENTINEL))
        };
        let with = |role| ChatMessage::new(role, SENTINEL);
        let alternate = !shows(&[asked.clone(), with(Role::User)]);
        let system_as_user = !shows(&[with(Role::System), asked.clone()]);
        let answered = [asked.clone(), ChatMessage::assistant("probe"), with(Role::Ipython)];
        Ok(Self {
            alternate,
            system_as_user,
            // Where two roles must alternate there is no place for a third.
            calls_as_assistant: alternate || !shows(&[asked.clone(), with(Role::FunctionCall)]),
            answers_as_user: alternate || !shows(&answered),
        })
    }

    /// The messages as the template can render them.
    pub(super) fn arrange(&self, messages: &[ChatMessage]) -> Result<Vec<Arranged>, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::Empty);
        }
        let renamed = messages.iter().enumerate().map(|(index, message)| {
            let role = self.renamed(index, message.role);
            (ChatMessage::new(role, message.content.as_str()), vec![index])
        });
        Ok(if self.alternate || self.system_as_user { alternating(renamed) } else { renamed.collect() })
    }

    /// System messages go to the user.
    pub(super) fn folds_system(&self) -> bool {
        self.system_as_user
    }

    fn renamed(&self, index: usize, role: Role) -> Role {
        match role {
            Role::FunctionCall if self.calls_as_assistant => Role::Assistant,
            Role::Ipython if self.answers_as_user => Role::User,
            Role::System if self.system_as_user || (self.alternate && index > 0) => Role::User,
            other => other,
        }
    }
}

/// Merges neighbours of one role with a blank line and begins with a user message, or with one after the system's. System
/// text that has become the user's leads the first user message, or is the one that a chat that began with the assistant
/// needed.
fn alternating(messages: impl Iterator<Item = Arranged>) -> Vec<Arranged> {
    let mut all: Vec<Arranged> = Vec::new();
    for (message, indices) in messages {
        match all.last_mut() {
            Some((last, sources)) if last.role == message.role => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
                sources.extend(indices);
            }
            _ => all.push((message, indices)),
        }
    }
    let first = all.iter().position(|(message, _)| message.role != Role::System).unwrap_or(all.len());
    if all.get(first).is_none_or(|(message, _)| message.role != Role::User) {
        all.insert(first, (ChatMessage::user(""), Vec::new()));
    }
    all
}
