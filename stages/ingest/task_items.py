"""Write the items of public data sets in one form.

The form is id, question, options and the correct option.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bula.errors import UserError
from bula.files import sha256_values
from bula.params import ChoiceColumns, StatementColumns
from bula.records import Row

# A row of a data set, with its line.
NumberedItem = tuple[int, Row]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TRUE_OR_FALSE = ["verdadeira", "falsa"]
# Length of an id, in hexadecimal digits.
DIGITS = 16
FIX = "correct the data set, or `columns` of the benchmark in params.yaml"


class BadItemError(ValueError):
    """An item has another form than its columns say."""


def wanted_task_columns(columns: ChoiceColumns | StatementColumns) -> list[str]:
    """Return the columns that the data set must have."""
    if isinstance(columns, StatementColumns):
        return [columns.statements]
    wanted = [columns.question, *columns.options, columns.answer]
    return [*wanted, *filter(None, (columns.slice, columns.group))]


def map_items(
    name: str, columns: ChoiceColumns | StatementColumns, rows: Iterator[NumberedItem]
) -> Iterator[Row]:
    """Yield items with `id`, `question`, `options` and `target`, the index of the correct option.

    Raise UserError for the first row of another form; the error never shows the row's content.
    Print the number of annulled questions.
    """
    annulled = 0
    seen: Counter[str] = Counter()
    for number, (line, row) in enumerate(rows, start=1):
        try:
            check_columns(row, columns)
            if is_annulled(row, columns):
                annulled += 1
                continue
            for item in items_of(number, row, columns):
                yield {"id": next_id(item, seen), **item}
        except BadItemError as error:
            raise UserError(f"benchmark {name}: item {line}", str(error), FIX) from None
    if annulled:
        note = f"benchmark {name}: {annulled} annulled questions are left out"
        print(f"ingest: {note}", file=sys.stderr)


def next_id(item: Row, seen: Counter[str]) -> str:
    """Return the id of an item, and count it in `seen`.

    The id is a hash of the item's content. An item that repeats another one also has the number of
    the repetition.
    """
    digest = sha256_values(item)[:DIGITS]
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def check_columns(row: Row, columns: ChoiceColumns | StatementColumns) -> None:
    """Raise BadItemError if the row lacks a column."""
    missing = [column for column in wanted_task_columns(columns) if column not in row]
    if missing:
        raise BadItemError(f"it has no column {', '.join(missing)}")


def is_annulled(row: Row, columns: ChoiceColumns | StatementColumns) -> bool:
    """Return whether the answer of a question says that the question was annulled."""
    return isinstance(columns, ChoiceColumns) and str(row[columns.answer]) in columns.annulled


def items_of(number: int, row: Row, columns: ChoiceColumns | StatementColumns) -> Iterator[Row]:
    """Yield the items of one row of a data set."""
    if isinstance(columns, StatementColumns):
        yield from statement_items(number, row[columns.statements])
    else:
        yield choice_item(row, columns)


def statement_items(number: int, statements: Any) -> Iterator[Row]:
    """Yield one item per statement; the first, third and so on are true.

    The statements of one row are one group.
    """
    if not isinstance(statements, list) or len(statements) % 2:
        raise BadItemError("its statements are not a list of pairs")
    for place, statement in enumerate(statements):
        yield {
            "question": check_text(statement, "a statement"),
            "options": TRUE_OR_FALSE,
            "target": place % 2,
            "group": f"row {number}",
        }


def choice_item(row: Row, columns: ChoiceColumns) -> Row:
    """Return the item of a multiple-choice question."""
    names, options = read_options(row, columns.options)
    item: Row = {
        "question": check_text(row[columns.question], columns.question),
        "options": options,
        "target": find_target(row[columns.answer], columns.answer_is, names, options),
    }
    if columns.slice:
        item["slice"] = check_text(row[columns.slice], columns.slice)
    if columns.group and row[columns.group] not in (None, ""):
        item["group"] = str(row[columns.group])
    return item


def read_options(row: Row, columns: list[str]) -> tuple[list[str], list[str]]:
    """Return the letters and the texts of the options.

    Questions with fewer options than others leave the last ones empty. The letters of an object are
    its keys.
    """
    cells: Any = [row[column] for column in columns]
    names = list(LETTERS)
    if len(columns) == 1:
        cells = cells[0]
    if isinstance(cells, dict):
        names = [str(name).upper() for name in cells]
        cells = list(cells.values())
    if not isinstance(cells, list):
        raise BadItemError(f"{columns[0]} is neither a list nor an object of options")
    while cells and not cells[-1]:
        cells = cells[:-1]
    if not 2 <= len(cells) <= len(LETTERS):
        raise BadItemError(f"it has {len(cells)} options")
    return names[: len(cells)], [check_text(cell, "an option") for cell in cells]


def find_target(answer: Any, form: str, names: list[str], options: list[str]) -> int:
    """Return the index of the correct option."""
    if form == "letter":
        return place_in(str(answer).strip().upper(), names)
    if form == "text":
        return place_in(str(answer).strip(), options)
    first = 1 if form == "number" else 0
    counted = [str(first + place) for place in range(len(options))]
    return place_in(str(answer).strip(), counted)


def place_in(answer: str, known: list[str]) -> int:
    """Return the place of the answer; raise BadItemError unless it occurs exactly once."""
    if known.count(answer) != 1:
        raise BadItemError("its answer names no option, or more than one")
    return known.index(answer)


def check_text(value: Any, name: str) -> str:
    """Return a text without outer spaces; raise BadItemError if there is none."""
    if not isinstance(value, str) or not value.strip():
        raise BadItemError(f"{name} is not a text")
    return value.strip()
