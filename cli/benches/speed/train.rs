//! Steps of supervised training, all linear layers adapted, every position a target.

use std::ops::ControlFlow;

use influence_engine::train::{Progress, TrainOptions, TrainRow, TrainingData, TrainingFiles, train};
use serde_json::json;

use crate::tokens::ids;
use crate::{TrainArgs, process};

pub(crate) fn run(args: &TrainArgs) {
    let model = args.place.load();
    let row = |row| {
        let ids = ids(&model, row, args.length);
        TrainRow { mask: (0..ids.len()).map(|place| place > 0).collect(), ids, weight: 1.0 }
    };
    let data = TrainingData::Supervised((0..args.rows).map(row).collect());
    let options = TrainOptions {
        batch_size: args.rows,
        epochs: args.steps,
        max_length: args.length,
        learning_rate: 1e-5,
        graph_memory: args.graph_mib.map(|mib| mib << 20),
        ..TrainOptions::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("adapter");
    let files = TrainingFiles { start: None, output: &output, checkpoints: None };
    let (mut ended, mut fastest, mut losses) = (0.0, f64::INFINITY, Vec::new());
    train(&model, &data, &options, &files, &mut |progress| {
        let Progress::Step(step) = progress else { return ControlFlow::Continue(()) };
        fastest = fastest.min(step.seconds - ended);
        ended = step.seconds;
        losses.push(step.measures.loss);
        ControlFlow::Continue(())
    })
    .expect("it trains");
    let tokens = (args.rows * args.length) as f64;
    println!("{}", json!({"tokens_per_s": tokens / fastest, "peak_mib": process::peak_mib(), "losses": losses}));
}
