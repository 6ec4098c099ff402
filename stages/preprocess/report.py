"""Write splits, quarantine and evidence, and compute the metrics."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy

from bula.files import staged
from bula.params import Params
from bula.privacy import PERSONAL_DATA_KINDS
from bula.records import SET_NAMES, Row, read_rows, write_rows
from stages.preprocess.benchmarks import duplicate_options
from stages.preprocess.card import Figures, data_set_card, split_path
from stages.preprocess.clean import refuse
from stages.preprocess.contamination import nearest_rows
from stages.preprocess.deciders import deciders
from stages.preprocess.deduplicate import Decision
from stages.preprocess.few_shot import write_few_shot
from stages.preprocess.losses import (
    Losses,
    check_losses,
    check_splits,
    count_refusals,
    empty_refusals,
    loss_metrics,
    print_losses,
    source_losses,
)
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
    sources: list[str]
    """The source of each part of raw rows."""
    rows_in: dict[str, int]
    """The number of raw rows of each source."""


def write_clean(
    clean: Path, quarantine: Path, params: Params, outcome: Outcome, work: Path, tasks: list[Path]
) -> tuple[SplitRanks, Metrics]:
    """Write the splits, evidence, card and quarantine.

    Return the ranks written and the metrics. Raise UserError if a source lost too many rows or a
    split is empty. Only the quarantine is written then.
    """
    table = outcome.table
    decision = outcome.decision
    kept = kept_ranks(table, decision, params.preprocess.train_limit)
    losses = write_quarantine(quarantine, outcome, kept, work)
    print_losses(losses, params.preprocess.train_limit)
    check_losses(losses, params.preprocess.max_loss_share, quarantine)
    check_splits(kept, losses, params, quarantine)
    _check_ids(table, kept)
    sources: Counter[str] = Counter()
    metrics = _split_metrics(table, kept)
    metrics["train"]["beyond_limit"] = sum(source.set_aside for source in losses)
    with staged(clean) as temporary:
        _write_splits(temporary, table, work, kept, sources)
        write_few_shot(temporary, table.tokens[kept["train"]].tolist(), params)
        _write_evidence(temporary, decision, tasks)
        overlaps = _write_overlaps(temporary, params.preprocess.overlap_items)
        for name, overlap in overlaps.items():
            metrics[name]["overlap_5gram_largest"] = overlap
        metrics.update(_row_metrics(outcome.counts, losses))
        card = data_set_card(params, Figures(sources, metrics, decision.matrix, losses), kept)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return kept, metrics


def write_quarantine(path: Path, outcome: Outcome, kept: SplitRanks, work: Path) -> list[Losses]:
    """Write the refused rows, and return the losses of each source."""
    table = outcome.table
    refusals = empty_refusals()
    records = quarantine_rows(table, outcome.decision, work, outcome.parts)
    write_rows(path, count_refusals(records, refusals))
    return source_losses(
        table,
        kept,
        _ranks_beyond_limit(table, outcome.decision, kept),
        outcome.sources,
        outcome.rows_in,
        refusals,
    )


def kept_ranks(table: Table, decision: Decision, limit: int) -> SplitRanks:
    """Return the ranks to write by split.

    At most `limit` training rows are kept; 0 means all.
    """
    kept: SplitRanks = {}
    for split in SPLITS:
        in_split = table.split == table.names.index(split)
        kept[split] = numpy.flatnonzero(decision.alive & in_split)
    if limit:
        kept["train"] = kept["train"][:limit]
    return kept


def quarantine_rows(table: Table, decision: Decision, work: Path, parts: int) -> Iterator[Row]:
    """Yield the quarantine records.

    Rows refused by a filter come first, in the order of the sources; rows refused because of
    another row follow, with the origin of that row as `decided_by`.
    """
    for number in range(parts):
        yield from read_rows(work / f"{number}.refused.jsonl")
    ranks = numpy.array(sorted(decision.refused), dtype=numpy.int64)
    reasons = [decision.refused[rank] for rank in ranks.tolist()]
    columns = (rows_at(table, work, ranks), reasons, deciders(table, work, reasons, decision.alive))
    for row, reason, decider in zip(*columns, strict=True):
        place = {"file": row["file"], "line": row["line"]}
        record = refuse(row["example"] | place, reason)
        if decider:
            record["decided_by"] = decider
        yield record


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


def _ranks_beyond_limit(table: Table, decision: Decision, kept: SplitRanks) -> Indices:
    """Return the ranks of the training rows that only `train_limit` leaves out."""
    in_train = table.split == table.train
    ranks: Indices = numpy.flatnonzero(decision.alive & in_train)
    return ranks[len(kept["train"]) :]


def _row_metrics(counts: Counter[str], losses: list[Losses]) -> Metrics:
    """Return the counts of repairs, personal data and refusals, and of each source."""
    repaired: dict[str, int | float] = {}
    for name in REPAIRS:
        repaired[name] = counts[f"repaired {name}"]
    privacy: dict[str, int | float] = {}
    for name in ("rows", *PERSONAL_DATA_KINDS):
        privacy[name] = counts[f"privacy {name}"]
    reasons: Counter[str] = Counter()
    for source in losses:
        reasons += source.refusals.reasons
    quarantine: dict[str, int | float] = {"rows": reasons.total()}
    for reason, count in sorted(reasons.items()):
        quarantine["_".join(reason.split())] = count
    return {
        "repaired": repaired,
        "privacy": privacy,
        "quarantine": quarantine,
        **loss_metrics(losses),
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
