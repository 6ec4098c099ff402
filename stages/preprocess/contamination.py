"""Find items of the validation sets and benchmarks in train.

An item is found if its text stands in a training row, or as a near-duplicate.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from operator import itemgetter

import numpy

from bula.records import Row
from bula.text import ngrams
from stages.preprocess.minhash import Flags
from stages.preprocess.near_duplicates import Matches
from stages.preprocess.parts import full_text
from stages.preprocess.runs import SharedRuns
from stages.preprocess.table import Table


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
    table: Table, matches: dict[str, Matches], runs: SharedRuns
) -> list[Row]:
    """Return one record per contaminated training row and item.

    The records are for people who check what the matrix counts. `matches` has the pairs by kind.
    """
    records = []
    for kind, pairs in matches.items():
        records += _match_records(table, pairs, kind)
    columns = (runs.rows.tolist(), runs.item.tolist(), runs.share.tolist())
    for train, item, share in zip(*columns, strict=True):
        record = _record(table, train, item, "shared runs of words")
        record["share"] = round(share, 4)
        records.append(record)
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
