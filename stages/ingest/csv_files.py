"""Read CSV files with any usual delimiter, including damaged files."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bula.records import Row
from stages.ingest.headers import missing_columns, same_name, settle_names
from stages.ingest.reading import NumberedRow, ReadOptions, Refused, check_unique_columns
from stages.ingest.text_lines import NumberedLine, read_lines

DELIMITERS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'\s*"?sep=(?P<delimiter>\\t|[^\w\s"]|\t)"?\s*', re.IGNORECASE)
# A record may span lines, but a stray quote must not swallow the file.
RECORD_LINES = 1000


def read_csv(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the records of a CSV file.

    A quoted field may span lines. After a damaged record, reading continues at the line after the
    record's first line.
    """
    csv.field_size_limit(options.limits.row_bytes)
    lines = read_lines(path, options)
    ahead: list[NumberedLine] = []
    delimiters = _stated_delimiter(ahead, lines)
    number, header = _take_header(ahead, lines, options)
    if isinstance(header, Refused):
        yield number, header
        return
    delimiter, names = _read_header(header, delimiters, number, options)
    # Where a space follows every delimiter, it marks no text.
    join_text = f"{delimiter} " not in header
    while _line_ahead(ahead, lines, 0) is not None:
        number, line = ahead[0]
        record = take_record(ahead, lines, options.limits.row_bytes)
        row = _parse_row(line, record, delimiter, names)
        if isinstance(row, Refused) and join_text:
            row = _join_text("".join(record), delimiter, names, options) or row
        # Only a good record uses all its lines.
        used = len(record) if isinstance(row, dict) else 1
        del ahead[:used]
        if row is not None:
            yield number, row


def find_delimiter(path: Path, options: ReadOptions) -> str:
    """Return the delimiter of a CSV file whose columns are not known yet."""
    csv.field_size_limit(options.limits.row_bytes)
    lines = read_lines(path, options)
    ahead: list[NumberedLine] = []
    delimiters = _stated_delimiter(ahead, lines)
    _, header = _take_header(ahead, lines, options)
    text = "" if isinstance(header, Refused) else header
    return choose_delimiter(text, options.columns, delimiters)[0]


def _stated_delimiter(ahead: list[NumberedLine], lines: Iterator[NumberedLine]) -> tuple[str, ...]:
    """Return the delimiters that the header may have.

    Excel states one on a first line such as `sep=;`, which is removed.
    """
    line = _line_ahead(ahead, lines, 0)
    stated = SEPARATOR_LINE.fullmatch(line) if isinstance(line, str) else None
    if not stated:
        return DELIMITERS
    del ahead[0]
    return (stated["delimiter"].replace(r"\t", "\t"),)


def _take_header(
    ahead: list[NumberedLine], lines: Iterator[NumberedLine], options: ReadOptions
) -> NumberedLine:
    """Remove the header from the lines ahead; return its number and text.

    A quoted name may have line feeds.
    """
    header = _line_ahead(ahead, lines, 0)
    if header is None:
        return 1, ""
    number = ahead[0][0]
    record = take_record(ahead, lines, options.limits.row_bytes)
    del ahead[: max(1, len(record))]
    is_last = _line_ahead(ahead, lines, 0) is None
    if is_last and isinstance(header, str) and "\r" in header.rstrip("\r\n"):
        what = "its lines end with a carriage return alone, as old programs of the Mac write them"
        raise options.error(what, "save it again with line feeds, for example as CSV UTF-8", number)
    return number, "".join(record) or header


def _read_header(
    header: str, delimiters: tuple[str, ...], number: int, options: ReadOptions
) -> tuple[str, list[str]]:
    """Return the delimiter and the column names of a header.

    Raise UserError if the wanted columns are missing or repeated.
    """
    delimiter, names = choose_delimiter(header, options.columns, delimiters)
    if any(column not in names for column in options.columns):
        raise missing_columns(names, options, number)
    check_unique_columns(options, names)
    return delimiter, names


def choose_delimiter(
    header: str, columns: list[str], delimiters: tuple[str, ...] = DELIMITERS
) -> tuple[str, list[str]]:
    """Return the delimiter that suits a header, with the column names.

    It is the delimiter under which the most `columns` are found, then the most names.
    """
    best = (delimiters[0], [header.strip()])
    best_counts = (0, 0)
    for delimiter in delimiters:
        record = parse_record(header, delimiter)
        if isinstance(record, Refused):
            continue
        names = settle_names(record, columns)
        found = sum(column in names for column in columns)
        near = sum(bool(same_name(column, names)) for column in columns)
        counts = (found + near, len(names))
        if counts > best_counts:
            best = (delimiter, names)
            best_counts = counts
    return best


def _line_ahead(
    ahead: list[NumberedLine], lines: Iterator[NumberedLine], index: int
) -> str | Refused | None:
    """Return the line at `index` of the lines ahead.

    The line is read if it is the next one. Return None at the end of the file.
    """
    if index == len(ahead):
        ahead.extend(islice(lines, 1))
    if index == len(ahead):
        return None
    return ahead[index][1]


def take_record(
    ahead: list[NumberedLine], lines: Iterator[NumberedLine], longest: int
) -> list[str]:
    """Return the lines of the next record.

    It starts at the first line ahead. The list is empty if the record's quotes are not closed
    within RECORD_LINES lines and `longest` characters.
    """
    record: list[str] = []
    quotes = 0
    size = 0
    while len(record) < RECORD_LINES and size <= longest:
        line = _line_ahead(ahead, lines, len(record))
        if not isinstance(line, str):
            return []
        record.append(line)
        quotes += line.count('"')
        size += len(line)
        if quotes % 2 == 0:
            return record
    return []


def _parse_row(
    line: str | Refused, record: list[str], delimiter: str, names: list[str]
) -> Row | Refused | None:
    """Return the row of a record, or why it is refused.

    `line` is the record's first line. Return None if it is blank.
    """
    if isinstance(line, Refused):
        return line
    if not line.strip():
        return None
    if not record:
        return Refused("not CSV (a quote is never closed)", line)
    fields = parse_record("".join(record), delimiter)
    if isinstance(fields, Refused):
        return fields
    if len(fields) != len(names):
        reason = f"{len(fields)} fields instead of {len(names)}"
        if len(fields) > len(names):
            reason += "; a field with a delimiter in it must be in quotes"
        return Refused(reason, line)
    return dict(zip(names, fields, strict=True))


def _join_text(record: str, delimiter: str, names: list[str], options: ReadOptions) -> Row | None:
    """Return the row of a record with delimiters in its texts, or None.

    A delimiter before a space belongs to a text ("febre; dor"), and one before a letter ends a
    field. The record must then have exactly the fields of the header, and no quotes.
    """
    if '"' in record or not record.strip():
        return None
    joined: list[str] = []
    for part in record.rstrip("\r\n").split(delimiter):
        if joined and part.startswith(" "):
            joined[-1] += delimiter + part
        else:
            joined.append(part)
    if len(joined) != len(names):
        return None
    options.count_repair("delimiters_in_text")
    return dict(zip(names, joined, strict=True))


def parse_record(text: str, delimiter: str) -> list[str] | Refused:
    """Return the fields of one CSV record.

    The parser is strict, so that it refuses a stray quote.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        return Refused(f"not CSV ({error})", text)
    if len(rows) != 1:
        return Refused(f"not CSV (one record expected, found {len(rows)})", text)
    return rows[0]
