//! Statistics of what was measured.

use std::collections::BTreeMap;

/// A mean, with how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The arithmetic mean.
    pub mean: f64,
    /// Its standard error, clustered; none for fewer than two clusters.
    pub error: Option<f64>,
    /// How many values it is of.
    pub count: usize,
}

/// The mean of values that come in clusters, such as the episodes of one initial state, which
/// resemble each other. The standard error is the cluster-robust one with the usual small-sample
/// factor (Cameron and Miller 2015, section II, for a regression on a constant):
/// `sqrt(G / (G - 1) * sum over clusters g of (sum over i in g of (x_i - mean))^2) / N`.
/// With one value per cluster it is the ordinary standard error. None if there are no values.
pub fn mean<K: Ord>(values: impl IntoIterator<Item = (K, f64)>) -> Option<Mean> {
    let values: Vec<(K, f64)> = values.into_iter().collect();
    let count = values.len();
    if count == 0 {
        return None;
    }
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / count as f64;
    let mut deviations: BTreeMap<K, f64> = BTreeMap::new();
    for (cluster, value) in values {
        *deviations.entry(cluster).or_default() += value - mean;
    }
    let clusters = deviations.len() as f64;
    let squares: f64 = deviations.values().map(|d| d * d).sum();
    let error = (clusters > 1.0).then(|| (clusters / (clusters - 1.0) * squares).sqrt() / count as f64);
    Some(Mean { mean, error, count })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn single_values_give_the_ordinary_standard_error() {
        let found = mean([(1, 2.0), (2, 4.0), (3, 9.0)]).unwrap();
        assert!((found.mean - 5.0).abs() < 1e-12);
        // Sample variance 13, so sqrt(13 / 3).
        assert!((found.error.unwrap() - (13.0_f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn copies_within_a_cluster_add_no_certainty() {
        let once = mean([("a", 1.0), ("b", 3.0)]).unwrap();
        let thrice = mean([("a", 1.0), ("a", 1.0), ("a", 1.0), ("b", 3.0), ("b", 3.0), ("b", 3.0)]).unwrap();
        assert!((once.error.unwrap() - thrice.error.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn too_little_data_has_no_error() {
        assert_eq!(mean::<u8>([]), None);
        assert_eq!(mean([(1, 2.0), (1, 3.0)]).unwrap().error, None);
    }
}
