//! What goes wrong with a request stays with that request.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::sync::Arc;
use std::time::Duration;

use influence_engine::batch::{
    Engine, EngineOptions, FinishReason, Follow, FollowedToken, GenerateRequest, Generation, RequestError,
    ScoreRequest, StartError,
};
use influence_engine::model::Model;
use influence_engine::sample::{AnswerTree, SamplingOptions};

fn model(seed: u64) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::weights(seed));
    Arc::new(Model::load(folder.path()).unwrap())
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt,
        max_tokens,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        seed: 1,
        adapter: None,
        label: "test",
        session: None,
    }
}

fn score_request(prompt: Vec<u32>, answers: Arc<AnswerTree>) -> ScoreRequest {
    ScoreRequest { prompt, answers, adapter: None, temperature: 1.0, top_p: 1.0, label: "test", session: None }
}

/// Protects: bad requests get a typed error that names the numbers, and good ones beside them are served.
#[tokio::test]
async fn bad_requests_fail_alone() {
    let engine = Engine::start(model(1), EngineOptions::default()).unwrap();
    let refusal = async |request| engine.generate(request).await.unwrap_err();
    assert_eq!(refusal(request(vec![], 4)).await, RequestError::EmptyPrompt);
    assert_eq!(refusal(request(vec![5], 0)).await, RequestError::NoTokens);
    let long = refusal(request(vec![5; 250], 10)).await;
    assert_eq!(long, RequestError::TooLong { prompt: 250, more: 10, context: tiny::CONTEXT });
    assert!(long.to_string().contains("250") && long.to_string().contains("256"), "{long}");
    let foreign = refusal(request(vec![5, 300], 1)).await;
    assert_eq!(foreign, RequestError::UnknownToken { token: 300, position: 1, vocabulary: 300 });
    let unknown = GenerateRequest { adapter: Some("iteration-7".into()), ..request(vec![5], 1) };
    let unknown = refusal(unknown).await;
    assert!(unknown.to_string().contains("iteration-7"), "{unknown}");
    let cold = SamplingOptions { temperature: -1.0, ..Default::default() };
    let cold = refusal(GenerateRequest { sampling: cold, ..request(vec![5], 1) }).await;
    assert!(matches!(cold, RequestError::Sampling(_)), "{cold}");
    let (good, bad) = tokio::join!(engine.generate(request(vec![5, 6, 7], 8)), engine.generate(request(vec![], 8)));
    assert!(bad.is_err());
    let good = good.unwrap();
    assert!(good.finish == FinishReason::Stop || good.token_ids.len() == 8);
    assert_eq!(good.token_ids.len(), good.logprobs.len());
    engine.stop().await;
}

/// Protects: a request that can never fit the cache is refused at once instead of waiting for ever.
#[tokio::test]
async fn a_request_that_never_fits_is_refused() {
    let options = EngineOptions { kv_bytes: 30_000, ..Default::default() };
    let engine = Engine::start(model(1), options).unwrap();
    let refused = engine.generate(request(vec![5; 100], 20)).await.unwrap_err();
    assert!(matches!(refused, RequestError::TooLarge { positions: 120, .. }), "{refused}");
    assert!(engine.generate(request(vec![5; 10], 2)).await.is_ok());
    let longest = engine.longest_request();
    assert!(engine.generate(request(vec![5; 10], longest - 10)).await.is_ok());
    assert!(longest < 120 && engine.generate(request(vec![5; 10], longest - 9)).await.is_err());
    engine.stop().await;
}

/// Protects: a broken model yields errors, not random tokens or a dead engine.
#[tokio::test]
async fn logits_that_are_not_numbers_fail_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut weights = tiny::weights(2);
    let broken = (&weights["model.norm.weight"] * f64::NAN).unwrap();
    weights.insert("model.norm.weight".into(), broken);
    tiny::write_folder(folder.path(), &weights);
    let model = Arc::new(Model::load(folder.path()).unwrap());
    let answers = Arc::new(AnswerTree::new(&model.tokenizer, &["1".to_owned()]).unwrap());
    let engine = Engine::start(model, EngineOptions::default()).unwrap();
    for _ in 0..2 {
        let refused = engine.generate(request(vec![5, 6], 3)).await.unwrap_err();
        assert!(matches!(refused, RequestError::Broken { position: 2, .. }), "{refused}");
    }
    let score = score_request(vec![5], answers);
    assert!(matches!(engine.score(score).await, Err(RequestError::Broken { .. })));
    assert_eq!(engine.counters().failed, 3);
    engine.stop().await;
}

/// Protects: a reply ends at the first stop text, which may begin inside a token and end inside another, and stands
/// without it; until then it is the reply that it would have been.
#[tokio::test]
async fn a_stop_text_ends_the_reply_and_is_not_part_of_it() {
    let model = model(4);
    let engine = Engine::start(model.clone(), EngineOptions::default()).unwrap();
    let free = request(vec![5, 9, 30], 40);
    let whole = engine.generate(free.clone()).await.unwrap();
    let middle = whole.text.char_indices().nth(whole.text.chars().count() / 2).unwrap().0;
    let stop: String = whole.text[middle..].chars().take(3).collect();
    let first = whole.text.find(&stop).unwrap();
    let stopping = GenerateRequest { stop: vec!["never said".into(), stop.clone()], ..free.clone() };
    let ended = engine.generate(stopping).await.unwrap();
    assert_eq!((ended.text.as_str(), ended.finish), (&whole.text[..first], FinishReason::StopText));
    assert!(ended.token_ids.len() < whole.token_ids.len() && whole.token_ids.starts_with(&ended.token_ids));
    assert!(model.tokenizer.decode(&ended.token_ids, true).unwrap().contains(&stop));
    let unsaid = GenerateRequest { stop: vec!["never said".into()], ..free.clone() };
    assert_eq!(said(engine.generate(unsaid).await.unwrap()), said(whole));
    let empty = GenerateRequest { stop: vec![String::new()], ..free };
    assert_eq!(engine.generate(empty).await, Err(RequestError::EmptyStop));
    engine.stop().await;
}

/// A reply, wherever its prompt was taken from.
fn said(reply: Generation) -> Generation {
    Generation { reused_tokens: 0, ..reply }
}

/// Protects: who follows a reply is told every token, with the text that comes out in the end, and changes nothing by it.
#[tokio::test]
async fn a_reply_can_be_followed_token_by_token() {
    let model = model(4);
    let engine = Engine::start(model.clone(), EngineOptions::default()).unwrap();
    let free = request(vec![5, 9, 30], 40);
    let whole = engine.generate(free.clone()).await.unwrap();
    let stop: String = whole.text.chars().skip(whole.text.chars().count() / 2).take(3).collect();
    for request in [free.clone(), GenerateRequest { stop: vec![stop], ..free.clone() }] {
        let (tokens, mut told) = tokio::sync::mpsc::unbounded_channel();
        let followed = engine.generate_followed(request.clone(), Follow { tokens, top: 3 }).await.unwrap();
        assert_eq!(said(followed.clone()), said(engine.generate(request.clone()).await.unwrap()));
        let mut all: Vec<FollowedToken> = Vec::new();
        while let Some(token) = told.recv().await {
            all.push(token);
        }
        assert_eq!(all.iter().map(|t| t.sampled.token).collect::<Vec<_>>(), followed.token_ids);
        assert_eq!(all.iter().map(|t| t.sampled.logprob).collect::<Vec<_>>(), followed.logprobs);
        assert!(all.iter().all(|t| t.top.len() == 3 && t.top[0].logprob >= t.sampled.logprob));
        let mut text = model.chat.reply_text(request.stop.clone());
        let pieces: String = all.iter().map(|t| text.push(t.sampled.token)).collect();
        assert_eq!(format!("{pieces}{}", text.rest(&followed.text)), followed.text);
        assert!(!pieces.is_empty());
    }
    let (tokens, told) = tokio::sync::mpsc::unbounded_channel();
    drop(told);
    assert_eq!(said(engine.generate_followed(free, Follow { tokens, top: 0 }).await.unwrap()), said(whole));
    engine.stop().await;
}

/// Protects: what is told of a role is what its requests took, and nobody else's.
#[tokio::test]
async fn requests_are_counted_by_their_label() {
    let model = model(4);
    let engine = Engine::start(model.clone(), EngineOptions::default()).unwrap();
    let prompt: Vec<u32> = (0..150).map(|i| 5 + i % 90).collect();
    let first = engine.generate(GenerateRequest { label: "agent", ..request(prompt.clone(), 6) }).await.unwrap();
    let answers = Arc::new(AnswerTree::new(&model.tokenizer, &["Yes".to_owned()]).unwrap());
    let score = ScoreRequest { label: "preference", ..score_request(prompt, answers) };
    let scored = engine.score(score).await.unwrap();
    assert_eq!((first.reused_tokens, scored.reused_tokens), (0, 149));
    let tallies = engine.tallies();
    let shown = |label: &str| {
        let tally = tallies[label];
        (tally.requests, tally.prompt_tokens, tally.reused_tokens, tally.generated_tokens)
    };
    assert_eq!(shown("agent"), (1, 150, 0, first.token_ids.len() as u64));
    // The last token of a prompt is run again: a score needs what follows it.
    assert_eq!(shown("preference"), (1, 150, 149, 0));
    assert_eq!(tallies.len(), 2);
    assert!(engine.counters().step_rows >= engine.counters().steps);
    engine.stop().await;
}

/// Protects: an asker that goes away frees its row and its memory.
#[tokio::test]
async fn dropping_the_future_cancels_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut weights = tiny::weights(3);
    // Without logits for the stop token the reply would run to its limit.
    let silent = weights["lm_head.weight"].zeros_like().unwrap();
    weights.insert("lm_head.weight".into(), silent);
    tiny::write_folder(folder.path(), &weights);
    let model = Arc::new(Model::load(folder.path()).unwrap());
    let options = EngineOptions { max_rows: 1, ..Default::default() };
    let engine = Engine::start(model, options).unwrap();
    let greedy = GenerateRequest { sampling: SamplingOptions::greedy(), ..request(vec![5; 5], 250) };
    let long = engine.generate(greedy.clone());
    let waiting = engine.generate(greedy.clone());
    let _ = tokio::time::timeout(Duration::from_millis(1), async { tokio::join!(long, waiting) }).await;
    let short = engine.generate(request(vec![5; 5], 1)).await;
    assert!(short.is_ok(), "the cancelled rows held the only place");
    let counters = engine.counters();
    assert_eq!(counters.cancelled + counters.generations, 3, "{counters:?}");
    assert!(counters.cancelled >= 1, "{counters:?}");
    engine.stop().await;
}

/// Protects: stopping answers everyone and ends the thread; an engine that stopped says so.
#[tokio::test]
async fn stop_turns_everyone_away() {
    let engine = Engine::start(model(4), EngineOptions { max_rows: 1, queue: 2, ..Default::default() }).unwrap();
    let askers: Vec<_> = (0..12)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.generate(request(vec![5; 20], 200)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    engine.stop().await;
    engine.stop().await;
    for asker in askers {
        let answer = asker.await.unwrap();
        assert!(matches!(answer, Ok(_) | Err(RequestError::Stopped)), "{answer:?}");
    }
    assert_eq!(engine.generate(request(vec![5], 1)).await, Err(RequestError::Stopped));
    let zero = Engine::start(engine.model().clone(), EngineOptions { max_rows: 0, ..Default::default() });
    assert!(matches!(zero, Err(StartError::ZeroLimit("max_rows"))));
}

/// Protects: the figures that are reported as tokens per second.
#[tokio::test]
async fn counters_count_tokens_by_kind() {
    let model = model(6);
    let answers = ["1".to_owned(), "10".to_owned()];
    let answers = Arc::new(AnswerTree::new(&model.tokenizer, &answers).unwrap());
    let further = answers.further_steps() as u64;
    let options = EngineOptions { prefill_chunk: 4, ..Default::default() };
    let engine = Engine::start(model, options).unwrap();
    let reply = engine.generate(request(vec![9; 10], 6)).await.unwrap();
    let score = score_request(vec![7; 13], answers);
    let score = engine.score(score).await.unwrap();
    assert_eq!(score.prompt_tokens, 13);
    let counters = engine.counters();
    assert_eq!(counters.generate_prompt_tokens, 10);
    assert_eq!(counters.score_prompt_tokens, 13);
    assert_eq!(counters.generated_tokens, reply.token_ids.len() as u64);
    assert_eq!(counters.score_tokens, further);
    engine.stop().await;
}
