"""Build the page and the key of a review kit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from bula.files import sha256_values
from bula.labels.kit_sample import Candidate
from bula.labels.kit_weights import Weights
from bula.labels.records import FORM, Key, KeyItem, KeyPair, answer_sha256
from bula.loops import cut_loops
from bula.text import normalise, sentences

# Each item and each pair has an id of this many random bits.
ID_BITS = 40
KIT_DIGITS = 12
# The page has three parts. A repetition stands in the last one, and its first pair in the first.
FIRST_PART, LAST_PART = 1, 3
# The other pairs fill the middle part first, which separates the two.
PARTS_OF_OTHERS = (2, 1, 3)
LOOP_NOTE = "(repete-se {} vezes)"
# A loop's count that the split moved to the start of the next sentence.
MOVED_NOTE = re.compile(r"\s*(?P<note>\(repete-se \d+ vezes\))")
LETTER = re.compile(r"[^\W\d_]")


class ShownItem(NamedTuple):
    """One answer as raters see it."""

    id: str
    sentences: list[str]


class ShownPair(NamedTuple):
    """One question with two answers, as raters see them."""

    id: str
    part: int
    """The part of the page. Each rater has another order within a part."""
    history: list[tuple[str, str]]
    """The earlier questions of the conversation with their answers, oldest first."""
    question: str
    reference: str
    left: ShownItem
    right: ShownItem


class Kit(NamedTuple):
    """The page and the key of a kit, and each pair's level of doubt."""

    id: str
    pairs: list[ShownPair]
    key: Key
    levels: dict[str, str]


class Placed(NamedTuple):
    """A candidate with its weights, ids, sides and part of the page."""

    candidate: Candidate
    weights: Weights
    pair: str
    left: str
    right: str
    is_swapped: bool
    """Whether the second answer stands on the left."""
    part: int
    repeat_of: str | None = None
    """The id of the pair that this one repeats."""


def build_kit(
    sample: Sequence[Candidate], weights: Sequence[Weights], repeats: int, random: Random
) -> Kit:
    """Return a kit in which the first `repeats` pairs of the sample occur twice.

    The variant of the first answer stands on the left in half of the pairs. The id of the kit is a
    hash of everything that raters see.
    """
    placed = place(sample, weights, repeats, random)
    shown = [_show(entry) for entry in placed]
    # The order of the file must not show which pairs are repetitions.
    random.shuffle(shown)
    kit = sha256_values(shown)[:KIT_DIGITS]
    items = [item for entry in placed for item in _key_items(entry)]
    pairs = [_key_pair(entry) for entry in placed]
    levels: dict[str, str] = {entry.pair: entry.candidate.level for entry in placed}
    return Kit(kit, shown, Key(form=FORM, kit=kit, items=items, pairs=pairs), levels)


def place(
    sample: Sequence[Candidate], weights: Sequence[Weights], repeats: int, random: Random
) -> list[Placed]:
    """Return the sample with ids, sides and parts, and its repetitions at the end.

    A repetition has exchanged sides and new ids, so that raters do not recognise it by them.
    """
    sides = [number % 2 == 1 for number in range(len(sample))]
    random.shuffle(sides)
    placed = []
    rows = zip(sample, weights, sides, strict=True)
    for number, (candidate, weight, is_swapped) in enumerate(rows):
        part = FIRST_PART
        if number >= repeats:
            part = PARTS_OF_OTHERS[(number - repeats) % len(PARTS_OF_OTHERS)]
        placed.append(Placed(candidate, weight, *_draw_ids(random), is_swapped, part))
    for first in placed[:repeats]:
        pair, left, right = _draw_ids(random)
        again = first._replace(
            pair=pair,
            left=left,
            right=right,
            is_swapped=not first.is_swapped,
            part=LAST_PART,
            repeat_of=first.pair,
        )
        placed.append(again)
    return placed


def _draw_ids(random: Random) -> tuple[str, str, str]:
    """Return random ids of a pair, its left item and its right item."""
    first, second, third = (f"{random.getrandbits(ID_BITS):010x}" for _ in range(3))
    return first, second, third


def _show(entry: Placed) -> ShownPair:
    """Return what raters see of a pair."""
    example = entry.candidate.example
    history = [(normalise(turn.question), normalise(turn.answer)) for turn in example.history or []]
    left, right = _answers(entry)
    return ShownPair(
        id=entry.pair,
        part=entry.part,
        history=history,
        question=normalise(example.question),
        reference=normalise(example.answer),
        left=ShownItem(entry.left, rated_sentences(left.text)),
        right=ShownItem(entry.right, rated_sentences(right.text)),
    )


class _Side(NamedTuple):
    """The answer on one side of a pair."""

    variant: str
    text: str
    weight: float


def _answers(entry: Placed) -> tuple[_Side, _Side]:
    """Return the left and the right answer of a pair."""
    candidate = entry.candidate
    weights = entry.weights
    first = _Side(candidate.variants[0], candidate.first.generated, weights.first)
    second = _Side(candidate.variants[1], candidate.second.generated, weights.second)
    return (second, first) if entry.is_swapped else (first, second)


def _key_pair(entry: Placed) -> KeyPair:
    """Return the key's row of a pair."""
    return KeyPair(
        pair=entry.pair,
        left=entry.left,
        right=entry.right,
        repeat_of=entry.repeat_of,
        weight=entry.weights.pair,
        level=entry.candidate.level,
    )


def _key_items(entry: Placed) -> list[KeyItem]:
    """Return the key's rows of the two answers of a pair."""
    example = entry.candidate.example
    rows = []
    for item, side in zip((entry.left, entry.right), _answers(entry), strict=True):
        row = KeyItem(
            item=item,
            variant=side.variant,
            id=example.id,
            set=example.split,
            sha256=answer_sha256(side.text),
            sentences=len(rated_sentences(side.text)),
            weight=side.weight,
            level=entry.candidate.level,
        )
        rows.append(row)
    return rows


def rated_sentences(text: str) -> list[str]:
    """Return the sentences of an answer that raters judge, with each loop once.

    A part without letters, such as the number of a list, belongs to the sentence after it.
    """
    found: list[str] = []
    start = ""
    for part in sentences(cut_loops(normalise(text), LOOP_NOTE)):
        note = MOVED_NOTE.match(part)
        if note and found:
            found[-1] += f" {note['note']}"
            part = part[note.end() :]
        joined = f"{start} {part.strip()}".strip()
        if LETTER.search(joined):
            found.append(joined)
            start = ""
        else:
            start = joined
    if start and found:
        found[-1] += f" {start}"
    elif start:
        found.append(start)
    return found
