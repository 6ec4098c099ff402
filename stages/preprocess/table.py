"""Keep all rows as one table of numbers.

The rows themselves stay in the work folder and are read again when they are needed. Rows are ranked
by split (benchmark items, A to E, dev, train) and id. Ids are hashes, so the first rows of a split
are an unbiased sample that does not depend on the order of the files.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import Preprocess
from bula.records import Row
from stages.preprocess.minhash import Hashes, Indices, Splits
from stages.preprocess.splits import SPLITS
from stages.preprocess.wordings import join_wordings

# Rows in memory at once while rows are read again.
BATCH_ROWS = 20_000
COLUMNS = (
    "part",
    "start",
    "size",
    "id",
    "split",
    "tokens",
    "question",
    "text",
    "answer",
    "answer_words",
    "piece",
    "group",
)


class Place(NamedTuple):
    """The place of a row: part, byte offset and size in bytes."""

    part: int
    start: int
    size: int


class Table(NamedTuple):
    """All rows in rank order, one array per column."""

    names: list[str]
    """Benchmarks, then the splits; `split` contains indices of this list."""
    part: NDArray[numpy.int32]
    start: Indices
    size: NDArray[numpy.int32]
    id: Hashes
    split: Splits
    tokens: NDArray[numpy.int32]
    question: Hashes
    text: Hashes
    answer: Hashes
    answer_words: NDArray[numpy.int32]
    piece: NDArray[numpy.int32]
    """0, or the number of the part of a long answer that was split."""
    group: Hashes
    """The hash of the group of the row's first question."""
    rank: Indices
    """The rank of each row, in the order of the parts."""

    @property
    def set_a(self) -> int:
        """Return the index of set A, which follows the benchmarks."""
        return self.names.index("A")

    @property
    def dev(self) -> int:
        """Return the index of dev, which follows the validation sets."""
        return self.names.index("dev")

    @property
    def train(self) -> int:
        """Return the index of train."""
        return self.names.index("train")


class Corpus(NamedTuple):
    """The table of all rows, the rows themselves, and the workers that read them."""

    table: Table
    work: Path
    """The work folder, which contains the parts."""
    parts: int
    """Number of parts of raw rows; the parts after them are benchmarks."""
    pool: Executor | None
    """The workers, or None if this process does the work."""


def load_table(work: Path, parts: int, benchmarks: list[str], params: Preprocess) -> Table:
    """Return the ranked table of all parts, with the final split of each row.

    The first parts contain raw rows; one part per benchmark follows.
    """
    loaded = [_load_part(work, number) for number in range(parts + len(benchmarks))]
    splits = _final_splits(loaded[:parts], params) + numpy.int16(len(benchmarks))
    for number, columns in enumerate(loaded[parts:]):
        splits = numpy.append(splits, numpy.full(len(columns["id"]), number, numpy.int16))
    joined = {}
    for name in COLUMNS:
        joined[name] = numpy.concatenate([columns[name] for columns in loaded])
    joined["split"] = splits
    order = numpy.lexsort((joined["id"], joined["split"]))
    rank = numpy.empty(len(order), numpy.int64)
    rank[order] = numpy.arange(len(order))
    ranked = {name: values[order] for name, values in joined.items()}
    return Table(
        names=[*benchmarks, *SPLITS],
        rank=rank,
        **ranked,
    )


def _final_splits(parts: list[dict[str, NDArray[Any]]], params: Preprocess) -> Splits:
    """Return the split of each raw row as an index of SPLITS."""
    names = ("split", "fixed", "group", "answer")
    split, fixed, group, answer = (
        numpy.concatenate([columns[name] for columns in parts]) for name in names
    )
    return join_wordings(split, fixed, group, answer, params)


def _load_part(work: Path, number: int) -> dict[str, NDArray[Any]]:
    """Return the columns of one part."""
    with numpy.load(work / f"{number}.npz") as arrays:
        columns = dict(arrays)
    offsets = columns["start"]
    rows = len(columns["id"])
    columns["start"] = offsets[:-1]
    columns["size"] = numpy.diff(offsets).astype(numpy.int32)
    columns["part"] = numpy.full(rows, number, numpy.int32)
    return columns


def places_of(table: Table, ranks: Indices) -> list[Place]:
    """Return the places of the rows of the given ranks."""
    columns = (
        table.part[ranks].tolist(),
        table.start[ranks].tolist(),
        table.size[ranks].tolist(),
    )
    return list(map(Place, *columns))


def read_places(work: Path, places: Iterable[Place]) -> dict[Place, Row]:
    """Return the rows (file, line, example) at the given places.

    Each part is opened once and read forwards.
    """
    rows: dict[Place, Row] = {}
    in_order = sorted(set(places))
    for part, group in groupby(in_order, key=attrgetter("part")):
        with (work / f"{part}.jsonl").open("rb") as file:
            for place in group:
                file.seek(place.start)
                rows[place] = json.loads(file.read(place.size))
    return rows


def rows_at(table: Table, work: Path, ranks: Indices) -> Iterator[Row]:
    """Yield the rows (file, line, example) of the given ranks, with their final split."""
    for start in range(0, len(ranks), BATCH_ROWS):
        batch = ranks[start : start + BATCH_ROWS]
        places = places_of(table, batch)
        rows = read_places(work, places)
        for rank, place in zip(batch.tolist(), places, strict=True):
            row = rows[place]
            if table.split[rank] >= table.set_a:
                row["example"]["split"] = table.names[table.split[rank]]
            yield row
