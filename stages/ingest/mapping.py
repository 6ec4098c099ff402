"""Filter the rows of a source, and map their columns."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from bula.errors import UserError
from bula.params import ChatColumns, Columns, Limits, Tabular
from bula.records import Row
from bula.text import mask
from stages.ingest.advice import advise
from stages.ingest.cells import (
    MISSING,
    find_cell,
    mapped_columns,
    message_columns,
    question_columns,
    read_answers,
    read_label,
    read_question,
    read_split,
)
from stages.ingest.conversations import read_turns
from stages.ingest.reading import FileRow, Refused
from stages.ingest.survey import Survey, check_questions, observe_row


def map_rows(
    source: Tabular, rows: Iterator[FileRow], limits: Limits, survey: Survey
) -> Iterator[Row]:
    """Yield the rows of a source under this project's names.

    Rows that do not pass the filter are left out, and rows that could not be read are yielded as
    refused. At most `source.limit` good rows are read (0 means all). Raise UserError if no row is
    good, if no row has an optional column, if all rows ask the same although an unread column
    differs, or if the source has too many rows.
    """
    good = 0
    filtered = 0
    first_refusal = ""
    absent = optional_columns(source)
    for file, (line, row) in _bounded(source.name, rows, limits.rows):
        mapped = _filter_and_map(row, source, survey)
        if mapped is None:
            filtered += 1
        elif isinstance(mapped, Refused):
            _check_single_row(source.name, file, line, mapped)
            first_refusal = first_refusal or f"{file}:{line}: {mapped.reason}"
            yield _place(source, file, line) | refusal(mapped)
        else:
            good += 1
            absent = {column for column in absent if find_cell(mapped.row, column) is MISSING}
            for part in mapped.parts:
                yield _place(source, file, line) | part
            if good == source.limit:
                break
    if not good:
        raise _no_good_row(source.name, first_refusal, filtered)
    _check_optional_columns(source.name, absent)
    check_questions(survey, source)


def _bounded(source_name: str, rows: Iterator[FileRow], most: int) -> Iterator[FileRow]:
    """Yield rows. Raise UserError if there are more than `most`."""
    for count, row in enumerate(rows, start=1):
        if count > most:
            what = f"it has more than {most} rows (ingest.limits.rows)"
            fix = "raise the limit, or set the source's `limit`"
            raise UserError(f"source {source_name}", what, fix)
        yield row


class Mapped(NamedTuple):
    """A row of a file, and the rows that ingest makes of it."""

    row: Row
    parts: list[Row]


def _filter_and_map(row: Row | Refused, source: Tabular, survey: Survey) -> Mapped | Refused | None:
    """Return the mapped row, or why it is refused.

    Return None if the row does not pass the filter.
    """
    if isinstance(row, Refused):
        return row
    if not passes(source, row):
        return None
    parts = map_columns(row, source, survey.counts)
    if isinstance(parts, Refused):
        return parts
    observe_row(survey, source, row, parts[0])
    return Mapped(row, parts)


def passes(source: Tabular, row: Row) -> bool:
    """Return whether a row passes the filter.

    A row that lacks a column of the filter passes here and is refused later.
    """
    for column, values in source.filter.items():
        cell = find_cell(row, column)
        if cell is not MISSING and str(cell) not in values:
            return False
    return True


def map_columns(row: Row, source: Tabular, counts: Counter[str]) -> list[Row] | Refused:
    """Return a row under this project's names, or why it is refused.

    A list of several answers or turns may become several rows. Cells and answers that are left out
    are added to `counts`. The reason names columns, and of values only an unknown split.
    """
    columns = source.columns
    if missing := _missing_columns(row, source):
        return Refused(f"no column {missing}", "")
    split = read_split(find_cell(row, columns.split), columns.split) if columns.split else None
    if isinstance(split, Refused):
        return split
    texts = (
        _map_conversation(row, columns)
        if isinstance(columns, ChatColumns)
        else _map_pair(row, columns, counts)
    )
    if isinstance(texts, Refused):
        return texts
    fields = _map_labels(row, columns, counts)
    if split:
        fields["split"] = split
    return [fields | part for part in texts]


def _missing_columns(row: Row, source: Tabular) -> str:
    """Return the required columns that a row lacks, and similar nested fields."""
    optional = optional_columns(source)
    required = [column for column in wanted_columns(source) if column not in optional]
    missing = [column for column in required if find_cell(row, column) is MISSING]
    if isinstance(source.columns, Columns) and not missing:
        parts = question_columns(source.columns)
        if all(find_cell(row, column) is MISSING for column in parts):
            missing = parts
    nested = [f"{name}.{column}" for column in missing for name in row if _holds(row[name], column)]
    text = ", ".join(missing)
    return f"{text}; an object of the row has it: write {', '.join(nested)}" if nested else text


def _holds(cell: object, field: str) -> bool:
    """Return whether a cell is an object with a field."""
    return isinstance(cell, dict) and field in cell


def _map_labels(row: Row, columns: Columns | ChatColumns, counts: Counter[str]) -> Row:
    """Return specialty and kind of a row, if the source has them."""
    labels: Row = {}
    for field, column in (("specialty", columns.specialty), ("kind", columns.kind)):
        if column:
            labels[field] = read_label(find_cell(row, column), field, counts)
    return labels


def _map_pair(row: Row, columns: Columns, counts: Counter[str]) -> list[Row] | Refused:
    """Return one row for each answer, or why the row is refused."""
    question = read_question(row, columns)
    if isinstance(question, Refused):
        return question
    answers = read_answers(row, columns, counts)
    if isinstance(answers, Refused):
        return answers
    return [{"question": question, "answer": answer} for answer in answers]


def _map_conversation(row: Row, columns: ChatColumns) -> list[Row] | Refused:
    """Return the turns of a row as rows, or why it is refused.

    In one row the last turn is the question and the answer, and the earlier turns are the history.
    """
    names = message_columns(columns)
    cells = [find_cell(row, name) for name in names]
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, dict):
            return Refused(advise(name, cell, "messages", columns), "")
    turns = read_turns(cells)
    if isinstance(turns, str):
        return Refused(f"{', '.join(names)}: {turns}", "")
    if columns.turns == "apart":
        return turns
    *history, last = turns
    if history:
        last = last | {"history": history}
    return [last]


def wanted_columns(source: Tabular) -> list[str]:
    """Return the columns of the mapping and of the filter."""
    return sorted({*mapped_columns(source.columns), *source.filter})


def optional_columns(source: Tabular) -> set[str]:
    """Return the mapped columns that single rows may lack."""
    columns = source.columns
    optional = {columns.specialty, columns.kind, columns.split}
    if isinstance(columns, Columns):
        optional.add(columns.context)
        if isinstance(columns.question, list) and len(columns.question) > 1:
            optional.update(columns.question)
    # An empty name means that the source has no such column.
    optional.discard("")
    return optional


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
