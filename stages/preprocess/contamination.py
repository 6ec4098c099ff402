"""Find items of the validation sets and benchmarks in train.

An item is found by a run of words that it shares with a training row, or as a near-duplicate.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy

from bula.records import Row
from bula.text import ngrams
from stages.preprocess.minhash import Hashes, Indices, ngram_hashes, word_hashes
from stages.preprocess.near_duplicates import Matches
from stages.preprocess.parts import full_text
from stages.preprocess.shards import each
from stages.preprocess.splits import SPLITS
from stages.preprocess.table import Corpus, Flags, Table, rows_at

# Items that are hashed at once.
BATCH_ITEMS = 20_000


class RunIndex(NamedTuple):
    """The distinct runs of words of all items, sorted by hash, and where each occurs."""

    hashes: Hashes
    sets: Indices
    """Bit k is set if an item of set k contains the run."""
    run: Indices
    """For each occurrence, the index of the run."""
    item: Indices
    """For each occurrence, the index of the item."""


class PartOverlap(NamedTuple):
    """The runs that training rows of one part share with items."""

    rows: Indices
    """The number of each row in the part."""
    sets: Indices
    """For each row, the sets as bits."""
    first: Indices
    """For each row, the index of one run that it shares."""
    runs: Indices
    """The indices of all runs that were found."""


class SharedRuns(NamedTuple):
    """The training rows that share a run of words with items."""

    rows: Indices
    """The rank of each row, ascending."""
    sets: Indices
    """For each row, the sets as bits."""
    item: Indices
    """For each row, the rank of one item."""
    items: Indices
    """The ranks of all items that were found."""


def shared_runs(corpus: Corpus, alive: Flags, size: int) -> SharedRuns:
    """Return the training rows that share a run with an item.

    A run has `size` words. Items are all rows of benchmarks, and the alive rows of A to E.
    """
    table = corpus.table
    work = corpus.work
    is_benchmark = table.split < table.set_a
    is_item = table.split < table.dev
    items = numpy.flatnonzero(is_item & (alive | is_benchmark))
    set_numbers = table.split[items].astype(numpy.int64)
    index = index_runs(_item_texts(corpus, items), set_numbers, size)
    numpy.save(work / "runs.hashes.npy", index.hashes)
    numpy.save(work / "runs.sets.npy", index.sets)
    numbers = list(range(corpus.parts))
    found = each(corpus.pool, scan_part, numbers, work, size, what="shared runs")
    return _join_overlaps(table, list(found), index, items, alive)


def _item_texts(corpus: Corpus, ranks: Indices) -> Iterator[list[str]]:
    """Yield the texts of items in batches."""
    for start in range(0, len(ranks), BATCH_ITEMS):
        batch = ranks[start : start + BATCH_ITEMS]
        rows = rows_at(corpus.table, corpus.work, batch)
        yield [full_text(row["example"]) for row in rows]


def index_runs(batches: Iterable[list[str]], sets: Indices, size: int) -> RunIndex:
    """Index all runs of `size` words of items.

    The item texts come in batches; `sets` contains the number of the set of each item.
    """
    hash_parts = [numpy.empty(0, numpy.uint64)]
    item_parts = [numpy.empty(0, numpy.int64)]
    first = 0
    for texts in batches:
        flat, offsets = word_hashes(texts)
        hashes, owner = ngram_hashes(flat, offsets, size)
        hash_parts.append(hashes)
        item_parts.append(owner + first)
        first += len(texts)
    all_hashes = numpy.concatenate(hash_parts)
    item = numpy.concatenate(item_parts)
    distinct, run = numpy.unique(all_hashes, return_inverse=True)
    bits = numpy.zeros(len(distinct), numpy.int64)
    numpy.bitwise_or.at(bits, run, numpy.left_shift(1, sets[item]))
    return RunIndex(distinct, bits, run, item)


def find_sorted(hashes: Hashes, known: Hashes) -> Indices:
    """Return the index of each hash among the sorted known hashes.

    The index of an unknown hash is -1.
    """
    if not len(known):
        return numpy.full(len(hashes), -1)
    place = numpy.searchsorted(known, hashes)
    place = numpy.minimum(place, len(known) - 1)
    return numpy.where(known[place] == hashes, place, -1)


def scan_part(number: int, work: Path, size: int) -> PartOverlap:
    """Find the indexed runs in the training rows of one part.

    The index is read from runs.hashes.npy and runs.sets.npy in the work folder.
    """
    known = numpy.load(work / "runs.hashes.npy", mmap_mode="r")
    sets = numpy.load(work / "runs.sets.npy", mmap_mode="r")
    with numpy.load(work / f"{number}.npz") as arrays:
        is_train = arrays["split"] == SPLITS.index("train")
    train = numpy.flatnonzero(is_train)
    texts = _texts_of_rows(work / f"{number}.jsonl", train)
    flat, offsets = word_hashes(texts)
    hashes, owner = ngram_hashes(flat, offsets, size)
    run = find_sorted(hashes, known)
    is_known = run >= 0
    run = run[is_known]
    rows, start = numpy.unique(owner[is_known], return_index=True)
    bits = numpy.empty(0, numpy.int64)
    if len(rows):
        bits = numpy.bitwise_or.reduceat(sets[run], start)
    return PartOverlap(
        rows=train[rows],
        sets=bits,
        first=run[start],
        runs=numpy.unique(run),
    )


def _texts_of_rows(path: Path, numbers: Indices) -> list[str]:
    """Return the texts of the numbered rows of a part."""
    wanted = set(numbers.tolist())
    texts = []
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number in wanted:
                row = json.loads(line)
                texts.append(full_text(row["example"]))
    return texts


def _join_overlaps(
    table: Table,
    overlaps: list[PartOverlap],
    index: RunIndex,
    items: Indices,
    alive: Flags,
) -> SharedRuns:
    """Join the overlaps of all parts, for the alive rows."""
    row_counts = numpy.bincount(table.part, minlength=len(overlaps))
    offsets = numpy.concatenate([[0], numpy.cumsum(row_counts)])
    row_ranks = []
    for number, overlap in enumerate(overlaps):
        places = offsets[number] + overlap.rows
        row_ranks.append(table.rank[places])
    ranks = numpy.concatenate(row_ranks)
    sets = numpy.concatenate([overlap.sets for overlap in overlaps])
    first_run = numpy.concatenate([overlap.first for overlap in overlaps])
    found_runs = numpy.concatenate([overlap.runs for overlap in overlaps])
    is_found = numpy.isin(index.run, found_runs)
    found_items = numpy.unique(index.item[is_found])
    # The owner of a run is the first item in rank that contains it.
    owner = numpy.full(len(index.hashes), len(items))
    numpy.minimum.at(owner, index.run, index.item)
    order = numpy.argsort(ranks)
    order = order[alive[ranks[order]]]
    row_owner = owner[first_run[order]]
    return SharedRuns(
        rows=ranks[order],
        sets=sets[order],
        item=items[row_owner],
        items=items[found_items],
    )


def contamination_matrix(
    table: Table, matches: Matches, runs: SharedRuns, before: Flags, after: Flags
) -> dict[str, dict[str, int]]:
    """Count the items of each benchmark and validation set found in train.

    `before` and `after` say which rows were alive before and after contaminated rows left.
    """
    in_train = table.split[matches.late] == table.train
    early = matches.early[in_train]
    late = matches.late[in_train]
    matrix = {}
    for number, name in enumerate(table.names[: table.dev]):
        is_item = table.split == number
        if number >= table.set_a:
            is_item = is_item & before
        is_match = table.split[early] == number
        # An item that asks the same question as a found item counts as found.
        found_questions = table.question[early[is_match]]
        is_near = numpy.isin(table.question[is_item], found_questions)
        near_rows = numpy.unique(late[is_match])
        in_set = (runs.sets >> number) & 1 == 1
        run_rows = runs.rows[in_set]
        rows = numpy.union1d(near_rows, run_rows)
        matrix[name] = {
            "items": _count(is_item),
            "items_shared_run": _count(table.split[runs.items] == number),
            "items_near_duplicate": _count(is_near),
            "train_rows_shared_run": len(run_rows),
            "train_rows_near_duplicate": len(near_rows),
            "train_rows": len(rows),
            "train_rows_left": _count(after[rows]),
        }
    return matrix


def _count(flags: Flags) -> int:
    """Return the number of true flags."""
    return int(numpy.count_nonzero(flags))


def contamination_evidence(
    table: Table, questions: Matches, texts: Matches, runs: SharedRuns
) -> list[Row]:
    """Return one record per contaminated training row and item.

    The records are for people who check what the matrix counts.
    """
    records = _match_records(table, questions, "near-duplicate question")
    records += _match_records(table, texts, "near-duplicate text")
    pairs = zip(runs.rows.tolist(), runs.item.tolist(), strict=True)
    for train, item in pairs:
        records.append(_record(table, train, item, "shared run of words"))
    unique = {}
    for record in records:
        unique[tuple(sorted(record.items()))] = record
    return sorted(unique.values(), key=itemgetter("set", "item", "train", "kind"))


def _match_records(table: Table, matches: Matches, kind: str) -> list[Row]:
    """Return the records of near-duplicates between train and the items."""
    in_train = table.split[matches.late] == table.train
    with_item = table.split[matches.early] < table.dev
    wanted = in_train & with_item
    columns = [column[wanted].tolist() for column in matches]
    records = []
    for item, train, similarity in zip(*columns, strict=True):
        record = _record(table, train, item, kind)
        record["similarity"] = round(similarity, 4)
        records.append(record)
    return records


def _record(table: Table, train: int, item: int, kind: str) -> Row:
    """Return the record of a training row and an item.

    Both are given by their ranks.
    """
    return {
        "train": f"{table.id[train]:016x}",
        "set": table.names[table.split[item]],
        "item": f"{table.id[item]:016x}",
        "kind": kind,
    }


def nearest_rows(
    items: dict[str, str], train: Iterator[Row], size: int
) -> dict[str, tuple[float, str]]:
    """Return the largest overlap of each item with one training row.

    `items` maps ids to texts. The overlap is the share of the item's distinct n-grams of `size`
    words that the row contains; the id of the row is returned with it.
    """
    grams = {}
    owners = defaultdict(list)
    for item, text in items.items():
        grams[item] = set(ngrams(text, size))
        for gram in grams[item]:
            owners[gram].append(item)
    best = dict.fromkeys(items, (0.0, ""))
    for row in train:
        common = set(ngrams(full_text(row), size)) & owners.keys()
        shared = Counter(item for gram in common for item in owners[gram])
        for item, count in shared.items():
            overlap = (count / len(grams[item]), row["id"])
            best[item] = max(best[item], overlap)
    return best
