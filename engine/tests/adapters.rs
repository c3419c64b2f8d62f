//! Rows with and without an adapter in one forward pass.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tiny;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use futures::future::join_all;
use influence_engine::batch::{Engine, EngineOptions, GenerateRequest, Generation, RequestError};
use influence_engine::lora::{LoraConfig, LoraPair, LoraWeights, Projection};
use influence_engine::model::{Model, Placement};
use influence_engine::sample::SamplingOptions;

/// A random adapter on all projections.
fn adapter(model: &Model, seed: u64) -> LoraWeights {
    let config = LoraConfig { rank: 4, alpha: 6.0, ..LoraConfig::default() };
    let mut noise = tiny::Noise(seed);
    let mut pairs = BTreeMap::new();
    for layer in 0..model.config.layers {
        for projection in Projection::ALL {
            let weights = &model.weights.layers[layer];
            let weight = match projection {
                Projection::Q => &weights.q,
                Projection::K => &weights.k,
                Projection::V => &weights.v,
                Projection::O => &weights.o,
                Projection::Gate => &weights.gate,
                Projection::Up => &weights.up,
                Projection::Down => &weights.down,
            };
            let a = noise.tensor(&[4, weight.in_features()], 0.2);
            let b = noise.tensor(&[weight.out_features(), 4], 0.2);
            pairs.insert((layer, projection), LoraPair { a, b });
        }
    }
    LoraWeights { config, pairs }
}

/// The base weights with the adapter added in.
fn merged(base: &HashMap<String, Tensor>, adapter: &LoraWeights) -> HashMap<String, Tensor> {
    let mut all = base.clone();
    for ((layer, projection), pair) in &adapter.pairs {
        let part = match projection {
            Projection::Q => "self_attn.q_proj",
            Projection::K => "self_attn.k_proj",
            Projection::V => "self_attn.v_proj",
            Projection::O => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
        };
        let weight = all.get_mut(&format!("model.layers.{layer}.{part}.weight")).unwrap();
        let update = (pair.b.matmul(&pair.a).unwrap() * adapter.config.scale()).unwrap();
        *weight = (&*weight + update).unwrap();
    }
    all
}

fn request(prompt: &[u32], adapter: Option<&str>) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens: 16,
        sampling: SamplingOptions::greedy(),
        stop: Vec::new(),
        seed: 0,
        adapter: adapter.map(str::to_owned),
        label: "test",
        session: None,
    }
}

async fn load(engine: &Engine, name: &str, weights: &LoraWeights, folder: &Path) {
    let folder = folder.join(name);
    weights.write(&folder, None).unwrap();
    engine.load_adapter(name, folder).await.unwrap();
}

/// Protects: each row gets the adapter that it asked for and no other, as if its update had been merged into the weights,
/// and with the same bits as alone; on a device nearly so.
#[tokio::test]
async fn every_row_gets_its_own_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny::weights(31);
    tiny::write_folder(folder.path(), &base);
    let device = Placement::Device { device: Device::Cpu, dtype: DType::F32 };
    for (placement, tolerance) in [(Placement::CPU, 0.0), (device, 1e-4)] {
        let model = Arc::new(Model::load_for(folder.path(), &placement).unwrap());
        each_gets_its_own(model, &base, folder.path(), tolerance).await;
    }
}

async fn each_gets_its_own(model: Arc<Model>, base: &HashMap<String, Tensor>, folder: &Path, tolerance: f32) {
    let (first, second) = (adapter(&model, 1), adapter(&model, 2));
    let oracles = [
        (None, tiny::Oracle::new(base.clone(), tiny::config_json())),
        (Some("first"), tiny::Oracle::new(merged(base, &first), tiny::config_json())),
        (Some("second"), tiny::Oracle::new(merged(base, &second), tiny::config_json())),
    ];
    let options = EngineOptions { prefill_chunk: 50, kv_bytes: 1 << 24, ..Default::default() };
    let engine = Engine::start(model, options).unwrap();
    load(&engine, "first", &first, folder).await;
    load(&engine, "second", &second, folder).await;
    let prompts = tiny::ragged_prompts(12, 60, 7);
    let requests: Vec<GenerateRequest> =
        prompts.iter().enumerate().map(|(i, prompt)| request(prompt, oracles[i % 3].0)).collect();
    let together = join_all(requests.iter().map(|request| engine.generate(request.clone()))).await;
    for (i, (request, together)) in requests.iter().zip(together).enumerate() {
        let together = together.unwrap();
        let wrong = oracles[i % 3].1.disagreements(&request.prompt, &together.token_ids);
        assert!(wrong.is_empty(), "row {i} with {:?}: {wrong:?}", request.adapter);
        let alone = engine.generate(request.clone()).await.unwrap();
        assert_eq!(alone.token_ids, together.token_ids);
        for (alone, together) in alone.logprobs.iter().zip(&together.logprobs) {
            assert!((alone - together).abs() <= tolerance, "{alone} is not {together}");
        }
    }
    engine.stop().await;
}

/// Protects: after a reload the name means the new adapter; after a drop it means nothing; a folder that cannot be loaded
/// leaves the name as it was.
#[tokio::test]
async fn a_name_means_what_was_loaded_last() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path(), &tiny::weights(31));
    let model = Arc::new(Model::load(folder.path()).unwrap());
    let (first, second) = (adapter(&model, 1), adapter(&model, 2));
    let engine = Engine::start(model, EngineOptions::default()).unwrap();
    load(&engine, "agent", &first, folder.path()).await;
    let prompt: Vec<u32> = (3..40).collect();
    let asked = request(&prompt, Some("agent"));
    let before = engine.generate(asked.clone()).await.unwrap();
    let refused = engine.load_adapter("agent", folder.path().join("nowhere")).await.unwrap_err();
    assert!(refused.to_string().contains("nowhere"), "{refused}");
    let again = engine.generate(asked.clone()).await.unwrap();
    assert_eq!(Generation { reused_tokens: before.reused_tokens, ..again }, before);
    load(&engine, "agent", &second, folder.path()).await;
    let after = engine.generate(asked.clone()).await.unwrap();
    assert_ne!(after.logprobs, before.logprobs);
    assert!(engine.drop_adapter("agent").await.unwrap());
    assert!(!engine.drop_adapter("agent").await.unwrap());
    let gone = engine.generate(asked).await.unwrap_err();
    assert!(matches!(gone, RequestError::UnknownAdapter { .. }), "{gone}");
    engine.stop().await;
}
