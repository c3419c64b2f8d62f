//! The real SmolLM2-135M-Instruct against candle-transformers' Llama on the same weights.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use futures::future::join_all;
use influence_engine::batch::{Engine, EngineOptions, GenerateRequest, Generation, ScoreRequest};
use influence_engine::chat::{ChatMessage, SCORE_PREFIX};
use influence_engine::model::Model;
use influence_engine::sample::{AnswerTree, SamplingOptions};

const VARIABLE: &str = "INFLUENCE_TEST_MODEL";

fn model_path() -> PathBuf {
    let path = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!(
            "{VARIABLE} is not set: run `make test`, which fetches SmolLM2-135M-Instruct, or set it to the .gguf file"
        )
    });
    PathBuf::from(path)
}

/// The weights as candle's model names them.
fn named_weights(model: &Model) -> HashMap<String, Tensor> {
    let mut all = HashMap::from([
        ("model.embed_tokens.weight".to_owned(), model.weights.embedding.weight().unwrap()),
        ("model.norm.weight".to_owned(), model.weights.norm.clone()),
    ]);
    for (l, layer) in model.weights.layers.iter().enumerate() {
        let mut put = |name: &str, tensor: Tensor| all.insert(format!("model.layers.{l}.{name}.weight"), tensor);
        put("input_layernorm", layer.attn_norm.clone());
        put("post_attention_layernorm", layer.ffn_norm.clone());
        put("self_attn.q_proj", layer.q.weight().unwrap());
        put("self_attn.k_proj", layer.k.weight().unwrap());
        put("self_attn.v_proj", layer.v.weight().unwrap());
        put("self_attn.o_proj", layer.o.weight().unwrap());
        put("mlp.gate_proj", layer.gate.weight().unwrap());
        put("mlp.up_proj", layer.up.weight().unwrap());
        put("mlp.down_proj", layer.down.weight().unwrap());
    }
    all
}

fn oracle_config(model: &Model) -> serde_json::Value {
    let c = &model.config;
    serde_json::json!({
        "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size, "vocab_size": c.vocab_size,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "rms_norm_eps": c.rms_norm_eps, "rope_theta": c.rope_theta,
        "max_position_embeddings": c.context_length, "tie_word_embeddings": c.tie_embeddings,
    })
}

fn questions() -> Vec<String> {
    let topics = [
        "the capital of France",
        "why the sky is blue",
        "a quick dinner",
        "how to stop smoking",
        "the number 1,234,567",
        "a poem about rain",
        "¿qué hora es?",
        "the year 1999",
        "x² + y² = z²",
        "a friend who lies",
    ];
    let short = topics.iter().map(|topic| format!("What is {topic}?"));
    let long = topics.iter().enumerate().map(|(i, topic)| {
        format!(
            "{}\n\nNow, in one sentence, tell me about {topic}.",
            "I have been thinking a lot lately. ".repeat(i + 1)
        )
    });
    short.chain(long).collect()
}

/// Protects: what every figure of a run rests on. 20 prompts, alone and batched with ragged neighbours, token for token.
#[tokio::test]
async fn smollm2_speaks_as_candles_llama_does() {
    let model = Arc::new(Model::load(&model_path()).unwrap());
    let oracle = tiny::Oracle::new(named_weights(&model), oracle_config(&model));
    let engine = Engine::start(model.clone(), EngineOptions::default()).unwrap();
    let requests: Vec<GenerateRequest> = questions()
        .into_iter()
        .map(|question| GenerateRequest {
            prompt: model.chat.prompt(&[ChatMessage::user(question)]).unwrap(),
            max_tokens: 8,
            sampling: SamplingOptions::greedy(),
            stop: Vec::new(),
            seed: 0,
            adapter: None,
            label: "test",
            session: None,
        })
        .collect();
    assert_eq!(requests.len(), 20);
    let together = join_all(requests.iter().map(|request| engine.generate(request.clone()))).await;
    let mut texts = Vec::new();
    for (request, together) in requests.iter().zip(together) {
        let alone = engine.generate(request.clone()).await.unwrap();
        assert_eq!(alone, Generation { reused_tokens: alone.reused_tokens, ..together.unwrap() });
        let wrong = oracle.disagreements(&request.prompt, &alone.token_ids);
        assert!(wrong.is_empty(), "`{}`: {wrong:?}", alone.text);
        texts.push(alone.text);
    }
    // The oracle shares our weights; that they were read right shows in what they say.
    assert!(texts[0].contains("Paris"), "{texts:?}");
    score_makes_sense(&engine, &model).await;
    engine.stop().await;
}

/// A rating of ten answers, one of which begins with another, keeps nearly all of the reply's probability.
async fn score_makes_sense(engine: &Engine, model: &Model) {
    let answers: Vec<String> = (1..=10).map(|n| n.to_string()).collect();
    let answers = Arc::new(AnswerTree::new(&model.tokenizer, &answers).unwrap());
    let asked = ChatMessage::user("On a scale from 1 to 10, how warm is boiling water? Answer with a number.");
    let prompt = model.chat.scored_prompt(&[asked], SCORE_PREFIX).unwrap();
    let request =
        ScoreRequest { prompt, answers, adapter: None, temperature: 1.0, top_p: 1.0, label: "test", session: None };
    let score = engine.score(request).await.unwrap();
    assert!(score.mass > 0.5, "{score:?}");
    let total: f64 = score.probabilities.iter().map(|(_, p)| p).sum();
    assert!((total - 1.0).abs() < 1e-9);
}

/// Protects: the tokenizer that is rebuilt from GGUF. The ids were made by `tests/reference/tokens.py`, a plain reading of the
/// format in another language.
#[test]
fn smollm2_tokenises_as_the_reference_does() {
    let model = Model::load(&model_path()).unwrap();
    let reference = include_str!("reference/smollm2_tokens.json");
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(reference).unwrap();
    assert!(cases.len() >= 10);
    for (text, ids) in cases {
        assert_eq!(model.encode(&text).unwrap(), ids, "{text:?}");
    }
}
