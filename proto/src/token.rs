//! Shared secrets.

use std::fmt;

use tonic::metadata::{Ascii, MetadataValue};

use crate::Digest;

/// Shorter ones can be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 512;

/// Before the token in the header `authorization`.
pub const BEARER: &str = "Bearer ";

/// A secret that shows who calls. Nothing prints it.
#[derive(Clone)]
pub struct Token {
    header: MetadataValue<Ascii>,
    digest: Digest,
}

/// A text that is no token. Says nothing of the text: it may be a secret with a typing error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token has {SHORTEST} to {LONGEST} visible ASCII characters, and this text has {problem}; `influence token create` makes tokens"
)]
pub struct InvalidToken {
    problem: String,
}

impl Token {
    /// A token from its text; white space around it is left out.
    ///
    /// # Errors
    /// When the text is too short or too long, or has other characters.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(InvalidToken { problem: "others, or a space".to_owned() });
        }
        let length = || InvalidToken { problem: format!("{} characters", text.len()) };
        if !(SHORTEST..=LONGEST).contains(&text.len()) {
            return Err(length());
        }
        let mut header = MetadataValue::try_from(format!("{BEARER}{text}")).map_err(|_| length())?;
        header.set_sensitive(true);
        Ok(Self { header, digest: Digest::of(text) })
    }

    /// What the header `authorization` holds. HTTP/2 is told not to keep it in its tables.
    pub fn header(&self) -> MetadataValue<Ascii> {
        self.header.clone()
    }

    /// The text's digest: comparing digests says nothing of the text's length.
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_travels_as_a_bearer_and_is_never_printed() {
        let token = Token::new(" correct-horse-battery\n").unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer correct-horse-battery");
        assert_eq!(token.digest(), Digest::of("correct-horse-battery"));
        assert!(token.header().is_sensitive());
        let digest = token.digest().to_string();
        for shown in [format!("{token:?}"), format!("{:?}", token.header())] {
            assert!(!shown.contains("horse") && !shown.contains(&digest[..8]), "{shown}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for (text, part) in [
            ("", "0 characters"),
            ("fifteen-letters", "15 characters"),
            (&"x".repeat(513), "513 characters"),
            ("correct horse battery staple", "a space"),
            ("correct-hörse-battery", "others"),
        ] {
            let refused = Token::new(text).unwrap_err().to_string();
            assert!(refused.contains(part) && refused.contains("influence token create"), "{refused}");
            assert!(!refused.contains("rse"), "{refused}");
        }
        assert!(Token::new("sixteen-letters!").is_ok());
    }
}
