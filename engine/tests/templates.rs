//! Prompts as text against Hugging Face transformers, by templates in the manner of each family. The references are made by
//! `reference/templates.py`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::sync::Arc;

use influence_engine::chat::{ChatFormat, ChatMessage, ChatSource};
use serde::Deserialize;

#[derive(Deserialize)]
struct Family {
    family: String,
    template: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<(String, String)>,
    text: String,
}

/// Protects: what Jinja, its filters and Python's string methods do in a template, byte for byte, for ten conversations
/// of each family.
#[test]
fn prompts_are_those_of_transformers() {
    let families: Vec<Family> = serde_json::from_str(include_str!("reference/templates.json")).unwrap();
    assert_eq!(families.len(), 8);
    for Family { family, template, cases } in families {
        let source = ChatSource { template: Some(template), bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()) };
        let format = ChatFormat::new(source, Arc::new(tiny::tokenizer()), &[]).unwrap();
        assert_eq!(cases.len(), 10);
        for Case { messages, text } in cases {
            let messages: Vec<ChatMessage> = messages
                .iter()
                .map(|(role, content)| ChatMessage::new(serde_json::from_value(role.as_str().into()).unwrap(), content))
                .collect();
            assert_eq!(format.prompt_text(&messages).unwrap(), text, "{family}: {messages:?}");
        }
    }
}
