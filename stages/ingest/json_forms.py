"""Find the rows of a JSON file by its content."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bula.records import Row, refuse_constant
from stages.ingest.advice import is_messages
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
# Keys below each other that may lead to the rows.
MOST_KEYS = 4
# The keys of the questions in an article of SQuAD.
SQUAD_KEY = "paragraphs.qas"
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

    A key with dots is one key of that name, or else leads to a key below another. Raise UserError
    if there is no such array.
    """
    for parts in ([key], key.split(".")):
        place, seen = _find_path(text, parts)
        if place is not None and text.startswith("[", place):
            return place + 1
    shown = f"the keys are {', '.join(seen)}" if seen else "there is no other key"
    what = f"no list of rows below the key {key}; {shown}"
    raise options.error(what, f"correct `rows` of source {options.source_name} in params.yaml")


def _find_path(text: str, parts: list[str]) -> tuple[int | None, list[str]]:
    """Return where the value below some keys starts.

    Also return the keys that were passed at the last level.
    """
    place: int | None = SPACE.match(text).end()  # type: ignore[union-attr]
    seen: list[str] = []
    for part in parts:
        if place is not None:
            place, seen = _find_key(text, place, part)
    return place, seen


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


def nested_rows(text: str, key: str) -> list[Row] | None:
    """Return the rows below a key that leads through lists, or None.

    Each row has the scalar fields of the objects above it, such as SQuAD's `context`.
    """
    parts = key.split(".")
    place, _ = _find_path(text, parts[:1])
    starts_with_list = text.lstrip().startswith("[")
    leads_on = place is not None and len(parts) > 1 and text.startswith("[", place)
    if not starts_with_list and not leads_on:
        return None
    try:
        return list(_unfold(json.loads(text, parse_constant=refuse_constant), parts, {}))
    except JSON_ERRORS:
        return None


def _unfold(value: Any, parts: list[str], above: Row) -> Iterator[Row]:
    """Yield the objects below some keys with the fields of the objects above them."""
    if isinstance(value, list):
        for item in value:
            yield from _unfold(item, parts, above)
    elif isinstance(value, dict) and not parts:
        yield above | value
    elif isinstance(value, dict):
        own = {name: cell for name, cell in value.items() if not isinstance(cell, list | dict)}
        yield from _unfold(value.get(parts[0]), parts[1:], above | own)


def rows_key(text: str, columns: list[str]) -> str:
    """Return the key below which an object has rows with the wanted columns.

    Return an empty text if the text is no single object, or if the object is itself a row. The key
    of SQuAD's questions leads through lists.
    """
    try:
        value = json.loads(text)
    except JSON_ERRORS:
        return ""
    if _are_articles(value):
        return SQUAD_KEY
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


def _rows_key(value: Row, columns: list[str], depth: int = MOST_KEYS) -> str:
    """Return the dotted key of a list of rows, at most `depth` keys long."""
    for name, part in value.items():
        if _are_articles(part):
            return f"{name}.{SQUAD_KEY}"
        if _are_rows(part, columns) and name not in CHAT_KEYS:
            return name
        if isinstance(part, dict) and depth > 1:
            below = _rows_key(part, columns, depth - 1)
            if below:
                return f"{name}.{below}"
    return ""


def _are_articles(value: object) -> bool:
    """Return whether a value is a list of SQuAD's articles with questions."""
    first = value[0] if isinstance(value, list) and value else None
    paragraphs = first.get("paragraphs") if isinstance(first, dict) else None
    paragraph = paragraphs[0] if isinstance(paragraphs, list) and paragraphs else None
    return isinstance(paragraph, dict) and isinstance(paragraph.get("qas"), list)


def _are_rows(value: object, columns: list[str]) -> bool:
    """Return whether a value is a list of objects with the wanted columns."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return not is_messages(value) and all(column in value[0] for column in columns)
