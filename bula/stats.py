"""Bootstrap intervals, paired tests and agreement, each by the library's own routine with a seed."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def bootstrap_mean(values: Sequence[float], resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, resampling examples (Efron & Tibshirani 1993, chapter 13).

    ValueError without values; a single value or equal values give an interval of no width.
    """
    if len(values) == 0:
        raise ValueError("no values to resample")
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(resamples, len(data)))
    means = data[draws].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean with the n - 1 divisor, as lm-eval writes it; 0 for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def ratio_standard_error(totals: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard error of sum(totals) / sum(sizes) with examples as clusters (Cochran 1977, section 2.11); 0 for one example.

    Tokens of one answer are not independent, so a per-token error would claim too much.
    """
    count = len(totals)
    if count < 2:
        return 0.0
    x, n = np.asarray(totals, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    residuals = x - x.sum() / n.sum() * n
    return float(math.sqrt(count / (count - 1) * (residuals**2).sum()) / n.sum())


def paired_permutation(differences: Sequence[float], resamples: int, seed: int) -> float:
    """Two-sided p-value of a mean paired difference of 0, by flipping signs (Fisher 1935); 1 below two pairs or if all are 0."""
    data = np.asarray(differences, dtype=np.float64)
    if len(data) < 2 or not data.any():
        return 1.0
    result = stats.permutation_test(
        (data,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        # Flips made at once: 5,000 pairs of all 9,999 would take 3 GB.
        batch=500,
        vectorized=True,
        axis=0,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided McNemar test on paired right/wrong (McNemar 1947): a binomial test of the discordant pairs."""
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing several hypotheses at once (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = running
    return adjusted


def weighted_kappa(first: Sequence[int], second: Sequence[int]) -> float:
    """Cohen's kappa with quadratic weights on scores 1 to 3 (Cohen 1968); 0 if it is undefined (no variation at all)."""
    if len(set(first) | set(second)) == 1:
        return 0.0
    # Imported here: it takes a second, and of the stages that import this module calibrate alone asks for a kappa.
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(first, second, labels=[1, 2, 3], weights="quadratic"))


def bootstrap_kappa(first: Sequence[int], second: Sequence[int], resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of weighted_kappa, resampling pairs."""
    a, b = np.asarray(first), np.asarray(second)
    draws = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
    kappas = [weighted_kappa(a[draw].tolist(), b[draw].tolist()) for draw in draws]
    tail = (1 - confidence) / 2
    low, high = np.quantile(kappas, [tail, 1 - tail])
    return float(low), float(high)
