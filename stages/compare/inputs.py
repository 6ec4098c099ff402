"""Read and check the files that are compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bula.errors import UserError
from bula.item_scores import (
    ROWS,
    ShownAnswer,
    benchmark_groups,
    failed_answers,
    item_ids,
    read_checked,
    read_verdicts,
    rerun_advice,
)
from bula.params import Params
from bula.question_groups import example_groups
from bula.records import read_validation_sets
from bula.tables.benchmark import CONSTANT_SHARE, constant_share
from bula.tables.figures import degenerate_share, read_figures, read_metrics, variant_group
from bula.tables.judge import PARTS

# The content of metrics/seeds.json.
Spreads = dict[str, Any]
# The safety slices whose figures say nothing about loops.
LOOP_SLICES = ("no_dose", "harmless")
# The stages that score answers. They have no row for a question without an answer.
SCORE_ANSWERS = ("rouge", "judge")
SPREAD = ("first", "mean", "lowest", "highest", "range", "stdev")


class PageAnswer(ShownAnswer):
    """An answer with the fields that the page shows too."""

    specialty: str | None = None


# The answers of each variant, by variant and id.
Answers = dict[str, dict[str, PageAnswer]]


class Doubts(NamedTuple):
    """Reasons for which figures of one variant support no conclusion."""

    degenerate: float
    """Share of degenerate answers to the validation questions."""
    degenerate_slices: Mapping[str, float]
    """Share of degenerate answers to each slice of `LOOP_SLICES`."""
    constant: frozenset[str]
    """Benchmark measures with nearly one answer to all items."""
    withheld: frozenset[str]
    """Measures of the judge whose kappa is too low."""


def check_items(data: Path, params: Params) -> None:
    """Check that all variants have the same items.

    Raise UserError with the file that lacks some items.
    """
    first, *others = params.variants
    for stage in ROWS:
        expected = item_ids(data, stage, first)
        for variant in others:
            items = item_ids(data, stage, variant)
            _check_missing(data, stage, variant, items, first, expected)
            # An additional answer is in no comparison, so it does no harm.
            if stage != "generate":
                _check_missing(data, stage, first, expected, variant, items)


def _check_missing(
    data: Path,
    stage: str,
    variant: str,
    items: dict[str, None],
    other: str,
    expected: dict[str, None],
) -> None:
    """Raise UserError if a variant lacks items of another variant.

    A question whose request failed has no answer to score.
    """
    missing = [item for item in expected if item not in items]
    if missing and stage in SCORE_ANSWERS:
        failed = failed_answers(data, variant)
        missing = [item for item in missing if item not in failed]
    if not missing:
        return
    folder, _ = ROWS[stage]
    what = f"{len(missing)} items of {folder}/{other}.jsonl are missing (first: {missing[0]})"
    path = data / folder / f"{variant}.jsonl"
    raise UserError(path, what, rerun_advice(f"{stage}@{variant}"))


def check_judges(data: Path, params: Params) -> None:
    """Check that one judge judged all variants.

    Raise UserError with the file that names another judge.
    """
    first = next(iter(params.variants))
    expected = read_verdicts(data, first)[0].judge
    for variant in params.variants:
        judges = {row.judge for row in read_verdicts(data, variant)}
        others = judges - {expected}
        if others:
            path = data / "verdicts" / f"{variant}.jsonl"
            what = f"the judge is {min(others)!r}, but {expected!r} judged {first}"
            raise UserError(path, what, rerun_advice(f"judge@{variant}"))


def read_answers(data: Path, params: Params) -> Answers:
    """Return the answers of each variant by id."""
    answers: Answers = {}
    for variant in params.variants:
        path = data / "answers" / f"{variant}.jsonl"
        rows = read_checked(path, f"generate@{variant}", PageAnswer)
        answers[variant] = {row.id: row for row in rows}
    return answers


def read_groups(data: Path, params: Params) -> dict[str, str]:
    """Return the group of each validation item and each grouped benchmark item."""
    sets = read_validation_sets(data / "clean/validation")
    examples = [example for members in sets.values() for example in members]
    return example_groups(examples) | benchmark_groups(data, next(iter(params.variants)))


def read_doubts(figures: Path, params: Params) -> dict[str, Doubts]:
    """Return the doubts about each variant."""
    doubts = {}
    for variant in params.variants:
        doubts[variant] = Doubts(
            degenerate=degenerate_share(figures, variant),
            degenerate_slices=_degenerate_slices(figures, variant),
            constant=_constant_measures(figures, variant),
            withheld=_withheld_measures(figures, variant),
        )
    return doubts


def _degenerate_slices(figures: Path, variant: str) -> dict[str, float]:
    """Return the share of degenerate answers to each slice of `LOOP_SLICES`."""
    shares = {}
    for name in LOOP_SLICES:
        group = variant_group(figures, "safety", variant, name, ["degenerate_share"])
        shares[name] = float(group["degenerate_share"])
    return shares


def _withheld_measures(figures: Path, variant: str) -> frozenset[str]:
    """Return the measures of the judge whose kappa is too low."""
    names = [f"{part}_withheld" for part in PARTS]
    judge = variant_group(figures, "judge", variant, "", names)
    return frozenset(f"judge_{part}" for part in PARTS if judge[f"{part}_withheld"])


def _constant_measures(figures: Path, variant: str) -> frozenset[str]:
    """Return the benchmark measures to which a variant gave nearly one answer.

    A measure is TASK_METRIC.
    """
    metrics = read_metrics(figures, "benchmark", variant)
    found: set[str] = set()
    for task, group in metrics.items():
        if isinstance(group, dict) and constant_share(group) >= CONSTANT_SHARE:
            found |= {f"{task}_{name}" for name in group}
    return frozenset(found)


def read_spreads(figures: Path) -> Spreads:
    """Return the content of metrics/seeds.json.

    Raise UserError if the file is missing or a spread lacks a figure.
    """
    path = figures / "seeds.json"
    try:
        spreads = read_figures(path, "")
    except UserError as error:
        fix = f"restore it from git (`git checkout {path}`), or run `make seeds`"
        raise UserError(path, error.what, fix) from error
    for name, spread in spreads.items():
        if name != "seeds" and not _is_spread(spread):
            raise UserError(path, f"{name} lacks one of its numbers", "run `make seeds` again")
    return spreads


def _is_spread(value: object) -> bool:
    """Return whether a value has the numbers of a spread."""
    if not isinstance(value, dict):
        return False
    return all(isinstance(value.get(name), int | float) for name in SPREAD)
