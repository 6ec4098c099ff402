"""Count what each source loses, and stop if it is too much.

A row is lost if it was refused for any reason, contamination and repetition included. Rows beyond
`train_limit` are set aside and not lost. A lost row that repeats a training row of another source
does not count for the limit, because its content stays.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy

from bula.errors import UserError
from bula.escaping import terminal
from bula.params import Params, Tabular
from bula.records import SET_NAMES, Row
from stages.preprocess.minhash import Indices
from stages.preprocess.table import Table

# The name of a reason is its text before the first of these separators.
PARTICULARS = (":", " (", " as ", " of ", " with ")
# The reasons that messages name, and the refused rows that stand for each of them.
NAMED_REASONS = 3
NAMED_ROWS = 2
# The names of the reasons by which a row repeats a row that stays.
REPEATS = ("same text", "near-duplicate text")
CHUNK_BYTES = 1_000_000
# The order in which tables have the splits.
COLUMNS = ("train", "dev", *SET_NAMES)

Figures = dict[str, int | float]


class Refusals(NamedTuple):
    """The refused rows of one source."""

    reasons: Counter[str]
    """The number of rows by the name of the reason."""
    rows: dict[str, list[Row]]
    """The first quarantine records of each reason."""
    copies: Counter[str]
    """The number of rows that repeat a training row of another source, by that source."""


class Losses(NamedTuple):
    """The rows of one source that are kept, set aside and lost."""

    source: str
    rows_in: int
    """Rows that ingest wrote, unreadable rows included."""
    kept: dict[str, int]
    """Rows written, by split."""
    set_aside: int
    """Training rows beyond `train_limit`."""
    refusals: Refusals

    @property
    def lost(self) -> int:
        """Return the number of refused rows."""
        return self.refusals.reasons.total()

    @property
    def outcomes(self) -> int:
        """Return the number of rows kept, set aside and lost.

        It equals `rows_in` unless one row became several examples.
        """
        return sum(self.kept.values()) + self.set_aside + self.lost

    @property
    def copies(self) -> int:
        """Return the number of lost rows that repeat training rows of other sources."""
        return self.refusals.copies.total()

    @property
    def share(self) -> float:
        """Return the share of the source's rows that were refused."""
        return self.lost / self.outcomes

    @property
    def share_without_copies(self) -> float:
        """Return the share of the source's rows whose content is lost."""
        return (self.lost - self.copies) / self.outcomes

    @property
    def largest(self) -> list[tuple[str, int]]:
        """Return the most frequent reasons with their numbers of rows."""
        reasons = self.refusals.reasons.items()
        return sorted(reasons, key=lambda reason: (-reason[1], reason[0]))[:NAMED_REASONS]


def count_lines(path: Path) -> int:
    """Return the number of line feeds in a file."""
    lines = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            lines += chunk.count(b"\n")
    return lines


def reason_name(reason: str) -> str:
    """Return a reason without its particulars."""
    for separator in PARTICULARS:
        reason = reason.split(separator)[0]
    return reason.lower()


def empty_refusals() -> defaultdict[str, Refusals]:
    """Return the refusals of each source before the first row was refused."""
    return defaultdict(lambda: Refusals(Counter(), defaultdict(list), Counter()))


def count_refusals(rows: Iterable[Row], found: dict[str, Refusals]) -> Iterator[Row]:
    """Yield quarantine records, and add each to the refusals of its source."""
    for row in rows:
        name = reason_name(row["reason"])
        refusals = found[row["source"]]
        refusals.reasons[name] += 1
        first_rows = refusals.rows[name]
        if len(first_rows) < NAMED_ROWS:
            first_rows.append(row)
        if name in REPEATS and (source := _copied_source(row)):
            refusals.copies[source] += 1
        yield row


def _copied_source(row: Row) -> str:
    """Return the other source that a refused row repeats, or an empty text.

    A training row that was refused itself keeps no content.
    """
    decider = row.get("decided_by") or {}
    source = str(decider.get("source", ""))
    stays = decider.get("set") == "train" and not decider.get("refused")
    is_copy = stays and source != row["source"]
    return source if is_copy else ""


def source_losses(
    table: Table,
    kept: dict[str, Indices],
    set_aside: Indices,
    sources: list[str],
    rows_in: dict[str, int],
    refusals: dict[str, Refusals],
) -> list[Losses]:
    """Return the losses of each source.

    `kept` and `set_aside` contain ranks, `sources` the source of each part of raw rows.
    """
    numbers = {name: number for number, name in enumerate(rows_in)}
    source_of_part = numpy.array([numbers[name] for name in sources])

    def by_source(ranks: Indices) -> list[int]:
        owners = source_of_part[table.part[ranks]]
        counts: list[int] = numpy.bincount(owners, minlength=len(numbers)).tolist()
        return counts

    counted = {split: by_source(kept[split]) for split in COLUMNS}
    beyond = by_source(set_aside)
    losses = []
    for name, number in numbers.items():
        losses.append(
            Losses(
                source=name,
                rows_in=rows_in[name],
                kept={split: counts[number] for split, counts in counted.items()},
                set_aside=beyond[number],
                refusals=refusals[name],
            )
        )
    return losses


def loss_metrics(losses: list[Losses]) -> dict[str, Figures]:
    """Return one group of figures for each source."""
    metrics: dict[str, Figures] = {}
    for source in losses:
        figures: Figures = {
            "rows_in": source.rows_in,
            **source.kept,
            "set_aside": source.set_aside,
            "lost": source.lost,
            "lost_share": source.share,
            "copies": source.copies,
        }
        for reason, count in sorted(source.refusals.reasons.items()):
            figures[f"lost_{'_'.join(reason.split())}"] = count
        metrics[f"source_{source.source}"] = figures
    return metrics


def largest_reasons(source: Losses) -> str:
    """Return the most frequent reasons as text, or nothing if no row was lost."""
    return ", ".join(f"{reason} ({count})" for reason, count in source.largest)


def loss_rows(losses: list[Losses]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return the head and the rows of the table of losses."""
    head = ("source", "rows in", *COLUMNS, "set aside", "lost", "largest reasons")
    rows: list[tuple[object, ...]] = []
    for source in losses:
        counts = (source.rows_in, *source.kept.values(), source.set_aside, source.lost)
        rows.append((source.source, *counts, largest_reasons(source) or "none"))
    return head, rows


def source_line(source: Losses, train_limit: int) -> str:
    """Return one sentence on the rows of a source."""
    kept = sum(source.kept.values())
    line = f"{source.rows_in} rows in, {kept} kept, {source.lost} lost ({source.share:.1%})"
    if source.set_aside:
        line += f", {source.set_aside} set aside by preprocess.train_limit ({train_limit})"
    if source.lost:
        line += f"; most for: {largest_reasons(source)}"
    for other, count in sorted(source.refusals.copies.items()):
        line += f"; {count} of the lost rows repeat training rows of source {other}"
    return f"source {source.source}: {line}"


def print_losses(losses: list[Losses], train_limit: int) -> None:
    """Print a line for each source, and the table of all sources."""
    for source in losses:
        print(terminal(f"preprocess: {source_line(source, train_limit)}"))
    head, rows = loss_rows(losses)
    table = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print(terminal("  ".join(padded).rstrip()))


def check_losses(losses: list[Losses], most: float, quarantine: Path) -> None:
    """Raise UserError if sources lost more than a share of `most`.

    The message has the most frequent reasons of each such source, with masked rows.
    """
    over = [source for source in losses if source.share_without_copies > most]
    if not over:
        return
    lines = ["more rows are lost than preprocess.max_loss_share allows"]
    for source in over:
        lost = source.lost - source.copies
        share = f"{source.share_without_copies:.1%} > {most:.1%}"
        lines.append(f"source {source.source} lost {lost} of {source.outcomes} rows ({share})")
        for reason, count in source.largest:
            lines.append(f"  {reason}: {count} rows, such as")
            lines += [f"    {_example_line(row)}" for row in source.refusals.rows[reason]]
    raise UserError(
        "preprocess",
        "\n".join(lines),
        "mend the cause, or raise preprocess.max_loss_share; "
        f"{quarantine} lists all refused rows, and `python -m bula why FILE:LINE` shows one",
    )


def _example_line(row: Row) -> str:
    """Return a quarantine record as one line: place, reason and masked text."""
    return f"{row['file']}:{row['line']}: {row['reason']}: {row['excerpt']!r}"


def check_splits(
    kept: dict[str, Indices], losses: list[Losses], params: Params, quarantine: Path
) -> None:
    """Raise UserError with the remedies if a split is empty."""
    empty = [split for split, ranks in kept.items() if not len(ranks)]
    if not empty:
        return
    rows = sum(source.rows_in for source in losses)
    lost = sum(source.lost for source in losses)
    names = ", ".join(empty)
    what = f"no examples left for {names}; none of the {rows} rows was refused"
    if lost:
        what = f"no examples left for {names}; {quarantine} says why {lost} of {rows} rows are lost"
    elif _has_drawn_rows(params):
        what += f", but the draw by hash gave none to {names}"
    remedies = ["add rows or mend the refused rows" if lost else "add rows"]
    remedies.append(f"add a source with `role: {empty[0]}`")
    if _has_drawn_rows(params):
        remedies.append(_share_remedy(empty, params))
    raise UserError("preprocess", what, ", ".join(remedies[:-1]) + f", or {remedies[-1]}")


def _has_drawn_rows(params: Params) -> bool:
    """Return whether a hash chooses the split of a source's rows."""
    sources = params.ingest.sources
    return any(isinstance(source, Tabular) and source.role == "split" for source in sources)


def _share_remedy(empty: list[str], params: Params) -> str:
    """Return which shares fill the empty splits."""
    settings = params.preprocess
    if "train" in empty:
        return "lower preprocess.dev_share and preprocess.validation_share"
    shares = []
    if "dev" in empty:
        shares.append(f"preprocess.dev_share (now {settings.dev_share:g})")
    if set(empty) - {"dev"}:
        shares.append(f"preprocess.validation_share (now {settings.validation_share:g})")
    return f"raise {' and '.join(shares)}"
