"""Read benchmark items as rows, to compare train with them."""

from pathlib import Path
from typing import Any

from bula.records import Row, example_id, read_rows
from bula.text import comparison_key, normalise, strings
from stages.preprocess.clean import clean_text

# Field names of lm-eval's tasks: the question, fields without text of the item, and the options.
QUESTION_FIELDS = ("question", "sent1", "query", "premise", "text")
OTHER_FIELDS = ("id", "doc_id", "subject_name", "topic_name", "title", "slice", "group", "license")
OPTION_FIELDS = (
    ("opa", "opb", "opc", "opd"),
    ("ending0", "ending1", "ending2", "ending3"),
    ("right", "wrong"),
)


def benchmark_rows(path: Path) -> list[Row]:
    """Return the items of a benchmark in the shape of cleaned rows.

    The text is cleaned like a training row's, so that damage does not hide a copy. The id is the
    id of the item as the benchmark contains it.
    """
    rows = []
    for line, item in enumerate(read_rows(path), start=1):
        original_question, original_answer = item_texts(item)
        question, answer = item_texts(_clean_values(item))
        example = {
            "id": example_id(path.stem, original_question, original_answer),
            "question": question,
            "answer": answer,
        }
        row = {
            "file": path.name,
            "line": line,
            "example": example,
        }
        rows.append(row)
    return rows


def item_texts(item: Row) -> tuple[str, str]:
    """Return the question of an item, and all its other texts.

    A text that is part of another text is left out.
    """
    texts = []
    for name, value in item.items():
        if name not in OTHER_FIELDS:
            texts += [text for text in strings(value) if comparison_key(text)]
    question = _question(item, texts)
    rest = []
    for text in texts:
        if text != question and not _is_inside_another(text, texts):
            rest.append(text)
    return question, " ".join(rest)


def _question(item: Row, texts: list[str]) -> str:
    """Return the question of an item, or else its first text."""
    for name in QUESTION_FIELDS:
        value = item.get(name)
        if isinstance(value, str) and value in texts:
            return value
    return texts[0] if texts else ""


def _is_inside_another(text: str, texts: list[str]) -> bool:
    """Return whether a different text contains this text."""
    return any(text != other and text in other for other in texts)


def _clean_values(value: Any) -> Any:
    """Return a value with every text in it cleaned."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {name: _clean_values(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_clean_values(inner) for inner in value]
    return value


def duplicate_options(path: Path) -> list[int]:
    """Return the lines of multiple-choice items with two equal options.

    Whichever of the two is the key, the other is scored as wrong.
    """
    lines = []
    for line, item in enumerate(read_rows(path), start=1):
        options = [_option_key(option) for option in _options(item)]
        if len(set(options)) < len(options):
            lines.append(line)
    return lines


def _option_key(option: Any) -> str:
    """Return a key that equal options share.

    Signs inside an option count: "↑ ↓" differs from "↓ ↑", and -2 from 2.
    """
    text = normalise(str(option)).casefold()
    return text.strip(" .,;!")


def _options(item: Row) -> list[Any]:
    """Return the options of an item in any of the known forms."""
    choices = item.get("choices")
    options = item.get("options")
    if isinstance(choices, dict):
        return list(choices.get("text", []))
    if isinstance(choices, list):
        return choices
    if isinstance(options, dict):
        return list(options.values())
    if isinstance(options, list):
        return options
    for fields in OPTION_FIELDS:
        if item.keys() >= set(fields):
            return [item[name] for name in fields]
    return []
