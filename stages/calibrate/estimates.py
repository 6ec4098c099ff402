"""Compute statistics of paired values with bias-corrected intervals."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from bula.params import Params
from bula.stats import MIN_BOOTSTRAP, weighted_kappa

DIGITS = 12
# A statistic of two sequences of equal length, between -1 and 1.
Statistic = Callable[[Sequence[int], Sequence[int]], float]


class Estimate(NamedTuple):
    """A statistic with its interval."""

    value: float
    low: float
    high: float
    interval: Literal["BCa", "none"]
    """The method of the interval; `none` has the bounds -1 and 1."""


def kappa(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the kappa with quadratic weights, or 0 without a pair of scores."""
    if len(first) == 0:
        return 0.0
    # BCa counts equal values, and rounding must not make them different.
    return round(weighted_kappa(first, second), DIGITS)


def rank_correlation(first: Sequence[int], second: Sequence[int]) -> float:
    """Return Spearman's rank correlation (Spearman 1904).

    It is undefined where one side is constant; the result is 0 then.
    """
    from scipy import stats

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return round(float(stats.spearmanr(first, second).statistic), DIGITS)


def estimate(
    statistic: Statistic, first: Sequence[int], second: Sequence[int], params: Params
) -> Estimate:
    """Return a statistic of pairs with its bootstrap interval.

    The interval is bias-corrected and accelerated (BCa, Efron 1987). Few pairs get none, and
    neither do pairs for which BCa is undefined. All resamples of equal pairs have a kappa of 1, for
    example, so their quantiles would claim certainty.
    """
    from scipy import stats

    value = statistic(first, second)
    unknown = Estimate(value, -1.0, 1.0, "none")
    if len(first) < MIN_BOOTSTRAP:
        return unknown
    settings = params.calibrate
    with warnings.catch_warnings():
        # Undefined bounds are handled below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (first, second),
            statistic,
            paired=True,
            vectorized=False,
            n_resamples=settings.resamples,
            confidence_level=settings.confidence,
            method="BCa",
            rng=np.random.default_rng(params.sampling_seed),
        )
    low, high = found.confidence_interval
    if np.isfinite(low) and np.isfinite(high):
        return Estimate(value, float(low), float(high), "BCa")
    return unknown
