"""Find the wanted columns among the names of a header or row.

A name matches a column exactly, or apart from surrounding spaces and a byte order mark. Every other
difference is an error that shows the names and proposes the entry of params.yaml.
"""

import difflib
import re
import unicodedata
from functools import lru_cache

from bula.errors import UserError
from bula.records import Row, json_line
from bula.text import mask
from stages.ingest.reading import ReadOptions, Refused

# Names of a header that a message shows, and the characters of each.
MOST_NAMES = 20
NAME_CHARACTERS = 60
# Similarity from which another name is proposed for a column, from 0 to 1.
LEAST_SIMILARITY = 0.75
# Names of columns are short; sentences, dates and numbers are cells of a row.
DATA_CELL = re.compile(
    r"""
    ^.{41,}                      # a long text
    | (?:\S+\s+){4}\S            # five words
    | [.?!]\s*$                  # the end of a sentence
    | \d{3}                      # a number, a year
    | \d[/-]\d | ^\s*\d+\s*$     # a date, a count
    | @                          # an address
    """,
    re.VERBOSE | re.DOTALL,
)
# Two or more capitalised words, as in a person's name.
PERSON = re.compile(r"[A-ZÀ-Ý][a-zß-ÿ]+(?:\s+(?:d[aeo]s?\s+)?[A-ZÀ-Ý][a-zß-ÿ]+)+")


def settle_names(names: list[str], columns: list[str]) -> list[str]:
    """Return the names of a header, without surrounding spaces where a column is meant.

    A name changes only if no other name has the column's exact text.
    """
    stripped = [name.strip().strip("\ufeff").strip() for name in names]
    settled = []
    for name, plain in zip(names, stripped, strict=True):
        is_meant = plain in columns and name not in columns
        is_only_one = plain not in names and stripped.count(plain) == 1
        settled.append(plain if is_meant and is_only_one else name)
    return settled


def settle_row(row: Row | Refused, options: ReadOptions) -> Row | Refused:
    """Return a JSON row with settled keys, or why a key only nearly matches."""
    if isinstance(row, Refused) or all(column in row for column in options.columns):
        return row
    names = list(row)
    settled = dict(zip(settle_names(names, options.columns), row.values(), strict=True))
    missing = [column for column in options.columns if column not in settled]
    proposals = {column: same_name(column, names) for column in missing}
    proposals = {column: name for column, name in proposals.items() if name}
    if not proposals:
        return settled
    return Refused(f"no column {', '.join(proposals)}; write {_entries(proposals)}", "")


def missing_columns(names: list[str], options: ReadOptions, line: int = 0) -> UserError:
    """Return the error of a header without the wanted columns.

    The error shows the header and proposes the names that nearly match.
    """
    missing = [column for column in options.columns if column not in names]
    proposals = {column: similar_name(column, names) for column in missing}
    proposals = {column: name for column, name in proposals.items() if name}
    shown = show_header(names, options.columns)
    what = f"no column {', '.join(missing or options.columns)}; the header is {shown}"
    place = f"`columns` of source {options.source_name} in params.yaml"
    fix = f"correct {place}"
    if proposals:
        fix = f"in {place}, write {_entries(proposals)}"
    return options.error(what, fix, line)


def _entries(proposals: dict[str, str]) -> str:
    """Return which name to write for which column, quoted for YAML."""
    quoted = [f"{_quote(name)} for {column}" for column, name in proposals.items()]
    return ", ".join(quoted)


def _quote(name: str) -> str:
    """Return a name in double quotes, with escapes that YAML reads."""
    return json_line(name[:NAME_CHARACTERS]).rstrip("\n")


def show_header(names: list[str], columns: list[str]) -> str:
    """Return the names of a header for a message.

    In a file without a header the first line is a patient's row, so a line with data is masked.
    """
    is_header = any(same_name(column, names) for column in columns)
    if not is_header and any(DATA_CELL.search(name) for name in names):
        shape = mask(", ".join(names))
        return f"masked, because it looks like a row of data: {shape!r}"
    shown = [_show_name(name, is_header) for name in names[:MOST_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _show_name(name: str, is_header: bool) -> str:
    """Return one name of a header in quotes.

    A name that may be a person's is masked.
    """
    is_person = not is_header and PERSON.search(name)
    return _quote(mask(name) if is_person else name)


def same_name(column: str, names: list[str]) -> str:
    """Return the name that equals a column in its letters and digits.

    Case, spaces, accents and signs are ignored.
    """
    key = name_key(column)
    same = [name for name in names if name != column and name_key(name) == key]
    return same[0] if key and len(same) == 1 else ""


def similar_name(column: str, names: list[str]) -> str:
    """Return the name that a column most probably means, or an empty text."""
    if same := same_name(column, names):
        return same
    keys = {name_key(name): name for name in names if not DATA_CELL.search(name)}
    close = difflib.get_close_matches(name_key(column), keys, n=1, cutoff=LEAST_SIMILARITY)
    return keys[close[0]] if close else ""


@lru_cache(maxsize=4096)
def name_key(name: str) -> str:
    """Return the letters and digits of a name in small letters, without accents."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(character for character in decomposed if character.isalnum())
