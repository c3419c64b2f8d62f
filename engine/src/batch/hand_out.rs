//! From a step's logits to the rows that asked for them.

use candle_core::Tensor;
use rayon::prelude::*;

use super::request::RequestError;
use super::row::{Ending, Outcome, Row};
use crate::attention::with_slice;
use crate::model::{Model, brought};
use crate::sample::draw;

/// A row, by its index, and how it ended.
pub(super) type Finished = (usize, Result<Outcome, RequestError>);

/// Hands each of the rows its own of the logits, which are in their order, in f32 on the CPU.
pub(super) fn hand_out(
    model: &Model,
    mut rows: Vec<(usize, &mut Row)>,
    logits: &Tensor,
) -> candle_core::Result<Vec<Finished>> {
    let ending = Ending::of(model);
    with_slice(logits, |logits| {
        let rows = rows.par_iter_mut().zip(logits.par_chunks(model.config.vocab_size));
        rows.filter_map(|((index, row), logits)| row.accept(logits, ending).finished(*index)).collect()
    })
}

/// The same of logits on a device: rows that only draw a token have it drawn there, and only the others' logits travel.
pub(super) fn hand_out_from_device(
    model: &Model,
    rows: Vec<(usize, &mut Row)>,
    logits: &Tensor,
) -> candle_core::Result<Vec<Finished>> {
    let (mut drawing, mut reading) = (Vec::new(), Vec::new());
    let (mut draws, mut drawn_at, mut read_at) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (index, row)) in (0u32..).zip(rows) {
        match row.draw() {
            Some(draw) => {
                draws.push(draw);
                drawn_at.push(place);
                drawing.push((index, row));
            }
            None => {
                read_at.push(place);
                reading.push((index, row));
            }
        }
    }
    let rows_at = |places: Vec<u32>| match places.len() == logits.dim(0)? {
        true => Ok(logits.clone()),
        false => logits.index_select(&Tensor::new(places, logits.device())?, 0),
    };
    let ending = Ending::of(model);
    let mut finished = Vec::new();
    if !drawing.is_empty() {
        let drawn = draw(&rows_at(drawn_at)?, &draws)?;
        let ended = drawing.into_iter().zip(drawn);
        finished.extend(ended.filter_map(|((index, row), drawn)| row.accept_drawn(drawn, ending).finished(index)));
    }
    if !reading.is_empty() {
        finished.extend(hand_out(model, reading, &brought(&rows_at(read_at)?)?)?);
    }
    Ok(finished)
}
