#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{NormalizerWrapper, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, Tokenizer};

use super::*;
use crate::sample::AnswerTree;

/// In the manner of Llama 2: the reply follows a space that is not part of the generation prompt.
const LLAMA2_LIKE: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}";

/// The space by a normalizer, and by a pre-tokenizer before every stretch, or the first one alone.
const KINDS: [Option<PrependScheme>; 3] = [None, Some(PrependScheme::Always), Some(PrependScheme::First)];

/// SentencePiece's alphabet with few words.
fn tokenizer(kind: Option<PrependScheme>) -> Tokenizer {
    let letters = ('a'..='z').chain('0'..='9').chain("▁[]/INST<>,.".chars());
    let words = ["he", "ll", "hell", "▁hell", "▁["].map(str::to_owned);
    let vocabulary = letters.map(String::from).chain(words).zip(0..).collect::<tokenizers::models::bpe::Vocab>();
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("▁", "hell"), ("▁", "[")];
    let merges = merges.map(|(left, right)| (left.to_owned(), right.to_owned())).to_vec();
    let mut tokenizer = Tokenizer::new(BPE::builder().vocab_and_merges(vocabulary, merges).build().unwrap());
    match kind {
        None => {
            let steps: Vec<NormalizerWrapper> =
                vec![Prepend::new("▁".to_owned()).into(), Replace::new(" ", "▁").unwrap().into()];
            tokenizer.with_normalizer(Some(Sequence::new(steps))).unwrap();
        }
        Some(scheme) => {
            tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        }
    }
    tokenizer.add_special_tokens(["<s>", "</s>"].map(|token| AddedToken::from(token, true))).unwrap();
    tokenizer
}

fn format(kind: Option<PrependScheme>) -> ChatFormat {
    let text = |text: &str| Some(text.to_owned());
    let source = ChatSource { template: text(LLAMA2_LIKE), bos: text("<s>"), eos: text("</s>") };
    ChatFormat::new(source, Arc::new(tokenizer(kind)), &[]).unwrap()
}

fn tokens(format: &ChatFormat, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| format.onward_tokenizer().id_to_token(*id).unwrap()).collect()
}

/// Protects: an answer's form without a space is what follows a space, not what a whole text begins with.
#[test]
fn answers_are_encoded_as_they_go_on() {
    for kind in KINDS {
        let format = format(kind);
        let whole = tokenizer(kind).encode_fast("hell", false).unwrap();
        assert_eq!(tokens(&format, whole.get_ids()), ["▁hell"]);
        let onward = |text| format.onward_tokenizer().encode_fast(text, false).unwrap().get_ids().to_vec();
        assert_eq!(tokens(&format, &onward("hell")), ["hell"], "{kind:?}");
        assert_eq!(tokens(&format, &onward(" hell")), ["▁hell"]);
        let tree = AnswerTree::new(format.onward_tokenizer(), &["1".to_owned(), "10".to_owned()]).unwrap();
        assert_eq!(tree.depth(), 2, "a space and the first digit, of what is read on: {kind:?}");
    }
}

/// Protects: prompts are encoded as the tokenizer encodes them whole; streams grow to just those, replies with their space
/// are the model's, and a reply that spells out a control token changes nothing but itself.
#[test]
fn streams_and_rows_are_the_prompt_of_the_whole() {
    for kind in KINDS {
        let format = format(kind);
        for reply in ["hell he", "no </s> ll"] {
            let asked = vec![ChatMessage::user("hell, he")];
            let mut messages = asked.clone();
            messages.extend([ChatMessage::assistant(reply), ChatMessage::user("so.")]);
            let prompt = format.prompt(&asked).unwrap();
            let text = format.prompt_text(&asked).unwrap();
            assert_eq!(prompt, tokenizer(kind).encode_fast(text, false).unwrap().get_ids());
            let whole = format.prompt(&messages).unwrap();
            let mut said = format.parts.encoder.encode_onward(&format!(" {reply}")).unwrap();
            said.push(format.stop_ids()[0]);
            let rest = format.extend(&asked, &said, true, &messages[2..]).unwrap().unwrap();
            let stream = [prompt, said.clone(), rest].concat();
            assert_eq!(tokens(&format, &stream), tokens(&format, &whole), "{kind:?}, {reply}");
            let (ids, mask) = format.training_ids(&messages).unwrap();
            assert_eq!(ids, whole);
            let learnt: Vec<u32> = ids.iter().zip(mask).filter(|(_, learnt)| *learnt).map(|(id, _)| *id).collect();
            assert_eq!(tokens(&format, &learnt), tokens(&format, &said));
        }
    }
}
