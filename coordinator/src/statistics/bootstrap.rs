use influence_proto::stream;

use super::Interval;
use super::estimate::by_cluster;

/// Samples that are drawn: enough for two digits of a 95% interval (Efron and Tibshirani 1993, section 14).
const SAMPLES: usize = 2000;

/// The interval of a mean by the percentile bootstrap, which assumes no distribution: whole clusters are
/// drawn with replacement, as many as there are, and the interval lies between the 2.5% and 97.5%
/// quantiles of the samples' means (Efron and Tibshirani 1993, section 13.3; by clusters: Davison and
/// Hinkley 1997, section 3.8). The same seed gives the same interval. None for fewer than two clusters.
pub fn bootstrap<K: Ord>(values: impl IntoIterator<Item = (K, f64)>, seed: u64) -> Option<Interval> {
    let clusters: Vec<(f64, usize)> =
        by_cluster(values).iter().map(|cluster| (cluster.iter().sum(), cluster.len())).collect();
    if clusters.len() < 2 {
        return None;
    }
    let mut draws = stream::generator(stream::derive(seed, &["bootstrap"]));
    let mut means: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let (sum, count) = (0..clusters.len()).fold((0.0, 0), |(sum, count), _| {
                let (more, values) = clusters[stream::below(&mut draws, clusters.len() as u64) as usize];
                (sum + more, count + values)
            });
            sum / count as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    Some(Interval { low: quantile(&means, 0.025), high: quantile(&means, 0.975) })
}

/// Of sorted values, with linear interpolation between neighbours (Hyndman and Fan 1996, type 7).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}
