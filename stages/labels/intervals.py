"""Compute weighted shares, and bootstrap intervals over questions."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bula.params import Params
from bula.reports import Scalar
from bula.stats import MIN_BOOTSTRAP, wilson_interval

Figures = dict[str, Scalar]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
# Sums of weights are exact to about this share.
TOLERANCE = 1e-9
# A statistic of some items; None where it is undefined.
Statistic = Callable[[Indices], float | None]


def with_interval(
    name: str,
    statistic: Statistic,
    questions: Sequence[str],
    params: Params,
    levels: Sequence[str | None] | None = None,
) -> Figures:
    """Return a statistic as figures, with its percentile interval over questions.

    `questions` has the question of each item: what is said about one question is not independent.
    `levels` has the stratum of each item, if the sample is stratified. Each resample then has as
    many questions of a stratum as the sample. A question of two strata counts in its first.

    A resample without a defined value counts as 0, which means no agreement. An undefined value has
    no figure. There is no interval below `MIN_BOOTSTRAP` questions, and none of width 0, because
    equal resamples would claim certainty.
    """
    value = statistic(np.arange(len(questions)))
    if value is None:
        return {}
    members: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        members.setdefault(question, []).append(index)
    if len(members) < MIN_BOOTSTRAP:
        return {name: value}
    strata: dict[str | None, list[list[int]]] = {}
    for indices in members.values():
        level = levels[indices[0]] if levels else None
        strata.setdefault(level, []).append(indices)
    low, high = _bounds(statistic, list(strata.values()), params)
    if low == high:
        return {name: value}
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _bounds(
    statistic: Statistic, strata: Sequence[Sequence[Sequence[int]]], params: Params
) -> tuple[float, float]:
    """Return the central interval of a statistic over questions resampled within strata."""
    generator = np.random.default_rng(params.sampling_seed)
    arrays = [[np.asarray(indices, dtype=np.int64) for indices in members] for members in strata]
    values = []
    for _ in range(params.labels.resamples):
        drawn: list[Indices] = []
        for members in arrays:
            numbers = generator.integers(0, len(members), size=len(members))
            drawn += [members[number] for number in numbers]
        values.append(statistic(np.concatenate(drawn)) or 0.0)
    tail = (1 - params.labels.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def share(name: str, count: int, items: int, params: Params) -> Figures:
    """Return a share with Wilson's interval, or nothing without items."""
    if not items:
        return {}
    low, high = wilson_interval(count, items, params.labels.confidence)
    return {f"{name}_share": count / items, f"{name}_low": low, f"{name}_high": high}


def effective_items(weights: Sequence[float]) -> float:
    """Return how many items of equal weight are as informative (Kish 1965, section 11.7).

    Items of equal weights are as many as they are.
    """
    values = np.asarray(weights, dtype=np.float64)
    if not values.size:
        return 0.0
    return float(values.sum() ** 2 / (values**2).sum())


def weighted_share(
    name: str, hits: Sequence[bool], weights: Sequence[float], params: Params
) -> Figures:
    """Return the share of hits by Hajek's estimator (1971), or nothing without items.

    Wilson's interval counts the effective items. With equal weights, this is `share`.
    """
    if len(set(weights)) <= 1:
        return share(name, sum(hits), len(hits), params)
    values = np.asarray(weights, dtype=np.float64)
    rate = float(values[np.asarray(hits, dtype=bool)].sum() / values.sum())
    low, high = wilson_bounds(rate, effective_items(weights), params.labels.confidence)
    return {f"{name}_share": rate, f"{name}_low": low, f"{name}_high": high}


def wilson_bounds(rate: float, items: float, confidence: float) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927).

    The number of items may have decimals.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    total = items + z * z
    middle = (rate * items + z * z / 2) / total
    half = z * math.sqrt(items * rate * (1 - rate) + z * z / 4) / total
    return max(0.0, middle - half), min(1.0, middle + half)
