"""Read CSV files with any usual delimiter, damaged ones too."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bula.records import Row
from bula.text import mask
from stages.ingest.reading import NumberedRow, ReadOptions, Refused, check_unique_columns
from stages.ingest.text_lines import NumberedLine, read_lines

DELIMITERS = (",", ";", "\t", "|")
# A record may span lines, but a stray quote must not swallow the file.
RECORD_LINES = 1000


def read_csv(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the records of a CSV file.

    A quoted field may span lines. After a damaged record, reading continues at the line after the
    record's first line.
    """
    csv.field_size_limit(options.limits.row_bytes)
    lines = read_lines(path, options)
    _, header = next(lines, (1, ""))
    if isinstance(header, Refused):
        yield 1, header
        return
    delimiter, names = _read_header(header, options)
    ahead: list[NumberedLine] = []
    while _line_ahead(ahead, lines, 0) is not None:
        number, line = ahead[0]
        record = take_record(ahead, lines, options.limits.row_bytes)
        row = _parse_row(line, record, delimiter, names)
        # Only a good record uses all its lines.
        used = len(record) if isinstance(row, dict) else 1
        del ahead[:used]
        if row is not None:
            yield number, row


def _read_header(header: str, options: ReadOptions) -> tuple[str, list[str]]:
    """Return the delimiter and the column names of a header.

    UserError if the wanted columns are missing or repeated.
    """
    chosen = choose_delimiter(header, options.columns)
    if chosen is None:
        # In a file without a header the first line is a patient's row, so its words are masked.
        shape = mask(header.strip())
        missing = f"no column {', '.join(options.columns)} in the first line"
        fix = f"correct `columns` of source {options.source_name} in params.yaml"
        raise options.error(f"{missing}, which looks like {shape!r}", fix, 1)
    check_unique_columns(options, chosen[1])
    return chosen


def choose_delimiter(header: str, columns: list[str]) -> tuple[str, list[str]] | None:
    """Return the delimiter under which a header has all `columns`.

    The column names come with it. Return None if no delimiter fits.
    """
    for delimiter in DELIMITERS:
        names = parse_record(header, delimiter)
        if isinstance(names, list) and all(column in names for column in columns):
            return delimiter, names
    return None


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
        return Refused(f"{len(fields)} fields instead of {len(names)}", line)
    return dict(zip(names, fields, strict=True))


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
