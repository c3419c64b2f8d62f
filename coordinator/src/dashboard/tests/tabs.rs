//! The tabs of a run.

use influence_proto::{Digest, StepLoss, TrainedAgent, TrainingReport, WorkId};
use serde_json::json;

use super::{ATTACK, page, store};
use crate::store::behaviour::run_id;

/// Protects: what was selected stands with its rule, and leads to the conversation.
#[tokio::test]
async fn the_data_says_what_was_selected_and_why() {
    let store = store().await;
    let shown = page(&store, "/runs/demo/data").await;
    for part in [
        "episodes 2 · groups 2 · best 1 · worst 0",
        "href=\"/runs/demo/episodes/e1\">8.00</a>",
        "1: 3.00",
        "highest rewards",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(page(&store, "/runs/demo/data?iteration=9").await.contains("episodes 0"));
}

/// Protects: time and usage by phase and role; lengths of replies.
#[tokio::test]
async fn the_timeline_counts_what_was_used() {
    let store = store().await;
    let shown = page(&store, "/runs/demo/timeline").await;
    let mean = format!(">{:.0}</td>", ("Hello".len() + ATTACK.len()) as f64 / 2.0);
    assert!(shown.contains("iteration 0") && shown.contains(&mean) && !shown.contains("not counted yet"), "{shown}");
}

/// Protects: a training's losses are a curve.
#[tokio::test]
async fn a_training_has_its_curve() {
    let store = store().await;
    assert!(page(&store, "/runs/demo/training").await.contains("Nothing was trained yet"));
    let spec = serde_json::from_value(json!({
        "model": "m", "dataset": Digest::of("d"), "start": null, "algorithm": "sft", "seed": 1,
        "lora": {"rank": 1, "alpha": 1.0, "rank_stabilised": true, "dropout": 0.0, "targets": ["q_proj"]},
        "optimiser": {"learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": 1, "epochs": 1,
                      "max_length": 9, "cut_long_rows": false},
    }))
    .unwrap();
    let work = WorkId::new("demo:training:0").unwrap();
    store.plan_training(&run_id(), 0, &work, spec).await.unwrap();
    store.start_attempt(&run_id(), &work, 1, None).await.unwrap();
    let losses = [2.5, 1.5, 0.75].iter().zip(1..).map(|(loss, step)| StepLoss { step, loss: *loss }).collect();
    let report = TrainingReport {
        agent: TrainedAgent::Served { model: "ft:tuned".into() },
        steps: 3,
        rows: 2,
        dropped_rows: 0,
        tokens: 3,
        first_loss: Some(2.5),
        last_loss: Some(0.75),
        losses,
        nanodollars: 0,
    };
    store.finish_training(&run_id(), &work, 1, report).await.unwrap();
    let shown = page(&store, "/runs/demo/training").await;
    assert!(shown.contains("loss by step") && shown.contains("iteration 0: step 3, 0.75"), "{shown}");
    assert!(shown.contains("trained: ft:tuned"), "{shown}");
}
