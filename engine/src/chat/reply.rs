//! A reply's text while it is made, and what a token is in bytes.

use tokenizers::{DecoderWrapper, Tokenizer, step_decode_stream};

use super::ChatFormat;

/// The text of a reply, token by token. What it hands out is never taken back: it waits for the rest of a character, and
/// for whether a stop text goes on.
#[derive(Debug)]
pub struct ReplyText {
    chat: ChatFormat,
    stop: Vec<String>,
    /// What the tokenizer's incremental decoding remembers.
    ids: Vec<u32>,
    prefix: String,
    prefix_index: usize,
    /// All that was handed out.
    told: String,
    /// Decoded, and perhaps the beginning of a stop text.
    held: String,
    /// A stop text came, or the tokens cannot be decoded one by one: the rest is known when the reply is complete.
    ended: bool,
}

impl ChatFormat {
    /// The text of a reply that ends at the first of the texts `stop`.
    pub fn reply_text(&self, stop: Vec<String>) -> ReplyText {
        ReplyText {
            chat: self.clone(),
            stop,
            ids: Vec::new(),
            prefix: String::new(),
            prefix_index: 0,
            told: String::new(),
            held: String::new(),
            ended: false,
        }
    }

    /// The bytes that a token stands for, which need not be whole characters. None if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let tokenizer = self.parts.encoder.whole();
        let token = tokenizer.id_to_token(id)?;
        if tokenizer.get_added_tokens_decoder().contains_key(&id) {
            return Some(token.into_bytes());
        }
        if is_byte_level(tokenizer) {
            // A letter that stands for no byte stands for itself.
            let bytes = |letter: char| byte_of(letter).map_or_else(|| letter.to_string().into_bytes(), |b| vec![b]);
            return Some(token.chars().flat_map(bytes).collect());
        }
        // SentencePiece: single bytes are spelt out, and spaces have a sign of their own.
        let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => Some(vec![byte]),
            None => Some(token.replace('\u{2581}', " ").into_bytes()),
        }
    }
}

impl ReplyText {
    /// Takes the reply's next token and returns the text that has become certain; often none.
    pub fn push(&mut self, token: u32) -> String {
        if self.ended || self.chat.stop_ids().contains(&token) {
            return String::new();
        }
        let tokenizer = self.chat.parts.encoder.whole();
        let (ids, prefix, index) = (&mut self.ids, &mut self.prefix, &mut self.prefix_index);
        match step_decode_stream(tokenizer, vec![token], true, ids, prefix, index) {
            Ok(Some(text)) => self.held.push_str(&text),
            Ok(None) => return String::new(),
            Err(_) => self.ended = true,
        }
        let stop = self.stop.iter().filter_map(|stop| self.held.find(stop)).min();
        self.ended |= stop.is_some();
        let certain = stop.unwrap_or_else(|| self.held.len() - self.uncertain());
        let text: String = self.held.drain(..certain).collect();
        self.told.push_str(&text);
        text
    }

    /// What of the complete reply has not been handed out.
    pub fn rest<'t>(&self, whole: &'t str) -> &'t str {
        whole.strip_prefix(&self.told).unwrap_or_default()
    }

    /// Length of the longest end of the held text that a stop text begins with.
    fn uncertain(&self) -> usize {
        let begins = |stop: &String| {
            let ends = self.held.char_indices().map(|(start, _)| &self.held[start..]);
            ends.into_iter().find(|end| stop.starts_with(end)).map_or(0, str::len)
        };
        self.stop.iter().map(begins).max().unwrap_or(0)
    }
}

fn is_byte_level(tokenizer: &Tokenizer) -> bool {
    match tokenizer.get_decoder() {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(all)) => {
            all.get_decoders().iter().any(|one| matches!(one, DecoderWrapper::ByteLevel(_)))
        }
        _ => false,
    }
}

/// The byte that a letter of GPT-2's byte-level alphabet stands for: what is printable stands for itself, the others are
/// numbered from U+0100 on.
fn byte_of(letter: char) -> Option<u8> {
    let byte = match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chat::ChatSource;
    use std::sync::Arc;
    use tokenizers::models::bpe::BPE;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// One token for each byte, and token 256 that ends a reply.
    fn chat() -> ChatFormat {
        let mut letters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        letters.sort_unstable_by_key(|letter| byte_of(*letter).unwrap());
        let vocabulary = letters.iter().enumerate().map(|(id, letter)| (letter.to_string(), id as u32));
        let vocabulary: tokenizers::models::bpe::Vocab = vocabulary.chain([("<end>".to_owned(), 256)]).collect();
        let model = BPE::builder().vocab_and_merges(vocabulary, vec![]).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_decoder(Some(ByteLevel::default()));
        ChatFormat::new(ChatSource::default(), Arc::new(tokenizer), &[256]).unwrap()
    }

    fn pieces(stop: &[&str], reply: &[u8]) -> (Vec<String>, ReplyText) {
        let mut text = chat().reply_text(stop.iter().map(|&stop| stop.to_owned()).collect());
        (reply.iter().map(|byte| text.push(u32::from(*byte))).collect(), text)
    }

    /// Protects: a character is shown once it is whole, and not before.
    #[test]
    fn half_characters_are_held_back() {
        let (told, _) = pieces(&[], "aé🙂b".as_bytes());
        assert_eq!(told, ["a", "", "é", "", "", "", "🙂", "b"]);
        let (told, text) = pieces(&[], &[b'a', 0xf0, 0x9f]);
        assert_eq!(told.concat(), "a");
        assert_eq!(text.rest("a\u{fffd}"), "\u{fffd}", "what never became whole comes with the end");
    }

    /// Protects: nothing of a stop text is ever shown, and what only looked like one is.
    #[test]
    fn the_beginning_of_a_stop_text_is_held_back() {
        let (told, text) = pieces(&["END", "##"], b"aENbE#cEND more");
        assert_eq!(told.concat(), "aENbE#c");
        assert_eq!(&told[..5], ["a", "", "", "ENb", ""]);
        assert_eq!(text.rest("aENbE#c"), "");
        let (told, text) = pieces(&["END"], b"aEN");
        assert_eq!((told.concat().as_str(), text.rest("aEN")), ("a", "EN"));
    }

    #[test]
    fn the_end_of_turn_is_no_text() {
        let (mut text, said) = (chat().reply_text(Vec::new()), "yes");
        let told: String = said.bytes().map(u32::from).chain([256]).map(|id| text.push(id)).collect();
        assert_eq!(told, said);
    }

    /// Protects: log-probabilities name tokens by their bytes, all of which the alphabet has.
    #[test]
    fn every_byte_has_its_letter() {
        let chat = chat();
        for byte in 0..=255u8 {
            assert_eq!(chat.token_bytes(u32::from(byte)), Some(vec![byte]));
        }
        assert_eq!(chat.token_bytes(256).as_deref(), Some(&b"<end>"[..]));
        assert_eq!(chat.token_bytes(300), None);
    }
}
