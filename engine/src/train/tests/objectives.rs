use super::super::optimizer::share_of_rate;
use super::super::{
    DpoOptions, KtoOptions, KtoRow, PreferenceRow, Schedule, Sequence, TrainError, TrainOptions, TrainingData,
};
use super::{model, options, row, train};
use crate::model::Model;

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    row(count, 1, seed).ids
}

/// Rows of both kinds in turn.
pub(super) fn kto(rows: usize) -> TrainingData {
    let row = |index: usize| KtoRow {
        prompt: tokens(6 + index, 40 + index as u64),
        completion: tokens(4 + index % 3, 60 + index as u64),
        desirable: index.is_multiple_of(2),
        weight: 1.0,
    };
    TrainingData::Kto((0..rows).map(row).collect(), KtoOptions { target_ratio: 2.0, ..KtoOptions::default() })
}

pub(super) fn dpo(rows: usize) -> TrainingData {
    let sequence = |index: usize, count: usize, seed: u64| {
        let (prompt, reply) = (tokens(6 + index, 40 + index as u64), tokens(count, seed));
        let ids = [prompt.clone(), reply].concat();
        Sequence { mask: (0..ids.len()).map(|place| place >= prompt.len()).collect(), ids }
    };
    let row = |index: usize| PreferenceRow {
        chosen: sequence(index, 5, 60 + index as u64),
        rejected: sequence(index, 3 + index % 4, 80 + index as u64),
    };
    TrainingData::Dpo((0..rows).map(row).collect(), DpoOptions::default())
}

fn measured(model: &Model, data: &TrainingData, options: &TrainOptions) -> Vec<super::Step> {
    let folder = tempfile::tempdir().unwrap();
    train(model, None, data, options, &folder.path().join("adapter")).unwrap().1
}

/// Protects: before the first step the model is its own reference; and replies go the way that they should.
#[test]
fn desirable_replies_gain_and_undesirable_ones_lose() {
    let model = model();
    let options = TrainOptions { batch_size: 4, epochs: 12, ..options() };
    let steps = measured(&model, &kto(4), &options);
    let (first, last) = (steps[0].measures, steps[11].measures);
    assert_eq!((first.kl, first.chosen_reward, first.rejected_reward), (Some(0.0), Some(0.0), Some(0.0)));
    // Half of what each row can cost: two of weight 1, two of weight 0.5.
    assert_eq!(first.loss, (1.0 + 1.0 + 0.5 + 0.5) / 4.0 / 2.0);
    assert!(last.loss < first.loss && last.chosen_reward > Some(0.1) && last.rejected_reward < Some(-0.1), "{last:?}");

    let steps = measured(&model, &dpo(4), &options);
    let (first, last) = (steps[0].measures, steps[11].measures);
    assert!((first.loss - 2f64.ln()).abs() < 1e-12 && first.accuracy == Some(0.0), "{first:?}");
    assert!(last.loss < 0.5 && last.accuracy == Some(1.0) && last.chosen_reward > last.rejected_reward, "{last:?}");
}

/// Protects: a batch of one kind only has no mean of the other; a rest of one row joins the batch before it, as a pair
/// of one would be no mismatch; rows of one kind only are refused.
#[test]
fn kto_compares_two_rows_or_more() {
    let model = model();
    let sizes = measured(&model, &kto(5), &TrainOptions { batch_size: 2, epochs: 2, ..options() });
    assert_eq!(sizes.len(), 4, "two and three rows in each epoch");
    let of_one_kind =
        |step: &super::Step| step.measures.chosen_reward.is_none() || step.measures.rejected_reward.is_none();
    assert!(sizes.iter().any(of_one_kind), "{sizes:?}");
    let TrainingData::Kto(mut rows, settings) = kto(4) else { unreachable!() };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("adapter");
    let one = TrainOptions { batch_size: 1, ..options() };
    let refused = train(&model, None, &TrainingData::Kto(rows.clone(), settings), &one, &output);
    assert!(matches!(refused, Err(TrainError::SmallBatch { examples: 4, batch_size: 1, least: 2 })), "{refused:?}");
    rows.retain(|row| row.desirable);
    let refused = train(&model, None, &TrainingData::Kto(rows, settings), &options(), &output);
    assert!(matches!(refused, Err(TrainError::OneSided { positives: 2, negatives: 0 })), "{refused:?}");
}

/// Protects: warm-up and decay over the steps, as Hugging Face's schedules have them.
#[test]
fn the_rate_follows_its_schedule() {
    let rates = |schedule, warmup| {
        let options = TrainOptions { schedule, warmup, ..options() };
        (1..=10).map(|step| share_of_rate(&options, step, 10)).collect::<Vec<f64>>()
    };
    assert_eq!(rates(Schedule::Constant, 0.0), [1.0; 10]);
    assert_eq!(rates(Schedule::Constant, 0.2)[..4], [0.0, 0.5, 1.0, 1.0]);
    let options = TrainOptions { warmup: 0.5, ..options() };
    assert_eq!(share_of_rate(&options, 1, 1), 1.0, "the only step is not for nothing");
    assert_eq!(rates(Schedule::Linear, 0.2), [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]);
    let cosine = rates(Schedule::Cosine, 0.0);
    assert!(cosine[0] == 1.0 && (cosine[5] - 0.5).abs() < 1e-12 && cosine.is_sorted_by(|a, b| a > b), "{cosine:?}");
}
