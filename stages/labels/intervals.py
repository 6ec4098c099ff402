"""Compute bootstrap intervals over questions."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bula.params import Params
from bula.reports import Scalar
from bula.stats import MIN_BOOTSTRAP, wilson_interval

Figures = dict[str, Scalar]
Indices = NDArray[np.int64]
# A statistic of some items; None where it is undefined.
Statistic = Callable[[Indices], float | None]


def with_interval(
    name: str, statistic: Statistic, questions: Sequence[str], params: Params
) -> Figures:
    """Return a statistic as figures, with its percentile interval over questions.

    `questions` has the question of each item: what is said about one question is not independent.
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
    low, high = _bounds(statistic, list(members.values()), params)
    if low == high:
        return {name: value}
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _bounds(
    statistic: Statistic, members: Sequence[Sequence[int]], params: Params
) -> tuple[float, float]:
    """Return the central interval of a statistic over resampled questions."""
    generator = np.random.default_rng(params.sampling_seed)
    arrays = [np.asarray(indices, dtype=np.int64) for indices in members]
    values = []
    for _ in range(params.labels.resamples):
        drawn = generator.integers(0, len(arrays), size=len(arrays))
        indices = np.concatenate([arrays[number] for number in drawn])
        values.append(statistic(indices) or 0.0)
    tail = (1 - params.labels.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def share(name: str, count: int, items: int, params: Params) -> Figures:
    """Return a share with Wilson's interval, or nothing without items."""
    if not items:
        return {}
    low, high = wilson_interval(count, items, params.labels.confidence)
    return {f"{name}_share": count / items, f"{name}_low": low, f"{name}_high": high}
