"""Read and check the files that are compared."""

from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.item_scores import (
    ROWS,
    ShownAnswer,
    item_ids,
    read_checked,
    read_verdicts,
    rerun_advice,
)
from bula.params import Params
from bula.tables import read_figures

# The answers of each variant, by variant and id.
Answers = dict[str, dict[str, ShownAnswer]]
# The content of metrics/seeds.json.
Spreads = dict[str, Any]


def check_items(data: Path, params: Params) -> None:
    """Check that all variants have the same items.

    Raise UserError with the file that lacks some items.
    """
    baseline = params.compare.baseline
    for stage in ROWS:
        expected = item_ids(data, stage, baseline)
        for variant in params.variants:
            items = item_ids(data, stage, variant)
            _check_missing(data, stage, variant, items, baseline, expected)
            # An additional answer is in no comparison, so it does no harm.
            if stage != "generate":
                _check_missing(data, stage, baseline, expected, variant, items)


def _check_missing(
    data: Path,
    stage: str,
    variant: str,
    items: dict[str, None],
    other: str,
    expected: dict[str, None],
) -> None:
    """Raise UserError if a variant lacks items of another variant."""
    missing = [item for item in expected if item not in items]
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
    baseline = params.compare.baseline
    expected = read_verdicts(data, baseline)[0].judge
    for variant in (baseline, *params.variants):
        judges = {row.judge for row in read_verdicts(data, variant)}
        others = judges - {expected}
        if others:
            path = data / "verdicts" / f"{variant}.jsonl"
            what = f"the judge is {min(others)!r}, but {expected!r} judged {baseline}"
            raise UserError(path, what, rerun_advice(f"judge@{variant}"))


def read_answers(data: Path, params: Params) -> Answers:
    """Return the answers of each variant by id."""
    answers: Answers = {}
    for variant in params.variants:
        path = data / "answers" / f"{variant}.jsonl"
        rows = read_checked(path, f"generate@{variant}", ShownAnswer)
        answers[variant] = {row.id: row for row in rows}
    return answers


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
            raise UserError(path, f"{name} lacks `first` or `range`", "run `make seeds` again")
    return spreads


def _is_spread(value: object) -> bool:
    """Return whether a value has the numbers `first` and `range`."""
    if not isinstance(value, dict):
        return False
    needed = (value.get("first"), value.get("range"))
    return all(isinstance(number, int | float) for number in needed)
