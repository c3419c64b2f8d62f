//! SentencePiece tokenizers of GGUF files, as byte-pair encoders with the same result.
//!
//! SentencePiece merges, again and again, the neighbours whose union is the piece with the highest score. As merge rules
//! that is: every way to cut a piece into two others, by the piece's score.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{NormalizerWrapper, Sequence as Normalizers};
use tokenizers::{DecoderWrapper, Result, Tokenizer};

const SPACE: &str = "\u{2581}";

/// What a file says of its pieces.
pub(super) struct Pieces<'a> {
    pub(super) tokens: &'a [&'a str],
    /// One each.
    pub(super) scores: &'a [f32],
    /// One each: neighbours become such a piece. Control tokens, bytes and what stands for the unknown never come of text.
    pub(super) merged: &'a [bool],
    /// Stands for what no piece and no byte can.
    pub(super) unknown: Option<&'a str>,
    /// A space is put before every text.
    pub(super) space_first: bool,
}

/// Without its control tokens, which are the caller's to add.
pub(super) fn tokenizer(pieces: &Pieces<'_>, vocabulary: Vocab) -> Result<Tokenizer> {
    let mut bpe = BPE::builder().vocab_and_merges(vocabulary, merges(pieces)).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = pieces.unknown {
        bpe = bpe.unk_token(unknown.to_owned());
    }
    let mut tokenizer = Tokenizer::new(bpe.build()?);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let replaced: DecoderWrapper = Replace::new(SPACE, " ")?.into();
    let mut decoders = vec![replaced, ByteFallback::new().into(), Fuse::new().into()];
    if pieces.space_first {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(Replace::new(" ", SPACE)?.into());
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)))?;
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

/// The best first; of one piece, in the order of its parts.
fn merges(pieces: &Pieces<'_>) -> Merges {
    let ids: HashMap<&str, usize> = pieces.tokens.iter().copied().zip(0..).collect();
    let mut found = Vec::new();
    for (id, piece) in pieces.tokens.iter().enumerate().filter(|(id, _)| pieces.merged[*id]) {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let known = cuts.filter_map(|(left, right)| Some((ids.get(left)?, ids.get(right)?)));
        found.extend(known.map(|(left, right)| (id, *left, *right)));
    }
    found.sort_by(|(one, left, right), (other, left_of_other, right_of_other)| {
        let by_score = pieces.scores[*other].total_cmp(&pieces.scores[*one]);
        by_score.then((one, left, right).cmp(&(other, left_of_other, right_of_other)))
    });
    let text = |id: usize| pieces.tokens[id].to_owned();
    found.into_iter().map(|(_, left, right)| (text(left), text(right))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;

    /// Written by `tests/reference/pieces.py` with SentencePiece itself.
    #[derive(Deserialize)]
    struct Reference {
        add_space_prefix: bool,
        tokens: Vec<String>,
        scores: Vec<f32>,
        token_type: Vec<i64>,
        texts: Vec<Text>,
    }

    #[derive(Deserialize)]
    struct Text {
        text: String,
        ids: Vec<u32>,
        decoded: String,
    }

    /// Protects: the rebuilt tokenizer gives SentencePiece's own ids, and reads them back as it does.
    #[test]
    fn ids_are_those_of_sentencepiece() {
        let references: Vec<Reference> =
            serde_json::from_str(include_str!("../../tests/reference/pieces.json")).unwrap();
        assert_eq!(references.len(), 2);
        for reference in references {
            let tokens: Vec<&str> = reference.tokens.iter().map(String::as_str).collect();
            let vocabulary = reference.tokens.iter().cloned().zip(0..).collect();
            let space_first = reference.add_space_prefix;
            let merged: Vec<bool> = reference.token_type.iter().map(|kind| *kind == 1).collect();
            let (scores, unknown) = (&reference.scores, Some("<unk>"));
            let pieces = Pieces { tokens: &tokens, scores, merged: &merged, unknown, space_first };
            let tokenizer = tokenizer(&pieces, vocabulary).unwrap();
            for Text { text, ids, decoded } in reference.texts {
                let encoding = tokenizer.encode_fast(text.as_str(), false).unwrap();
                assert_eq!(encoding.get_ids(), ids, "{text:?}");
                assert_eq!(tokenizer.decode(&ids, true).unwrap(), decoded);
            }
        }
    }
}
