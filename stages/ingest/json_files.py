"""Read JSON Lines files and JSON arrays, including damaged files."""

import json
from collections.abc import Iterator
from pathlib import Path

from bula.records import Row, refuse_constant
from stages.ingest.reading import SURROGATE, NumberedRow, ReadOptions, Refused, check_row
from stages.ingest.text_lines import BYTE_ORDER_MARK, read_lines

# Characters of a damaged object that a Refused keeps.
EXCERPT_CHARACTERS = 60
# What Python's reader raises over text that is not JSON, or is nested too deep.
JSON_ERRORS = (ValueError, RecursionError)


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
    """Yield one object per line; skip blank lines."""
    for number, line in read_lines(path, options):
        if isinstance(line, Refused):
            yield number, line
        elif line.strip():
            yield number, parse_object(line)


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

    After damage, reading continues at the next object that has the wanted columns.
    """
    text = _array_text(path, options)
    start = _skip_separators(text, 0)
    opened = text.startswith("[", start)
    if opened:
        start = _skip_separators(text, start + 1)
    else:
        yield 1, Refused("a JSON array is expected", text[start : start + EXCERPT_CHARACTERS])
    yield from _read_objects(text, start, options, damaged=not opened)


def _array_text(path: Path, options: ReadOptions) -> str:
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
    text: str, place: int, options: ReadOptions, damaged: bool
) -> Iterator[NumberedRow]:
    """Yield the objects from `place` to the end of the array.

    `damaged` says whether damage before `place` has already been reported.
    """
    line = 1
    counted = 0
    while place < len(text) and not _closes_array(text, place):
        line += text.count("\n", counted, place)
        counted = place
        row, end = _read_object(text, place, options.limits.row_bytes)
        yield line, row
        damaged = end is None
        if end is None:
            end = _next_object(text, place + 1, options.columns)
        place = _skip_separators(text, end)
    if place >= len(text) and not damaged:
        # The file was cut between two objects, for example by an interrupted download.
        yield line, Refused("the array is never closed", "")


def _closes_array(text: str, place: int) -> bool:
    """Return whether the bracket of the array is closed at `place`.

    A bracket that closes the array in the middle of the file is damage.
    """
    return text[place] == "]" and not text[place + 1 :].strip()


def _read_object(text: str, place: int, longest: int) -> tuple[Row | Refused, int | None]:
    """Return the object at `place` and the place after it.

    The place after a damaged object is unknown: None.
    """
    excerpt = text[place : place + EXCERPT_CHARACTERS]
    try:
        value, end = DECODER.raw_decode(text, place)
    except JSON_ERRORS as error:
        return Refused(_reason(error), SURROGATE.sub("?", excerpt)), None
    if end - place > longest:
        return Refused(f"object longer than {longest} bytes", ""), end
    return check_row(value, excerpt), end


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
