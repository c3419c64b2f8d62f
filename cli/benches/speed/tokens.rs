//! How fast a prompt is read and rows are decoded, without anything around the forward pass.

use std::time::Instant;

use candle_core::Tensor;
use influence_engine::KvCache;
use influence_engine::model::{LogitRows, Model, Segment};
use serde_json::json;

use crate::process;

const PROMPT: usize = 512;
/// Positions of each row before it is decoded, and steps.
const START: usize = 64;
const STEPS: usize = 32;
/// Of which the fastest counts: others run on the machine too.
const TRIES: usize = 5;

/// Decodes `count` rows at once.
pub(crate) fn run(model: &Model, count: usize) {
    let prompt = fastest(|| {
        let mut cache = model.new_cache(PROMPT).expect("there is room");
        let ids = ids(model, 0, PROMPT);
        seconds(|| drop(step(model, &mut [(&mut cache, &ids)])))
    });
    let decoding = fastest(|| {
        let mut caches = model.new_caches(count, START + STEPS).expect("there is room");
        for (row, cache) in caches.iter_mut().enumerate() {
            step(model, &mut [(cache, &ids(model, row, START))]);
        }
        seconds(|| {
            for at in 0..STEPS {
                let next: Vec<Vec<u32>> = (0..count).map(|row| ids(model, row + at, 1)).collect();
                let mut rows: Vec<(&mut KvCache, &[u32])> =
                    caches.iter_mut().zip(&next).map(|(cache, ids)| (cache, ids.as_slice())).collect();
                step(model, &mut rows);
            }
        })
    });
    let figures = json!({
        "prompt_tokens_per_s": PROMPT as f64 / prompt,
        "decoded_tokens_per_s": (count * STEPS) as f64 / decoding,
        "peak_mib": process::peak_mib(),
    });
    println!("{figures}");
}

/// The logits after the last of some tokens.
pub(crate) fn logits(model: &Model, tokens: usize) {
    let mut cache = model.new_cache(tokens).expect("there is room");
    let ids = ids(model, 0, tokens);
    let logits = step(model, &mut [(&mut cache, &ids)]);
    println!(
        "{}",
        json!({ "logits": logits.flatten_all().and_then(|l| l.to_vec1::<f32>()).expect("they are floats") })
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
    model.forward(&mut segments).expect("the pass runs").expect("logits were asked for")
}

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn fastest(mut work: impl FnMut() -> f64) -> f64 {
    (0..TRIES).map(|_| work()).fold(f64::INFINITY, f64::min)
}
