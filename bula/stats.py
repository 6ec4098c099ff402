"""Compute standard errors, bootstrap intervals, paired tests and agreement.

Every function that draws random numbers takes a seed and repeats its result exactly.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# The lower and the upper bound.
Interval = tuple[float, float]

# Nats per bit.
LN2 = math.log(2)
# Two sums are equal if they differ by less than this share of their terms: rounding does that.
TOLERANCE = 1e-9
# A batch of so many random bytes and its sums take about 20 MB.
BATCH = 1_000_000
# Sign flips of so few differences are all counted: 2^20 sums take 8 MB.
MOST_COUNTED = 20
# The percentile bootstrap of fewer groups is too narrow, so no interval is shown.
MIN_BOOTSTRAP = 20
# The two-sided error of a test, and its chance to find the smallest detectable effect.
ALPHA = 0.05
POWER = 0.8


def bootstrap_mean(
    values: Sequence[float], resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the percentile bootstrap interval of the mean.

    Examples are resampled (Efron & Tibshirani 1993, chapter 13). One value, or equal values, have
    an interval of width 0. Raise ValueError if there are no values.
    """
    if len(values) == 0:
        raise ValueError("no values to resample")
    data = np.asarray(values, dtype=np.float64)
    draws = _draw_indices(len(data), resamples, seed)
    means = data[draws].mean(axis=1)
    return _percentile_interval(means, confidence)


def _draw_indices(count: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Return one row of random indices below `count` per resample."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, count, size=(resamples, count))


def _percentile_interval(estimates: Floats, confidence: float) -> Interval:
    """Return the central interval that covers `confidence` of the estimates."""
    tail = (1 - confidence) / 2
    low = np.quantile(estimates, tail)
    high = np.quantile(estimates, 1 - tail)
    return float(low), float(high)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean.

    The divisor is n - 1, as in lm-eval. A single value has a standard error of 0.
    """
    if len(values) < 2:
        return 0.0
    deviation = np.std(values, ddof=1)
    return float(deviation / math.sqrt(len(values)))


def ratio_standard_error(totals: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the standard error of sum(totals) / sum(sizes).

    Each example is a cluster (Cochran 1977, section 2.11): the tokens of one answer are not
    independent, so an error per token would be too small. A single example has an error of 0.
    """
    count = len(totals)
    if count < 2:
        return 0.0
    total = np.asarray(totals, dtype=np.float64)
    size = np.asarray(sizes, dtype=np.float64)
    ratio = total.sum() / size.sum()
    residuals = total - ratio * size
    squares = (residuals**2).sum()
    error_of_total = math.sqrt(count / (count - 1) * squares)
    return float(error_of_total / size.sum())


def wilson_interval(count: int, items: int, confidence: float) -> Interval:
    """Return the score interval of a share (Wilson 1927).

    `count` of `items` have the property. Raise ValueError if there are no items.
    """
    from scipy import stats

    result = stats.binomtest(count, items)
    low, high = result.proportion_ci(confidence_level=confidence, method="wilson")
    return float(low), float(high)


def group_totals(values: Sequence[float], groups: Sequence[str]) -> tuple[Floats, Counts]:
    """Return the sum and the number of the values of each group.

    The groups are in the order of their first value. A sum that differs from 0 only by rounding
    is 0.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    membership = [numbers[name] for name in groups]
    data = np.asarray(values, dtype=np.float64)
    totals: Floats = np.bincount(membership, weights=data).astype(np.float64)
    sizes: Counts = np.bincount(membership).astype(np.int64)
    magnitudes = np.bincount(membership, weights=np.abs(data))
    totals[np.abs(totals) <= TOLERANCE * magnitudes] = 0.0
    return totals, sizes


def clustered_standard_error(
    values: Sequence[float], groups: Sequence[str], weights: Sequence[float] | None = None
) -> float:
    """Return the standard error of sum(values) / sum(weights) for items in groups.

    Without weights, each item has the weight 1, and the ratio R is the mean. The items of a group
    are not independent. The variance is that of independent items, plus the sum of r_i r_j over all
    pairs of different items of one group, divided by the squared sum of the weights. r is the
    residual: value - R weight (Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640; Cochran
    1977, section 2.11). Groups of one item give `standard_error` or `ratio_standard_error`. Fewer
    than two groups have an error of 0.
    """
    count = len(values)
    if len(set(groups)) < 2:
        return 0.0
    data = np.asarray(values, dtype=np.float64)
    sizes = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    ratio = data.sum() / sizes.sum()
    residuals = data - ratio * sizes
    totals, _ = group_totals(residuals.tolist(), groups)
    # The same sum, arranged so that rounding cannot make it negative.
    squares = (totals**2).sum() + (residuals**2).sum() / (count - 1)
    return math.sqrt(float(squares)) / float(sizes.sum())


def bootstrap_groups(
    values: Sequence[float],
    groups: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Return the percentile bootstrap interval of sum(values) / sum(weights).

    Complete groups are resampled, and the values of a group stay with its weights. Without weights,
    each item has the weight 1, so that the ratio is the mean. Groups of one item then give
    `bootstrap_mean`.
    """
    sizes = [1.0] * len(values) if weights is None else weights
    totals, _ = group_totals(values, groups)
    group_sizes, _ = group_totals(sizes, groups)
    draws = _draw_indices(len(totals), resamples, seed)
    ratios = totals[draws].sum(axis=1) / group_sizes[draws].sum(axis=1)
    return _percentile_interval(ratios, confidence)


class PairedTest(NamedTuple):
    """The p-value of a paired test, and the smallest possible p-value."""

    p: float
    floor: float

    @property
    def at_floor(self) -> bool:
        """Return whether the exact p-value may be smaller than `p`."""
        return self.p <= self.floor * (1 + TOLERANCE)


def paired_permutation(differences: Sequence[float], flips: int, seed: int) -> PairedTest:
    """Test by sign flips whether the mean paired difference is 0.

    The test is two-sided (Fisher 1935) and ignores differences of 0. Up to `MOST_COUNTED`
    differences it is exact. Otherwise `flips` random ones are drawn, b of them reach the observed
    sum, and p is (b + 1) / (flips + 1), which is never 0 (Phipson & Smyth 2010).
    """
    data = np.asarray(differences, dtype=np.float64)
    data = data[data != 0]
    # Equal sums may differ by rounding, and must still count as equal.
    slack = TOLERANCE * np.abs(data).sum()
    observed = abs(data.sum()) - slack
    if len(data) <= MOST_COUNTED:
        reached_exactly = np.abs(_all_flips(data)) >= observed
        p = float(np.mean(reached_exactly))
        return PairedTest(p, floor=min(1.0, 2.0 / 2 ** len(data)))
    reached = 0
    generator = np.random.default_rng(seed)
    for sums in _drawn_flips(data, flips, generator):
        reached += int(np.sum(np.abs(sums) >= observed))
    p = (reached + 1) / (flips + 1)
    return PairedTest(p, floor=1 / (flips + 1))


def grouped_test(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[str],
    flips: int,
    seed: int,
) -> PairedTest:
    """Test whether the mean paired difference is 0, if only groups are independent.

    All differences of a group change their sign together. Zeros and ones in groups of one item get
    McNemar's test, which is the same test for any number of items.
    """
    is_binary = {*before, *after} <= {0.0, 1.0}
    if is_binary and len(set(groups)) == len(groups):
        return mcnemar([value == 1 for value in before], [value == 1 for value in after])
    differences = [b - a for a, b in zip(before, after, strict=True)]
    totals, _ = group_totals(differences, groups)
    return paired_permutation(totals.tolist(), flips, seed)


def _all_flips(data: Floats) -> Floats:
    """Return the sums of `data` under each choice of signs."""
    sums = np.zeros(1)
    for value in data:
        plus = sums + value
        minus = sums - value
        sums = np.concatenate([plus, minus])
    return sums


def _drawn_flips(data: Floats, flips: int, generator: Generator) -> Iterator[Floats]:
    """Yield the sums of `data` under random signs, in batches.

    A random byte sets eight signs at once: the sum of eight numbers under each of its 256 values
    is computed once. So 200,000 flips of 5,000 numbers take about a second.
    """
    missing = -len(data) % 8
    eights = np.pad(data, (0, missing)).reshape(-1, 8)
    byte_values = np.arange(256, dtype=np.uint8)
    bits = np.unpackbits(byte_values[:, None], axis=1)
    signs = bits * 2.0 - 1
    table = (eights @ signs.T).ravel()
    offsets = np.arange(len(eights)) * 256
    batch_flips = max(1, BATCH // len(eights))
    for start in range(0, flips, batch_flips):
        count = min(batch_flips, flips - start)
        drawn = generator.integers(0, 256, size=(count, len(eights)), dtype=np.uint8)
        terms = table.take(drawn + offsets)
        yield terms.sum(axis=1)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Run McNemar's exact two-sided test on paired correctness.

    It is the binomial test of the discordant pairs (McNemar 1947); without any, p is 1.
    """
    from scipy import stats

    pairs = list(zip(first, second, strict=True))
    gained = pairs.count((False, True))
    lost = pairs.count((True, False))
    discordant = gained + lost
    if discordant == 0:
        return PairedTest(1.0, 1.0)
    result = stats.binomtest(gained, discordant)
    floor = min(1.0, 2 * 0.5**discordant)
    return PairedTest(float(result.pvalue), floor)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests, in the same order.

    The correction is the step-down method of Holm (1979).
    """
    count = len(p_values)
    ascending = sorted(range(count), key=lambda index: p_values[index])
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(ascending):
        scaled = p_values[index] * (count - rank)
        largest = max(largest, min(1.0, scaled))
        adjusted[index] = largest
    return adjusted


def weighted_kappa(first: Sequence[int], second: Sequence[int]) -> float:
    """Return Cohen's kappa with quadratic weights (Cohen 1968).

    Two kinds of values, such as False and True, have one weight, so that it is the kappa without
    weights. Kappa is undefined where all values are equal; the result is 0 then.
    """
    pairs = np.asarray([first, second], dtype=np.float64)
    return float(_kappas(pairs[:, np.newaxis])[0])


def bootstrap_kappa(
    first: Sequence[int], second: Sequence[int], resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the percentile bootstrap interval of weighted_kappa over pairs."""
    pairs = np.asarray([first, second], dtype=np.float64)
    draws = _draw_indices(len(first), resamples, seed)
    return _percentile_interval(_kappas(pairs[:, draws]), confidence)


def _kappas(pairs: Floats) -> Floats:
    """Return the weighted kappa of each resample.

    `pairs` has the shape (2, resamples, items). Kappa is 1 - D / E with the mean squared
    difference D of the pairs and its mean E over all pairings of a first with a second value. E is
    the sum of both variances and of the squared difference of the means (Fleiss & Cohen 1973).
    sklearn has the same value, and needs seconds for a thousand resamples.
    """
    first, second = pairs
    observed = ((first - second) ** 2).mean(axis=1)
    distance = first.mean(axis=1) - second.mean(axis=1)
    expected = first.var(axis=1) + second.var(axis=1) + distance**2
    undefined = expected == 0
    ratio = observed / np.where(undefined, 1.0, expected)
    return np.where(undefined, 0.0, 1.0 - ratio)


def spread(values: list[float]) -> dict[str, float | int]:
    """Return the spread of one figure over seeds, the current run first."""
    return {
        "seeds": len(values),
        "first": values[0],
        "mean": statistics.fmean(values),
        "lowest": min(values),
        "highest": max(values),
        "range": max(values) - min(values),
        "stdev": statistics.stdev(values),
    }
