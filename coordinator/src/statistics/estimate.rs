use std::collections::BTreeMap;

use serde::Serialize;

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error, clustered by initial state, because siblings share an opening:
    /// `sqrt(G/(G-1) * sum over clusters g of (sum over i in g of (x_i - mean))^2) / N` for G
    /// clusters and N values (the cluster-robust variance of a mean with the usual small-sample
    /// factor; Liang and Zeger 1986). None for a single cluster.
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// Of values with the cluster that each belongs to; none of nothing.
    pub fn of<K: Ord>(values: impl IntoIterator<Item = (K, f64)>) -> Option<Self> {
        let clusters = by_cluster(values);
        let n = clusters.iter().map(Vec::len).sum::<usize>();
        if n == 0 {
            return None;
        }
        let mean = clusters.iter().flatten().sum::<f64>() / n as f64;
        let g = clusters.len() as f64;
        let squares: f64 = clusters.iter().map(|c| c.iter().map(|x| x - mean).sum::<f64>().powi(2)).sum();
        let standard_error = (clusters.len() > 1).then(|| (g / (g - 1.0) * squares).sqrt() / n as f64);
        Some(Self { mean, standard_error })
    }

    /// The difference to a mean of other clusters: the variances add up.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        let errors = self.standard_error.zip(other.standard_error);
        Self { mean: self.mean - other.mean, standard_error: errors.map(|(a, b)| a.hypot(b)) }
    }
}

/// Values by cluster, in the clusters' order.
pub(super) fn by_cluster<K: Ord>(values: impl IntoIterator<Item = (K, f64)>) -> Vec<Vec<f64>> {
    let mut clusters: BTreeMap<K, Vec<f64>> = BTreeMap::new();
    for (cluster, value) in values {
        clusters.entry(cluster).or_default().push(value);
    }
    clusters.into_values().collect()
}
