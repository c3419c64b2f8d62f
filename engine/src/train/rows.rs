//! From the caller's rows to checked ones.

use super::{LongRows, SftOptions, TrainError, TrainRow};

/// A row that can be trained on.
#[derive(Debug, Clone)]
pub(super) struct ReadyRow {
    /// Its place among the caller's rows.
    pub(super) index: usize,
    /// The tokens up to its last target: later ones change nothing.
    pub(super) ids: Vec<u32>,
    /// The positions of the targets, ascending, none of them 0.
    pub(super) targets: Vec<usize>,
    /// How much the row counts.
    pub(super) weight: f64,
    /// Tokens before those after the last target were left off, for the figures.
    pub(super) tokens: usize,
}

/// The rows that fit, and how many did not.
#[derive(Debug)]
pub(super) struct ReadyRows {
    pub(super) rows: Vec<ReadyRow>,
    pub(super) dropped: usize,
    pub(super) cut: usize,
}

impl ReadyRows {
    /// Checks every row and deals with the long ones.
    pub(super) fn check(rows: &[TrainRow], options: &SftOptions, vocabulary: usize) -> Result<Self, TrainError> {
        let mut ready = Self { rows: Vec::with_capacity(rows.len()), dropped: 0, cut: 0 };
        for (index, row) in rows.iter().enumerate() {
            check_row(index, row, vocabulary)?;
            ready.take(index, row, options);
        }
        if ready.rows.is_empty() {
            return Err(TrainError::NoRows {
                given: rows.len(),
                dropped: ready.dropped,
                max_length: options.max_length,
            });
        }
        Ok(ready)
    }

    fn take(&mut self, index: usize, row: &TrainRow, options: &SftOptions) {
        let too_long = row.ids.len() > options.max_length;
        if too_long && options.long_rows == LongRows::Drop {
            self.dropped += 1;
            return;
        }
        let length = row.ids.len().min(options.max_length);
        let targets: Vec<usize> = (0..length).filter(|place| row.mask[*place]).collect();
        let Some(last) = targets.last() else {
            self.dropped += 1;
            return;
        };
        self.cut += usize::from(too_long);
        self.rows.push(ReadyRow {
            index,
            ids: row.ids[..=*last].to_vec(),
            weight: f64::from(row.weight),
            tokens: length,
            targets,
        });
    }
}

fn check_row(index: usize, row: &TrainRow, vocabulary: usize) -> Result<(), TrainError> {
    let tokens = row.ids.len();
    if row.mask.len() != tokens {
        return Err(TrainError::MaskLength { row: index, tokens, mask: row.mask.len() });
    }
    let targets = row.mask.iter().filter(|target| **target).count();
    if targets == 0 {
        return Err(TrainError::EmptyMask { row: index, tokens });
    }
    if row.mask[0] {
        return Err(TrainError::FirstTokenMasked { row: index, targets, tokens });
    }
    if !(row.weight.is_finite() && row.weight > 0.0) {
        return Err(TrainError::Weight { row: index, weight: row.weight });
    }
    match row.ids.iter().position(|id| *id as usize >= vocabulary) {
        None => Ok(()),
        Some(position) => Err(TrainError::UnknownToken { row: index, position, id: row.ids[position], vocabulary }),
    }
}
