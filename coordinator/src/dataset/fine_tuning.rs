//! Rows as fine-tuning APIs take them: the JSON lines that OpenAI's has made usual.

use influence_proto::prompts::ChatRole;
use influence_proto::{Algorithm, EpisodeSpec, RowMessage, Turn};
use serde::Serialize;

use super::{Preference, TextChat};
use crate::config::RowMode;

/// A line of such a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FineTuningRow {
    /// Of supervised fine-tuning: the loss is on assistant messages, but for those with weight 0.
    Chat {
        /// A conversation.
        messages: Vec<RowMessage>,
    },
    /// Of DPO: two replies to one prompt.
    Preference {
        /// The prompt.
        input: Input,
        /// The reply to favour, alone.
        preferred_output: [RowMessage; 1],
        /// The other one, alone.
        non_preferred_output: [RowMessage; 1],
    },
}

/// What is replied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Input {
    /// A conversation that ends before the reply.
    pub messages: Vec<RowMessage>,
}

impl FineTuningRow {
    /// A conversation: one row, or one for each reply. None without a reply that has text.
    pub fn of_chat(spec: &EpisodeSpec, turns: &[Turn], mode: RowMode) -> Vec<Self> {
        let Some(TextChat { messages, replies, .. }) = TextChat::of(spec, turns) else { return Vec::new() };
        let row = |messages: &[RowMessage]| Self::Chat { messages: as_sent(messages) };
        match mode {
            RowMode::PerEpisode => vec![row(&messages)],
            RowMode::PerTurn => replies.iter().map(|reply| row(&messages[..=*reply])).collect(),
        }
    }

    /// The best siblings of an initial state beside its worst, one to one: their first replies, for later ones have no
    /// prompt in common. Each of the best gets the first of the worst that is left, began alike and replied otherwise.
    pub fn of_siblings(best: &[TextChat], worst: &[TextChat]) -> Vec<Self> {
        let first = |chat: &TextChat| {
            let reply = chat.messages.get(chat.opening).filter(|_| chat.replies.first() == Some(&chat.opening))?;
            Some((as_sent(&chat.messages[..chat.opening]), reply.clone()))
        };
        let mut left: Vec<_> = worst.iter().filter_map(first).collect();
        let mut rows = Vec::new();
        for (prompt, chosen) in best.iter().filter_map(first) {
            let fits = |(other, rejected): &(Vec<RowMessage>, RowMessage)| *other == prompt && *rejected != chosen;
            let Some(place) = left.iter().position(fits) else { continue };
            let (_, rejected) = left.remove(place);
            rows.push(Self::preference(prompt, chosen, rejected));
        }
        rows
    }

    /// What `algorithm` learns from a published preference; none where its replies follow different prompts.
    pub fn of_preference(preference: Preference, algorithm: Algorithm) -> Option<Self> {
        let Preference { mut chosen, mut rejected } = preference;
        let reply = chosen.pop()?;
        let mut prompt = as_sent(&chosen);
        if matches!(algorithm, Algorithm::Dpo { .. }) {
            let other = rejected.pop()?;
            return (prompt == as_sent(&rejected)).then(|| Self::preference(prompt, reply, other));
        }
        prompt.iter_mut().filter(|m| m.role == ChatRole::Assistant).for_each(|m| m.weight = Some(0));
        prompt.push(reply);
        Some(Self::Chat { messages: prompt })
    }

    fn preference(prompt: Vec<RowMessage>, chosen: RowMessage, rejected: RowMessage) -> Self {
        let unweighted = |message| RowMessage { weight: None, ..message };
        Self::Preference {
            input: Input { messages: prompt.into_iter().map(unweighted).collect() },
            preferred_output: [unweighted(chosen)],
            non_preferred_output: [unweighted(rejected)],
        }
    }
}

/// The messages as workers send them to servers, where neighbours of one role are one message. Of two in the assistant's
/// role of which one alone is trained on, both stay.
fn as_sent(messages: &[RowMessage]) -> Vec<RowMessage> {
    let mut all: Vec<RowMessage> = Vec::new();
    for message in messages {
        match all.last_mut() {
            Some(last) if last.role == message.role && last.weight == message.weight => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            _ => all.push(message.clone()),
        }
    }
    all
}
