"""Write the splits, the quarantine and the evidence of contamination, and compute the metrics."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy

from bula.errors import UserError
from bula.files import staged
from bula.params import Params
from bula.privacy import PERSONAL_DATA_KINDS
from bula.records import SET_NAMES, Row, read_rows, write_rows
from stages.preprocess.benchmarks import duplicate_options
from stages.preprocess.card import Figures, data_set_card, split_path
from stages.preprocess.clean import refuse
from stages.preprocess.contamination import nearest_rows
from stages.preprocess.deduplicate import Decision
from stages.preprocess.minhash import Indices
from stages.preprocess.parts import full_text
from stages.preprocess.splits import SPLITS
from stages.preprocess.table import Table, rows_at

BIN_TOKENS = 32
OVERLAP_WORDS = 5
REPAIRS = ("html_stripped", "mojibake_repaired")
# A reason's particulars start at one of these; the metric's name is the text before them.
PARTICULARS = (":", " (", " as ", " of ", " with ")

SplitRanks = dict[str, Indices]
Metrics = dict[str, dict[str, int | float]]


class Outcome(NamedTuple):
    """The result of cleaning and de-duplication, before anything is written."""

    table: Table
    decision: Decision
    counts: Counter[str]
    """Repairs and personal data."""
    parts: int
    """Number of parts of raw rows in the work folder."""


def write_clean(
    clean: Path, quarantine: Path, params: Params, outcome: Outcome, work: Path, tasks: list[Path]
) -> tuple[SplitRanks, Metrics]:
    """Write splits, evidence, card and quarantine; return the ranks written and the metrics.

    UserError if a split is empty.
    """
    table, decision, counts, parts = outcome
    kept = kept_ranks(table, decision, params.preprocess.train_limit)
    reasons: Counter[str] = Counter()
    refused = quarantine_rows(table, decision, work, parts)
    write_rows(quarantine, _count_reasons(refused, reasons))
    _check_splits(kept, quarantine, reasons)
    _check_ids(table, kept)
    sources: Counter[str] = Counter()
    with staged(clean) as temporary:
        _write_splits(temporary, table, work, kept, sources)
        _write_evidence(temporary, decision, tasks)
        metrics = _split_metrics(table, kept)
        metrics["train"]["beyond_limit"] = _rows_beyond_limit(table, decision, kept)
        overlaps = _write_overlaps(temporary, params.preprocess.overlap_items)
        for name, overlap in overlaps.items():
            metrics[name]["overlap_5gram_largest"] = overlap
        metrics.update(_row_metrics(counts, reasons))
        card = data_set_card(params, Figures(sources, metrics, decision.matrix), kept)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return kept, metrics


def kept_ranks(table: Table, decision: Decision, limit: int) -> SplitRanks:
    """Return the ranks to write by split, with at most `limit` training rows."""
    kept = {}
    for split in SPLITS:
        in_split = table.split == table.names.index(split)
        kept[split] = numpy.flatnonzero(decision.alive & in_split)
    kept["train"] = kept["train"][:limit]
    return dict(kept)


def quarantine_rows(table: Table, decision: Decision, work: Path, parts: int) -> Iterator[Row]:
    """Yield the quarantine records.

    Rows refused by a filter come first, in the order of the sources; rows refused because of
    another row follow.
    """
    for number in range(parts):
        yield from read_rows(work / f"{number}.refused.jsonl")
    ranks = numpy.array(sorted(decision.refused), dtype=numpy.int64)
    for rank, row in zip(ranks.tolist(), rows_at(table, work, ranks), strict=True):
        origin = {"file": row["file"], "line": row["line"]}
        yield refuse(row["example"] | origin, decision.refused[rank])


def _count_reasons(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    """Pass records on, and count the reason of each as a metric's name, without particulars."""
    for row in rows:
        reason = row["reason"]
        for separator in PARTICULARS:
            reason = reason.split(separator)[0]
        counts["_".join(reason.lower().split())] += 1
        yield row


def _check_splits(kept: SplitRanks, quarantine: Path, reasons: Counter[str]) -> None:
    """Raise UserError if a split is empty."""
    empty = [split for split, ranks in kept.items() if not len(ranks)]
    if empty:
        raise UserError(
            "preprocess",
            f"no examples left for {', '.join(empty)}; "
            f"{quarantine} says why {reasons.total()} rows were refused",
            "add rows, or change the shares and filters of preprocess",
        )


def _check_ids(table: Table, kept: SplitRanks) -> None:
    """Raise ValueError if an id is kept twice, which de-duplication rules out."""
    ids = numpy.concatenate([table.id[ranks] for ranks in kept.values()])
    if len(numpy.unique(ids)) < len(ids):
        raise ValueError("preprocess kept an id twice")


def _write_splits(
    folder: Path, table: Table, work: Path, kept: SplitRanks, sources: Counter[str]
) -> None:
    """Write every split, and count the rows of each source in `sources`."""

    def examples(split: str) -> Iterator[Row]:
        for row in rows_at(table, work, kept[split]):
            sources[row["example"]["source"]] += 1
            yield row["example"]

    for split in SPLITS:
        write_rows(folder / split_path(split), examples(split))


def _write_evidence(folder: Path, decision: Decision, benchmarks: list[Path]) -> None:
    """Write contamination.jsonl: items found in train, and items with two equal options."""
    records = list(decision.evidence)
    for path in benchmarks:
        for line in duplicate_options(path):
            records.append({"set": path.stem, "line": line, "kind": "two options are the same"})
    write_rows(folder / "contamination.jsonl", records)


def _write_overlaps(folder: Path, max_items: int) -> dict[str, float]:
    """Write overlap.jsonl, and return the largest overlap of each validation set.

    The first `max_items` items of each set are compared with all training rows.
    """
    texts: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in SET_NAMES:
        items = list(read_rows(folder / split_path(name)))[:max_items]
        texts.update((item["id"], full_text(item)) for item in items)
        owner.update((item["id"], name) for item in items)
    best = nearest_rows(texts, read_rows(folder / split_path("train")), OVERLAP_WORDS)
    largest = dict.fromkeys(SET_NAMES, 0.0)
    rows: list[Row] = []
    for item, (share, nearest) in best.items():
        rows.append({"id": item, "overlap_5gram": share, "nearest": nearest})
        largest[owner[item]] = max(largest[owner[item]], share)
    write_rows(folder / "overlap.jsonl", rows)
    return dict(largest)


def _split_metrics(table: Table, kept: SplitRanks) -> Metrics:
    """Return the number of examples and their tokens by split."""
    metrics: Metrics = {}
    for split, ranks in kept.items():
        tokens = table.tokens[ranks]
        metrics[split] = {
            "examples": len(ranks),
            "tokens": int(tokens.sum()),
            "tokens_longest": int(tokens.max()),
        }
    return metrics


def _rows_beyond_limit(table: Table, decision: Decision, kept: SplitRanks) -> int:
    """Return the number of training rows that only `train_limit` leaves out."""
    in_train = table.split == table.names.index("train")
    return int(numpy.count_nonzero(decision.alive & in_train)) - len(kept["train"])


def _row_metrics(counts: Counter[str], reasons: Counter[str]) -> Metrics:
    """Return the counts of repairs, personal data by kind and refusals by reason."""
    privacy_keys = ("rows", *PERSONAL_DATA_KINDS)
    return {
        "repaired": {name: counts[f"repaired {name}"] for name in REPAIRS},
        "privacy": {name: counts[f"privacy {name}"] for name in privacy_keys},
        "quarantine": {"rows": reasons.total(), **dict(sorted(reasons.items()))},
    }


def contamination_metrics(decision: Decision, benchmarks: list[Path]) -> dict[str, dict[str, int]]:
    """Return the matrix, with the number of items of each benchmark that have equal options."""
    metrics = dict(decision.matrix)
    for path in benchmarks:
        duplicates = {"duplicate_option_items": len(duplicate_options(path))}
        metrics[path.stem] = decision.matrix[path.stem] | duplicates
    return metrics


def contamination_plot(decision: Decision) -> list[dict[str, int | str]]:
    """Return plot rows: the items of each set found in train, by how they were found."""
    columns = {"shared run of words": "items_shared_run", "near-duplicate": "items_near_duplicate"}
    rows: list[dict[str, int | str]] = []
    for group, column in columns.items():
        for name, figures in decision.matrix.items():
            rows.append({"group": group, "set": name, "items": figures[column]})
    return rows


def length_table(table: Table, kept: SplitRanks) -> list[dict[str, int | str]]:
    """Return histogram rows: split (group), lower edge of the bin in tokens, examples."""
    rows: list[dict[str, int | str]] = []
    for split, ranks in kept.items():
        edges = table.tokens[ranks] // BIN_TOKENS * BIN_TOKENS
        for edge, count in sorted(Counter(edges.tolist()).items()):
            rows.append({"group": split, "tokens": edge, "examples": count})
    return rows
