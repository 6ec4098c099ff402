"""Name, draw and group the items of benchmark tasks.

The items are checked before a model is loaded.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bula.errors import UserError
from bula.files import sha256_values

if TYPE_CHECKING:
    from lm_eval.api.task import Task

# One item as its task reads it.
Document = dict[str, Any]
# The name of a slice: it becomes part of the name of a figure.
SLICE = re.compile(r"[a-z][a-z0-9_]{0,39}")
# The columns of lm-eval's own tasks whose items share a text.
GROUP_COLUMNS = {"boolq": "passage", "squad_completion": "title"}
# Length of the names of items and groups, in hexadecimal digits.
DIGITS = 16


class Item(NamedTuple):
    """Name, slice and group of one item."""

    document: str
    """Name of the item, which no other item of the task has."""
    slice: str
    """Part of the task, or an empty text."""
    group: str
    """Name of the group whose items share a text, or an empty text."""


# The items of each task, by the index that lm-eval calls `doc_id`.
Items = dict[str, list[Item]]


def read_items(tasks: Mapping[str, Task]) -> Items:
    """Return the items of all tasks.

    Raise UserError if a task has no item, if an item lacks the column of its group, or if the name
    of a slice cannot be part of a figure's name.
    """
    found = {name: items_of(name, task) for name, task in tasks.items()}
    refuse_shared_names(found)
    return found


def items_of(name: str, task: Task) -> list[Item]:
    """Return the items of one task."""
    documents = list(task.eval_docs)
    if not documents:
        raise UserError(f"task {name}", "it has no items", "add items to its file")
    column = group_column(name, task, documents)
    items = []
    for key, document in zip(name_documents(documents), documents, strict=True):
        items.append(Item(key, slice_of(name, document), group_of(document, column)))
    return items


def name_documents(documents: Iterable[Document]) -> list[str]:
    """Return a name for each item: a hash of its content.

    An item that repeats another one also has the number of the repetition, so that the same item
    has the same name under each variant.
    """
    seen: Counter[str] = Counter()
    names = []
    for document in documents:
        # Columns may contain dates, which JSON cannot represent.
        name = sha256_values(ascii(sorted(document.items())))[:DIGITS]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def slice_of(name: str, document: Document) -> str:
    """Return an item's part of the task, or an empty text.

    Raise UserError if the part cannot be part of a figure's name.
    """
    part = str(document.get("slice") or "")
    if part and not SLICE.fullmatch(part):
        what = "a `slice` of an item is not of the form lower_case_1"
        raise UserError(f"the items of {name}", what, "rename the slice")
    return part


def group_column(name: str, task: Task, documents: Iterable[Document]) -> str:
    """Return the column whose value the items of a group share.

    The key `group` of a task's metadata names the column. Raise UserError if an item lacks it.
    """
    column = (task.config.metadata or {}).get("group")
    if column is None:
        return GROUP_COLUMNS.get(name, "group")
    if any(column not in document for document in documents):
        what = f"its metadata name the column {column} for groups, which an item lacks"
        raise UserError(f"task {name}", what, "correct `metadata.group` of the task")
    return str(column)


def group_of(document: Document, column: str) -> str:
    """Return the name of an item's group, or an empty text.

    The name is a hash, because the value may be a long text.
    """
    value = document.get(column)
    return "" if value in (None, "") else sha256_values(str(value))[:DIGITS]


def refuse_shared_names(items: Items) -> None:
    """Raise UserError if a slice of one task has the name of another task."""
    for name, members in items.items():
        for part in sorted({item.slice for item in members} - {""}):
            if f"{name}_{part}" in items:
                what = f"{name}_{part} names a task and a slice of another task"
                raise UserError("params.yaml", what, "rename the slice, or remove one task")


def draw_items(count: int, limit: int, seed: int) -> list[int]:
    """Return the sorted indexes of `limit` items of `count`, where 0 takes all.

    Tasks over the same items draw the same indexes, and so do all variants.
    """
    if not limit or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))
