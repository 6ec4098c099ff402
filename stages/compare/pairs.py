"""Compute the paired differences between two variants, and their tests.

Interval, standard error and test treat question groups as the independent units. Holm's correction
covers the primary measures of one pair.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from bula.errors import UserError
from bula.item_scores import (
    STOCK_SCORES,
    LikelihoodRow,
    Measures,
    SampleRow,
    Values,
    bits_per_character,
    character_weights,
    failed_answers,
    failed_safety,
    read_checked,
    read_item_scores,
    read_judge_scores,
    read_likelihood,
    read_safety_scores,
    read_stock_scores,
    rerun_advice,
)
from bula.paired import (
    RATIO,
    SLICE_OF_MEASURE,
    Difference,
    Draws,
    Groups,
    paired_difference,
    rates_answers,
)
from bula.params import Pair, Params, scored_as
from bula.stats import ALPHA, holm
from bula.tables.controls import compared_variants, ngram_key, stock_key
from stages.compare.inputs import Doubts
from stages.compare.power import exact_detectable, normal_detectable

# The paired differences by VARIANT_minus_BASELINE__MEASURE.
Results = dict[str, Difference]
NGRAM_ROWS = Path("controls/likelihood_ngram.jsonl")


def compare_all(data: Path, groups: Groups, params: Params) -> Results:
    """Return every measure of every pair of `compare.pairs`.

    A pair with borrowed benchmark scores has no measure of a benchmark.
    """
    results: Results = {}
    for pair in params.compare.pairs:
        baseline = measures(data, pair.baseline)
        found = measures(data, pair.variant)
        _check_same_measures(found, baseline, data, pair)
        _check_primary(found, pair, params)
        if borrowers(pair, params):
            found = _without_benchmark(found, data, pair.variant)
        for measure, values in found.items():
            if not _has_pairs(measure, baseline[measure], values):
                continue
            weights = weights_of(measure, data, pair.baseline)
            row = compare(measure, baseline[measure], values, groups, params, weights)
            scored = baseline[measure].keys() | values.keys()
            row |= left_out(measure, data, (pair.baseline, pair.variant), scored)
            results[f"{pair.name}__{measure}"] = row
    results |= _compare_with_stock(data, groups, params)
    return results | _compare_with_ngram(data, groups, params)


def borrowers(pair: Pair, params: Params) -> dict[str, str]:
    """Return the variants of a pair without benchmark scores of their own.

    The value of each is the variant whose scores it has, because both have one model. A comparison
    of such scores would be one of two other variants.
    """
    scored = {name: scored_as(params, name) for name in (pair.variant, pair.baseline)}
    return {name: other for name, other in scored.items() if other != name}


def _without_benchmark(found: Measures, data: Path, variant: str) -> Measures:
    """Return the measures of a variant without those of its benchmark tasks."""
    path = data / "samples" / f"{variant}.jsonl"
    rows = read_checked(path, f"benchmark@{variant}", SampleRow)
    scores = {f"{row.task}_{metric}" for row in rows for metric in row.scores}
    return {measure: values for measure, values in found.items() if measure not in scores}


def weights_of(measure: str, data: Path, variant: str) -> Values:
    """Return the weights of a ratio's items, or nothing for other measures.

    All variants score the same references, so the weights of one variant suffice.
    """
    if measure != RATIO:
        return {}
    return character_weights(read_likelihood(data, variant))


def needs_answer(measure: str) -> bool:
    """Return whether a measure rates generated answers, so that failed requests have no value."""
    return measure == "degenerate" or rates_answers(measure) or measure.startswith("safety_")


def left_out(
    measure: str, data: Path, variants: Sequence[str], scored: Collection[str]
) -> Difference:
    """Return the number of items without an answer under one of the variants.

    The result is empty if there are none. `scored` are the items that have a value under one of
    them. The judge rates a part of the questions, so only these items count for its measures.
    """
    failed: set[str] = set()
    if measure.startswith("safety_"):
        name = SLICE_OF_MEASURE.get(measure, measure.removeprefix("safety_"))
        for variant in variants:
            failed |= failed_safety(data, variant).get(name, set())
    elif needs_answer(measure):
        for variant in variants:
            failed |= failed_answers(data, variant)
    if measure.startswith("judge_"):
        failed &= set(scored)
    return {"left_out": len(failed)} if failed else {}


def _compare_with_stock(data: Path, groups: Groups, params: Params) -> Results:
    """Return the ROUGE-L of each compared variant minus that of the stock answer.

    Raise UserError if the stock answer was scored on other items.
    """
    results: Results = {}
    for variant in compared_variants(params):
        stock = read_stock_scores(data)["rougeL_f"]
        found = read_item_scores(data, variant)["rougeL_f"]
        if stock.keys() != found.keys() | failed_answers(data, variant):
            what = f"its items are not those of scores/{variant}.jsonl"
            raise UserError(data / STOCK_SCORES, what, rerun_advice("controls"))
        row = compare("rougeL_f", stock, found, groups, params, {})
        row |= left_out("rougeL_f", data, [variant], found)
        results[stock_key(variant)] = row
    return results


def _compare_with_ngram(data: Path, groups: Groups, params: Params) -> Results:
    """Return the bits per character of each compared variant minus those of the n-gram.

    Raise UserError if the n-gram predicted other items.
    """
    results: Results = {}
    for variant in compared_variants(params):
        rows = read_checked(data / NGRAM_ROWS, "controls", LikelihoodRow)
        ngram = bits_per_character(rows)
        found = read_item_scores(data, variant)[RATIO]
        if ngram.keys() != found.keys():
            what = f"its items are not those of likelihood/{variant}.jsonl"
            raise UserError(data / NGRAM_ROWS, what, rerun_advice("controls"))
        weights = character_weights(rows)
        row = compare(RATIO, ngram, found, groups, params, weights)
        results[ngram_key(variant)] = row
    return results


def measures(data: Path, variant: str) -> Measures:
    """Return every measure of one variant."""
    return {
        **read_item_scores(data, variant),
        **read_safety_scores(data, variant),
        **read_judge_scores(data, variant),
    }


def _check_same_measures(found: Measures, baseline: Measures, data: Path, pair: Pair) -> None:
    """Raise UserError if the two variants have different measures."""
    others = sorted(found.keys() ^ baseline.keys())
    if others:
        both = f"{pair.baseline} and {pair.variant}"
        what = f"{both} were not scored by the same metrics ({others[0]})"
        path = data / "samples" / f"{pair.variant}.jsonl"
        raise UserError(path, what, rerun_advice(f"benchmark@{pair.variant}"))


def _check_primary(found: Measures, pair: Pair, params: Params) -> None:
    """Raise UserError if a primary measure does not exist."""
    unknown = [measure for measure in params.compare.primary if measure not in found]
    if unknown:
        what = f"compare.primary has {unknown[0]!r}, which {pair.variant} was not scored by"
        raise UserError("params.yaml", what, f"choose among {', '.join(found)}")


def _has_pairs(measure: str, first: Values, second: Values) -> bool:
    """Return whether a measure has pairs to compare.

    Only measures of answers may have none: a weak judge, or a server, may fail on different items
    each time.
    """
    return not needs_answer(measure) or bool(first.keys() & second.keys())


def compare(
    measure: str,
    first: Values,
    second: Values,
    groups: Groups,
    params: Params,
    weights: Values,
) -> Difference:
    """Return the paired difference, second minus first, over shared items.

    `paired_difference` says what it has. Raise ValueError if no item is shared.
    """
    settings = params.compare
    draws = Draws(
        settings.permutations, settings.resamples, settings.confidence, params.sampling_seed
    )
    return paired_difference(measure, first, second, groups, weights, draws)


def results_of(pair: Pair, results: Results) -> Iterator[tuple[str, Difference]]:
    """Yield the measure and the difference of each result of one pair."""
    prefix = f"{pair.name}__"
    for key, row in results.items():
        if key.startswith(prefix):
            yield key.removeprefix(prefix), row


def mark_families(results: Results, doubts: Mapping[str, Doubts], params: Params) -> None:
    """Write what each difference can show: family, meaning, corrected p-value and power.

    Overlap with the references and the judge's scores say nothing if too many answers are
    degenerate, and neither do withheld scores. The same is true of a benchmark if both variants
    choose one option for nearly all items.
    """
    limit = params.compare.max_degenerate_share
    for pair in params.compare.pairs:
        sides = (doubts[pair.variant], doubts[pair.baseline])
        family = []
        for measure, row in results_of(pair, results):
            row["primary"] = measure in params.compare.primary
            _mark_meaning(row, measure, sides, limit)
            if row["primary"] and row["meaningful"]:
                family.append(row)
        corrected = holm([row["p"] for row in family])
        for row, p_value in zip(family, corrected, strict=True):
            row["p_holm"] = p_value
    for variant in compared_variants(params):
        for key in (stock_key(variant), ngram_key(variant)):
            row = results[key]
            row["primary"] = False
            measure = key.partition("__")[2]
            _mark_meaning(row, measure, (doubts[variant],), limit)
    _mark_detectable(results, params)


def _mark_detectable(results: Results, params: Params) -> None:
    """Write the smallest effect that each test detects, where there is one.

    The first step of Holm's correction compares the smallest of m p-values with `ALPHA` / m.
    """
    tests = {}
    for pair in params.compare.pairs:
        tests[pair.name] = sum("p_holm" in row for _, row in results_of(pair, results))
    for key, row in results.items():
        pair_name = key.partition("__")[0]
        alpha = ALPHA / tests[pair_name] if "p_holm" in row else ALPHA
        found = _detectable(row, alpha)
        if found is not None:
            row["detectable"] = found


def _detectable(row: Difference, alpha: float) -> float | None:
    """Return the smallest detectable effect of a difference, or None."""
    if row["binary"] and row["groups"] == row["items"]:
        return exact_detectable(int(row["items"]), alpha)
    return normal_detectable(row["stderr"], alpha)


def _mark_meaning(row: Difference, measure: str, sides: Sequence[Doubts], limit: float) -> None:
    """Write whether a difference is meaningful, and why not."""
    row["constant_answers"] = all(measure in side.constant for side in sides)
    row["judge_withheld"] = any(measure in side.withheld for side in sides)
    loops = any(_is_degenerate(measure, side, limit) for side in sides)
    row["meaningful"] = not (row["constant_answers"] or row["judge_withheld"] or loops)


def _is_degenerate(measure: str, doubts: Doubts, limit: float) -> bool:
    """Return whether too many answers that a measure rates are degenerate.

    A loop helps in no emergency and grants no harmful request, so these two slices keep their
    meaning.
    """
    if measure in SLICE_OF_MEASURE:
        return doubts.degenerate_slices[SLICE_OF_MEASURE[measure]] > limit
    return rates_answers(measure) and doubts.degenerate > limit
