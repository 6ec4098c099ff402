"""Find the rows of a JSON file by its content."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bula.records import Row, refuse_constant
from stages.ingest.reading import ReadOptions
from stages.ingest.text_lines import BYTE_ORDER_MARK, read_lines

# Lines at the start of a file that are examined.
FIRST_LINES = 10
HEAD_BYTES = 10_000
ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*\{")
JSON_ERRORS = (ValueError, RecursionError)
DECODER = json.JSONDecoder(parse_constant=refuse_constant)
# Between a key and its value.
COLON = re.compile(r"\s*:\s*")
SPACE = re.compile(r"\s*")
# Lists that are one row's own, and no list of rows.
CHAT_KEYS = ("messages", "conversations")


def has_json_lines(path: Path, is_named_array: bool, options: ReadOptions) -> bool:
    """Return whether a JSON file is read line by line.

    The suffix .json promises an array (`is_named_array`), and .jsonl and .ndjson promise lines. The
    content decides.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
    if is_named_array and head.lstrip().startswith(b"["):
        return False
    lines = list(islice(_first_lines(path, options), FIRST_LINES))
    complete = sum(_is_object(line) for line in lines)
    if 2 * complete > len(lines):
        return True
    return not (is_named_array or ARRAY_OF_OBJECTS.match(head))


def _first_lines(path: Path, options: ReadOptions) -> Iterator[str]:
    """Yield the lines that are not blank.

    A line that cannot be read is empty.
    """
    for _, line in read_lines(path, options):
        text = line if isinstance(line, str) else ""
        if text.strip() or not isinstance(line, str):
            yield text


def _is_object(line: str) -> bool:
    """Return whether a line is one complete JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except JSON_ERRORS:
        return False


def find_rows(text: str, key: str, options: ReadOptions) -> int:
    """Return the place after the bracket of the array below a key.

    Dots separate keys that lie below each other. Raise UserError if there is no such array.
    """
    place = SPACE.match(text).end()  # type: ignore[union-attr]
    seen: list[str] = []
    for part in key.split("."):
        found, seen = _find_key(text, place, part)
        if found is None:
            break
        place = found
    else:
        if text.startswith("[", place):
            return place + 1
    shown = f"the keys are {', '.join(seen)}" if seen else "there is no other key"
    what = f"no list of rows below the key {key}; {shown}"
    raise options.error(what, f"correct `rows` of source {options.source_name} in params.yaml")


def _find_key(text: str, place: int, wanted: str) -> tuple[int | None, list[str]]:
    """Return where the value of a key starts, and the keys that were passed.

    The object starts at `place`. Damage ends the search.
    """
    seen: list[str] = []
    while place < len(text) and text[place] in "{,":
        place = SPACE.match(text, place + 1).end()  # type: ignore[union-attr]
        try:
            name, place = DECODER.raw_decode(text, place)
            place = COLON.match(text, place).end()  # type: ignore[union-attr]
            if name == wanted:
                return place, seen
            seen.append(str(name))
            _, place = DECODER.raw_decode(text, place)
        except (*JSON_ERRORS, AttributeError):
            break
        place = SPACE.match(text, place).end()  # type: ignore[union-attr]
    return None, seen


def rows_key(text: str, columns: list[str]) -> str:
    """Return the key below which an object has rows with the wanted columns.

    Return an empty text if the text is no single object, or if the object is itself a row.
    """
    try:
        value = json.loads(text)
    except JSON_ERRORS:
        return ""
    if not isinstance(value, dict) or (columns and all(name in value for name in columns)):
        return ""
    return _rows_key(value, columns)


def is_description(text: str, columns: list[str]) -> bool:
    """Return whether a text is one JSON object without rows."""
    try:
        value = json.loads(text)
    except JSON_ERRORS:
        return False
    # A column with dots is a field of a nested object.
    names = {part for column in columns for part in (column, column.split(".")[0])}
    if not isinstance(value, dict) or names & value.keys():
        return False
    return not _rows_key(value, columns)


def _rows_key(value: Row, columns: list[str], depth: int = 2) -> str:
    """Return the dotted key of a list of rows, at most `depth` keys long."""
    for name, part in value.items():
        if _are_rows(part, columns) and name not in CHAT_KEYS:
            return name
        if isinstance(part, dict) and depth > 1:
            below = _rows_key(part, columns, depth - 1)
            if below:
                return f"{name}.{below}"
    return ""


def _are_rows(value: object, columns: list[str]) -> bool:
    """Return whether a value is a list of objects with the wanted columns."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return all(column in value[0] for column in columns)
