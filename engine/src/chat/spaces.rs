//! Tokenizers that put a space before a text, as SentencePiece does for Llama 2 and the first Mistral models.
//!
//! The space belongs before a whole text (or, for some, before every stretch between control tokens). Text that goes on
//! from other text, a reply or the form of an answer, must be encoded without it.

use tokenizers::normalizers::{NormalizerWrapper, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{Result, Tokenizer};

/// Where a tokenizer puts its space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    Never,
    /// Before a whole text.
    First,
    /// Before every stretch between control tokens.
    Every,
}

pub(super) fn space(tokenizer: &Tokenizer) -> Space {
    let normalizer = tokenizer.get_normalizer().map_or(Space::Never, space_of_normalizer);
    normalizer.max(tokenizer.get_pre_tokenizer().map_or(Space::Never, space_of_pre_tokenizer))
}

fn space_of_normalizer(normalizer: &NormalizerWrapper) -> Space {
    match normalizer {
        NormalizerWrapper::Prepend(_) => Space::Every,
        NormalizerWrapper::Sequence(all) => all.as_ref().iter().map(space_of_normalizer).max().unwrap_or(Space::Never),
        _ => Space::Never,
    }
}

fn space_of_pre_tokenizer(step: &PreTokenizerWrapper) -> Space {
    match step {
        PreTokenizerWrapper::Metaspace(step) => match step.prepend_scheme {
            PrependScheme::Never => Space::Never,
            PrependScheme::First => Space::First,
            PrependScheme::Always => Space::Every,
        },
        PreTokenizerWrapper::ByteLevel(step) if step.add_prefix_space => Space::Every,
        PreTokenizerWrapper::Sequence(all) => {
            all.as_ref().iter().map(space_of_pre_tokenizer).max().unwrap_or(Space::Never)
        }
        _ => Space::Never,
    }
}

/// The same tokenizer, but that it never puts a space.
pub(super) fn without_space(tokenizer: &Tokenizer) -> Result<Tokenizer> {
    let mut bare = tokenizer.clone();
    bare.with_normalizer(tokenizer.get_normalizer().cloned().and_then(bare_normalizer))?;
    bare.with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned().map(bare_pre_tokenizer));
    Ok(bare)
}

fn bare_normalizer(normalizer: NormalizerWrapper) -> Option<NormalizerWrapper> {
    match normalizer {
        NormalizerWrapper::Prepend(_) => None,
        NormalizerWrapper::Sequence(all) => {
            Some(Normalizers::new(all.into_iter().filter_map(bare_normalizer).collect()).into())
        }
        other => Some(other),
    }
}

fn bare_pre_tokenizer(step: PreTokenizerWrapper) -> PreTokenizerWrapper {
    match step {
        PreTokenizerWrapper::Metaspace(mut step) => {
            step.prepend_scheme = PrependScheme::Never;
            step.into()
        }
        PreTokenizerWrapper::ByteLevel(mut step) => {
            step.add_prefix_space = false;
            step.into()
        }
        PreTokenizerWrapper::Sequence(all) => {
            PreTokenizers::new(all.into_iter().map(bare_pre_tokenizer).collect()).into()
        }
        other => other,
    }
}
