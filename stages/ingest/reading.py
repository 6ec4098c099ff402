"""Define what the readers of files take and yield.

A damaged file costs neither its good rows nor a traceback: a row that cannot be read becomes a
Refused with its line and its reason, and reading continues at the next row. Readers never repair
text by guessing: they replace no byte and add no quote.

A file may contain patients' words, and its name may be a patient's name. So no message repeats the
text of a row, a neutral name stands for the file, and errors of libraries appear by their class.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from bula.errors import UserError
from bula.params import Limits
from bula.records import Row

SURROGATE = re.compile("[\ud800-\udfff]")
# The encodings that decode every byte, and the control characters that 32 of their bytes become.
LATIN = ("latin-1", "iso-8859-15")
CONTROLS = re.compile("[\x80-\x9f]")
CONTROL = "contains a control character"
NOT_UTF_8 = "contains half a surrogate pair or bytes of another encoding"


class Refused(NamedTuple):
    """A row that could not be read."""

    reason: str
    """Why the row could not be read."""
    text: str
    """Text of the row, or of its start; it is masked before it is written."""


# The line of a row, and the row or why it could not be read. In Parquet files the number of the row
# stands for the line. Line 0 stands for the complete file.
NumberedRow = tuple[int, Row | Refused]
# The neutral name of a row's file, and the row.
FileRow = tuple[str, NumberedRow]


class ReadOptions(NamedTuple):
    """Settings for reading one file of a source."""

    source_name: str
    """Name of the source."""
    file_name: str
    """Neutral name of the file in messages and records, such as file-003.csv."""
    encoding: str
    """Text encoding of JSON, CSV, and texts that a Parquet file stores as bytes."""
    columns: list[str]
    """Columns that a table must have."""
    limits: Limits
    """Sizes at which reading stops."""
    rows: str = ""
    """Key below which a JSON file has its rows, or an empty text."""
    sheet: str = ""
    """Sheet of an Excel file, or an empty text for the first one."""
    encoding_hint: str = ""
    """End of a message about bytes that cannot be decoded."""
    counts: Counter[str] | None = None
    """Rows that a reader repaired, by kind; it adds to them."""

    def count_repair(self, name: str) -> None:
        """Add a repaired row to the counts."""
        if self.counts is not None:
            self.counts[name] += 1

    def error(self, what: str, fix: str, line: int = 0) -> UserError:
        """Return the error that names this file.

        The error also names `line`, unless `line` is 0.
        """
        where = f"{self.file_name}:{line}" if line else self.file_name
        return UserError(f"source {self.source_name}: {where}", what, fix)


def has_controls(text: str, encoding: str) -> bool:
    """Return whether a text of Latin-1 has control characters.

    No text has them. A dash of Windows, read as Latin-1, becomes one, and "10–20 mg" would lose it.
    """
    return encoding in LATIN and bool(CONTROLS.search(text))


def check_row(value: object, text: str) -> Row | Refused:
    """Return a parsed value if it is a valid row.

    A row is an object, and UTF-8 can encode its keys and texts. `text` is what a Refused shows.
    """
    if not isinstance(value, dict):
        return Refused(f"a JSON object is expected, found {type(value).__name__}", text)
    # JSON allows a \ud83d without its partner, which is no character.
    if any(SURROGATE.search(part) for part in _texts(value)):
        return Refused(NOT_UTF_8, SURROGATE.sub("?", text))
    return value


def _texts(value: object) -> Iterator[str]:
    """Yield all texts and keys in a JSON value, at any depth."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            waiting += part


def check_unique_columns(options: ReadOptions, names: list[str]) -> None:
    """Raise UserError if a wanted column appears twice in a table."""
    repeated = [column for column in options.columns if names.count(column) > 1]
    if repeated:
        what = f"column {', '.join(repeated)} appears more than once"
        raise options.error(what, "rename or remove the others", 1)
