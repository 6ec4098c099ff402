"""Write splits, quarantine and evidence, and compute the metrics."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
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
from stages.preprocess.few_shot import write_few_shot
from stages.preprocess.minhash import Indices
from stages.preprocess.parts import full_text
from stages.preprocess.splits import SPLITS
from stages.preprocess.table import Table, rows_at

BIN_TOKENS = 32
OVERLAP_WORDS = 5
REPAIRS = (
    *("html_stripped", "mojibake_repaired", "escapes_repaired", "escapes_left"),
    *("answers_truncated", "answers_split"),
)
PLOTTED_COLUMNS = {
    "shared run of words": "items_shared_run",
    "near-duplicate": "items_near_duplicate",
}
# The metric's name is the text of a reason before the first of these separators.
PARTICULARS = (":", " (", " as ", " of ", " with ")

SplitRanks = dict[str, Indices]
Metrics = dict[str, dict[str, int | float]]
PlotRow = dict[str, int | str]


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
    """Write the splits, evidence, card and quarantine.

    Return the ranks written and the metrics. Raise UserError if a split is empty.
    """
    table = outcome.table
    decision = outcome.decision
    kept = kept_ranks(table, decision, params.preprocess.train_limit)
    reasons: Counter[str] = Counter()
    refused = quarantine_rows(table, decision, work, outcome.parts)
    write_rows(quarantine, _count_reasons(refused, reasons))
    _check_splits(kept, quarantine, reasons)
    _check_ids(table, kept)
    sources: Counter[str] = Counter()
    metrics = _split_metrics(table, kept)
    metrics["train"]["beyond_limit"] = _rows_beyond_limit(table, decision, kept)
    with staged(clean) as temporary:
        _write_splits(temporary, table, work, kept, sources)
        write_few_shot(temporary, table.tokens[kept["train"]].tolist(), params)
        _write_evidence(temporary, decision, tasks)
        overlaps = _write_overlaps(temporary, params.preprocess.overlap_items)
        for name, overlap in overlaps.items():
            metrics[name]["overlap_5gram_largest"] = overlap
        metrics.update(_row_metrics(outcome.counts, reasons))
        card = data_set_card(params, Figures(sources, metrics, decision.matrix), kept)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return kept, metrics


def kept_ranks(table: Table, decision: Decision, limit: int) -> SplitRanks:
    """Return the ranks to write by split.

    At most `limit` training rows are kept.
    """
    kept: SplitRanks = {}
    for split in SPLITS:
        in_split = table.split == table.names.index(split)
        kept[split] = numpy.flatnonzero(decision.alive & in_split)
    kept["train"] = kept["train"][:limit]
    return kept


def quarantine_rows(table: Table, decision: Decision, work: Path, parts: int) -> Iterator[Row]:
    """Yield the quarantine records.

    Rows refused by a filter come first, in the order of the sources; rows refused because of
    another row follow.
    """
    for number in range(parts):
        yield from read_rows(work / f"{number}.refused.jsonl")
    ranks = numpy.array(sorted(decision.refused), dtype=numpy.int64)
    for rank, row in zip(ranks.tolist(), rows_at(table, work, ranks), strict=True):
        refused = dict(row["example"])
        refused["file"] = row["file"]
        refused["line"] = row["line"]
        yield refuse(refused, decision.refused[rank])


def _count_reasons(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    """Yield the records, and count their reasons.

    A reason is counted as the name of a metric, without its particulars.
    """
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
    """Write contamination.jsonl.

    It lists the items found in train, and benchmark items with two equal options.
    """
    records = list(decision.evidence)
    for path in benchmarks:
        for line in duplicate_options(path):
            record = {
                "set": path.stem,
                "line": line,
                "kind": "two options are the same",
            }
            records.append(record)
    write_rows(folder / "contamination.jsonl", records)


def _write_overlaps(folder: Path, max_items: int) -> dict[str, float]:
    """Write overlap.jsonl, and return the largest overlap by set.

    The first `max_items` items of each set are compared with all training rows.
    """
    texts: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in SET_NAMES:
        items = read_rows(folder / split_path(name))
        for item in islice(items, max_items):
            texts[item["id"]] = full_text(item)
            owner[item["id"]] = name
    train = read_rows(folder / split_path("train"))
    nearest = nearest_rows(texts, train, OVERLAP_WORDS)
    largest: dict[str, float] = dict.fromkeys(SET_NAMES, 0.0)
    rows: list[Row] = []
    for identity, (share, train_id) in nearest.items():
        row = {
            "id": identity,
            "overlap_5gram": share,
            "nearest": train_id,
        }
        rows.append(row)
        own_set = owner[identity]
        largest[own_set] = max(largest[own_set], share)
    write_rows(folder / "overlap.jsonl", rows)
    return largest


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
    in_train = table.split == table.train
    return int(numpy.count_nonzero(decision.alive & in_train)) - len(kept["train"])


def _row_metrics(counts: Counter[str], reasons: Counter[str]) -> Metrics:
    """Return the counts of repairs, personal data and refusals."""
    repaired: dict[str, int | float] = {}
    for name in REPAIRS:
        repaired[name] = counts[f"repaired {name}"]
    privacy: dict[str, int | float] = {}
    for name in ("rows", *PERSONAL_DATA_KINDS):
        privacy[name] = counts[f"privacy {name}"]
    quarantine: dict[str, int | float] = {"rows": reasons.total()}
    quarantine.update(sorted(reasons.items()))
    return {
        "repaired": repaired,
        "privacy": privacy,
        "quarantine": quarantine,
    }


def contamination_metrics(decision: Decision, benchmarks: list[Path]) -> dict[str, dict[str, int]]:
    """Return the matrix as metrics.

    Each benchmark has the number of its items with equal options too.
    """
    metrics = {name: dict(counts) for name, counts in decision.matrix.items()}
    for path in benchmarks:
        lines = duplicate_options(path)
        metrics[path.stem]["duplicate_option_items"] = len(lines)
    return metrics


def contamination_plot(decision: Decision) -> list[PlotRow]:
    """Return plot rows with the items of each set found in train."""
    rows: list[PlotRow] = []
    for group, column in PLOTTED_COLUMNS.items():
        for name, counts in decision.matrix.items():
            row: PlotRow = {
                "group": group,
                "set": name,
                "items": counts[column],
            }
            rows.append(row)
    return rows


def length_table(table: Table, kept: SplitRanks) -> list[PlotRow]:
    """Return the rows of a histogram of lengths.

    A row contains the split (group), the lower edge of the bin in tokens and the examples.
    """
    rows: list[PlotRow] = []
    for split, ranks in kept.items():
        bins = table.tokens[ranks] // BIN_TOKENS
        counts = Counter(bins.tolist())
        for number in sorted(counts):
            row: PlotRow = {
                "group": split,
                "tokens": number * BIN_TOKENS,
                "examples": counts[number],
            }
            rows.append(row)
    return rows
