"""Propose the `columns` of params.yaml for a cell without text.

Names of columns and fields appear in messages. Values never do.
"""

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from bula.params import ChatColumns, Columns
from bula.records import Row

# Keys by which a list of objects is a list of messages.
MESSAGE_KEYS = ({"role", "content"}, {"from", "value"})
# A name that YAML reads without quotes at every place.
PLAIN_NAME = re.compile(r"[^\W\d][\w.]*(?:[ _-][\w.]+)*")
# Most characters and items of a file's own names in a message.
NAME_CHARACTERS = 60
SHOWN_NAMES = 20


def flow(entry: Row) -> str:
    """Return an entry as it is written on one line of params.yaml."""
    writer = YAML()
    writer.default_flow_style = True
    writer.width = 10_000
    text = io.StringIO()
    writer.dump({key: quoted(value) for key, value in entry.items()}, text)
    return text.getvalue().strip()


def quoted(value: Any) -> Any:
    """Return a value for YAML, in which names with signs are in double quotes.

    The writer leaves a name such as "Qual é a dúvida?" bare, and the reader refuses it in a flow.
    """
    if isinstance(value, list):
        return [quoted(item) for item in value]
    if isinstance(value, str) and value and not PLAIN_NAME.fullmatch(value):
        return DoubleQuotedScalarString(value)
    return value


def short_names(names: list[str]) -> str:
    """Return the first names of a list as one text, shortened.

    At most 20 names with at most 60 characters each are named.
    """
    shown = [name[:NAME_CHARACTERS] for name in names[:SHOWN_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def advise(column: str, cell: Any, field: str, columns: Columns | ChatColumns) -> str:
    """Return why a list or an object is refused as a text.

    The reason has the entry of params.yaml to write, if there is one.
    """
    if isinstance(cell, dict):
        nested = _text_fields(cell)
        what = f"{column} is an object and not text"
        if not nested:
            return what
        entry = flow({field: f"{column}.{nested[0]}"}).strip("{}")
        others = f" (its texts are {short_names(nested)})" if len(nested) > 1 else ""
        return f"{what}; write {entry}{others}"
    if is_messages(cell):
        entry = flow(
            {"messages": column, "specialty": columns.specialty, "kind": columns.kind},
        )
        return f"{column} is a list of messages and not text; write columns: {entry}"
    return f"{column} is a list and not text"


def is_messages(cell: object) -> bool:
    """Return whether a cell is a list of messages of a known form."""
    if not isinstance(cell, list) or not cell or not isinstance(cell[0], dict):
        return False
    return any(keys <= cell[0].keys() for keys in MESSAGE_KEYS)


def _text_fields(cell: Row) -> list[str]:
    """Return the fields of an object that are texts or lists."""
    return [str(name) for name, value in cell.items() if isinstance(value, str | list)]
