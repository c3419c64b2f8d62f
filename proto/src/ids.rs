//! Identifiers as types of their own: a run is never passed where an episode is meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::InvalidMessage;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// An identifier from its text: 1 to 128 letters, digits, `-`, `_`, `.` or `:`.
            ///
            /// # Errors
            /// When the text is empty, too long or holds another character.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidMessage> {
                let text = text.into();
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
                if text.is_empty() || text.len() > 128 || !text.chars().all(plain) {
                    let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
                    return Err(InvalidMessage::new($field, format!(
                        "must be 1 to 128 letters, digits, `-`, `_`, `.` or `:`, but is `{shown}`")));
                }
                Ok(Self(text))
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidMessage;
            fn try_from(text: String) -> Result<Self, InvalidMessage> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(/// One execution of an experiment.
    RunId, "run_id");
id!(/// One conversation of a run: a hash of its coordinates, so planning twice gives the same id.
    EpisodeId, "episode_id");
id!(/// A worker's name in the coordinator's books, given at registration.
    WorkerId, "worker_id");
id!(/// Something that can be leased: an episode (its id), a training job, or calls.
    WorkId, "work");

impl From<&EpisodeId> for WorkId {
    fn from(id: &EpisodeId) -> Self {
        Self(id.0.clone())
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A sha256 digest, the address of an artifact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest that was computed piecewise.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits to a digest.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let refuse = || {
            InvalidMessage::new(
                "sha256",
                format!(
                    "must be 64 hexadecimal digits, but is `{}`",
                    text.chars().take(70).flat_map(char::escape_default).collect::<String>()
                ),
            )
        };
        if text.len() != 64 {
            return Err(refuse());
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(refuse);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Several stand in every turn: digit by digit into a buffer, not through the formatter.
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidMessage;
    fn try_from(text: String) -> Result<Self, InvalidMessage> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}
