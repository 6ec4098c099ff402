"""Find the rows because of which other rows were refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy

from bula.records import Row
from stages.preprocess.minhash import Flags, Indices
from stages.preprocess.table import Table, rows_at

# The id of a row, as reasons name it.
ID = re.compile(r"\b[0-9a-f]{16}\b")


def deciders(table: Table, work: Path, reasons: list[str], alive: Flags) -> Iterator[Row | None]:
    """Yield the origin of the row that each reason names, or None.

    An origin has the id, the set, the file and the line, and the source unless the row is a
    benchmark item. `refused` says that the row left later. The rows are read in the order of the
    reasons.
    """
    ranks = _named_ranks(table, reasons)
    known = ranks >= 0
    found = rows_at(table, work, ranks[known])
    for rank, is_known in zip(ranks.tolist(), known.tolist(), strict=True):
        if not is_known:
            yield None
            continue
        origin = _origin(table, rank, next(found))
        if not alive[rank] and table.split[rank] >= table.set_a:
            origin["refused"] = True
        yield origin


def _named_ranks(table: Table, reasons: list[str]) -> Indices:
    """Return the rank of the row that each reason names, or -1.

    Of rows with one id, the first in rank decides.
    """
    order = numpy.argsort(table.id, kind="stable")
    in_order = table.id[order]
    ranks = numpy.full(len(reasons), -1, dtype=numpy.int64)
    for number, reason in enumerate(reasons):
        if match := ID.search(reason):
            identity = numpy.uint64(int(match[0], 16))
            place = numpy.searchsorted(in_order, identity)
            if place < len(order) and in_order[place] == identity:
                ranks[number] = order[place]
    return ranks


def _origin(table: Table, rank: int, row: Row) -> Row:
    """Return where the row of a rank comes from."""
    origin: Row = {
        "id": f"{table.id[rank]:016x}",
        "set": table.names[table.split[rank]],
        "file": row["file"],
        "line": row["line"],
    }
    source = row["example"].get("source")
    if source:
        origin["source"] = source
    return origin
