//! The engine against candle-transformers' Llama on the same weights.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::sync::Arc;

use influence_engine::batch::{Engine, EngineOptions, GenerateRequest, Generation};
use influence_engine::model::Model;
use influence_engine::sample::SamplingOptions;

/// Protects: the forward pass is Llama's, for prompts of any length, alone and with ragged neighbours.
#[tokio::test]
async fn greedy_tokens_are_those_of_candles_llama() {
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny::weights(5);
    tiny::write_folder(folder.path(), &weights);
    let oracle = tiny::Oracle::new(weights, tiny::config_json());
    let model = Arc::new(Model::load(folder.path()).unwrap());
    let engine = Engine::start(model, EngineOptions::default()).unwrap();
    let requests: Vec<GenerateRequest> = tiny::ragged_prompts(20, 150, 9)
        .into_iter()
        .map(|prompt| GenerateRequest {
            prompt,
            max_tokens: 24,
            sampling: SamplingOptions::greedy(),
            stop: Vec::new(),
            seed: 0,
            adapter: None,
            label: "test",
            session: None,
        })
        .collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(engine.generate(request.clone()).await.unwrap());
    }
    let together = requests.iter().map(|request| engine.generate(request.clone()));
    let together = futures::future::join_all(together).await;
    for ((request, alone), together) in requests.iter().zip(&alone).zip(&together) {
        let together = together.clone().unwrap();
        assert_eq!(*alone, Generation { reused_tokens: alone.reused_tokens, ..together });
        let wrong = oracle.disagreements(&request.prompt, &alone.token_ids);
        assert!(wrong.is_empty(), "prompt of {}: {wrong:?}", request.prompt.len());
    }
    engine.stop().await;
}
