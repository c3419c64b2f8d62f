use std::collections::BTreeMap;

use super::EpisodeRow;

/// An initial state: its class, its environment and its id.
pub type Opening = (String, String, String);

/// The episodes of one opening on both sides of a comparison.
#[derive(Debug, Clone)]
pub struct Pair<'r, R> {
    /// Which opening.
    pub opening: &'r EpisodeRow,
    /// One side's episodes; there is at least one.
    pub a: Vec<&'r R>,
    /// The other side's; there is at least one.
    pub b: Vec<&'r R>,
}

/// The openings that both sides have, in order, and how many only one of them has.
pub fn pairs<'r, R: AsRef<EpisodeRow>>(a: &'r [R], b: &'r [R]) -> (Vec<Pair<'r, R>>, usize) {
    let (a, mut b) = (by_opening(a), by_opening(b));
    let mut alone = 0;
    let mut both = Vec::new();
    for (opening, a) in a {
        match b.remove(&opening) {
            Some(b) => both.push(Pair { opening: a[0].as_ref(), a, b }),
            None => alone += 1,
        }
    }
    (both, alone + b.len())
}

fn by_opening<R: AsRef<EpisodeRow>>(rows: &[R]) -> BTreeMap<Opening, Vec<&R>> {
    let mut all: BTreeMap<Opening, Vec<&R>> = BTreeMap::new();
    for row in rows {
        all.entry(row.as_ref().opening()).or_default().push(row);
    }
    all
}

impl<R> Pair<'_, R> {
    /// The means of both sides' siblings; none if no sibling of a side has a value.
    pub fn means(&self, value: impl Fn(&R) -> Option<f64>) -> Option<(f64, f64)> {
        let mean = |rows: &[&R]| {
            let values: Vec<f64> = rows.iter().filter_map(|row| value(row)).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        Some((mean(&self.a)?, mean(&self.b)?))
    }
}
