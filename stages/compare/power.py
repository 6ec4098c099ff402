"""Compute the smallest change that a paired test usually finds."""

import statistics

from bula.stats import POWER


def exact_detectable(items: int, alpha: float) -> float | None:
    """Return the smallest share of changed items that McNemar's exact test finds.

    Each of the `items` changes with this probability, and all changes have one direction. The test
    needs k of them, so the share d solves P(Binomial(items, d) >= k) = `POWER`. This probability is
    the distribution function of Beta(k, items - k + 1) at d. The result is None if all items
    together are too few.
    """
    from scipy import stats

    needed = changes_needed(alpha)
    if needed > items:
        return None
    return float(stats.beta.ppf(POWER, needed, items - needed + 1))


def changes_needed(alpha: float) -> int:
    """Return the fewest changes in one direction that give a p-value below `alpha`.

    McNemar's exact two-sided p-value of k changes in one direction is 2 * 0.5^k.
    """
    changes = 1
    while 2 * 0.5**changes >= alpha:
        changes += 1
    return changes


def normal_detectable(error: float, alpha: float) -> float | None:
    """Return the smallest difference that a test of a mean finds.

    It is (z(1 - alpha / 2) + z(POWER)) standard errors (Miller 2024, arXiv:2411.00640). The result
    is None if the differences do not vary.
    """
    if error == 0:
        return None
    normal = statistics.NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER)) * error
