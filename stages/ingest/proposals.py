"""Propose the entry of a source from the columns of its rows."""

import io
from itertools import chain
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from bula.records import Row
from stages.ingest.advice import is_messages, quoted
from stages.ingest.cells import read_split
from stages.ingest.conversations import parse_messages
from stages.ingest.headers import name_key
from stages.ingest.reading import Refused

# A neutral name, because the name of a file may be a patient's name.
SOURCE_NAME = "own"
# Usual names of columns, as small letters without spaces and accents; earlier ones are preferred.
QUESTIONS = ("question", "pergunta", "prompt", "instruction", "instrucao", "enunciado", "query")
MORE_QUESTIONS = ("questao", "duvida", "input", "entrada", "texto", "text", "q")
ANSWERS = ("answer", "resposta", "output", "response", "completion", "saida", "answers")
MORE_ANSWERS = ("respostas", "gabarito", "target", "label", "a")
OPTIONAL = {
    "specialty": ("specialty", "especialidade", "area"),
    "kind": ("kind", "tipo", "qtype"),
    "context": ("context", "contexto"),
    "split": ("split", "particao", "divisao"),
}
# Columns that together have the messages of a conversation.
PROMPT_COLUMNS = ("prompt", "completion")
# Column of SQuAD that is true for a question without an answer.
NO_ANSWER = "is_impossible"
# Parts of a dotted name that is proposed.
MOST_FIELDS = 4

Columns = dict[str, str | list[str]]


def propose_columns(names: list[str], rows: list[Row]) -> tuple[Columns, list[str]]:
    """Return the mapping of columns, and notes about what is uncertain."""
    rows = [_with_fields(row) for row in rows]
    names = list(dict.fromkeys([name for name in names if any(name in row for row in rows)]))
    names += [name for name in dict.fromkeys(chain(*rows)) if name not in names]
    keys = _keys(names)
    notes: list[str] = []
    chosen = _chat_column(names, rows)
    if not chosen:
        chosen = _question_and_answer(keys, rows)
    if "messages" not in chosen and len(chosen) < 2:
        notes.append(_length_note(chosen))
        chosen = _longest_columns(names, rows, chosen)
    for field, known in OPTIONAL.items():
        name = _first(keys, known)
        if field == "split" and name and not _are_splits(name, rows):
            notes.append(f"the values of the column {name} are no splits, so it is not proposed")
        elif name and name not in chosen.values():
            chosen[field] = name
        elif field in ("specialty", "kind"):
            chosen[field] = ""
    return chosen, notes


def _length_note(known: Columns) -> str:
    """Return the note about the columns that are chosen by their length."""
    missing = [part for part in ("question", "answer") if part not in known]
    if len(missing) == 1:
        return f"no column has a usual name for the {missing[0]}; the longest other one is proposed"
    return "no column has a usual name; question and answer are chosen by their length"


def lacks_answers(names: list[str], rows: list[Row], proposed: Columns) -> bool:
    """Return whether a column has questions, and no column answers.

    A column without a usual name has answers only if one of its cells has two words.
    """
    chosen = _question_and_answer(_keys(names), rows)
    if "question" not in chosen or "answer" in chosen:
        return False
    answer = str(proposed["answer"])
    cells = [_with_fields(row).get(answer) for row in rows]
    return not any(isinstance(cell, str) and " " in cell.strip() for cell in cells)


def _keys(names: list[str]) -> dict[str, str]:
    """Return the column of each simplified name.

    A complete name precedes the last part of a dotted name.
    """
    ends = {name_key(name.split(".")[-1]): name for name in reversed(names)}
    return ends | {name_key(name): name for name in reversed(names)}


def has_usual_name(names: list[str]) -> bool:
    """Return whether a column has a usual name.

    A single letter does not count, because it may be the option that a row without a header marks.
    """
    usual = {*QUESTIONS, *MORE_QUESTIONS, *ANSWERS, *MORE_ANSWERS, *chain(*OPTIONAL.values())}
    usual = {name for name in usual if len(name) > 1}
    return not usual.isdisjoint(_keys(names)) or not {"messages", "conversations"}.isdisjoint(names)


def _with_fields(row: Row, depth: int = MOST_FIELDS) -> Row:
    """Return a row in which fields of objects have dotted names.

    A name has at most `depth` parts. SQuAD's object of answers stays, because it is read as it is.
    """
    fields: Row = {}
    for name, cell in row.items():
        if depth > 1 and isinstance(cell, dict) and not isinstance(cell.get("text"), list):
            below = _with_fields(cell, depth - 1)
            fields |= {f"{name}.{field}": value for field, value in below.items()}
        else:
            fields[name] = cell
    return fields


def _are_splits(name: str, rows: list[Row]) -> bool:
    """Return whether ingest can read all values of a column as splits."""
    return not any(isinstance(read_split(row.get(name), name), Refused) for row in rows)


def _chat_column(names: list[str], rows: list[Row]) -> Columns:
    """Return the column with conversations, or nothing.

    TRL's form has the messages before the answer in `prompt`, and the answer in `completion`.
    """
    found = [name for name in names if _has_messages(name, rows)]
    if set(PROMPT_COLUMNS) <= set(found):
        return {"messages": list(PROMPT_COLUMNS)}
    return {"messages": found[0]} if found else {}


def _has_messages(name: str, rows: list[Row]) -> bool:
    """Return whether the first filled cell of a column is a list of messages."""
    cell = next((row[name] for row in rows if row.get(name)), None)
    return is_messages(parse_messages(cell))


def _question_and_answer(keys: dict[str, str], rows: list[Row]) -> Columns:
    """Return the columns with a usual name for a question or an answer."""
    chosen: Columns = {}
    question = _first(keys, (*QUESTIONS, *MORE_QUESTIONS))
    answer = _first(keys, (*ANSWERS, *MORE_ANSWERS))
    if question:
        chosen["question"] = question
    if answer:
        chosen["answer"] = answer
    extra = keys.get("input", "")
    # Alpaca's form: an instruction and, in some rows, the text that it is about.
    if extra and question == keys.get("instruction") and any(row.get(extra) for row in rows):
        chosen["question"] = [question, extra]
    return chosen


def _longest_columns(names: list[str], rows: list[Row], known: Columns) -> Columns:
    """Return the columns with the most text for what is not known.

    If neither is known, the shorter one of the two is the question.
    """
    sizes = {name: sum(_size(row.get(name)) for row in rows) for name in names}
    longest = sorted(names, key=lambda name: sizes[name], reverse=True)
    left = [name for name in longest if name not in known.values()] or longest
    answer = known.get("answer", left[0])
    question = known.get("question", next((name for name in left if name != answer), answer))
    return {"question": question, "answer": answer}


def _size(cell: object) -> int:
    """Return the number of characters of a text, and 0 for anything else."""
    return len(cell) if isinstance(cell, str) else 0


def _first(keys: dict[str, str], known: tuple[str, ...]) -> str:
    """Return the column with the first of the known names, or an empty text."""
    return next((keys[key] for key in known if key in keys), "")


def propose_filter(rows: list[Row]) -> dict[str, list[str]]:
    """Return the filter that leaves out questions without an answer."""
    has_none = any(row.get(NO_ANSWER) is True for row in rows)
    return {NO_ANSWER: [str(False)]} if has_none else {}


def source_entry(
    path: str, columns: Columns, encoding: str, optional: dict[str, Any]
) -> dict[str, Any]:
    """Return the entry of a source of files.

    The statements about names and license are the strictest ones, until the user corrects them.
    """
    return {
        "kind": "files",
        "name": SOURCE_NAME,
        "path": path,
        **{key: value for key, value in optional.items() if value and key != "filter"},
        "columns": columns,
        "encoding": encoding,
        "filter": optional.get("filter", {}),
        "limit": 0,
        "role": "split",
        "names": "present",
        "license": "unknown",
        "redistribution": "forbidden",
    }


def to_yaml(entry: dict[str, Any]) -> str:
    """Return an entry as an item of the list ingest.sources."""
    item = CommentedMap(entry)
    item["columns"] = CommentedMap({key: quoted(name) for key, name in entry["columns"].items()})
    item["columns"].fa.set_flow_style()
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump([item], text)
    return text.getvalue()
