//! How fast a prompt is read and rows are decoded, without anything around the forward pass; and how fast the engine replies.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Tensor};
use influence_engine::KvCache;
use influence_engine::batch::{Engine, EngineOptions, GenerateRequest};
use influence_engine::model::{LogitRows, Model, Segment};
use influence_engine::sample::SamplingOptions;
use serde_json::json;

use crate::process;

const PROMPT: usize = 512;
/// Positions of each row before it is decoded, and steps.
const START: usize = 64;
const STEPS: usize = 32;
/// Tokens of a reply, which begins after as many positions.
const REPLY: usize = 64;
/// Replies that are compared with what they are alone.
const ALONE: usize = 8;
/// Of which the fastest counts: others run on the machine too.
const TRIES: usize = 5;

/// Reads a prompt, and decodes as many rows at once as each of `counts` says.
pub(crate) fn run(model: &Arc<Model>, counts: &[usize]) {
    let prompt = fastest(|| {
        let mut cache = model.new_cache(PROMPT).expect("there is room");
        let ids = ids(model, 0, PROMPT);
        seconds(|| wait_for(&step(model, &mut [(&mut cache, &ids)])))
    });
    let decoded: Vec<f64> = counts.iter().map(|count| (count * STEPS) as f64 / decoding(model, *count)).collect();
    let replied: Vec<Replies> = counts.iter().map(|count| replies(model, *count)).collect();
    let figures = json!({
        "prompt_tokens_per_s": PROMPT as f64 / prompt,
        "decoded_tokens_per_s": decoded,
        "reply_tokens_per_s": replied.iter().map(|replies| replies.tokens_per_s).collect::<Vec<_>>(),
        "as_alone": replied.iter().map(|replies| replies.as_alone).collect::<Vec<_>>(),
        "peak_mib": process::peak_mib(),
    });
    println!("{figures}");
}

/// Seconds for all steps of `count` rows.
fn decoding(model: &Model, count: usize) -> f64 {
    fastest(|| {
        let mut caches = model.new_caches(count, START + STEPS).expect("there is room");
        for (row, cache) in caches.iter_mut().enumerate() {
            step(model, &mut [(cache, &ids(model, row, START))]);
        }
        let mut last = None;
        seconds(|| {
            for at in 0..STEPS {
                let next: Vec<Vec<u32>> = (0..count).map(|row| ids(model, row + at, 1)).collect();
                let mut rows: Vec<(&mut KvCache, &[u32])> =
                    caches.iter_mut().zip(&next).map(|(cache, ids)| (cache, ids.as_slice())).collect();
                last = Some(step(model, &mut rows));
            }
            wait_for(&last.take().expect("there are steps"));
        })
    })
}

/// Sampled replies to prompts that have nothing in common.
struct Replies {
    tokens_per_s: f64,
    /// Of some of them, the share that is the same when nothing else runs.
    as_alone: f64,
}

/// `count` of them, all at once.
fn replies(model: &Arc<Model>, count: usize) -> Replies {
    let options = EngineOptions { max_rows: count, prefill_chunk: 2048, kv_bytes: 4 << 30, ..EngineOptions::default() };
    let engine = Engine::start(model.clone(), options).expect("the engine starts");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let request = |row: usize| GenerateRequest {
        prompt: ids(model, row, START),
        max_tokens: REPLY,
        stop: Vec::new(),
        sampling: SamplingOptions::default(),
        seed: row as u64,
        adapter: None,
        label: "bench",
        session: None,
    };
    let replies = |rows: std::ops::Range<usize>| -> Vec<Vec<u32>> {
        runtime.block_on(engine.clear_prefix_cache()).expect("the engine lives");
        let all = futures::future::join_all(rows.map(|row| engine.generate(request(row))));
        runtime.block_on(all).into_iter().map(|reply| reply.expect("it replies").token_ids).collect()
    };
    let (mut best, mut together) = (0.0f64, Vec::new());
    for _ in 0..TRIES {
        let started = Instant::now();
        together = replies(0..count);
        let tokens: usize = together.iter().map(Vec::len).sum();
        best = best.max(tokens as f64 / started.elapsed().as_secs_f64());
    }
    let some = count.min(ALONE);
    let alike = (0..some).filter(|row| replies(*row..row + 1)[0] == together[*row]).count();
    Replies { tokens_per_s: best, as_alone: alike as f64 / some as f64 }
}

/// The logits after the last of some tokens, of which the last `decoded` are run one by one.
pub(crate) fn logits(model: &Model, tokens: usize, decoded: usize) {
    let mut cache = model.new_cache(tokens).expect("there is room");
    let ids = ids(model, 0, tokens);
    let (prompt, rest) = ids.split_at(tokens - decoded);
    let mut logits = step(model, &mut [(&mut cache, prompt)]);
    for id in rest {
        logits = step(model, &mut [(&mut cache, std::slice::from_ref(id))]);
    }
    println!(
        "{}",
        json!({ "logits": logits.flatten_all().and_then(|l| l.to_dtype(DType::F32)?.to_vec1::<f32>()).expect("they are floats") })
    );
}

/// Some ids that are no special tokens, the same for every peer.
pub(crate) fn ids(model: &Model, seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| (1000 + (seed * 7919 + i * 104_729) % (model.config.vocab_size - 2000)) as u32).collect()
}

fn step(model: &Model, rows: &mut [(&mut KvCache, &[u32])]) -> Tensor {
    let mut segments: Vec<Segment<'_>> = rows
        .iter_mut()
        .map(|(cache, tokens)| Segment { tokens, cache, adapter: None, logits: LogitRows::Last })
        .collect();
    model.forward_in_place(&mut segments).expect("the pass runs").expect("logits were asked for")
}

/// A device has computed a tensor when one of its numbers can be read.
fn wait_for(tensor: &Tensor) {
    let first = tensor.flatten_all().and_then(|all| all.narrow(0, 0, 1)).and_then(|one| one.to_dtype(DType::F32));
    first.and_then(|one| one.to_vec1::<f32>()).expect("it can be read");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn fastest(mut work: impl FnMut() -> f64) -> f64 {
    (0..TRIES).map(|_| work()).fold(f64::INFINITY, f64::min)
}
