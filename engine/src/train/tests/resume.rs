use super::super::{
    self as training, Checkpoints, Progress, TrainError, TrainOptions, TrainReport, TrainingData, TrainingFiles,
};
use super::objectives::{dpo, kto};
use super::{model, options, row, supervised};
use crate::model::Model;
use std::ops::ControlFlow;
use std::path::Path;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("state.safetensors")
    }

    /// Trains with a checkpoint at every `every` steps, and is broken off after the step `end`.
    fn train(
        &self,
        model: &Model,
        data: &TrainingData,
        options: &TrainOptions,
        every: usize,
        end: usize,
    ) -> Result<TrainReport, TrainError> {
        let output = self.folder.path().join("adapter");
        let checkpoints = Some(Checkpoints { file: self.file(), every });
        let files = TrainingFiles { start: None, output: &output, checkpoints };
        training::train(model, data, options, &files, &mut |progress| match progress {
            Progress::Step(step) if step.step == end => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }

    fn adapter(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("adapter/adapter_model.safetensors")).unwrap()
    }
}

/// Protects: broken off after any step and taken up again, a training ends with the adapter and the figures that it would
/// have had, bit for bit.
#[test]
fn a_training_that_was_broken_off_ends_as_if_it_had_not_been() {
    let model = model();
    let rows: Vec<_> = (0..5).map(|seed| row(20 + seed as usize, 8, seed)).collect();
    for data in [supervised(&rows), kto(5), dpo(5)] {
        let mut options = TrainOptions { epochs: 2, ..options() };
        options.lora.dropout = 0.2;
        let undisturbed = Place::new();
        let expected = undisturbed.train(&model, &data, &options, 100, 0).unwrap();
        for (every, end) in (1..expected.steps).map(|end| (1, end)).chain([(2, 3)]) {
            let place = Place::new();
            let stopped = place.train(&model, &data, &options, every, end);
            assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
            assert!(place.file().exists());
            let mut report = place.train(&model, &data, &options, every, 0).unwrap();
            report.seconds = expected.seconds;
            assert_eq!(report, expected, "broken off after step {end}");
            assert!(place.adapter() == undisturbed.adapter(), "broken off after step {end}: another adapter");
            assert!(!place.file().exists(), "the training has ended");
        }
    }
}

/// Protects: a checkpoint of other rows or settings, or a damaged one, is refused by name and left where it is.
#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let model = model();
    let (data, options) = (supervised(&[row(20, 8, 1), row(24, 8, 2), row(22, 8, 3)]), options());
    let place = Place::new();
    let go_on = |data: &TrainingData, options: &TrainOptions| place.train(&model, data, options, 1, 0).unwrap_err();
    place.train(&model, &data, &options, 1, 1).unwrap_err();
    let faster = TrainOptions { learning_rate: 1e-3, ..options.clone() };
    assert!(matches!(go_on(&data, &faster), TrainError::OtherTraining { .. }));
    let others = supervised(&[row(20, 8, 1), row(24, 8, 2), row(22, 8, 4)]);
    assert!(matches!(go_on(&others, &options), TrainError::OtherTraining { .. }));
    let whole = std::fs::read(place.file()).unwrap();
    for cut in [0, 7, 100, whole.len() - 1] {
        std::fs::write(place.file(), &whole[..cut]).unwrap();
        let refused = go_on(&data, &options).to_string();
        assert!(refused.contains("state.safetensors is damaged"), "cut at {cut}: {refused}");
    }
    std::fs::write(place.file(), whole).unwrap();
    place.train(&model, &data, &options, 1, 0).unwrap();
    let never = place.train(&model, &data, &options, 0, 0);
    assert!(matches!(never, Err(TrainError::Setting { setting: "checkpoint_steps", .. })), "{never:?}");
    assert!(Path::new(&place.folder.path().join("adapter")).exists());
}
