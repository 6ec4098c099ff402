"""Filter the rows of a source, and map their columns."""

import math
from collections.abc import Iterator

from bula.errors import UserError
from bula.params import ChatColumns, Limits, Tabular
from bula.records import Row
from bula.text import mask
from stages.ingest.conversations import read_turns
from stages.ingest.reading import FileRow, Refused


def map_rows(source: Tabular, rows: Iterator[FileRow], limits: Limits) -> Iterator[Row]:
    """Yield the rows of a source under this project's names.

    Rows that do not pass the filter are left out, and rows that could not be read are yielded as
    refused. At most `source.limit` good rows are yielded (0 means all). Raise UserError if no row
    is good, if no row has an optional column, or if the source has too many rows.
    """
    good = 0
    filtered = 0
    first_refusal = ""
    absent = optional_columns(source)
    for file, (line, row) in _bounded(source.name, rows, limits.rows):
        mapped = _filter_and_map(row, source)
        if mapped is None:
            filtered += 1
        elif isinstance(mapped, Refused):
            _check_single_row(source.name, file, line, mapped)
            first_refusal = first_refusal or f"{file}:{line}: {mapped.reason}"
            yield _place(source, file, line) | refusal(mapped)
        else:
            good += 1
            absent -= set(row)
            yield _place(source, file, line) | mapped
            if good == source.limit:
                break
    if not good:
        raise _no_good_row(source.name, first_refusal, filtered)
    _check_optional_columns(source.name, absent)


def _bounded(source_name: str, rows: Iterator[FileRow], most: int) -> Iterator[FileRow]:
    """Yield rows. Raise UserError if there are more than `most`."""
    for count, row in enumerate(rows, start=1):
        if count > most:
            what = f"it has more than {most} rows (ingest.limits.rows)"
            fix = "raise the limit, or set the source's `limit`"
            raise UserError(f"source {source_name}", what, fix)
        yield row


def _filter_and_map(row: Row | Refused, source: Tabular) -> Row | Refused | None:
    """Return the mapped row, or why it is refused.

    Return None if the row does not pass the filter.
    """
    if isinstance(row, Refused):
        return row
    if not passes(source, row):
        return None
    return map_columns(row, source)


def passes(source: Tabular, row: Row) -> bool:
    """Return whether a row passes the filter.

    A row that lacks a column of the filter passes here and is refused later.
    """
    for column, values in source.filter.items():
        if column in row and str(row[column]) not in values:
            return False
    return True


def map_columns(row: Row, source: Tabular) -> Row | Refused:
    """Return a row under this project's names, or why it is refused.

    The reason names columns and never values.
    """
    optional = optional_columns(source)
    required = [column for column in wanted_columns(source) if column not in optional]
    missing = ", ".join(column for column in required if column not in row)
    if missing:
        return Refused(f"no column {missing}", "")
    columns = _mapped_columns(source)
    if isinstance(source.columns, ChatColumns):
        return _map_conversation(row, columns)
    for field in ("question", "answer"):
        cell = row[columns[field]]
        if isinstance(cell, list | dict):
            return Refused(f"{columns[field]} is a {type(cell).__name__} and not text", "")
    return {field: plain_cell(row.get(column)) for field, column in columns.items()}


def _map_conversation(row: Row, columns: dict[str, str]) -> Row | Refused:
    """Return the turns of a row, or why it is refused.

    The last turn is the question and the answer, and the earlier turns are the history.
    """
    column = columns.pop("messages")
    turns = read_turns(row[column])
    if isinstance(turns, str):
        return Refused(f"{column}: {turns}", "")
    mapped: Row = {field: plain_cell(row.get(name)) for field, name in columns.items()}
    *history, last = turns
    mapped |= last
    if history:
        mapped["history"] = history
    return mapped


def wanted_columns(source: Tabular) -> list[str]:
    """Return the columns of the mapping and of the filter."""
    mapped = _mapped_columns(source).values()
    return sorted({*mapped, *source.filter})


def optional_columns(source: Tabular) -> set[str]:
    """Return the mapped columns that single rows may lack."""
    columns = {source.columns.specialty, source.columns.kind}
    # An empty name means that the source has no such column.
    columns.discard("")
    return columns


def _mapped_columns(source: Tabular) -> dict[str, str]:
    """Return the source's column for each of this project's fields.

    A field without a column (an empty name in params.yaml) is left out.
    """
    columns: dict[str, str] = source.columns.model_dump()
    return {field: column for field, column in columns.items() if column}


def plain_cell(value: object) -> str | int | float | bool | None:
    """Return a cell as a JSON scalar.

    NaN, infinities, lists and objects become null.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) else None


def _place(source: Tabular, file: str, line: int) -> Row:
    """Return the fields for a row's origin and its split."""
    place: Row = {"file": file, "line": line}
    if source.role != "split":
        place["split"] = source.role
    return place


def refusal(refused: Refused) -> Row:
    """Return the record of a refused row, without its words."""
    return {"refused": refused.reason, "excerpt": mask(refused.text)}


def _check_single_row(source_name: str, file: str, line: int, refused: Refused) -> None:
    """Raise UserError if a complete file is refused (line 0).

    The number of lost rows is then unknown.
    """
    if line == 0:
        what = f"the file cannot be read: {refused.reason}"
        raise UserError(f"source {source_name}: {file}", what, "repair the file or remove it")


def _no_good_row(source_name: str, first_refusal: str, filtered: int) -> UserError:
    """Return the error of a source without a good row."""
    reason = "it contains no row"
    if filtered:
        reason = "its filter passes no row"
    if first_refusal:
        reason = first_refusal
    what = f"no row could be used: {reason}"
    return UserError(
        f"source {source_name}", what, "correct the source in params.yaml, or its files"
    )


def _check_optional_columns(source_name: str, absent: set[str]) -> None:
    """Raise UserError if no row has one of the optional columns."""
    if absent:
        what = f"no row has a column {', '.join(sorted(absent))}"
        raise UserError(f"source {source_name}", what, "correct its `columns` in params.yaml")
