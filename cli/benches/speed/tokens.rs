//! How fast a prompt is read and rows are decoded, without anything around the forward pass.

use std::path::Path;
use std::time::Instant;

use influence_engine::KvCache;
use influence_engine::model::{LogitRows, Model, Segment};
use serde_json::json;

use crate::process;

const PROMPT: usize = 512;
const ROWS: usize = 32;
/// Positions of each row before it is decoded, and steps.
const START: usize = 64;
const STEPS: usize = 32;
/// Of which the fastest counts: others run on the machine too.
const TRIES: usize = 5;

pub(crate) fn run(model: &Path) {
    let model = Model::load(model).expect("the model loads");
    let prompt = fastest(|| {
        let mut cache = model.new_cache(PROMPT);
        let ids = ids(&model, 0, PROMPT);
        seconds(|| step(&model, &mut [(&mut cache, &ids)]))
    });
    let decoding = fastest(|| {
        let mut caches: Vec<KvCache> = (0..ROWS).map(|_| model.new_cache(START + STEPS)).collect();
        for (row, cache) in caches.iter_mut().enumerate() {
            step(&model, &mut [(cache, &ids(&model, row, START))]);
        }
        seconds(|| {
            for at in 0..STEPS {
                let next: Vec<Vec<u32>> = (0..ROWS).map(|row| ids(&model, row + at, 1)).collect();
                let mut rows: Vec<(&mut KvCache, &[u32])> =
                    caches.iter_mut().zip(&next).map(|(cache, ids)| (cache, ids.as_slice())).collect();
                step(&model, &mut rows);
            }
        })
    });
    let figures = json!({
        "prompt_tokens_per_s": PROMPT as f64 / prompt,
        "decoded_tokens_per_s": (ROWS * STEPS) as f64 / decoding,
        "peak_mib": process::peak_mib(),
    });
    println!("{figures}");
}

/// Some ids that are no special tokens, the same for every peer.
fn ids(model: &Model, seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| (1000 + (seed * 7919 + i * 104_729) % (model.config.vocab_size - 2000)) as u32).collect()
}

fn step(model: &Model, rows: &mut [(&mut KvCache, &[u32])]) {
    let mut segments: Vec<Segment<'_>> = rows
        .iter_mut()
        .map(|(cache, tokens)| Segment { tokens, cache, adapter: None, logits: LogitRows::Last })
        .collect();
    model.forward(&mut segments).expect("the pass runs").expect("logits were asked for");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn fastest(mut work: impl FnMut() -> f64) -> f64 {
    (0..TRIES).map(|_| work()).fold(f64::INFINITY, f64::min)
}
