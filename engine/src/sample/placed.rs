//! Drawing tokens from logits that are on a device. What travels is a sum for each stretch of the vocabulary, and of each row
//! the stretch that its token is in.

use candle_core::{D, DType, Result, Tensor};

use super::distribution::{NotANumber, highest};
use super::sampler::{Sampled, Uncut};

/// Tokens of a stretch.
const STRETCH: usize = 256;

/// Logits, in f32, that are looked at at once: 128 MB, and as much a few times over for what is made of them.
const AT_ONCE: usize = 1 << 25;

/// One token of each row of `logits [rows, vocab]`, by its draw: the tokens of [`super::Sampler::sample`], but for draws that
/// fall between two of them within the rounding of the sums.
///
/// # Errors
/// What the device reports.
pub(crate) fn draw(logits: &Tensor, draws: &[Uncut]) -> Result<Vec<Drawn>> {
    draw_in_parts(logits, draws, (AT_ONCE / logits.dim(1)?).max(1))
}

/// So many rows at once.
fn draw_in_parts(logits: &Tensor, draws: &[Uncut], rows: usize) -> Result<Vec<Drawn>> {
    let mut drawn = Vec::with_capacity(draws.len());
    for (part, draws) in draws.chunks(rows).enumerate() {
        drawn.extend(draw_at_once(&logits.narrow(0, part * rows, draws.len())?, draws)?);
    }
    Ok(drawn)
}

type Drawn = std::result::Result<Sampled, NotANumber>;

fn draw_at_once(logits: &Tensor, draws: &[Uncut]) -> Result<Vec<Drawn>> {
    let (rows, vocabulary) = logits.dims2()?;
    let logits = logits.to_dtype(DType::F32)?;
    let below = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
    let stretches = vocabulary.div_ceil(STRETCH);
    let padding = stretches * STRETCH - vocabulary;
    // What lies beyond the vocabulary never comes.
    let beyond = Tensor::full(f32::NEG_INFINITY, (rows, padding), logits.device())?;
    let below = if padding > 0 { Tensor::cat(&[below, beyond], 1)? } else { below };
    let below = below.reshape((rows, stretches, STRETCH))?;
    let plain: Vec<Vec<f32>> = below.exp()?.sum(D::Minus1)?.to_vec2()?;
    let highest = match draws.iter().any(|draw| draw.factor.is_none()) {
        true => below.max(D::Minus1)?.to_vec2()?,
        false => Vec::new(),
    };
    let factors: Vec<f32> = draws.iter().map(|draw| draw.factor.unwrap_or(1.0)).collect();
    let tempered = match factors.iter().all(|factor| *factor == 1.0) {
        true => None,
        false => {
            let factors = Tensor::from_vec(factors, (rows, 1, 1), logits.device())?;
            Some(below.broadcast_mul(&factors)?.exp()?.sum(D::Minus1)?.to_vec2()?)
        }
    };
    let chosen: Vec<Chosen> = (0..rows)
        .map(|row| match draws[row].factor {
            None => Chosen::highest(&highest[row]),
            Some(_) => Chosen::drawn(&tempered.as_ref().unwrap_or(&plain)[row], draws[row].uniform),
        })
        .collect();
    let places: Vec<u32> = (0..).zip(&chosen).map(|(row, chosen)| (row * stretches + chosen.stretch) as u32).collect();
    let places = Tensor::new(places, logits.device())?;
    let values: Vec<Vec<f32>> = below.reshape((rows * stretches, STRETCH))?.index_select(&places, 0)?.to_vec2()?;
    let mut drawn = Vec::with_capacity(rows);
    for (row, (chosen, values)) in chosen.into_iter().zip(&values).enumerate() {
        let total: f64 = plain[row].iter().map(|sum| f64::from(*sum)).sum();
        if !total.is_finite() {
            drawn.push(Err(broken(&logits, row)?));
            continue;
        }
        let place = chosen.place(values, draws[row].factor);
        let logprob = (f64::from(values[place]) - total.ln()) as f32;
        drawn.push(Ok(Sampled { token: (chosen.stretch * STRETCH + place) as u32, logprob }));
    }
    Ok(drawn)
}

/// Where a row's token is.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    stretch: usize,
    /// The weight of its stretch that lies before it.
    before: f64,
}

impl Chosen {
    /// The first stretch with the highest logit: nothing lies above it.
    fn highest(highest: &[f32]) -> Self {
        Self { stretch: highest.iter().position(|highest| *highest == 0.0).unwrap_or(0), before: 0.0 }
    }

    /// The stretch in which the cumulated weight passes the share `uniform` of all.
    fn drawn(sums: &[f32], uniform: f64) -> Self {
        let target = uniform * sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
        let (mut cumulated, mut last) = (0.0, Self { stretch: 0, before: 0.0 });
        for (stretch, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            last = Self { stretch, before: target - cumulated };
            cumulated += f64::from(*sum);
            if cumulated > target {
                break;
            }
        }
        last
    }

    /// The token among its stretch's logits less the highest.
    fn place(self, values: &[f32], factor: Option<f32>) -> usize {
        let Some(factor) = factor else {
            return values.iter().position(|value| *value == 0.0).unwrap_or(0);
        };
        let (mut cumulated, mut last) = (0.0, 0);
        for (place, value) in values.iter().enumerate() {
            let weight = f64::from((value * factor).exp());
            if weight > 0.0 {
                (cumulated, last) = (cumulated + weight, place);
                if cumulated > self.before {
                    break;
                }
            }
        }
        last
    }
}

/// What is wrong with a row whose weights have no sum.
fn broken(logits: &Tensor, row: usize) -> Result<NotANumber> {
    // A copy, as a part of a tensor would bring all of it.
    let logits: Vec<f32> = logits.narrow(0, row, 1)?.copy()?.flatten_all()?.to_vec1()?;
    Ok(highest(&logits).err().unwrap_or(NotANumber { token: 0 }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Sampler, SamplingOptions};
    use super::*;
    use candle_core::Device;

    fn noise(rows: usize, vocabulary: usize) -> Vec<Vec<f32>> {
        let value = |place: usize| ((place * 7919 + 13) % 1009) as f32 / 70.0;
        (0..rows).map(|row| (0..vocabulary).map(|token| value(row * 31 + token * token)).collect()).collect()
    }

    /// Protects: a device draws the tokens that the CPU draws, with their log-probabilities, at any temperature and for a
    /// vocabulary that is no multiple of a stretch; and greedy decoding takes the lowest id among equals.
    #[test]
    fn a_device_draws_what_the_cpu_draws() {
        for vocabulary in [3, 256, 1000] {
            let mut rows = noise(40, vocabulary);
            // Equal ones, and tokens that never come.
            rows[0] = vec![1.0; vocabulary];
            rows[1].iter_mut().skip(1).for_each(|logit| *logit = f32::NEG_INFINITY);
            // One that is higher by the least there is, behind the others.
            rows[2] = vec![0.25; vocabulary];
            rows[2][vocabulary - 1] = 0.25f32.next_up();
            let logits = Tensor::new(rows.clone(), &Device::Cpu).unwrap();
            for temperatures in [[1.0, 1.0], [0.0, 0.6], [1.7, 0.0]] {
                let sampler = |row: usize| {
                    let options = SamplingOptions { temperature: temperatures[row % 2], ..Default::default() };
                    Sampler::new(&options, row as u64).unwrap()
                };
                let draws: Vec<Uncut> = (0..40).map(|row| sampler(row).uncut(3).unwrap()).collect();
                let drawn = draw(&logits, &draws).unwrap();
                // The last part has fewer rows.
                assert_eq!(draw_in_parts(&logits, &draws, 7).unwrap(), drawn);
                for (row, drawn) in drawn.into_iter().enumerate() {
                    let (ours, theirs) = (drawn.unwrap(), sampler(row).sample(&rows[row], 3).unwrap());
                    assert_eq!(ours.token, theirs.token, "row {row} of {vocabulary} at {temperatures:?}");
                    assert!((ours.logprob - theirs.logprob).abs() < 1e-5, "{ours:?} is not {theirs:?}");
                }
            }
        }
    }

    /// Protects: a broken row is an error of its own, with the token, and harms no other; and what cuts the distribution is
    /// not drawn here.
    #[test]
    fn a_broken_row_fails_alone() {
        let mut rows = noise(4, 300);
        rows[1][270] = f32::NAN;
        rows[2] = vec![f32::NEG_INFINITY; 300];
        let logits = Tensor::new(rows, &Device::Cpu).unwrap();
        let draws = [Sampler::new(&SamplingOptions::default(), 1).unwrap().uncut(0).unwrap(); 4];
        let drawn = draw(&logits, &draws).unwrap();
        assert!(drawn[0].is_ok() && drawn[3].is_ok());
        assert_eq!(drawn[1], Err(NotANumber { token: 270 }));
        assert_eq!(drawn[2], Err(NotANumber { token: 0 }));
        for options in [
            SamplingOptions { top_p: 0.9, ..Default::default() },
            SamplingOptions { top_k: Some(5), ..Default::default() },
            SamplingOptions { min_p: 0.1, ..Default::default() },
        ] {
            assert!(Sampler::new(&options, 1).unwrap().uncut(0).is_none());
        }
    }
}
