"""Read JSON Lines files and JSON arrays, including damaged files."""

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from bula.records import Row, refuse_constant
from stages.ingest.json_forms import find_rows, nested_rows, rows_key
from stages.ingest.reading import (
    CONTROL,
    NOT_UTF_8,
    SURROGATE,
    NumberedRow,
    ReadOptions,
    Refused,
    check_row,
    has_controls,
)
from stages.ingest.text_lines import BYTE_ORDER_MARK, read_lines

# Characters of a damaged object that a Refused keeps.
EXCERPT_CHARACTERS = 60
# What Python's reader raises over text that is not JSON, or is nested too deep.
JSON_ERRORS = (ValueError, RecursionError)
# The end of the object around an array, or its next key.
AFTER_ROWS = re.compile(r'\s*(\}|,\s*")')


def _refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object's pairs; raise ValueError if two keys are equal.

    Python's reader would silently take the last of two values under one key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


DECODER = json.JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=_refuse_repeated_keys)


def read_json_lines(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield one object per line; skip blank lines.

    Raise UserError if the only line has all rows below a key.
    """
    lines = read_lines(path, options)
    first = list(islice(lines, 2))
    if len(first) == 1 and isinstance(first[0][1], str):
        _refuse_rows_below_key(first[0][1], options)
    for number, line in chain(first, lines):
        if isinstance(line, Refused):
            yield number, line
        elif line.strip():
            yield number, parse_object(line)


def _refuse_rows_below_key(text: str, options: ReadOptions) -> None:
    """Raise UserError if a text is one object with the rows below a key."""
    key = rows_key(text, options.columns)
    if key:
        fix = f"add `rows: {key}` to source {options.source_name} in params.yaml"
        raise options.error(f"its rows are a list below the key {key}", fix)


def parse_object(text: str) -> Row | Refused:
    """Return the JSON object in a text, or why there is none."""
    try:
        value = json.loads(
            text, parse_constant=refuse_constant, object_pairs_hook=_refuse_repeated_keys
        )
    except JSON_ERRORS as error:
        return Refused(_reason(error), text)
    return check_row(value, text)


def _reason(error: Exception) -> str:
    """Return why a text is not JSON, without words of the text."""
    return f"not JSON ({getattr(error, 'msg', error)})"


def read_json_array(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the objects of one JSON array, which is held in memory.

    After damage, reading continues at the next object that has the wanted columns. In an array on
    one line, the number of the row stands for the line.
    """
    text = array_text(path, options)
    if options.rows and (below := nested_rows(text, options.rows)) is not None:
        for number, row in enumerate(below, start=1):
            yield number, check_row(row, "")
        return
    if options.rows:
        start = _skip_separators(text, find_rows(text, options.rows, options))
        yield from _read_objects(text, start, options, damaged=False)
        return
    start = _skip_separators(text, 0)
    opened = text.startswith("[", start)
    if opened:
        start = _skip_separators(text, start + 1)
    else:
        _refuse_rows_below_key(text, options)
        if _has_objects_only(text, start):
            yield from _read_objects(text, start, options, damaged=False, is_array=False)
            return
        yield 1, Refused("a JSON array is expected", text[start : start + EXCERPT_CHARACTERS])
    yield from _read_objects(text, start, options, damaged=not opened)


def _has_objects_only(text: str, start: int) -> bool:
    """Return whether objects follow each other without commas, as jq writes them."""
    try:
        value, end = DECODER.raw_decode(text, start)
    except JSON_ERRORS:
        return False
    rest = text[end : end + EXCERPT_CHARACTERS].lstrip()
    return isinstance(value, dict) and (rest.startswith("{") or not text[end:].strip())


def array_text(path: Path, options: ReadOptions) -> str:
    """Return the text of a JSON array's file.

    Raise UserError if the file is too large to be held in memory.
    """
    largest = options.limits.unpacked_bytes
    if path.stat().st_size > largest:
        what = f"a JSON array of more than {largest} bytes (ingest.limits.unpacked_bytes)"
        raise options.error(what, "save it as JSON Lines, which is read line by line")
    content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    # Bytes of another encoding become half surrogate pairs, and check_row refuses only their rows.
    return content.decode(options.encoding, "surrogateescape")


def _read_objects(
    text: str, place: int, options: ReadOptions, damaged: bool, is_array: bool = True
) -> Iterator[NumberedRow]:
    """Yield the objects from `place` to the end of the array.

    Objects without an array around them (`is_array`) end with the text. `damaged` says whether
    damage before `place` has already been reported.
    """
    line = 1
    counted = 0
    is_one_line = "\n" not in text.strip()
    is_below_key = bool(options.rows)
    while place < len(text) and not _closes_array(text, place, is_below_key):
        line += text.count("\n", counted, place)
        counted = place
        row, end = _read_object(text, place, options)
        yield line, row
        line += is_one_line
        damaged = end is None
        if end is None:
            end = _next_object(text, place + 1, options.columns)
        place = _skip_separators(text, end)
    if is_array and place >= len(text) and not damaged:
        # The file was cut between two objects, for example by an interrupted download.
        yield line, Refused("the array is never closed", "")


def _closes_array(text: str, place: int, is_below_key: bool) -> bool:
    """Return whether the bracket of the array is closed at `place`.

    A bracket that closes the array in the middle of the file is damage. An array below a key is
    followed by the end of its object or by the next key.
    """
    if text[place] != "]":
        return False
    if is_below_key:
        return bool(AFTER_ROWS.match(text, place + 1))
    return not text[place + 1 :].strip()


def _read_object(text: str, place: int, options: ReadOptions) -> tuple[Row | Refused, int | None]:
    """Return the object at `place` and the place after it.

    The place after a damaged object is unknown: None.
    """
    excerpt = text[place : place + EXCERPT_CHARACTERS]
    try:
        value, end = DECODER.raw_decode(text, place)
    except JSON_ERRORS as error:
        return Refused(_reason(error), SURROGATE.sub("?", excerpt)), None
    longest = options.limits.row_bytes
    if end - place > longest:
        return Refused(f"object longer than {longest} bytes", ""), end
    row = check_row(value, excerpt)
    if isinstance(row, Refused) and row.reason == NOT_UTF_8:
        row = row._replace(reason=NOT_UTF_8 + options.encoding_hint)
    if has_controls(text[place:end], options.encoding):
        row = Refused(CONTROL + options.encoding_hint, excerpt)
    return row, end


def _skip_separators(text: str, place: int) -> int:
    """Return the first place that is neither white space nor comma."""
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def _next_object(text: str, place: int, columns: list[str]) -> int:
    """Return where the next object with the wanted columns starts.

    Without such an object, return the length of the text.
    """
    while (place := text.find("{", place)) >= 0:
        if _is_row(text, place, columns):
            return place
        place += 1
    return len(text)


def _is_row(text: str, place: int, columns: list[str]) -> bool:
    """Return whether an object with the wanted columns starts at `place`."""
    try:
        value, _ = DECODER.raw_decode(text, place)
    except JSON_ERRORS:
        return False
    return isinstance(value, dict) and all(column in value for column in columns)
