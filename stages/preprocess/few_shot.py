"""Choose the few-shot examples of prompted variants from train.

The choice depends on a hash of each row's id, so that most changes of train leave it as it was.
"""

import hashlib
import heapq
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bula.params import Params
from bula.records import FEW_SHOT_FILE, MOST_SHOTS, Row, read_rows, write_rows

# The place of a row in the drawing order, and the row.
Drawn = tuple[str, Row]


def write_few_shot(clean: Path, tokens: list[int], params: Params) -> None:
    """Write the few-shot examples beside train.

    `tokens` contains the tokens of each row of train, in file order.
    """
    train = clean / "train.jsonl"
    first = best_of_each_specialty(draw(train, tokens, params))
    others = heapq.nsmallest(MOST_SHOTS, draw(train, tokens, params), key=place_of)
    rows = [row for _, row in sorted(first, key=place_of)]
    rows += [row for _, row in others if row not in rows]
    write_rows(clean / FEW_SHOT_FILE, rows[:MOST_SHOTS])


def draw(train: Path, tokens: list[int], params: Params) -> Iterator[Drawn]:
    """Yield the rows with one turn and no more tokens than the median row.

    Their prompts have at most `preprocess.max_prompt_tokens` tokens, as in all rows of train.
    """
    longest = median(tokens)
    for row, length in zip(read_rows(train), tokens, strict=True):
        if length <= longest and not row.get("history"):
            seeded = f"{params.sampling_seed} {row['id']}"
            yield hashlib.sha256(seeded.encode()).hexdigest(), row


def place_of(drawn: Drawn) -> str:
    """Return the place of a row in the drawing order."""
    return drawn[0]


def best_of_each_specialty(rows: Iterator[Drawn]) -> list[Drawn]:
    """Return the first row of each specialty in the drawing order.

    Rows without a specialty count as one specialty.
    """
    best: dict[str, Drawn] = {}
    for drawn in rows:
        specialty = drawn[1].get("specialty") or ""
        best[specialty] = min(drawn, best.get(specialty, drawn), key=place_of)
    return list(best.values())
