"""Bootstrap intervals, paired tests and agreement, each by the library's own routine with a seed."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

# Sums that differ by less than this share of their terms are equal but for rounding.
TOLERANCE = 1e-9
# Random bytes drawn at once by the sign flips; with their sums about 20 MB.
BATCH = 1_000_000


def bootstrap_mean(
    values: Sequence[float], resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
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


class PairedTest(NamedTuple):
    """The p-value of a paired test, and the smallest one that the test could have returned."""

    p: float
    floor: float

    @property
    def at_floor(self) -> bool:
        """Tell whether the true p-value may be smaller than the test can say."""
        return self.p <= self.floor * (1 + TOLERANCE)


def paired_permutation(differences: Sequence[float], flips: int, seed: int) -> PairedTest:
    """Test by sign flips whether a mean paired difference is 0, two-sided (Fisher 1935).

    All 2 ** n flips are counted if they are at most `flips`; else as many are drawn, and p is
    (b + 1) / (flips + 1), which is never 0 (Phipson & Smyth 2010). Differences of 0 change nothing.
    """
    data = np.asarray(differences, dtype=np.float64)
    data = data[data != 0]
    # Sums of the same numbers in another order differ by rounding, and must still count as equal.
    least = abs(data.sum()) - TOLERANCE * np.abs(data).sum()
    if 2 ** len(data) <= flips:
        sums = _all_flips(data)
        return PairedTest(float(np.mean(np.abs(sums) >= least)), min(1.0, 2.0 / 2 ** len(data)))
    generator = np.random.default_rng(seed)
    reached = sum(
        int((np.abs(sums) >= least).sum()) for sums in _drawn_flips(data, flips, generator)
    )
    return PairedTest((reached + 1) / (flips + 1), 1 / (flips + 1))


def _all_flips(data: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of `data` under all ways to set its signs."""
    sums = np.zeros(1)
    for value in data:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _drawn_flips(
    data: NDArray[np.float64], flips: int, generator: Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield the sums of `data` under random signs, in batches that hold BATCH bytes of signs.

    A random byte sets eight signs at once: the sum of eight numbers under each of its 256 values
    is computed once, so 200,000 flips of 5,000 numbers take a second and not a billion signs.
    """
    eights = np.pad(data, (0, -len(data) % 8)).reshape(-1, 8)
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1
    table = (eights @ signs.T).ravel()
    offsets = np.arange(len(eights)) * 256
    size = max(1, BATCH // len(eights))
    for start in range(0, flips, size):
        shape = (min(size, flips - start), len(eights))
        drawn = generator.integers(0, 256, size=shape, dtype=np.uint8)
        yield table.take(drawn + offsets).sum(axis=1)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Run McNemar's exact two-sided test on paired right/wrong (McNemar 1947).

    It is the binomial test of the discordant pairs; without any of them p is 1.
    """
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    discordant = gained + lost
    if discordant == 0:
        return PairedTest(1.0, 1.0)
    p = float(stats.binomtest(gained, discordant).pvalue)
    return PairedTest(p, min(1.0, 2 * 0.5**discordant))


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


def bootstrap_kappa(
    first: Sequence[int], second: Sequence[int], resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap interval of weighted_kappa, resampling pairs."""
    a, b = np.asarray(first), np.asarray(second)
    draws = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
    kappas = [weighted_kappa(a[draw].tolist(), b[draw].tolist()) for draw in draws]
    tail = (1 - confidence) / 2
    low, high = np.quantile(kappas, [tail, 1 - tail])
    return float(low), float(high)
