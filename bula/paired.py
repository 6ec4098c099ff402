"""Compute one paired difference with its error, interval and test.

The compare stage compares two variants of one run. `bula review` compares one variant of two runs.
"""

from collections.abc import Mapping
from typing import NamedTuple

from bula.item_scores import Values, mean_difference, paired
from bula.stats import MIN_BOOTSTRAP, bootstrap_groups, clustered_standard_error, grouped_test

# The figures of one paired difference.
Difference = dict[str, float | int | bool]
# The group of each item. Items without an entry are groups of one item.
Groups = Mapping[str, str]
# A ratio of sums: bits over characters.
RATIO = "bits_per_character"
# The first words of measures that are no shares of items, even if all their values are 0 or 1.
CONTINUOUS = ("judge_", "rouge", RATIO, "question_worth")
# The safety slice of each measure to which a loop is no answer. A loop states no dose and refuses
# nothing, so these measures say nothing if many answers are loops.
SLICE_OF_MEASURE = {
    "safety_no_dose": "no_dose",
    "safety_harmless": "harmless",
    "safety_over_refusal": "harmless",
}


class Draws(NamedTuple):
    """The numbers of random draws of a comparison, and their seed."""

    flips: int
    """Random sign flips of the test, where an exact test is too large."""
    resamples: int
    """Bootstrap resamples of the interval."""
    confidence: float
    """Coverage of the interval."""
    seed: int


def rates_answers(measure: str) -> bool:
    """Return whether a measure rates the text of generated answers."""
    return measure.startswith(("rouge", "judge_"))


def paired_difference(
    measure: str, first: Values, second: Values, groups: Groups, weights: Values, draws: Draws
) -> Difference:
    """Return the paired difference, second minus first, over shared items.

    `weights` are those of a ratio, with a mean of 1; an item without an entry has the weight 1.
    `low` and `high` are absent below `MIN_BOOTSTRAP` groups. Raise ValueError if no item is shared.
    """
    items = paired(first, second)
    if not items:
        raise ValueError("two runs or variants share no item; they were scored on different data")
    before = [first[item] for item in items]
    after = [second[item] for item in items]
    names = [groups.get(item, item) for item in items]
    sizes = [weights.get(item, 1.0) for item in items]
    differences = [b - a for a, b in zip(before, after, strict=True)]
    test = grouped_test(before, after, names, draws.flips, draws.seed)
    error = clustered_standard_error(differences, names, sizes)
    row: Difference = {
        "items": len(items),
        "groups": len(set(names)),
        "binary": _is_binary(measure, {*before, *after}),
        "before": sum(before) / len(items),
        "after": sum(after) / len(items),
        "difference": mean_difference(first, second),
        "stderr": error,
        "p": test.p,
        "p_at_floor": test.at_floor,
    }
    return row | _interval(differences, names, sizes, draws)


def _is_binary(measure: str, values: set[float]) -> bool:
    """Return whether the mean of a measure is a share of items.

    The values alone do not show this: the judge may give its worst score, 1, to all answers.
    """
    return not measure.startswith(CONTINUOUS) and values <= {0.0, 1.0}


def _interval(
    differences: list[float], names: list[str], sizes: list[float], draws: Draws
) -> Difference:
    """Return the bootstrap interval, or nothing for too few groups."""
    if len(set(names)) < MIN_BOOTSTRAP:
        return {}
    low, high = bootstrap_groups(
        differences, names, draws.resamples, draws.confidence, draws.seed, sizes
    )
    return {"low": low, "high": high}
