"""Read single cells of a row: nested fields, texts, labels and answers."""

import math
import re
from collections import Counter
from typing import Any

from bula.params import ChatColumns, Columns
from bula.records import Row, Split
from stages.ingest.advice import advise
from stages.ingest.reading import Refused

# Texts that programs write into empty cells, in lower case.
EMPTY_TEXTS = frozenset({"", "-", "--", "nan", "nat", "none", "null", "n/a", "#n/a", "<na>"})
# Names of splits, in lower case, that files and data sets use.
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "treino", "treinamento"), "train"),
    **dict.fromkeys(("dev", "development", "validation", "valid", "val"), "dev"),
    **dict.fromkeys(("desenvolvimento", "validacao", "validação"), "dev"),
    **dict.fromkeys(("test", "testing", "teste", "a"), "A"),
    **{"b": "B", "c": "C", "d": "D", "e": "E"},
}
# A longer value, several words, a long number or an address may be a patient's text.
SHOWN_SPLIT = re.compile(r"[^\W\d]{0,16}[-_]?\d{0,2}")
MISSING = object()

Scalar = str | int | float | bool | None


def find_cell(row: Row, column: str) -> Any:
    """Return the cell of a column, or MISSING.

    A name with dots names a column of that name, or else a field of a nested object.
    """
    if column in row:
        return row[column]
    cell: Any = row
    for part in column.split("."):
        if not isinstance(cell, dict) or part not in cell:
            return MISSING
        cell = cell[part]
    return cell


def is_empty(value: object) -> bool:
    """Return whether a cell has no content.

    Null, NaN and the text "nan" are such cells.
    """
    if isinstance(value, str):
        return value.strip().lower() in EMPTY_TEXTS
    is_nan = isinstance(value, float) and not math.isfinite(value)
    return value is None or value is MISSING or is_nan


def read_text(value: object) -> Scalar:
    """Return a cell as a JSON scalar.

    Empty cells, lists, objects and values that JSON does not have become null.
    """
    if is_empty(value):
        return None
    return value if isinstance(value, str | int | float | bool) else None


def read_label(value: object, field: str, counts: Counter[str]) -> str | None:
    """Return a specialty or kind as a text, or None if it is empty.

    A number becomes its text. Other values are dropped and counted as `FIELD_not_text`.
    """
    if is_empty(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        is_whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if is_whole else value)
    counts[f"{field}_not_text"] += 1
    return None


def read_split(value: object, column: str) -> Split | Refused | None:
    """Return the split that a cell names, or why it is refused.

    Return None for an empty cell, so that the role of the source decides.
    """
    if is_empty(value):
        return None
    name = str(value).strip()
    split = SPLIT_NAMES.get(name.lower())
    if split:
        return split
    shown = repr(name) if SHOWN_SPLIT.fullmatch(name) else f"a text of {len(name)} characters"
    return Refused(f"{column} is {shown} and not train, dev, validation, test or A to E", "")


def read_question(row: Row, columns: Columns) -> Scalar | Refused:
    """Return the question of a row, or why it is refused.

    The texts of several columns are joined by line feeds, and a context is put before them.
    """
    names = question_columns(columns)
    for column in [*names, columns.context]:
        cell = find_cell(row, column)
        if isinstance(cell, list | dict):
            field = "context" if column == columns.context else "question"
            return Refused(advise(column, cell, field, columns), "")
    parts = [read_text(find_cell(row, column)) for column in names]
    filled = [part for part in parts if part is not None]
    context = read_text(find_cell(row, columns.context)) if columns.context else None
    if not filled or (len(filled) == 1 and context is None):
        return filled[0] if filled else None
    question = "\n".join(map(str, filled))
    return question if context is None else f"Contexto: {context}\n\nPergunta: {question}"


def question_columns(columns: Columns) -> list[str]:
    """Return the columns whose texts make the question."""
    return columns.question if isinstance(columns.question, list) else [columns.question]


def message_columns(columns: ChatColumns) -> list[str]:
    """Return the columns whose messages make a conversation."""
    return columns.messages if isinstance(columns.messages, list) else [columns.messages]


def read_answers(row: Row, columns: Columns, counts: Counter[str]) -> list[Scalar] | Refused:
    """Return the answers of a row, or why the row is refused.

    A list without a text has the answer null. Answers that are left out are counted.
    """
    cell = find_cell(row, columns.answer)
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        # SQuAD's answers, with the places of the texts beside them.
        cell = cell["text"]
    if isinstance(cell, list) and all(_is_answer(item) for item in cell):
        # Answers as SQuAD's own file has them.
        cell = [item["text"] for item in cell]
    if not isinstance(cell, list | dict):
        return [read_text(cell)]
    if isinstance(cell, dict) or not all(isinstance(item, str) for item in cell):
        return Refused(advise(columns.answer, cell, "answer", columns), "")
    answers = list(dict.fromkeys(item for item in cell if not is_empty(item)))
    if columns.answers == "first" and len(answers) > 1:
        counts["answers_left_out"] += len(answers) - 1
        return [answers[0]]
    return [*answers] or [None]


def _is_answer(item: object) -> bool:
    """Return whether an item is an object with the text of an answer."""
    return isinstance(item, dict) and isinstance(item.get("text"), str)


def mapped_columns(columns: Columns | ChatColumns) -> list[str]:
    """Return the columns that a mapping reads, each once."""
    if isinstance(columns, ChatColumns):
        texts = message_columns(columns)
    else:
        texts = [*question_columns(columns), columns.context, columns.answer]
    names = [*texts, columns.specialty, columns.kind, columns.split]
    # An empty name means that the source has no such column.
    return list(dict.fromkeys(name for name in names if name))
