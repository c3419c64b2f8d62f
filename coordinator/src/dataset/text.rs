//! Conversations as text to train on, for trainers that make tokens themselves.

use influence_proto::prompts::{ChatRole, after_reply, as_agent_sees};
use influence_proto::{EpisodeSpec, Message, RowMessage, Turn};

/// A conversation as its agent saw it, replies exactly as sampled, in the three roles that every template knows: tool calls
/// become the assistant's, what tools answer the user's. It ends with the last reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChat {
    /// System prompt, opening and turns.
    pub messages: Vec<RowMessage>,
    /// Which of the messages the agent wrote itself, in order.
    pub replies: Vec<usize>,
    /// How many messages stood there before the first turn.
    pub opening: usize,
}

impl TextChat {
    /// The chat of an episode; none without a reply that has text.
    pub fn of(spec: &EpisodeSpec, turns: &[Turn]) -> Option<Self> {
        let system = RowMessage { role: ChatRole::System, content: spec.agent.system_prompt.clone(), weight: None };
        let mut messages = vec![system];
        messages.extend(spec.opening.iter().map(foreign));
        let (opening, mut replies) = (messages.len(), Vec::new());
        for turn in turns {
            let empty = turn.reply.text.trim().is_empty();
            if !empty {
                replies.push(messages.len());
            }
            let (content, weight) = (turn.reply.text.clone(), empty.then_some(0));
            messages.push(RowMessage { role: ChatRole::Assistant, content, weight });
            messages.extend(after_reply(turn).iter().map(foreign));
        }
        messages.truncate(replies.last()? + 1);
        Some(Self { messages, replies, opening })
    }
}

/// A message that the agent did not write. One that stands in its role all the same is not trained on.
fn foreign(message: &Message) -> RowMessage {
    let seen = as_agent_sees(message);
    let role = match seen.role {
        ChatRole::FunctionCall => ChatRole::Assistant,
        ChatRole::Ipython => ChatRole::User,
        role => role,
    };
    RowMessage { role, content: seen.content, weight: (role == ChatRole::Assistant).then_some(0) }
}
