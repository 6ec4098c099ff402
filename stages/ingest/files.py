"""Reading a user's files row by row: JSON Lines, JSON arrays, CSV and Parquet.

A damaged file must not cost its good rows, nor end in a traceback: what cannot be read becomes a Refused with its line and
reason, and reading goes on with the next row. Text is never repaired by guessing: no byte is replaced, no quote is added.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import parquet

from bula.records import Row
from bula.text import mask

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
# No question with its answer is near a million bytes; a line that long is damage, and is never held in memory.
LONGEST = 1_000_000
# A CSV record may span lines, but not more than this: else one stray quote would swallow the file before it is given up.
RECORD_LINES = 1000
# Half of the bytes of Portuguese in UTF-16 are zero; a few in a text file are damage to a row or two.
HEAD = 10_000
# Rows of a Parquet file that are held at once.
BATCH = 10_000
SURROGATE = re.compile("[\ud800-\udfff]")


class Refused(NamedTuple):
    """Why a row could not be read, and what stood there (to be masked before it is written anywhere)."""

    reason: str
    text: str


class HeaderError(ValueError):
    """The columns that a mapping names are not in the file at all: the mapping is wrong, not the row."""


# What a file gives for one row: its line (the row's number in Parquet, 0 for the file as a whole), and the row or why not.
Item = tuple[int, Row | Refused]


def read_file(path: Path, encoding: str, columns: list[str]) -> Iterator[Item]:
    """Rows of a file whose objects should have `columns`; HeaderError if a table has none of a wanted name."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from read_parquet(path, columns)
        return
    with path.open("rb") as file:
        start = file.read(HEAD)
    if start.count(0) > len(start) / 4:
        yield 0, Refused("the file is UTF-16 or no text; save it as UTF-8", "")
    elif suffix in (".csv", ".tsv"):
        yield from read_csv(path, encoding, columns)
    elif suffix in (".jsonl", ".ndjson"):
        yield from read_json_lines(path, encoding)
    elif suffix == ".json":
        yield from read_json_array(path, encoding, columns)
    else:
        raise ValueError(f"{path}: only {', '.join(SUFFIXES)} files can be read")


def read_lines(path: Path, encoding: str) -> Iterator[tuple[int, str | Refused]]:
    """Lines with their numbers, line ends kept, the byte order mark not; a line that cannot be text is a Refused."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LONGEST + 1):
            number += 1
            if len(raw) > LONGEST:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(LONGEST + 1)
                yield number, Refused(f"line longer than {LONGEST} bytes", "")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, raw.decode(encoding)
            except UnicodeDecodeError as error:
                yield number, Refused(f"not {encoding} (byte {error.start + 1} of the line)", raw.decode(encoding, "replace"))


def parse_object(text: str) -> Row | Refused:
    """One JSON object, or why the text is none."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError) as error:
        return Refused(f"not JSON ({getattr(error, 'msg', error)})", text)
    return check_object(value, text)


def check_object(value: object, text: str) -> Row | Refused:
    """A parsed value if it is an object whose text can be written as UTF-8."""
    if not isinstance(value, dict):
        return Refused(f"a JSON object is expected, found {type(value).__name__}", text)
    # A \ud83d without its partner is allowed in JSON and is no character.
    if any(isinstance(part, str) and SURROGATE.search(part) for pair in value.items() for part in pair):
        return Refused("holds half a surrogate pair or bytes of another encoding", SURROGATE.sub("?", text))
    return value


def _refuse_constant(name: str) -> None:
    """NaN and infinities are no JSON, whatever Python's reader thinks."""
    raise ValueError(f"{name} is no JSON value")


def _refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two answers under one key, Python's reader would take the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def read_json_lines(path: Path, encoding: str) -> Iterator[Item]:
    """One object a line; blank lines are nothing."""
    for number, line in read_lines(path, encoding):
        if isinstance(line, Refused):
            yield number, line
        elif line.strip():
            yield number, parse_object(line)


def read_json_array(path: Path, encoding: str, columns: list[str]) -> Iterator[Item]:
    """Objects of one array, which is held in memory; after damage, reading goes on at the next object with `columns`."""
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    # Bytes that do not fit become half surrogates, which check_object refuses where they stand.
    text = raw.decode(encoding, "surrogateescape")
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    place = _skip(text, 0)
    damaged = text[place : place + 1] != "["
    if damaged:
        yield 1, Refused("a JSON array is expected", text[place : place + 60])
    line, counted = 1, 0
    place = place if damaged else _skip(text, place + 1)
    # A bracket that closes the array in the middle of the file is damage too.
    while place < len(text) and not (text[place] == "]" and not text[place + 1 :].strip()):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = decoder.raw_decode(text, place)
            yield line, check_object(value, text[place : place + 60])
            damaged = False
        except (ValueError, RecursionError) as error:
            yield line, Refused(f"not JSON ({getattr(error, 'msg', error)})", SURROGATE.sub("?", text[place : place + 60]))
            end, damaged = _next_object(text, place + 1, decoder, columns), True
        place = _skip(text, end)
    if place >= len(text) and not damaged:
        # Cut between two objects, as by a download that broke off: what came is good, and something did not come.
        yield line, Refused("the array is never closed", "")


def _skip(text: str, place: int) -> int:
    """Past white space and commas."""
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def _next_object(text: str, place: int, decoder: json.JSONDecoder, columns: list[str]) -> int:
    """Where the next readable object with the wanted columns starts, or the end of the text."""
    while (place := text.find("{", place)) >= 0:
        try:
            value, _ = decoder.raw_decode(text, place)
            if isinstance(value, dict) and all(column in value for column in columns):
                return place
        except (ValueError, RecursionError):
            pass
        place += 1
    return len(text)


def parse_record(text: str, delimiter: str) -> list[str] | Refused:
    """The fields of one CSV record, quotes doubled inside quoted fields; strict, so that a stray quote is seen."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return Refused(f"not CSV ({error})", text)
    return rows[0] if len(rows) == 1 else Refused(f"not CSV (one record expected, found {len(rows)})", text)


def choose_delimiter(header: str, columns: list[str]) -> tuple[str, list[str]] | None:
    """The delimiter under which a header has all `columns`, and its names; None if there is none."""
    for delimiter in DELIMITERS:
        names = parse_record(header, delimiter)
        if isinstance(names, list) and all(column in names for column in columns):
            return delimiter, names
    return None


def _refuse_repeated(path: Path, names: list[str], columns: list[str]) -> None:
    """HeaderError if a wanted column stands twice: nobody can tell which of them is meant."""
    repeated = [column for column in columns if names.count(column) > 1]
    if repeated:
        raise HeaderError(f"{path}:1: column {', '.join(repeated)} stands there more than once; rename or remove the others")


def read_csv(path: Path, encoding: str, columns: list[str]) -> Iterator[Item]:
    """Records of a CSV file, which may span lines in quotes. After a damaged record, reading goes on at the line after its first."""
    csv.field_size_limit(LONGEST)
    lines = read_lines(path, encoding)
    first = next(lines, (1, ""))[1]
    if isinstance(first, Refused):
        yield 1, first
        return
    chosen = choose_delimiter(first, columns)
    if chosen is None:
        # The first line may be a patient's row, where a file has no header: its words stay here.
        raise HeaderError(f"{path}:1: no column {', '.join(columns)} together; the first line looks like {mask(first.strip())!r}")
    delimiter, names = chosen
    _refuse_repeated(path, names, columns)
    waiting: list[tuple[int, str | Refused]] = []
    while True:
        if not waiting and (item := next(lines, None)):
            waiting.append(item)
        if not waiting:
            return
        number, start = waiting[0]
        if isinstance(start, Refused) or not start.strip():
            waiting.pop(0)
            if isinstance(start, Refused):
                yield number, start
            continue
        used, record = take_record(waiting, lines)
        fields = parse_record(record, delimiter) if used else Refused("not CSV (a quote is never closed)", start)
        if isinstance(fields, list) and len(fields) == len(names):
            del waiting[:used]
            yield number, dict(zip(names, fields, strict=True))
        else:
            del waiting[0]
            yield number, fields if isinstance(fields, Refused) else Refused(f"{len(fields)} fields instead of {len(names)}", start)


def take_record(waiting: list[tuple[int, str | Refused]], lines: Iterator[tuple[int, str | Refused]]) -> tuple[int, str]:
    """The record that starts at the first waiting line: lines until quotes are even; 0 lines if they never are."""
    quotes, size, parts = 0, 0, []
    for used in range(1, RECORD_LINES + 1):
        if len(waiting) < used:
            if (item := next(lines, None)) is None:
                return 0, ""
            waiting.append(item)
        line = waiting[used - 1][1]
        if isinstance(line, Refused):
            return 0, ""
        quotes, size = quotes + line.count('"'), size + len(line)
        parts.append(line)
        if quotes % 2 == 0:
            return used, "".join(parts)
        if size > LONGEST:
            return 0, ""
    return 0, ""


def read_parquet(path: Path, columns: list[str]) -> Iterator[Item]:
    """Rows of a Parquet file, a row group at a time; a damaged group costs itself alone, a damaged footer the file."""
    number = 0
    try:
        file = parquet.ParquetFile(path)
        missing = [column for column in columns if column not in file.schema_arrow.names]
        groups, sizes = file.num_row_groups, [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield 0, Refused(f"not Parquet ({_first_line(error)})", "")
        return
    if missing:
        raise HeaderError(f"{path}: no column {', '.join(missing)}; its {len(file.schema_arrow.names)} columns have other names")
    _refuse_repeated(path, file.schema_arrow.names, columns)
    for group in range(groups):
        done = 0
        try:
            for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
                for place in range(len(batch)):
                    done += 1
                    yield number + done, _parquet_row(batch, place)
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            # Each row is refused by itself: a group may be a million rows, and counts as many.
            yield from (
                (number + n, Refused(f"row group cannot be read ({_first_line(error)})", "")) for n in range(done + 1, sizes[group] + 1)
            )
        number += sizes[group]


def _parquet_row(batch: pyarrow.RecordBatch, place: int) -> Row | Refused:
    """One row of a batch; text in another encoding refuses its own row alone."""
    try:
        return check_object(batch.slice(place, 1).to_pylist()[0], "")
    except (pyarrow.ArrowException, ValueError) as error:
        return Refused(f"row cannot be read ({_first_line(error)})", "")


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, cut where a library prints pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
