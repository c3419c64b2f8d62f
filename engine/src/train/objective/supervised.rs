use super::super::TrainError;
use super::super::gradients::Gradients;
use super::super::rows::ReadyRow;
use super::{Heard, Measures, Objective, Trained};

/// Supervised fine-tuning: the mean negative log-likelihood of a batch's targets, each with its row's weight.
#[derive(Debug)]
pub(in crate::train) struct Supervised {
    rows: Vec<ReadyRow>,
}

impl Supervised {
    pub(in crate::train) fn new(rows: Vec<ReadyRow>) -> Self {
        Self { rows }
    }
}

impl Objective for Supervised {
    fn examples(&self) -> usize {
        self.rows.len()
    }

    fn rows(&self, example: usize) -> Vec<&ReadyRow> {
        vec![&self.rows[example]]
    }

    fn references(&self, _: Trained<'_>, _: &[Vec<usize>], _: Heard<'_>) -> Result<Vec<f64>, TrainError> {
        Ok(Vec::new())
    }

    fn refer(&mut self, _: Vec<f64>, _: &[Vec<usize>]) {}

    fn batch(
        &self,
        trained: Trained<'_>,
        step: usize,
        batch: &[usize],
        gradients: &mut Gradients,
    ) -> Result<Measures, TrainError> {
        let rows = || batch.iter().map(|example| &self.rows[*example]);
        let weighted: f64 = rows().map(|row| row.weight * row.targets.len() as f64).sum();
        let targets: usize = rows().map(|row| row.targets.len()).sum();
        let (mut loss, mut correct) = (0.0, 0);
        for pack in trained.packs(self, batch) {
            let rows: Vec<&ReadyRow> = pack.iter().map(|example| &self.rows[*example]).collect();
            let ran = trained.run(&rows, step)?;
            let factors: Vec<f64> = rows.iter().map(|row| row.weight / weighted).collect();
            loss += factors.iter().zip(ran.losses()).map(|(factor, loss)| factor * loss).sum::<f64>();
            correct += ran.correct();
            ran.add_gradients(&factors, gradients)?;
        }
        Ok(Measures { loss, accuracy: Some(correct as f64 / targets as f64), ..Measures::default() })
    }
}
