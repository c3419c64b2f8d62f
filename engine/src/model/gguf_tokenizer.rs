//! The tokenizer that a GGUF file carries, rebuilt as a `tokenizers::Tokenizer`.

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::LoadError;
use super::gguf::GgufFile;
use super::gguf_sentencepiece::{self, Pieces};

/// `tokenizer.ggml.token_type` of control tokens (never produced from plain text) and user-defined ones.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// The token for what has none, and those that stand for a byte.
const UNKNOWN: i64 = 2;
const BYTE: i64 = 6;

/// How words are cut before merging, by `tokenizer.ggml.pre`.
const PRE_TOKENIZERS: &str = "smollm, gpt-2, default, llama-bpe, qwen2";

/// The split of Llama 3's tokenizer, as its published `tokenizer.json` has it.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The split of Qwen2's and Qwen3's tokenizers: Llama 3's, with every digit alone.
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Builds the tokenizer from `tokenizer.ggml.*`.
pub(super) fn from_gguf(file: &GgufFile) -> Result<Tokenizer, LoadError> {
    let failed = |e: tokenizers::Error| LoadError::Tokenizer { path: file.path().to_owned(), reason: e.to_string() };
    let tokens = texts(file, "tokenizer.ggml.tokens")?;
    let vocabulary: Vocab = tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id as u32)).collect();
    if vocabulary.len() != tokens.len() {
        let repeated = tokens.len() - vocabulary.len();
        return Err(file.invalid(
            "tokenizer.ggml.tokens",
            &format!("a list with {repeated} repeated tokens"),
            "every token once",
        ));
    }
    let mut tokenizer = match file.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(file, &tokens, vocabulary)?,
        "llama" => sentencepiece(file, &tokens, vocabulary)?,
        kind => {
            let supported = "gpt2 (byte-level BPE), llama (SentencePiece)";
            return Err(file.unsupported("tokenizer.ggml.model", kind, supported));
        }
    };
    add_tokens(&mut tokenizer, file, &tokens).map_err(failed)?;
    Ok(tokenizer)
}

fn byte_level(file: &GgufFile, tokens: &[&str], vocabulary: Vocab) -> Result<Tokenizer, LoadError> {
    let failed = |e: tokenizers::Error| LoadError::Tokenizer { path: file.path().to_owned(), reason: e.to_string() };
    let pre = file.optional_text("tokenizer.ggml.pre")?.unwrap_or("default");
    let (pre_tokenizer, ignore_merges) = pre_tokenizer(pre, file)?;
    let normalizer = (pre == "qwen2").then_some(NormalizerWrapper::NFC(NFC));
    let merges = merges(file, tokens)?;
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(ignore_merges).build();
    let mut tokenizer = Tokenizer::new(model.map_err(failed)?);
    tokenizer.with_normalizer(normalizer).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

fn sentencepiece(file: &GgufFile, tokens: &[&str], vocabulary: Vocab) -> Result<Tokenizer, LoadError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores: Option<Vec<f32>> = file.array(SCORES)?.iter().map(|score| score.to_f32().ok()).collect();
    let Some(scores) = scores.filter(|scores| scores.len() == tokens.len()) else {
        return Err(file.invalid(SCORES, "another list", "a number for every token"));
    };
    let unknown = file.token_id("tokenizer.ggml.unknown_token_id")?;
    let kinds = kinds(file);
    let never = [CONTROL, UNKNOWN, BYTE];
    let merged: Vec<bool> =
        (0..tokens.len()).map(|id| kinds.get(id).is_none_or(|kind| !never.contains(kind))).collect();
    let pieces = Pieces {
        tokens,
        scores: &scores,
        merged: &merged,
        unknown: unknown.and_then(|id| tokens.get(id as usize).copied()),
        space_first: file.optional_flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
    };
    let failed = |e: tokenizers::Error| LoadError::Tokenizer { path: file.path().to_owned(), reason: e.to_string() };
    gguf_sentencepiece::tokenizer(&pieces, vocabulary).map_err(failed)
}

/// The cutting rule of a `tokenizer.ggml.pre` name, and whether whole words of the vocabulary skip the merges.
fn pre_tokenizer(name: &str, file: &GgufFile) -> Result<(PreTokenizerWrapper, bool), LoadError> {
    let byte_level = |use_regex| ByteLevel::new(false, true, use_regex);
    match name {
        "smollm" => Ok((Sequence::new(vec![Digits::new(true).into(), byte_level(true).into()]).into(), false)),
        "gpt-2" | "default" => Ok((byte_level(true).into(), false)),
        "llama-bpe" | "qwen2" => {
            let split = if name == "qwen2" { QWEN2_SPLIT } else { LLAMA3_SPLIT };
            let pattern = SplitPattern::Regex(split.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            let split =
                split.map_err(|e| LoadError::Tokenizer { path: file.path().to_owned(), reason: e.to_string() })?;
            let steps = vec![split.into(), byte_level(false).into()];
            Ok((Sequence::new(steps).into(), name == "llama-bpe"))
        }
        other => Err(file.unsupported("tokenizer.ggml.pre", other, PRE_TOKENIZERS)),
    }
}

/// The merge rules as pairs, each checked to make a token: the BPE builder trusts them.
fn merges(file: &GgufFile, tokens: &[&str]) -> Result<Vec<(String, String)>, LoadError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let known: std::collections::HashSet<&str> = tokens.iter().copied().collect();
    texts(file, KEY)?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) if known.contains(format!("{left}{right}").as_str()) => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(file.invalid(KEY, &format!("`{merge}`"), "two parts whose union is a token")),
        })
        .collect()
}

fn add_tokens(tokenizer: &mut Tokenizer, file: &GgufFile, tokens: &[&str]) -> Result<(), tokenizers::Error> {
    let added = tokens.iter().zip(kinds(file)).filter_map(|(token, kind)| match kind {
        CONTROL => Some(AddedToken::from(*token, true)),
        USER_DEFINED => Some(AddedToken::from(*token, false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(added.collect::<Vec<_>>())?;
    Ok(())
}

/// Every token's kind, as far as the file tells; 0 where it says something else than a number.
fn kinds(file: &GgufFile) -> Vec<i64> {
    let number = |kind: &Value| kind.to_i32().map(i64::from).or_else(|_| kind.to_u32().map(i64::from)).unwrap_or(0);
    file.array("tokenizer.ggml.token_type").unwrap_or_default().iter().map(number).collect()
}

fn texts<'a>(file: &'a GgufFile, key: &str) -> Result<Vec<&'a str>, LoadError> {
    file.array(key)?
        .iter()
        .map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            _ => Err(file.invalid(key, "an array with other things than texts", "texts")),
        })
        .collect()
}
