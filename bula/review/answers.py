"""Find the answers that changed most between two runs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bula.answers import FAILED
from bula.item_scores import ROWS
from bula.records import read_rows
from bula.review.runs import Run
from bula.text import words

SHOWN = 5
STATED = (
    "distance: 1 - 2 × shared words / all words of both answers (0: the same words, 1: none shared)"
)


class Changed(NamedTuple):
    """One answer in two runs."""

    variant: str
    id: str
    distance: float
    question: str
    before: str
    after: str


class Answers(NamedTuple):
    """The answers that changed most, and how many there are."""

    compared: int
    """Answers to the same question in both runs."""
    changed: int
    """Compared answers that are not equal."""
    shown: list[Changed]
    hidden: int
    """Changed answers that are not shown, because a source forbids it."""


def word_distance(first: str, second: str) -> float:
    """Return the share of words that two texts do not share.

    It is 1 minus Dice's coefficient of the counts of words (Dice 1945): 0 for the same words in any
    order, and 1 without a shared word. Two texts without a word have the distance 0.
    """
    counts = (Counter(words(first)), Counter(words(second)))
    total = counts[0].total() + counts[1].total()
    if total == 0:
        return 0.0
    shared = (counts[0] & counts[1]).total()
    return 1 - 2 * shared / total


def changed_answers(before: Run, after: Run) -> Answers:
    """Return the answers that changed most, one per question.

    A row is shown only if both runs say that its source may be passed on.
    """
    open_sources = _open_sources(before) & _open_sources(after)
    compared = changed = hidden = 0
    farthest: dict[str, Changed] = {}
    for variant in after.variants:
        rows = _rows(before, variant)
        for item, row in _rows(after, variant).items():
            if _question(rows.get(item, {})) != _question(row):
                continue
            compared += 1
            if rows[item].get("generated") == row.get("generated"):
                continue
            changed += 1
            if row.get("source") not in open_sources:
                hidden += 1
                continue
            _keep_farthest(farthest, _change(variant, rows[item], row))
    ordered = sorted(farthest.values(), key=lambda found: (-found.distance, found.id))
    return Answers(compared, changed, ordered[:SHOWN], hidden)


def _rows(run: Run, variant: str) -> dict[str, Mapping[str, Any]]:
    """Return the answers of one variant by id, if they are at hand.

    A question whose request failed has no answer.
    """
    file = run.folder / f"data/{ROWS['generate'][0]}/{variant}.jsonl"
    if not file.is_file():
        return {}
    return {row["id"]: row for row in read_rows(file) if row.get("finish_reason") != FAILED}


def _question(row: Mapping[str, Any]) -> list[Any]:
    """Return what makes two rows answers to the same question."""
    return [row.get(name) for name in ("question", "answer", "history")]


def _change(variant: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Changed:
    """Return the change of one answer."""
    first, second = str(before.get("generated")), str(after.get("generated"))
    distance = word_distance(first, second)
    return Changed(variant, str(after["id"]), distance, str(after["question"]), first, second)


def _keep_farthest(farthest: dict[str, Changed], found: Changed) -> None:
    """Keep a change if it is the largest one of its question."""
    known = farthest.get(found.id)
    if known is None or found.distance > known.distance:
        farthest[found.id] = found


def _open_sources(run: Run) -> set[str]:
    """Return the names of the sources whose rows may be passed on."""
    sources: Iterable[Any] = run.params.get("ingest", {}).get("sources", [])
    return {source["name"] for source in sources if source.get("redistribution") == "allowed"}
