//! What is remembered for a session goes with it, and changes no result.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::sync::Arc;

use influence_engine::batch::{Engine, EngineOptions, GenerateRequest, ScoreRequest, Session};
use influence_engine::model::Model;
use influence_engine::sample::{AnswerTree, SamplingOptions};

fn engine(prefix_cache: bool) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::weights(21));
    let model = Arc::new(Model::load(folder.path()).unwrap());
    Engine::start(model, EngineOptions { prefix_cache, ..EngineOptions::default() }).unwrap()
}

fn reply(prompt: &[u32], session: Option<&Session>) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens: 6,
        sampling: SamplingOptions { temperature: 0.9, ..SamplingOptions::default() },
        stop: Vec::new(),
        seed: 3,
        adapter: None,
        label: "agent",
        session: session.cloned(),
    }
}

/// Protects: keys and values of a conversation are given back when it ends, while it is alive its later prompts find them,
/// and its replies and scores are what they are without sessions and without anything remembered.
#[tokio::test]
async fn a_conversation_finds_its_earlier_turns_and_leaves_nothing_behind() {
    let turns: Vec<Vec<u32>> = [80, 150, 220].map(|end| (0..end).map(|i| 5 + i % 90).collect()).into();
    let mut results = Vec::new();
    for (prefix_cache, with_sessions) in [(false, true), (true, false), (true, true)] {
        let engine = engine(prefix_cache);
        let answers = Arc::new(AnswerTree::new(&engine.model().tokenizer, &["1".to_owned(), "10".to_owned()]).unwrap());
        let sessions = with_sessions.then(|| [Session::new(), Session::new()]);
        let [agent, judge] = [0, 1].map(|of| sessions.as_ref().map(|sessions| &sessions[of]));
        let (mut said, mut reused) = (Vec::new(), 0);
        for prompt in &turns {
            let reply = engine.generate(reply(prompt, agent)).await.unwrap();
            let score = ScoreRequest {
                prompt: [prompt.as_slice(), &[1, 2, 3]].concat(),
                answers: answers.clone(),
                adapter: None,
                temperature: 1.0,
                top_p: 1.0,
                label: "preference",
                session: judge.cloned(),
            };
            let score = engine.score(score).await.unwrap();
            reused += reply.reused_tokens + score.reused_tokens;
            said.push((reply.token_ids, reply.logprobs, score.probabilities, score.mass));
        }
        results.push(said);
        // The replies' prompts of later turns know the earlier, and the scores' those of the replies.
        assert_eq!(reused, if prefix_cache { 80 + 150 + 80 + 150 + 220 } else { 0 });
        let before = engine.counters().kv_bytes;
        drop(sessions);
        // The step of any request takes note of it.
        let _ = engine.generate(reply(&[7; 16], Some(&Session::new()))).await.unwrap();
        let after = engine.counters().kv_bytes;
        match (prefix_cache, with_sessions) {
            (false, _) => {}
            (true, false) => assert!(after >= before, "{after} of {before} bytes"),
            (true, true) => assert!(after * 4 < before, "{after} of {before} bytes"),
        }
        engine.stop().await;
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}
