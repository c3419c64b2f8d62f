//! From the caller's rows to checked ones.

use super::{KtoRow, LongRows, PreferenceRow, TrainError, TrainOptions, TrainRow};

/// A row that can be trained on.
#[derive(Debug, Clone)]
pub(super) struct ReadyRow {
    /// Its place among the caller's rows.
    pub(super) index: usize,
    /// It is the second sequence of that row.
    pub(super) second: bool,
    /// The tokens up to its last target: later ones change nothing.
    pub(super) ids: Vec<u32>,
    /// The positions of the targets, ascending, none of them 0.
    pub(super) targets: Vec<usize>,
    /// How much the row counts.
    pub(super) weight: f64,
    /// Tokens before those after the last target were left off, for the figures.
    pub(super) tokens: usize,
}

impl ReadyRow {
    /// What stands before the first target.
    pub(super) fn before_targets(&self) -> &[u32] {
        &self.ids[..self.targets[0]]
    }
}

/// A row of KTO.
#[derive(Debug, Clone)]
pub(super) struct ReadyKto {
    pub(super) row: ReadyRow,
    pub(super) desirable: bool,
}

/// A row of DPO.
#[derive(Debug, Clone)]
pub(super) struct ReadyPair {
    pub(super) chosen: ReadyRow,
    pub(super) rejected: ReadyRow,
}

/// The rows that fit, and how many did not.
#[derive(Debug)]
pub(super) struct Ready<T> {
    pub(super) rows: Vec<T>,
    pub(super) dropped: usize,
    pub(super) cut: usize,
}

/// Checks every row and deals with the long ones.
#[derive(Debug)]
pub(super) struct Check<'a> {
    pub(super) options: &'a TrainOptions,
    pub(super) vocabulary: usize,
}

/// A row as it may be trained on, and whether its end was cut off.
type Fitted = (ReadyRow, bool);

impl Check<'_> {
    pub(super) fn rows(&self, rows: &[TrainRow]) -> Result<Ready<ReadyRow>, TrainError> {
        self.all(rows, |index, row| self.sequence(index, &row.ids, &row.mask, row.weight))
    }

    pub(super) fn kto(&self, rows: &[KtoRow]) -> Result<Ready<ReadyKto>, TrainError> {
        self.all(rows, |index, row| {
            let ids = [&*row.prompt, &row.completion].concat();
            let mask: Vec<bool> = (0..ids.len()).map(|place| place >= row.prompt.len()).collect();
            let fitted = self.sequence(index, &ids, &mask, row.weight)?;
            Ok(fitted.map(|(fitted, cut)| (ReadyKto { row: fitted, desirable: row.desirable }, cut)))
        })
    }

    pub(super) fn pairs(&self, rows: &[PreferenceRow]) -> Result<Ready<ReadyPair>, TrainError> {
        self.all(rows, |index, row| {
            let chosen = self.sequence(index, &row.chosen.ids, &row.chosen.mask, 1.0)?;
            let rejected = self.sequence(index, &row.rejected.ids, &row.rejected.mask, 1.0)?;
            Ok(chosen.zip(rejected).map(|((chosen, one), (rejected, other))| {
                let rejected = ReadyRow { second: true, ..rejected };
                (ReadyPair { chosen, rejected }, one || other)
            }))
        })
    }

    fn all<R, T>(
        &self,
        rows: &[R],
        ready: impl Fn(usize, &R) -> Result<Option<(T, bool)>, TrainError>,
    ) -> Result<Ready<T>, TrainError> {
        let mut all = Ready { rows: Vec::with_capacity(rows.len()), dropped: 0, cut: 0 };
        for (index, row) in rows.iter().enumerate() {
            match ready(index, row)? {
                Some((row, cut)) => {
                    all.rows.push(row);
                    all.cut += usize::from(cut);
                }
                None => all.dropped += 1,
            }
        }
        if all.rows.is_empty() {
            let (given, dropped) = (rows.len(), all.dropped);
            return Err(TrainError::NoRows { given, dropped, max_length: self.options.max_length });
        }
        Ok(all)
    }

    fn sequence(&self, index: usize, ids: &[u32], mask: &[bool], weight: f32) -> Result<Option<Fitted>, TrainError> {
        check(index, ids, mask, weight, self.vocabulary)?;
        Ok(self.fit(index, ids, mask, weight))
    }

    fn fit(&self, index: usize, ids: &[u32], mask: &[bool], weight: f32) -> Option<Fitted> {
        let too_long = ids.len() > self.options.max_length;
        if too_long && self.options.long_rows == LongRows::Drop {
            return None;
        }
        let tokens = ids.len().min(self.options.max_length);
        let targets: Vec<usize> = (0..tokens).filter(|place| mask[*place]).collect();
        let ids = ids[..=*targets.last()?].to_vec();
        Some((ReadyRow { index, second: false, ids, targets, weight: f64::from(weight), tokens }, too_long))
    }
}

fn check(row: usize, ids: &[u32], mask: &[bool], weight: f32, vocabulary: usize) -> Result<(), TrainError> {
    let tokens = ids.len();
    if mask.len() != tokens {
        return Err(TrainError::MaskLength { row, tokens, mask: mask.len() });
    }
    let targets = mask.iter().filter(|target| **target).count();
    if targets == 0 {
        return Err(TrainError::EmptyMask { row, tokens });
    }
    if mask[0] {
        return Err(TrainError::FirstTokenMasked { row, targets, tokens });
    }
    if !(weight.is_finite() && weight > 0.0) {
        return Err(TrainError::Weight { row, weight });
    }
    match ids.iter().position(|id| *id as usize >= vocabulary) {
        None => Ok(()),
        Some(position) => Err(TrainError::UnknownToken { row, position, id: ids[position], vocabulary }),
    }
}
