"""Match the items of two runs by id and content.

An id alone is not enough: a corrected reference may keep its id in data that somebody edited.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bula.errors import UserError
from bula.files import sha256_values
from bula.item_scores import (
    ROWS,
    LikelihoodRow,
    Measures,
    Values,
    benchmark_groups,
    bits_per_character,
    character_weights,
    failed_answers,
    failed_safety,
    read_likelihood,
    read_stage_scores,
    read_verdicts,
)
from bula.paired import RATIO, Groups
from bula.question_groups import example_groups
from bula.records import SET_NAMES, Example, read_examples, read_rows
from bula.review.measures import slice_of, stage_of
from bula.review.runs import Run

# The fields that make an item another one, in the rows of each stage. The name of a benchmark item
# is a hash of its content, and rows of other stages have texts only in the validation sets.
CONTENT = {
    "generate": ("question", "answer", "history"),
    "likelihood": ("characters", "bytes"),
    "safety": ("question", "slice"),
}
# Fewer items of two different sets are no basis for a comparison.
FEWEST_SHARED = 20


class Known(NamedTuple):
    """The groups and the texts of the items of one variant."""

    groups: Groups
    """The group of each item. Items without an entry are groups of one item."""
    texts: tuple[Mapping[str, Any], Mapping[str, Any]]
    """The question and the reference of each validation item of each run, by id."""


class Matched(NamedTuple):
    """The scores of two runs on the items that they share."""

    before: Values
    after: Values
    weights: Values
    """The weights of a ratio, or nothing."""
    shared: int
    """Number of items with the same id and content."""
    counts: tuple[int, int]
    """Number of items of each run."""

    @property
    def is_same(self) -> bool:
        """Return whether both runs have the same items."""
        return self.counts == (self.shared, self.shared)


def read_stage(run: Run, stage: str, variant: str) -> Measures:
    """Return the scores of one stage by item, if its rows exist."""
    if not _rows_of(run, stage, variant).is_file():
        return {}
    return read_stage_scores(run.folder / "data", stage, variant)


def _rows_of(run: Run, stage: str, variant: str) -> Path:
    """Return the file with the rows of one stage and variant."""
    return run.folder / f"data/{ROWS[stage][0]}/{variant}.jsonl"


def known_items(before: Run, after: Run, variant: str) -> Known:
    """Return the groups and the texts of the items of one variant.

    The later run's data decides about groups. Items without a text in one of the runs are compared
    by the fields of their rows.
    """
    examples = [_examples(run, variant) for run in (before, after)]
    texts = [_texts(found) for found in examples]
    both = texts[0].keys() & texts[1].keys()
    texts = [{item: known[item] for item in both} for known in texts]
    found: dict[str, str] = {}
    for run, members in zip((after, before), reversed(examples), strict=True):
        groups = example_groups(members)
        if _rows_of(run, "benchmark", variant).is_file():
            groups |= benchmark_groups(run.folder / "data", variant)
        found = groups | found
    return Known(found, (texts[0], texts[1]))


def match(before: Run, after: Run, variant: str, measure: str, known: Known) -> Matched | None:
    """Return the scores of both runs on shared items.

    The result is None if the rows of one run are not at hand.
    """
    stage = stage_of(measure)
    runs = (before, after)
    scores = [read_stage(run, stage, variant).get(measure) for run in runs]
    if scores[0] is None or scores[1] is None:
        return None
    contents = []
    for run, values, texts in zip(runs, scores, known.texts, strict=True):
        items = _items(run, stage, variant, measure, values or {})
        contents.append(_contents(run, stage, variant, items, texts))
    shared = {item for item, content in contents[0].items() if contents[1].get(item) == content}
    first, second = ({i: v[i] for i in v.keys() & shared} for v in (scores[0], scores[1]))
    weights: Values = {}
    if measure == RATIO:
        first, second, weights = _ratio(before, after, variant, shared)
    return Matched(first, second, weights, len(shared), (len(contents[0]), len(contents[1])))


def _ratio(
    before: Run, after: Run, variant: str, shared: set[str]
) -> tuple[Values, Values, Values]:
    """Return the bits per character of the shared references, and their weights.

    Each value divides by the mean length of all references, so that these must be the shared ones.
    """

    def rows(run: Run) -> list[LikelihoodRow]:
        found = read_likelihood(run.folder / "data", variant)
        return [row for row in found if row.id in shared]

    if not shared:
        return {}, {}, {}
    first, second = rows(before), rows(after)
    return bits_per_character(first), bits_per_character(second), character_weights(second)


def _items(run: Run, stage: str, variant: str, measure: str, values: Values) -> set[str]:
    """Return the items of one measure, also those without a value.

    A request for an answer or for a verdict may have failed.
    """
    data = run.folder / "data"
    items = set(values)
    if stage == "safety":
        return items | failed_safety(data, variant).get(slice_of(measure), set())
    if stage == "judge":
        items |= {row.id for row in read_verdicts(data, variant)}
    elif stage in ("generate", "rouge") and _rows_of(run, "generate", variant).is_file():
        items |= failed_answers(data, variant)
    return items


def _contents(
    run: Run, stage: str, variant: str, items: Iterable[str], texts: Mapping[str, Any]
) -> dict[str, str]:
    """Return a hash of the content of each item."""
    fields = _fields(run, stage, variant)
    return {item: sha256_values(fields.get(item), texts.get(item)) for item in items}


def _fields(run: Run, stage: str, variant: str) -> dict[str, Any]:
    """Return the fields of `CONTENT` of each row, by item."""
    if stage not in CONTENT:
        return {}
    rows = read_rows(_rows_of(run, stage, variant))
    return {row["id"]: [row.get(name) for name in CONTENT[stage]] for row in rows}


def _texts(examples: Iterable[Example]) -> dict[str, Any]:
    """Return the questions and answers of each example, by id."""
    texts = {}
    for example in examples:
        texts[example.id] = [[turn.question, turn.answer] for turn in example.turns]
    return texts


def _examples(run: Run, variant: str) -> list[Example]:
    """Return the validation examples, or else those that a variant answered."""
    folder = run.folder / "data/clean/validation"
    files = [folder / f"{name}.jsonl" for name in SET_NAMES]
    if not all(file.is_file() for file in files):
        files = [_rows_of(run, "generate", variant)]
    try:
        return [example for file in files for example in read_examples(file)]
    except UserError:
        # Older runs wrote rows without some field of an Example.
        return []
