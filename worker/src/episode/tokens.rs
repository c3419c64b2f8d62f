//! The agent's token stream: it only grows.

use influence_proto::prompts;
use influence_proto::{AgentReply, EpisodeSpec, Turn};

use crate::backend::{BackendError, TokenStream};

/// Every token of the episode so far: prompts and replies as they were seen and sampled.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentTokens {
    ids: Vec<u32>,
}

/// The prompt of a turn, by what it adds to the stream.
#[derive(Debug)]
pub(super) struct NextPrompt {
    /// The whole prompt.
    pub(super) whole: Vec<u32>,
    /// What it adds; the whole prompt when it `restarts`.
    pub(super) added: Vec<u32>,
    pub(super) restarts: bool,
}

impl AgentTokens {
    /// Appends a reply with what preceded it.
    pub(super) fn push(&mut self, reply: &AgentReply) {
        if reply.restarts {
            self.ids.clear();
        }
        self.ids.extend(&reply.prompt_ids);
        self.ids.extend(&reply.token_ids);
    }

    /// A prompt that was encoded elsewhere, as far as it extends what was seen and sampled.
    pub(super) fn seen(&self, whole: Vec<u32>) -> NextPrompt {
        match whole.strip_prefix(self.ids.as_slice()) {
            Some(added) => NextPrompt { added: added.to_vec(), restarts: false, whole },
            None => NextPrompt { added: whole.clone(), restarts: true, whole },
        }
    }

    /// The prompt after `turns`. Sampled tokens are never encoded again, unless the model's format leaves no other way.
    pub(super) fn next(
        &self,
        format: &dyn TokenStream,
        spec: &EpisodeSpec,
        turns: &[Turn],
    ) -> Result<NextPrompt, BackendError> {
        let Some((last, before)) = turns.split_last() else {
            let whole = format.prompt(&prompts::agent(&spec.agent.system_prompt, &spec.opening))?;
            return Ok(NextPrompt { added: whole.clone(), whole, restarts: false });
        };
        let seen = prompts::agent(&spec.agent.system_prompt, &prompts::history(spec, before));
        let new: Vec<_> = prompts::after_reply(last).iter().map(prompts::as_agent_sees).collect();
        match format.extend(&seen, &last.reply.token_ids, !last.reply.cut_off, &new)? {
            Some(added) => {
                let whole = [self.ids.as_slice(), added.as_slice()].concat();
                Ok(NextPrompt { whole, added, restarts: false })
            }
            None => {
                let whole =
                    format.prompt(&prompts::agent(&spec.agent.system_prompt, &prompts::history(spec, turns)))?;
                Ok(NextPrompt { added: whole.clone(), whole, restarts: true })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: a prompt that a server has encoded adds what is new in it, and begins a stream of its own where it does not
    /// extend what was seen and sampled.
    #[test]
    fn a_prompt_that_was_encoded_elsewhere_extends_the_stream_or_begins_one() {
        let mut tokens = AgentTokens::default();
        let first = tokens.seen(vec![1, 2]);
        assert_eq!((first.added.as_slice(), first.restarts), (&[1, 2][..], false));
        let reply = |prompt_ids, restarts| AgentReply {
            text: String::new(),
            prompt_ids,
            restarts,
            token_ids: vec![3, 4],
            cut_off: false,
        };
        tokens.push(&reply(first.added, first.restarts));
        let second = tokens.seen(vec![1, 2, 3, 4, 5]);
        assert_eq!((second.added.as_slice(), second.restarts), (&[5][..], false));
        let other = tokens.seen(vec![1, 2, 34, 5]);
        assert_eq!((other.added.as_slice(), other.restarts), (&[1, 2, 34, 5][..], true));
        tokens.push(&reply(other.added, other.restarts));
        assert_eq!(tokens.seen(vec![1, 2, 34, 5, 3, 4, 6]).added, [6]);
    }
}
