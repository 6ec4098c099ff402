"""Decide which rows stay, all rows together: repetitions leave, and validation and benchmark items are never trained on.

Rows are ranked by split (benchmark items, A to E, dev, train) and id; of two that repeat each other the one that ranks first
stays. Ids are hashes, so that the first rows of a split are an unbiased sample of it that does not depend on the files' order.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import Preprocess
from bula.records import Row
from stages.preprocess.clean import SPLITS, whole
from stages.preprocess.contamination import Shared, index_runs, scan_part
from stages.preprocess.minhash import candidates, jaccard, shingles
from stages.preprocess.shards import each

Indices = NDArray[numpy.int64]
Flags = NDArray[numpy.bool_]
# Where a row stands: part, first byte, bytes.
Place = tuple[int, int, int]
# How many of those with an equal band each text is compared with: the last before it, and the first.
REACH = 4
# Pairs that a worker verifies at once.
CHUNK = 20_000


class Table(NamedTuple):
    """All rows in rank order, one array a column."""

    names: list[str]
    """Benchmarks, then the splits; `split` counts into them."""
    part: NDArray[numpy.int32]
    start: Indices
    size: NDArray[numpy.int32]
    id: NDArray[numpy.uint64]
    split: NDArray[numpy.int16]
    tokens: NDArray[numpy.int32]
    question: NDArray[numpy.uint64]
    whole: NDArray[numpy.uint64]
    rank: Indices
    """For each row in the order of parts, its rank."""


class Edges(NamedTuple):
    """Near-duplicates: ranks of the two (the earlier first) and their Jaccard similarity."""

    early: Indices
    late: Indices
    similarity: NDArray[numpy.float64]


class Runs(NamedTuple):
    """Training rows that share a run of words with items: their ranks, the sets as bits, an item each; and all such items."""

    rows: Indices
    sets: Indices
    item: Indices
    items: Indices


class Decision(NamedTuple):
    """Which rows stay, why the others leave (by rank), and what of the items was found in train."""

    alive: Flags
    refused: dict[int, str]
    matrix: dict[str, dict[str, int]]
    evidence: list[Row]


def load_table(work: Path, parts: int, benchmarks: list[str]) -> Table:
    """Arrays of all parts, ranked; the last parts are the benchmarks."""
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Table._fields[1:-1]}
    for number in range(parts + len(benchmarks)):
        with numpy.load(work / f"{number}.npz") as arrays:
            start, count = arrays["start"], len(arrays["id"])
            split = (
                arrays["split"] + len(benchmarks)
                if number < parts
                else numpy.full(count, number - parts)
            )
            own: dict[str, NDArray[Any]] = {
                "part": numpy.full(count, number, numpy.int32),
                "split": split.astype(numpy.int16),
                "start": start[:-1],
            }
            own["size"] = numpy.diff(start).astype(numpy.int32)
            for column, values in columns.items():
                values.append(own[column] if column in own else arrays[column])
    joined: dict[str, NDArray[Any]] = {
        column: numpy.concatenate(values) for column, values in columns.items()
    }
    order = numpy.lexsort((joined["id"], joined["split"]))
    rank = numpy.empty(len(order), numpy.int64)
    rank[order] = numpy.arange(len(order))
    return Table(
        [*benchmarks, *SPLITS],
        **{column: values[order] for column, values in joined.items()},
        rank=rank,
    )


def read_places(work: Path, places: Iterable[Place]) -> dict[Place, Row]:
    """Rows (file, line, example) at the given places; each part is opened once and read forwards."""
    rows: dict[Place, Row] = {}
    file, current = None, -1
    for place in sorted(set(places)):
        if place[0] != current or file is None:
            if file:
                file.close()
            file, current = (work / f"{place[0]}.jsonl").open("rb"), place[0]
        file.seek(place[1])
        rows[place] = json.loads(file.read(place[2]))
    if file:
        file.close()
    return rows


def places_of(table: Table, ranks: Indices) -> list[Place]:
    """Where rows stand."""
    return list(
        zip(
            table.part[ranks].tolist(),
            table.start[ranks].tolist(),
            table.size[ranks].tolist(),
            strict=True,
        )
    )


def first_equal(key: NDArray[numpy.uint64]) -> Indices:
    """For each row the first that has the same key."""
    order = numpy.argsort(key, kind="stable")
    new = numpy.append(True, key[order][1:] != key[order][:-1])[: len(key)]
    first = numpy.empty(len(key), numpy.int64)
    first[order] = order[numpy.maximum.accumulate(numpy.where(new, numpy.arange(len(key)), 0))]
    return first


def find_pairs(
    table: Table, work: Path, parts: int, which: str, bands: int, alive: Flags
) -> Indices:
    """Pairs to be verified, as early * rows + late: a band agrees, and the pair could decide something.

    That is a training row beside a benchmark item, two rows of different splits, and, by their whole text, two of one split.
    """
    rows, train, corpus = len(table.split), table.names.index("train"), table.names.index("A")
    keep = numpy.flatnonzero(alive)
    found = numpy.empty(0, numpy.int64)
    files = [work / f"{number}.{which}.npy" for number in range(parts + corpus)]
    for band in range(bands):
        value = numpy.empty(rows, numpy.uint64)
        # Mapped anew for each band: a map that stays open keeps every band that was touched in memory.
        value[table.rank] = numpy.concatenate(
            [numpy.load(file, mmap_mode="r")[band] for file in files]
        )
        fresh = [found]
        for one, other in candidates(value[keep], table.split[keep], REACH, which == "whole"):
            early, late = keep[one], keep[other]
            fresh.append(
                (early * rows + late)[(table.split[early] >= corpus) | (table.split[late] == train)]
            )
        found = numpy.unique(numpy.concatenate(fresh))
    return found


def verify(number: int, work: Path, which: str, size: int) -> list[float]:
    """Jaccard similarity over shingles of `size` words of the pairs of one chunk (places of both, in pairs.npy)."""
    chunk = numpy.load(work / "pairs.npy", mmap_mode="r")[
        number * CHUNK : (number + 1) * CHUNK
    ].tolist()
    pairs: list[tuple[Place, Place]] = [((a, b, c), (d, e, f)) for a, b, c, d, e, f in chunk]
    rows = read_places(work, (place for pair in pairs for place in pair))
    texts = {
        place: row["example"]["question"] if which == "question" else whole(row["example"])
        for place, row in rows.items()
    }
    sets = {place: shingles(text, size) for place, text in texts.items()}
    return [jaccard(sets[one], sets[other]) for one, other in pairs]


def near_duplicates(
    table: Table,
    work: Path,
    parts: int,
    which: str,
    alive: Flags,
    params: Preprocess,
    pool: Executor | None,
) -> Edges:
    """Pairs whose question (or whole text) is similar enough, verified exactly."""
    settings = params.near_duplicates
    early, late = numpy.divmod(
        find_pairs(table, work, parts, which, settings.bands, alive), len(table.split)
    )
    columns = [
        column[ranks] for ranks in (early, late) for column in (table.part, table.start, table.size)
    ]
    numpy.save(work / "pairs.npy", numpy.stack(columns, axis=1).astype(numpy.int64))
    chunks = list(range(-(-len(early) // CHUNK)))
    results = each(
        pool, verify, chunks, work, which, settings.shingle_words, what=f"near-duplicates ({which})"
    )
    similarity = numpy.array([value for result in results for value in result], dtype=numpy.float64)
    near = similarity >= settings.threshold
    return Edges(early[near], late[near], similarity[near])


def equal_questions(table: Table, alive: Flags) -> Edges:
    """Rows of different splits that ask the same, each with the first of every earlier split: no band and no reach is in the way."""
    keep, train, corpus = (
        numpy.flatnonzero(alive),
        table.names.index("train"),
        table.names.index("A"),
    )
    pairs = list(candidates(table.question[keep], table.split[keep], 1, inside=False))
    early, late = (
        keep[numpy.concatenate([numpy.empty(0, numpy.int64), *(pair[side] for pair in pairs)])]
        for side in (0, 1)
    )
    useful = (table.split[early] >= corpus) | (table.split[late] == train)
    return Edges(early[useful], late[useful], numpy.ones(numpy.count_nonzero(useful)))


def item_texts(table: Table, work: Path, ranks: Indices) -> Iterator[list[str]]:
    """Texts of items, in batches."""
    for first in range(0, len(ranks), CHUNK):
        places = places_of(table, ranks[first : first + CHUNK])
        rows = read_places(work, places)
        yield [whole(rows[place]["example"]) for place in places]


def shared_runs(
    table: Table, work: Path, parts: int, alive: Flags, params: Preprocess, pool: Executor | None
) -> Runs:
    """Training rows that share a run of words with an item of a validation set or benchmark."""
    items = numpy.flatnonzero(
        (table.split < table.names.index("dev")) & (alive | (table.split < table.names.index("A")))
    )
    size = params.contamination.run_words
    index = index_runs(item_texts(table, work, items), table.split[items].astype(numpy.int64), size)
    for column in ("hashes", "sets"):
        numpy.save(work / f"runs.{column}.npy", getattr(index, column))
    offset = numpy.concatenate([[0], numpy.cumsum(numpy.bincount(table.part, minlength=parts))])
    found: list[Shared] = list(
        each(pool, scan_part, list(range(parts)), work, size, what="shared runs")
    )
    ranks = numpy.concatenate(
        [table.rank[offset[number] + shared.rows] for number, shared in enumerate(found)]
    )
    sets, first, hit = (
        numpy.concatenate([getattr(shared, column) for shared in found])
        for column in ("sets", "first", "runs")
    )
    # One of the items that have the run: the first in rank.
    owner = numpy.full(len(index.hashes), len(items))
    numpy.minimum.at(owner, index.run, index.item)
    flagged = numpy.unique(index.item[numpy.isin(index.run, hit)])
    order = numpy.argsort(ranks)
    order = order[alive[ranks[order]]]
    return Runs(ranks[order], sets[order], items[owner[first[order]]], items[flagged])


def settle(
    table: Table, work: Path, parts: int, params: Preprocess, pool: Executor | None
) -> Decision:
    """Which rows stay, and why the others leave."""
    corpus = table.split >= table.names.index("A")
    alive, refused = corpus.copy(), dict[int, str]()
    same = first_equal(table.whole)
    # Across splits an equal text is a near-duplicate of similarity 1, so that the contamination matrix counts it.
    for rank in numpy.flatnonzero(
        (same != numpy.arange(len(same))) & corpus & (table.split[same] == table.split)
    ).tolist():
        drop(alive, refused, rank, f"same text as {label(table, same[rank])}")
    nearly = near_duplicates(table, work, parts, "question", alive | ~corpus, params, pool)
    questions = Edges(
        *(
            numpy.concatenate(pair)
            for pair in zip(equal_questions(table, alive | ~corpus), nearly, strict=True)
        )
    )
    texts = near_duplicates(table, work, parts, "whole", alive | ~corpus, params, pool)
    runs = shared_runs(table, work, parts, alive, params, pool)
    before = alive.copy()
    for what, edges in (("question", questions), ("text", texts)):
        leave_items(alive, refused, table, edges, what, params)
    if params.contamination.policy == "remove":
        for rank, item in zip(runs.rows.tolist(), runs.item.tolist(), strict=True):
            if alive[rank]:
                drop(
                    alive,
                    refused,
                    rank,
                    f"shares {params.contamination.run_words} words in a row with {label(table, item)}",
                )
    leave_repeated(alive, refused, table, texts)
    return Decision(
        alive,
        refused,
        contamination_matrix(table, [questions, texts], runs, before, alive),
        evidence(table, questions, texts, runs),
    )


def label(table: Table, rank: int) -> str:
    """A row as reasons name it."""
    return f"{int(table.id[rank]):016x} in {table.names[table.split[rank]]}"


def drop(alive: Flags, refused: dict[int, str], rank: int, reason: str) -> None:
    """Let a row leave, with its reason."""
    alive[rank] = False
    refused[rank] = reason


def leave_items(
    alive: Flags, refused: dict[int, str], table: Table, edges: Edges, what: str, params: Preprocess
) -> None:
    """Rows leave that come too near to an item of a set which ranks before their own split."""
    corpus, keep = table.names.index("A"), params.contamination.policy == "keep"
    for index in numpy.lexsort((edges.early, edges.late)).tolist():
        early, late = int(edges.early[index]), int(edges.late[index])
        if (
            alive[late]
            and table.split[early] != table.split[late]
            and (alive[early] or (table.split[early] < corpus and not keep))
        ):
            drop(
                alive,
                refused,
                late,
                f"near-duplicate {what} of {label(table, early)} ({edges.similarity[index]:.2f})",
            )


def leave_repeated(alive: Flags, refused: dict[int, str], table: Table, edges: Edges) -> None:
    """Rows leave that repeat one of their own split which stays."""
    for index in numpy.lexsort((edges.early, edges.late)).tolist():
        early, late = int(edges.early[index]), int(edges.late[index])
        if alive[late] and alive[early] and table.split[early] == table.split[late]:
            drop(
                alive,
                refused,
                late,
                f"near-duplicate text of {label(table, early)} ({edges.similarity[index]:.2f})",
            )


def contamination_matrix(
    table: Table, edges: list[Edges], runs: Runs, before: Flags, after: Flags
) -> dict[str, dict[str, int]]:
    """For train x each benchmark and validation set: items and training rows that share a run or are near-duplicates."""
    train = table.names.index("train")
    early, late = (
        numpy.concatenate([getattr(e, column) for e in edges]) for column in ("early", "late")
    )
    early, late = early[table.split[late] == train], late[table.split[late] == train]
    asked, matrix = table.question, {}
    for number, set_name in enumerate(table.names[: table.names.index("dev")]):
        near_rows = numpy.unique(late[table.split[early] == number])
        run_rows = runs.rows[(runs.sets >> number) & 1 == 1]
        rows = numpy.union1d(near_rows, run_rows)
        of_set = numpy.flatnonzero(
            (table.split == number) & (before | (number < table.names.index("A")))
        )
        matrix[set_name] = {
            "items": len(of_set),
            "items_shared_run": int(numpy.count_nonzero(table.split[runs.items] == number)),
            # Items that ask the same as one that was found were found too.
            "items_near_duplicate": int(
                numpy.count_nonzero(
                    numpy.isin(asked[of_set], asked[early[table.split[early] == number]])
                )
            ),
            "train_rows_shared_run": len(run_rows),
            "train_rows_near_duplicate": len(near_rows),
            "train_rows": len(rows),
            "train_rows_left": int(numpy.count_nonzero(after[rows])),
        }
    return matrix


def evidence(table: Table, questions: Edges, texts: Edges, runs: Runs) -> list[Row]:
    """One record for each training row and item that come too near, for people to look at."""
    train, records = table.names.index("train"), []
    for what, edges in (("question", questions), ("text", texts)):
        for index in numpy.flatnonzero(
            (table.split[edges.late] == train)
            & (table.split[edges.early] < table.names.index("dev"))
        ).tolist():
            early, late = int(edges.early[index]), int(edges.late[index])
            records.append(
                {
                    "train": f"{table.id[late]:016x}",
                    "set": table.names[table.split[early]],
                    "item": f"{table.id[early]:016x}",
                }
            )
            records[-1] |= {
                "kind": f"near-duplicate {what}",
                "similarity": round(float(edges.similarity[index]), 4),
            }
    for rank, item in zip(runs.rows.tolist(), runs.item.tolist(), strict=True):
        records.append(
            {
                "train": f"{table.id[rank]:016x}",
                "set": table.names[table.split[item]],
                "item": f"{table.id[item]:016x}",
            }
        )
        records[-1] |= {"kind": "shared run of words"}
    unique = {tuple(sorted(record.items())): record for record in records}
    return sorted(
        unique.values(),
        key=lambda record: (record["set"], record["item"], record["train"], record["kind"]),
    )
