//! A request's result has the same bits whatever runs beside it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::sync::Arc;

use candle_core::{DType, Device};
use futures::future::join_all;
use influence_engine::KvType;
use influence_engine::batch::{Engine, EngineOptions, GenerateRequest, Generation, Score, ScoreRequest};
use influence_engine::model::{LogitRows, Model, Placement, Segment};
use influence_engine::sample::{AnswerTree, SamplingOptions};

fn model(kv: KvType) -> Arc<Model> {
    model_in(kv, false)
}

fn model_in(kv: KvType, int8: bool) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::weights(21));
    Arc::new(Model::load_for(folder.path(), &Placement::Cpu { kv, int8 }).unwrap())
}

fn generate_requests() -> Vec<GenerateRequest> {
    let prompts = tiny::ragged_prompts(12, 90, 3).into_iter().enumerate();
    prompts
        .map(|(seed, prompt)| GenerateRequest {
            prompt,
            max_tokens: 5 + seed * 3,
            sampling: SamplingOptions { temperature: 0.9, top_p: 0.95, ..SamplingOptions::default() },
            stop: Vec::new(),
            seed: seed as u64,
            adapter: None,
            label: "test",
            session: None,
        })
        .collect()
}

fn score_request(prompt: Vec<u32>, answers: Arc<AnswerTree>) -> ScoreRequest {
    ScoreRequest { prompt, answers, adapter: None, temperature: 1.0, top_p: 1.0, label: "test", session: None }
}

fn score_requests(model: &Model) -> Vec<ScoreRequest> {
    let answers: Vec<String> = ["1", "2", "10", "Yes", "the inn"].map(str::to_owned).into();
    let answers = Arc::new(AnswerTree::new(&model.tokenizer, &answers).unwrap());
    assert!(answers.further_steps() >= 2, "the test needs answers of several tokens");
    let prompts = tiny::ragged_prompts(12, 90, 4).into_iter();
    prompts.map(|prompt| score_request(prompt, answers.clone())).collect()
}

/// A generation's numbers as bits, so that equality is equality of bits.
fn generation_bits(reply: &Generation) -> (Vec<u32>, Vec<u32>) {
    (reply.token_ids.clone(), reply.logprobs.iter().map(|p| p.to_bits()).collect())
}

fn score_bits(score: &Score) -> (Vec<u64>, u64) {
    let bits = score.probabilities.iter().map(|(_, p)| p.to_bits()).collect();
    (bits, score.mass.to_bits())
}

/// Protects: promise (b) of reproducibility. Tokens, log-probabilities and scores are bit-equal alone, in a full batch with
/// ragged neighbours of both kinds, with prompts cut into any chunks, with little memory, and with what earlier requests
/// left behind.
#[tokio::test]
async fn results_do_not_depend_on_batch_neighbours_or_chunks() {
    let bits = bits_of_every_batch(KvType::F32, false).await;
    assert_ne!(bits, bits_of_every_batch(KvType::F16, false).await, "keys and values were rounded");
    assert_ne!(bits, bits_of_every_batch(KvType::F32, true).await, "inputs were rounded");
}

type Bits = (Vec<(Vec<u32>, Vec<u32>)>, Vec<(Vec<u64>, u64)>);

async fn bits_of_every_batch(kv: KvType, int8: bool) -> Bits {
    let model = model_in(kv, int8);
    let generations = generate_requests();
    let scores = score_requests(&model);
    let mut expected = None;
    let plentiful = 1 << 28;
    let little = 150_000;
    for (max_rows, prefill_chunk, kv_bytes, prefix_cache) in [
        (1, 1000, plentiful, false),
        (16, 64, plentiful, false),
        (24, 7, plentiful, true),
        (5, 1, plentiful, true),
        (16, 33, little, true),
        (16, 33, little, false),
    ] {
        let options = EngineOptions { max_rows, prefill_chunk, kv_bytes, prefix_cache, queue: 8 };
        let engine = Engine::start(model.clone(), options).unwrap();
        let replies = join_all(generations.iter().map(|r| engine.generate(r.clone())));
        let scored = join_all(scores.iter().map(|r| engine.score(r.clone())));
        let (replies, scored) = futures::future::join(replies, scored).await;
        let bits = (
            replies.iter().map(|r| generation_bits(r.as_ref().unwrap())).collect::<Vec<_>>(),
            scored.iter().map(|s| score_bits(s.as_ref().unwrap())).collect::<Vec<_>>(),
        );
        let counters = engine.counters();
        assert_eq!((counters.generations, counters.scores), (12, 12));
        engine.stop().await;
        let expected = expected.get_or_insert_with(|| bits.clone());
        assert_eq!(
            *expected, bits,
            "{kv:?}, int8 {int8}, {max_rows} rows, chunks of {prefill_chunk}, {kv_bytes} bytes"
        );
    }
    expected.unwrap()
}

/// Protects: a score equals the probabilities that whole-prompt forward passes give.
#[tokio::test]
async fn a_score_is_what_plain_forward_passes_say() {
    let model = model(KvType::F32);
    let prompt = tiny::ragged_prompts(1, 90, 8).remove(0);
    let softmax_after = |ids: &[u32]| {
        let mut cache = model.new_cache(ids.len()).unwrap();
        let segment = Segment { tokens: ids, cache: &mut cache, adapter: None, logits: LogitRows::Last };
        let logits = model.forward(&mut [segment]).unwrap().unwrap();
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        logits.into_iter().map(|x| f64::from(x).exp() / total).collect::<Vec<f64>>()
    };
    let id = |text: &str| model.tokenizer.token_to_id(text).unwrap();
    let first = softmax_after(&prompt);
    let after_one = softmax_after(&[prompt.clone(), vec![id("1")]].concat());
    let after_space = softmax_after(&[prompt.clone(), vec![id("Ġ")]].concat());
    let after_space_one = softmax_after(&[prompt.clone(), vec![id("Ġ"), id("1")]].concat());
    let ten = first[id("1") as usize] * after_one[id("0") as usize];
    let spaced_one = first[id("Ġ") as usize] * after_space[id("1") as usize];
    let spaced_ten = spaced_one * after_space_one[id("0") as usize];
    let one = first[id("1") as usize] - ten + spaced_one - spaced_ten;
    let answers = ["1".to_owned(), "10".to_owned()];
    let tree = Arc::new(AnswerTree::new(&model.tokenizer, &answers).unwrap());
    let engine = Engine::start(model.clone(), EngineOptions::default()).unwrap();
    let request = score_request(prompt, tree);
    let score = engine.score(request).await.unwrap();
    let mass = one + ten + spaced_ten;
    assert!((score.mass - mass).abs() < 1e-6, "{} is not {mass}", score.mass);
    assert!((score.probabilities[0].1 - one / mass).abs() < 1e-5);
    assert!((score.probabilities[1].1 - (ten + spaced_ten) / mass).abs() < 1e-5);
    engine.stop().await;
}

/// Prompts of conversations that begin alike and go on differently, and later turns of the first one.
fn conversations() -> Vec<Vec<u32>> {
    let opening: Vec<u32> = (3..133).collect();
    let parts = tiny::ragged_prompts(5, 30, 9);
    let mut prompts: Vec<Vec<u32>> = parts.iter().map(|part| [opening.clone(), part.clone()].concat()).collect();
    let later = [prompts[0].clone(), parts[1].clone(), parts[2].clone()].concat();
    prompts.extend([later.clone(), later, opening]);
    prompts
}

/// Protects: what is remembered is used, within its bound, for the adapter that it was computed with, and changes nothing.
#[tokio::test]
async fn what_earlier_requests_left_behind_changes_no_bit() {
    let model = model(KvType::F32);
    let answers = Arc::new(AnswerTree::new(&model.tokenizer, &["1".to_owned(), "10".to_owned()]).unwrap());
    let mut expected = None;
    // The second bound holds two of the prompts.
    for (prefix_cache, kv_bytes) in [(false, 1 << 28), (true, 1 << 28), (true, 130_000)] {
        let options = EngineOptions { prefix_cache, kv_bytes, max_rows: 4, prefill_chunk: 50, queue: 8 };
        let engine = Engine::start(model.clone(), options).unwrap();
        let mut bits = Vec::new();
        for _ in 0..2 {
            let asked = conversations().into_iter().enumerate().map(|(seed, prompt)| {
                let (engine, answers) = (&engine, answers.clone());
                let sampling = SamplingOptions { temperature: 0.9, ..SamplingOptions::default() };
                let generate = GenerateRequest {
                    prompt: prompt.clone(),
                    max_tokens: 9,
                    sampling,
                    stop: Vec::new(),
                    seed: seed as u64,
                    adapter: None,
                    label: "test",
                    session: None,
                };
                let score = score_request(prompt, answers);
                async move {
                    let (reply, score) = futures::future::join(engine.generate(generate), engine.score(score)).await;
                    (generation_bits(&reply.unwrap()), score_bits(&score.unwrap()))
                }
            });
            bits.push(join_all(asked).await);
            assert!(engine.counters().kv_bytes <= kv_bytes as u64, "{:?}", engine.counters());
        }
        let counters = engine.counters();
        let reused = counters.generate_reused_tokens + counters.score_reused_tokens;
        let run = counters.generate_prompt_tokens + counters.score_prompt_tokens;
        let all: usize = conversations().iter().map(Vec::len).sum::<usize>() * 4;
        assert_eq!(reused + run, all as u64, "every prompt token was run or reused");
        match (prefix_cache, kv_bytes) {
            (false, _) => assert_eq!(reused, 0),
            // All but the opening, each part once, and a last token for every request.
            (true, 130_000) => assert!(reused > run / 4, "{counters:?}"),
            (true, _) => assert!(reused > run * 4, "{counters:?}"),
        }
        engine.clear_prefix_cache().await.unwrap();
        assert_eq!(engine.counters().kv_bytes, 0);
        engine.stop().await;
        assert_eq!(
            *expected.get_or_insert_with(|| bits.clone()),
            bits,
            "prefix cache {prefix_cache}, {kv_bytes} bytes"
        );
    }
}

/// Protects: on a device, with pages that are shared, copied, given back and taken again, requests get what they get from
/// our kernels, but for rounding.
#[tokio::test]
async fn candles_operations_on_pages_give_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::weights(21));
    let device = Placement::Device { device: Device::Cpu, dtype: DType::F32 };
    let mut answers = Vec::new();
    for placement in [Placement::CPU, device] {
        let model = Arc::new(Model::load_for(folder.path(), &placement).unwrap());
        // Each prompt again and with another end: what is known of it is used, from whole pages and from copies.
        let ends = [&[][..], &[7, 8, 9], &[11]];
        let mut generations = generate_requests();
        for (index, request) in generations.iter_mut().enumerate() {
            request.max_tokens = 12;
            // Cut distributions are drawn from on the CPU, whole ones and the highest logit where they are.
            match index % 3 {
                0 => {}
                1 => request.sampling.top_p = 1.0,
                _ => request.sampling = SamplingOptions::greedy(),
            }
        }
        let generations = ends.map(|end| {
            let longer = |request: &GenerateRequest| {
                let prompt = [&request.prompt, end].concat();
                GenerateRequest { prompt, ..request.clone() }
            };
            generations.iter().map(longer).collect::<Vec<_>>()
        });
        let options =
            EngineOptions { max_rows: 16, prefill_chunk: 33, kv_bytes: 2_400_000, prefix_cache: true, queue: 8 };
        let engine = Engine::start(model.clone(), options).unwrap();
        let (mut tokens, mut masses) = (Vec::new(), Vec::new());
        for requests in generations {
            let scores = join_all(score_requests(&model).into_iter().map(|request| engine.score(request)));
            let replies = join_all(requests.into_iter().map(|request| engine.generate(request)));
            let (scores, replies) = tokio::join!(scores, replies);
            masses.extend(scores.into_iter().map(|score| score.unwrap().mass));
            tokens.extend(replies.into_iter().map(|reply| reply.unwrap().token_ids));
        }
        assert!(engine.counters().generate_reused_tokens > 0);
        engine.stop().await;
        answers.push((tokens, masses));
    }
    let (ours, candles) = (&answers[0], &answers[1]);
    assert_eq!(ours.0, candles.0);
    for (ours, candles) in ours.1.iter().zip(&candles.1) {
        assert!((ours - candles).abs() < 1e-4, "{ours} is not {candles}");
    }
}
