//! Rendered text to ids, with control tokens from the template only.

use std::sync::Arc;

use tokenizers::{AddedToken, Tokenizer};

use super::spaces::{Space, space, without_space};
use super::{ChatError, ChatMessage};

/// A tokenizer for text wherever it stands, which can also be told to take control tokens' texts for plain text.
#[derive(Debug)]
pub(super) struct Encoder {
    /// For text from its beginning on.
    whole: Reader,
    /// For text that goes on from other text: no space is put before it.
    onward: Reader,
    /// For text that follows a control token.
    after_control: Reader,
    /// Special tokens, longest first, so that the first match is the right one.
    controls: Vec<(u32, AddedToken)>,
}

#[derive(Debug, Clone)]
struct Reader {
    tokenizer: Arc<Tokenizer>,
    /// The same, but every special token is read as text.
    plain: Arc<Tokenizer>,
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
        let mut controls: Vec<(u32, AddedToken)> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        controls.sort_by_key(|(id, token)| (std::cmp::Reverse(token.content.len()), *id));
        let whole = Reader::new(tokenizer);
        let space = space(&whole.tokenizer);
        let onward = match space {
            Space::Never => whole.clone(),
            _ => {
                let bare = without_space(&whole.tokenizer).map_err(|e| ChatError::Encode(e.to_string()))?;
                Reader::new(Arc::new(bare))
            }
        };
        let after_control = if space == Space::Every { whole.clone() } else { onward.clone() };
        Ok(Self { whole, onward, after_control, controls })
    }

    /// The model's own tokenizer.
    pub(super) fn whole(&self) -> &Tokenizer {
        &self.whole.tokenizer
    }

    /// The tokenizer of text that goes on from other text.
    pub(super) fn onward(&self) -> &Tokenizer {
        &self.onward.tokenizer
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

    /// Encodes rendered text, from its beginning on, whose messages went through `shield`.
    pub(super) fn encode(&self, text: &str, shield: &Shield) -> Result<Vec<u32>, ChatError> {
        self.encode_with(&self.whole, text, shield)
    }

    /// As [`Self::encode`], but for text that follows a control token.
    pub(super) fn encode_after_control(&self, text: &str, shield: &Shield) -> Result<Vec<u32>, ChatError> {
        self.encode_with(&self.after_control, text, shield)
    }

    fn encode_with(&self, first: &Reader, text: &str, shield: &Shield) -> Result<Vec<u32>, ChatError> {
        if shield.hidden.is_empty() {
            return ids(&first.tokenizer, text);
        }
        let mut reader = first;
        let mut all = Vec::new();
        let mut rest = text;
        while let Some((start, id, token)) = self.next_control(rest) {
            let before = &rest[..start];
            let before = if token.lstrip { before.trim_end() } else { before };
            all.extend(reader.plain_ids(&shield.reveal(before))?);
            all.push(id);
            reader = &self.after_control;
            rest = &rest[start + token.content.len()..];
            rest = if token.rstrip { rest.trim_start() } else { rest };
        }
        all.extend(reader.plain_ids(&shield.reveal(rest))?);
        Ok(all)
    }

    /// Encodes text that goes on from other text and holds no control token, whatever it spells.
    pub(super) fn encode_onward(&self, text: &str) -> Result<Vec<u32>, ChatError> {
        self.onward.plain_ids(text)
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

impl Reader {
    fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let mut plain = Tokenizer::clone(&tokenizer);
        plain.set_encode_special_tokens(true);
        Self { tokenizer, plain: Arc::new(plain) }
    }

    /// Of text that holds no control token, whatever it spells.
    fn plain_ids(&self, text: &str) -> Result<Vec<u32>, ChatError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        ids(&self.plain, text)
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ChatError> {
    let encoding = tokenizer.encode_fast(text, false);
    let encoding = encoding.map_err(|e| ChatError::Encode(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}
