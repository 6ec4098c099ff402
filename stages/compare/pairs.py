"""Compute the paired differences between each variant and the baseline.

The interval is a paired bootstrap over items. The test is McNemar's for correct or wrong answers
and sign flips for other values, with Holm's correction over all meaningful tests. A difference is
marked if seed variance can explain it.
"""

from collections.abc import Iterator
from pathlib import Path

from bula.errors import UserError
from bula.item_scores import (
    Measures,
    Values,
    means,
    read_item_scores,
    read_judge_scores,
    rerun_advice,
)
from bula.params import Params
from bula.reports import as_written
from bula.stats import PairedTest, bootstrap_mean, holm, mcnemar, paired_permutation
from stages.compare.inputs import Spreads

# The figures of one paired difference.
Difference = dict[str, float | int | bool]
# The paired differences by VARIANT_minus_BASELINE__MEASURE.
Results = dict[str, Difference]
# The range over seeds, by variant and measure.
Ranges = dict[str, dict[str, float]]


def compare_all(data: Path, params: Params) -> Results:
    """Return every measure of every variant against the baseline."""
    name_of_baseline = params.compare.baseline
    baseline = measures(data, name_of_baseline)
    results: Results = {}
    for variant in params.variants:
        if variant == name_of_baseline:
            continue
        found = measures(data, variant)
        _check_same_measures(found, baseline, data, variant, params)
        for measure, values in found.items():
            if _has_pairs(measure, baseline[measure], values):
                key = _prefix(variant, params) + measure
                results[key] = compare(baseline[measure], values, params)
    return results


def measures(data: Path, variant: str) -> Measures:
    """Return every measure of one variant."""
    return read_item_scores(data, variant) | read_judge_scores(data, variant)


def _check_same_measures(
    found: Measures, baseline: Measures, data: Path, variant: str, params: Params
) -> None:
    """Raise UserError if a variant and the baseline have different measures."""
    others = sorted(found.keys() ^ baseline.keys())
    if others:
        both = f"{params.compare.baseline} and {variant}"
        what = f"{both} were not scored by the same metrics ({others[0]})"
        path = data / "samples" / f"{variant}.jsonl"
        raise UserError(path, what, rerun_advice(f"benchmark@{variant}"))


def _has_pairs(measure: str, first: Values, second: Values) -> bool:
    """Return whether a measure has pairs to compare.

    Only the judge's scores may have none: a weak judge may fail on different answers each time.
    """
    return not measure.startswith("judge_") or bool(first.keys() & second.keys())


def _prefix(variant: str, params: Params) -> str:
    """Return the start of the keys of one variant's results."""
    return f"{variant}_minus_{params.compare.baseline}__"


def compare(first: Values, second: Values, params: Params) -> Difference:
    """Return the paired difference, second minus first, over shared items.

    Raise ValueError if no item is shared.
    """
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError("two variants share no item; they were scored on different data")
    before = [first[item] for item in shared]
    after = [second[item] for item in shared]
    differences = [b - a for a, b in zip(before, after, strict=True)]
    settings = params.compare
    low, high = bootstrap_mean(
        differences, settings.resamples, settings.confidence, params.sampling_seed
    )
    test = _paired_test(before, after, params)
    return {
        "items": len(shared),
        "difference": sum(differences) / len(shared),
        "low": low,
        "high": high,
        "p": test.p,
        "p_at_floor": test.at_floor,
    }


def _paired_test(before: list[float], after: list[float], params: Params) -> PairedTest:
    """Return McNemar's test for zeros and ones, else sign flips."""
    if {*before, *after} <= {0.0, 1.0}:
        correct_before = [value == 1 for value in before]
        correct_after = [value == 1 for value in after]
        return mcnemar(correct_before, correct_after)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return paired_permutation(differences, params.compare.permutations, params.sampling_seed)


def _results_of(variant: str, results: Results, params: Params) -> Iterator[tuple[str, Difference]]:
    """Yield the measure and the difference of each result of one variant."""
    prefix = _prefix(variant, params)
    for key, row in results.items():
        if key.startswith(prefix):
            yield key.removeprefix(prefix), row


def mark_meaningful(results: Results, shares: dict[str, float], params: Params) -> None:
    """Write whether each difference is meaningful, and the corrected p-values.

    `shares` has each variant's share of degenerate answers. Where it is too large, neither the
    overlap with the references nor a judge's score says anything.
    """
    limit = params.compare.max_degenerate_share
    baseline_share = shares[params.compare.baseline]
    for variant in params.variants:
        largest_share = max(shares[variant], baseline_share)
        degenerate = largest_share > limit
        for measure, row in _results_of(variant, results, params):
            row["meaningful"] = not (degenerate and rates_answers(measure))
    family = [row for row in results.values() if row["meaningful"]]
    corrected = holm([row["p"] for row in family])
    for row, p_value in zip(family, corrected, strict=True):
        row["p_holm"] = p_value


def rates_answers(measure: str) -> bool:
    """Return whether a measure rates the text of generated answers."""
    return measure.startswith(("rouge", "judge_"))


def seed_ranges(spreads: Spreads, data: Path, params: Params) -> Ranges:
    """Return the range over seeds of each measure, by variant.

    A variant's spread counts only if it was measured from this run: all its first figures must be
    equal to the current means.
    """
    ranges: Ranges = {}
    for variant in params.variants:
        current = means(measures(data, variant))
        known = {}
        same_run = True
        for measure, mean in current.items():
            spread = spreads.get(f"{variant}__{measure}")
            if spread is not None:
                known[measure] = spread["range"]
                same_run = same_run and spread["first"] == as_written(mean)
        if known and same_run:
            ranges[variant] = known
    return ranges


def mark_seed_ranges(results: Results, ranges: Ranges, params: Params) -> None:
    """Write the range over seeds, and whether each difference is within it.

    Differences without a known range stay as they are. A variant that is not trained for each seed
    takes the largest range of the measure among the other variants.
    """
    for variant in params.variants:
        own = ranges.get(variant, {})
        for measure, row in _results_of(variant, results, params):
            known = [other[measure] for other in ranges.values() if measure in other]
            if known:
                seed_range = own.get(measure, max(known))
                difference = as_written(row["difference"])
                row["seed_range"] = seed_range
                row["within_seed_range"] = abs(difference) <= seed_range
