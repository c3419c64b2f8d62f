"""Writes what scipy, statsmodels and scikit-learn make of some numbers, for the tests of `coordinator/src/statistics`.

Usage: python statistics.py > statistics.json (needs `scipy`, `statsmodels`, `scikit-learn`).
"""

import json

import numpy
import statsmodels.api
from scipy import stats
from sklearn import metrics
from statsmodels.stats.multitest import multipletests


def clustered(generator, sizes):
    """A mean whose errors are clustered: the intercept of a regression on nothing, with the factor G/(G-1) alone."""
    clusters = [cluster for cluster, size in enumerate(sizes) for _ in range(size)]
    opening = generator.normal(6, 1, len(sizes))
    values = numpy.array([opening[cluster] + generator.normal(0, 0.7) for cluster in clusters])
    fit = statsmodels.api.OLS(values, numpy.ones(len(values))).fit()
    # use_correction multiplies by G/(G-1) * (N-1)/(N-k), and k is 1.
    robust = fit.get_robustcov_results("cluster", groups=numpy.array(clusters), use_correction=True)
    sums = [(values[numpy.array(clusters) == g].sum(), size) for g, size in enumerate(sizes)]
    sums = (numpy.array([s for s, _ in sums]), numpy.array([n for _, n in sums]))
    resampled = stats.bootstrap(
        sums,
        lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=200_000,
        method="percentile",
        rng=numpy.random.default_rng(5),
    ).confidence_interval
    return {
        "values": list(zip(clusters, values.tolist())),
        "mean": float(robust.params[0]),
        "standard_error": float(robust.bse[0]),
        "bootstrap": [float(resampled.low), float(resampled.high)],
    }


def paired(generator, pairs, shift):
    a = generator.normal(6, 1, pairs)
    b = a + generator.normal(shift, 0.8, pairs)
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval(0.95)
    return {
        "pairs": list(zip(a.tolist(), b.tolist())),
        "difference": float((b - a).mean()),
        "standard_error": float(stats.sem(b - a)),
        "interval": [float(interval.low), float(interval.high)],
        "p": float(test.pvalue),
    }


def holm(p):
    return {"p": p, "corrected": multipletests(p, method="holm")[1].tolist()}


def agreement(generator, count, noise):
    second = generator.random(count) < 0.4
    first = numpy.where(generator.random(count) < noise, ~second, second)
    return {
        "pairs": list(zip(first.tolist(), second.tolist())),
        "kappa": float(metrics.cohen_kappa_score(first, second)),
        "precision": float(metrics.precision_score(second, first)),
        "recall": float(metrics.recall_score(second, first)),
    }


def main():
    generator = numpy.random.default_rng(11)
    parts = {
        "clustered": [clustered(generator, sizes) for sizes in ([1] * 12, [4] * 6, [1, 2, 3, 7, 2, 1, 5, 4])],
        "paired": [paired(generator, *case) for case in ((2, 0.5), (5, 1.5), (12, 0.0), (40, 3.0))],
        "holm": [holm(p) for p in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.6], [0.02] * 3, [0.9, 0.001, 0.4])],
        "agreement": [agreement(generator, 30, noise) for noise in (0.1, 0.5)],
    }
    lines = [f"{json.dumps(name)}: {json.dumps(cases)}" for name, cases in parts.items()]
    print("{" + ",\n".join(lines) + "}")


if __name__ == "__main__":
    main()
