use super::super::{TrainOptions, TrainRow, TrainingData, TrainingFiles, train};
use crate::lora::LoraConfig;
use crate::model::Model;
use std::ops::ControlFlow;
use std::time::Instant;

/// The most memory that this process has held, in MiB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}

/// Prints the speed and memory of training the model that `INFLUENCE_TEST_MODEL` points to, on rows of 400
/// tokens; run it with `--run-ignored all --no-capture`.
#[test]
#[ignore = "a measurement: run by hand, with --run-ignored all --no-capture"]
fn speed_and_memory_on_a_real_model() {
    let path = std::env::var("INFLUENCE_TEST_MODEL").expect("set INFLUENCE_TEST_MODEL to a model file");
    let start = Instant::now();
    let model = Model::load(path.as_ref()).unwrap();
    eprintln!("loaded in {:.1} s, {:?} MiB", start.elapsed().as_secs_f64(), peak_memory());
    let text = "The river was low that summer, and the ferryman spoke to nobody but his dog. ".repeat(40);
    let ids = model.encode(&text).unwrap();
    let rows: Vec<TrainRow> = (0..6)
        .map(|row| TrainRow {
            ids: ids[row..row + 400].to_vec(),
            mask: (0..400).map(|place| place >= 200).collect(),
            weight: 1.0,
        })
        .collect();
    let options = TrainOptions { lora: LoraConfig::default(), batch_size: 2, ..TrainOptions::default() };
    let output = tempfile::tempdir().unwrap();
    let output = output.path().join("adapter");
    let files = TrainingFiles { start: None, output: &output, checkpoints: None };
    let report = train(&model, &TrainingData::Supervised(rows), &options, &files, &mut |progress| {
        eprintln!("{progress:?}: {:?} MiB", peak_memory());
        ControlFlow::Continue(())
    });
    eprintln!("{:?}", report.unwrap());
}
