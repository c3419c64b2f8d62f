use super::super::{self as training, TrainError, TrainOptions, TrainRow, TrainingFiles};
use super::{adapter, lora, model, options, row, supervised, tiny, train};
use crate::linear::FrozenLinear;
use crate::lora::{LoraConfig, LoraWeights, Projection};
use crate::model::Model;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use std::ops::ControlFlow;

fn trained_bytes(model: &Model, rows: &[TrainRow], options: &TrainOptions, threads: usize) -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("adapter");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| train(model, None, &supervised(rows), options, &output)).unwrap();
    std::fs::read(output.join("adapter_model.safetensors")).unwrap()
}

fn rows() -> Vec<TrainRow> {
    (0..5).map(|seed| row(20 + seed as usize, 8, seed)).collect()
}

/// Protects: training learns: a memorised row's loss falls, and the adapter on disk carries what was learnt.
#[test]
fn a_row_is_memorised_and_the_adapter_carries_it() {
    let model = model();
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let options = TrainOptions { epochs: 25, base_model: Some("tiny".to_owned()), ..options() };
    let rows = [row(24, 10, 1)];
    let (report, steps) = train(&model, None, &supervised(&rows), &options, &first).unwrap();
    assert_eq!((report.steps, report.rows, report.dropped), (25, 1, 0));
    assert_eq!((report.tokens, report.target_tokens), (25 * 24, 25 * 10));
    assert_eq!(steps.len(), 25);
    assert_eq!((steps[0].measures.loss, steps[24].measures.loss), (report.first_loss, report.last_loss));
    assert!(report.last_loss < 0.3 * report.first_loss, "{report:?}");
    // Going on from the adapter starts where it ended: a step later, so at a lower loss still.
    let (next, _) = train(&model, Some(&first), &supervised(&rows), &options, &second).unwrap();
    assert!(next.first_loss < report.last_loss, "{next:?} after {report:?}");
    assert_ne!(
        std::fs::read(first.join("adapter_model.safetensors")).unwrap(),
        std::fs::read(second.join("adapter_model.safetensors")).unwrap()
    );
    let config = std::fs::read_to_string(first.join("adapter_config.json")).unwrap();
    assert!(config.contains("\"base_model_name_or_path\": \"tiny\""), "{config}");
}

/// Protects: the same rows, options and seed give the same adapter, bit for bit, for any number of threads.
#[test]
fn training_repeats_bit_for_bit() {
    let (model, rows) = (model(), rows());
    let mut options = TrainOptions { epochs: 2, ..options() };
    options.lora.dropout = 0.2;
    let once = trained_bytes(&model, &rows, &options, 2);
    assert!(once == trained_bytes(&model, &rows, &options, 2), "a second run differs");
    assert!(once == trained_bytes(&model, &rows, &options, 1), "one thread differs");
    assert!(once == trained_bytes(&model, &rows, &options, 5), "five threads differ");
    // Of one layer, of two, and of all three: a layer's graph of these rows has 87 to 105 kB.
    for graphs in [0, 215_000, usize::MAX] {
        let options = TrainOptions { graph_memory: Some(graphs), ..options.clone() };
        assert!(once == trained_bytes(&model, &rows, &options, 2), "graphs in {graphs} bytes change the adapter");
    }
    let other = TrainOptions { seed: 12, ..options.clone() };
    assert!(once != trained_bytes(&model, &rows, &other, 2), "the seed changes nothing");
    options.lora.dropout = 0.0;
    assert!(once != trained_bytes(&model, &rows, &options, 2), "dropout changes nothing");
}

/// Protects: a base that is kept in 16 bits trains the adapter that its values in f32 train, bit for bit.
#[test]
fn a_base_in_16_bits_trains_as_its_values_do() {
    for dtype in [DType::BF16, DType::F16] {
        let folder = tempfile::tempdir().unwrap();
        let trained = |name: &str, dtypes: &[DType]| {
            let cast =
                |tensor: &Tensor| dtypes.iter().fold(tensor.clone(), |tensor, dtype| tensor.to_dtype(*dtype).unwrap());
            let weights = tiny::weights(7).into_iter().map(|(name, tensor)| (name, cast(&tensor))).collect();
            let model = Model::load(&tiny::write_folder(&folder.path().join(name), &weights)).unwrap();
            trained_bytes(&model, &rows()[..2], &options(), 2)
        };
        let kept = trained("kept", &[dtype]);
        assert!(kept == trained("values", &[dtype, DType::F32]), "{dtype:?} trains another adapter");
        assert!(kept != trained("before", &[]), "rounding changed nothing");
    }
}

/// Protects: the same of a base that is kept in quantised codes.
#[test]
fn a_quantised_base_trains_as_its_values_do() {
    for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_0] {
        let trained = |base: fn(&QTensor) -> FrozenLinear| {
            let mut model = model();
            // Codes come in blocks of 32.
            let inner = 64;
            model.config.intermediate_size = inner;
            for layer in &mut model.weights.layers {
                let narrow = |linear: &FrozenLinear, dim| linear.weight().unwrap().narrow(dim, 0, inner).unwrap();
                let plain = |weight: Tensor| FrozenLinear::new(&weight, None).unwrap();
                (layer.gate, layer.up) = (plain(narrow(&layer.gate, 0)), plain(narrow(&layer.up, 0)));
                let down = narrow(&layer.down, 1).contiguous().unwrap();
                layer.down = base(&QTensor::quantize(&down, kind).unwrap());
            }
            trained_bytes(&model, &rows()[..2], &options(), 2)
        };
        let kept = trained(|codes| FrozenLinear::quantised(codes, |output| output, None).unwrap());
        let values = trained(|codes| FrozenLinear::new(&codes.dequantize(&Device::Cpu).unwrap(), None).unwrap());
        assert!(kept == values, "{kind:?} trains another adapter");
    }
}

/// Protects: a step's loss is the mean over all its targets, so a row's weight counts like copies of it.
#[test]
fn a_weight_counts_like_copies_of_the_row() {
    let model = model();
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (row(20, 4, 1), row(30, 12, 2));
    let first_step = |rows: &[TrainRow], name: &str| {
        let options = TrainOptions { batch_size: 4, ..options() };
        train(&model, None, &supervised(rows), &options, &root.path().join(name)).unwrap().1[0]
    };
    let copies = first_step(&[a.clone(), b.clone(), a.clone()], "copies");
    let weighted = first_step(&[TrainRow { weight: 2.0, ..a.clone() }, b.clone()], "weighted");
    assert!((copies.measures.loss - weighted.measures.loss).abs() < 1e-6);
    assert!((copies.grad_norm - weighted.grad_norm).abs() < 1e-5 * copies.grad_norm);
    let alone = |row: &TrainRow, name: &str| first_step(std::slice::from_ref(row), name).measures.loss;
    let mean = (8.0 * alone(&a, "a") + 12.0 * alone(&b, "b")) / 20.0;
    assert!((copies.measures.loss - mean).abs() < 1e-5, "{} is not {mean}", copies.measures.loss);
}

/// Protects: an adapter of other settings is not continued as if they were its own.
#[test]
fn an_adapter_with_other_settings_is_not_continued() {
    let model = model();
    let root = tempfile::tempdir().unwrap();
    let start = root.path().join("start");
    adapter(&model, lora(), 1).write(&start, None).unwrap();
    let changes = [
        ("rank", LoraConfig { rank: 5, ..lora() }),
        ("alpha", LoraConfig { alpha: 9.0, ..lora() }),
        ("rank_stabilized", LoraConfig { rank_stabilized: false, ..lora() }),
        ("targets", LoraConfig { targets: vec![Projection::Q], ..lora() }),
    ];
    for (setting, lora) in changes {
        let options = TrainOptions { lora, ..options() };
        let result = train(&model, Some(&start), &supervised(&rows()), &options, &root.path().join("out"));
        match result {
            Err(TrainError::StartMismatch { setting: found, .. }) => assert_eq!(found, setting),
            other => panic!("{setting}: {other:?}"),
        }
    }
    let missing = root.path().join("nowhere");
    let result = train(&model, Some(&missing), &supervised(&rows()), &options(), &root.path().join("out"));
    assert!(matches!(result, Err(TrainError::Adapter(_))));
}

/// Protects: an adapter for a part of the projections trains those and no others.
#[test]
fn a_part_of_the_projections_can_be_trained() {
    let model = model();
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("adapter");
    let targets = vec![Projection::V, Projection::Down];
    let options = TrainOptions { lora: LoraConfig { targets: targets.clone(), ..lora() }, epochs: 5, ..options() };
    let (report, _) = train(&model, None, &supervised(&[row(24, 10, 1)]), &options, &output).unwrap();
    assert!(report.last_loss < report.first_loss);
    let weights = LoraWeights::read(&output, &model.config).unwrap();
    assert_eq!(weights.pairs.len(), model.config.layers * 2);
}

/// Protects: a training that is stopped, or that diverges, leaves what stood at its output.
#[test]
fn a_stopped_or_diverged_training_writes_nothing() {
    let model = model();
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("adapter");
    let files = TrainingFiles { start: None, output: &output, checkpoints: None };
    let data = supervised(&rows());
    let result = training::train(&model, &data, &options(), &files, &mut |_| ControlFlow::Break(()));
    assert!(matches!(result, Err(TrainError::Stopped { step: 1, total: 3 })), "{result:?}");
    assert!(!output.exists());
    let options = TrainOptions { learning_rate: 1e30, ..options() };
    match train(&model, None, &supervised(&rows()), &options, &output) {
        Err(TrainError::NotFinite { step: 2, rows, .. }) => assert_eq!(rows.len(), 2),
        other => panic!("a diverged training went on: {other:?}"),
    }
    assert!(!output.exists());
}
