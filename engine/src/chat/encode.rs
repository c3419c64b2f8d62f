//! Rendered text to ids, with control tokens from the template only.

use std::sync::Arc;

use tokenizers::{AddedToken, Tokenizer};

use super::{ChatError, ChatMessage};

/// A tokenizer that can also be told to take control tokens' texts for plain text.
#[derive(Debug)]
pub(super) struct Encoder {
    tokenizer: Arc<Tokenizer>,
    /// The same, but every special token is read as text.
    plain: Tokenizer,
    /// Special tokens, longest first, so that the first match is the right one.
    controls: Vec<(u32, AddedToken)>,
}

/// Letters that stand for control tokens' texts inside messages while the template runs.
#[derive(Debug, Default)]
pub(super) struct Shield {
    /// The text and its stand-in, a private-use letter that no message contains.
    hidden: Vec<(String, char)>,
}

impl Shield {
    /// Replaces every control token's text by its stand-in.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (control, letter) in &self.hidden {
            if text.contains(control.as_str()) {
                text = text.replace(control.as_str(), letter.encode_utf8(&mut [0; 4]));
            }
        }
        text
    }

    pub(super) fn reveal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (control, letter) in &self.hidden {
            text = text.replace(*letter, control);
        }
        text
    }
}

impl Encoder {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, ChatError> {
        let mut plain = Tokenizer::clone(&tokenizer);
        plain.set_encode_special_tokens(true);
        let mut controls: Vec<(u32, AddedToken)> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        controls.sort_by_key(|(id, token)| (std::cmp::Reverse(token.content.len()), *id));
        Ok(Self { tokenizer, plain, controls })
    }

    /// Hides the control tokens that the messages spell out, and makes the shield fit for `more`, which the caller hides.
    /// Empty, and nearly free, in nearly every chat.
    pub(super) fn shield(&self, messages: &mut [ChatMessage], more: &str) -> Shield {
        let spelt_out = |token: &AddedToken| {
            let in_messages = messages.iter().any(|m| m.content.contains(&token.content));
            in_messages || more.contains(&token.content)
        };
        let found: Vec<String> = self
            .controls
            .iter()
            .filter(|(_, token)| spelt_out(token))
            .map(|(_, token)| token.content.clone())
            .collect();
        if found.is_empty() {
            return Shield::default();
        }
        let unused = |letter: &char| {
            let in_messages = messages.iter().any(|m| m.content.contains(*letter));
            !in_messages && !more.contains(*letter)
        };
        let letters = ('\u{F0000}'..='\u{FFFFD}').filter(unused);
        let shield = Shield { hidden: found.into_iter().zip(letters).collect() };
        for message in messages {
            message.content = shield.hide(&message.content);
        }
        shield
    }

    /// Encodes rendered text whose messages went through `shield`.
    pub(super) fn encode(&self, text: &str, shield: &Shield) -> Result<Vec<u32>, ChatError> {
        if shield.hidden.is_empty() {
            return ids(&self.tokenizer, text);
        }
        let mut all = Vec::new();
        let mut rest = text;
        while let Some((start, id, token)) = self.next_control(rest) {
            let before = &rest[..start];
            let before = if token.lstrip { before.trim_end() } else { before };
            all.extend(self.encode_plain(&shield.reveal(before))?);
            all.push(id);
            rest = &rest[start + token.content.len()..];
            rest = if token.rstrip { rest.trim_start() } else { rest };
        }
        all.extend(self.encode_plain(&shield.reveal(rest))?);
        Ok(all)
    }

    /// Encodes text that holds no control token, whatever it spells.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ChatError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        ids(&self.plain, text)
    }

    /// The control token that `text` begins with, and what follows it.
    pub(super) fn leading_control<'t>(&self, text: &'t str) -> Option<(u32, &'t str)> {
        self.controls.iter().find_map(|(id, token)| {
            let rest = text.strip_prefix(token.content.as_str())?;
            Some((*id, rest))
        })
    }

    /// The first control token in `text`, the longest of those that begin at one place.
    fn next_control(&self, text: &str) -> Option<(usize, u32, &AddedToken)> {
        let found = self.controls.iter().filter_map(|(id, token)| {
            let start = text.find(token.content.as_str())?;
            Some((start, *id, token))
        });
        found.min_by_key(|(start, _, token)| (*start, std::cmp::Reverse(token.content.len())))
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ChatError> {
    let encoding = tokenizer.encode_fast(text, false);
    let encoding = encoding.map_err(|e| ChatError::Encode(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}
