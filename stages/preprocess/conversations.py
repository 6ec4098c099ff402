"""Compare the single turns of conversations with complete rows.

A row's own hashes cover all its turns at once, so a question of another split could hide in one
turn, and a conversation that continues another one would look different.
"""

from typing import Any, NamedTuple

import numpy

from stages.preprocess.minhash import Flags, Hashes, Indices, candidate_pairs
from stages.preprocess.near_duplicates import Field, Matches, can_remove
from stages.preprocess.table import Corpus, Table

TURN_COLUMNS: dict[str, Any] = {
    "turn": numpy.int64,
    "question": numpy.uint64,
    "group": numpy.uint64,
    "text": numpy.uint64,
}


class Turns(NamedTuple):
    """All turns of the conversations with several turns, one array per column."""

    rank: Indices
    """The rank of the turn's row."""
    turn: Indices
    """The number of the turn in its conversation, from 0."""
    question: Hashes
    """The comparison hash of the turn's question, without greetings."""
    group: Hashes
    """The hash of the group of the turn's question."""
    text: Hashes
    """The comparison hash of the conversation up to the turn's answer."""


def load_turns(corpus: Corpus) -> Turns:
    """Return the turns that the parts of raw rows contain."""
    row_counts = numpy.bincount(corpus.table.part, minlength=corpus.parts)
    offsets = numpy.concatenate([[0], numpy.cumsum(row_counts)])
    ranks = [numpy.empty(0, numpy.int64)]
    columns = {name: [numpy.empty(0, kind)] for name, kind in TURN_COLUMNS.items()}
    for number in range(corpus.parts):
        with numpy.load(corpus.work / f"{number}.turns.npz") as arrays:
            ranks.append(corpus.table.rank[offsets[number] + arrays["row"]])
            for name, parts in columns.items():
                parts.append(arrays[name])
    joined = {name: numpy.concatenate(parts) for name, parts in columns.items()}
    return Turns(rank=numpy.concatenate(ranks), **joined)


def turn_matches(table: Table, turns: Turns, field: Field, alive: Flags) -> Matches:
    """Return pairs of a row and a turn of another split that are equal.

    A turn's question is compared with all questions of the row, or the conversation up to the turn
    with the row's text. The turns of two conversations are not compared with each other: follow-up
    questions such as "E se piorar?" repeat.
    """
    row_keys = table.question if field == "question" else table.text
    turn_keys = turns.question if field == "question" else turns.text
    rows = numpy.flatnonzero(alive & numpy.isin(row_keys, turn_keys))
    is_alive = alive[turns.rank]
    rank = numpy.concatenate([rows, turns.rank[is_alive]])
    key = numpy.concatenate([row_keys[rows], turn_keys[is_alive]])
    is_turn = numpy.arange(len(rank)) >= len(rows)
    # In each split the rows precede the turns, so that no turn hides a row.
    order = numpy.lexsort((rank, is_turn, table.split[rank]))
    rank = rank[order]
    is_turn = is_turn[order]
    early = [numpy.empty(0, numpy.int64)]
    late = [numpy.empty(0, numpy.int64)]
    split = table.split[rank]
    for one, other in candidate_pairs(key[order], split, reach=1, within_split=False):
        is_mixed = is_turn[one] != is_turn[other]
        early.append(rank[one[is_mixed]])
        late.append(rank[other[is_mixed]])
    return _removable(table, numpy.concatenate(early), numpy.concatenate(late))


def _removable(table: Table, early: Indices, late: Indices) -> Matches:
    """Return the pairs that can remove a row, with a similarity of 1."""
    counts = can_remove(table, early, late)
    similarity = numpy.ones(numpy.count_nonzero(counts))
    return Matches(early[counts], late[counts], similarity)


def continued_rows(table: Table, turns: Turns, alive: Flags) -> list[tuple[int, int]]:
    """Return pairs of a row and a conversation of its split that continues it."""
    rows = numpy.flatnonzero(alive & numpy.isin(table.text, turns.text))
    starts = {}
    columns = (rows.tolist(), table.split[rows].tolist(), table.text[rows].tolist())
    for rank, split, text in zip(*columns, strict=True):
        starts[split, text] = rank
    wanted = alive[turns.rank] & numpy.isin(turns.text, table.text[rows])
    ranks = turns.rank[wanted]
    pairs = []
    columns = (ranks.tolist(), table.split[ranks].tolist(), turns.text[wanted].tolist())
    for rank, split, text in zip(*columns, strict=True):
        short = starts.get((split, text), rank)
        if short != rank:
            pairs.append((short, rank))
    return pairs
