"""Propose the entry of a source from the columns of its rows."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from bula.records import Row
from stages.ingest.headers import name_key

# A neutral name, because the name of a file may be a patient's name.
SOURCE_NAME = "own"
# Usual names of columns, as small letters without spaces and accents; earlier ones are preferred.
QUESTIONS = ("question", "pergunta", "prompt", "instruction", "instrucao", "enunciado", "query")
MORE_QUESTIONS = ("questao", "duvida", "input", "entrada", "texto", "text")
ANSWERS = ("answer", "resposta", "output", "response", "completion", "saida", "answers")
MORE_ANSWERS = ("respostas", "gabarito", "target", "label")
OPTIONAL = {
    "specialty": ("specialty", "especialidade", "area"),
    "kind": ("kind", "tipo", "qtype"),
    "context": ("context", "contexto"),
    "split": ("split", "particao", "divisao"),
}
# The fields of a message in the two usual forms of conversations.
CHAT_FORMS = ({"role", "content"}, {"from", "value"})

Columns = dict[str, str | list[str]]


def propose_columns(names: list[str], rows: list[Row]) -> tuple[Columns, list[str]]:
    """Return the mapping of columns, and notes about what is uncertain."""
    keys = {name_key(name): name for name in reversed(names)}
    notes: list[str] = []
    chosen = _chat_column(names, rows)
    if not chosen:
        chosen = _question_and_answer(keys, rows)
    if "messages" not in chosen and len(chosen) < 2:
        chosen = _longest_columns(names, rows)
        notes.append("no column has a usual name; question and answer are chosen by their length")
    for field, known in OPTIONAL.items():
        name = _first(keys, known)
        if name and name not in chosen.values():
            chosen[field] = name
        elif field in ("specialty", "kind"):
            chosen[field] = ""
    return chosen, notes


def _chat_column(names: list[str], rows: list[Row]) -> Columns:
    """Return the column with conversations, or nothing."""
    for name in names:
        cell = next((row[name] for row in rows if row.get(name)), None)
        message = cell[0] if isinstance(cell, list) else None
        if isinstance(message, dict) and any(form <= message.keys() for form in CHAT_FORMS):
            return {"messages": name}
    return {}


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


def _longest_columns(names: list[str], rows: list[Row]) -> Columns:
    """Return the two columns with the most text: the shorter one is the question."""
    sizes = {name: sum(_size(row.get(name)) for row in rows) for name in names}
    longest = sorted(names, key=lambda name: sizes[name], reverse=True)
    answer = longest[0]
    question = longest[1] if len(longest) > 1 else answer
    return {"question": question, "answer": answer}


def _size(cell: object) -> int:
    """Return the number of characters of a text, and 0 for anything else."""
    return len(cell) if isinstance(cell, str) else 0


def _first(keys: dict[str, str], known: tuple[str, ...]) -> str:
    """Return the column with the first of the known names, or an empty text."""
    return next((keys[key] for key in known if key in keys), "")


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
        **{key: value for key, value in optional.items() if value},
        "columns": columns,
        "encoding": encoding,
        "filter": {},
        "limit": 0,
        "role": "split",
        "names": "present",
        "license": "unknown",
        "redistribution": "forbidden",
    }


def to_yaml(entry: dict[str, Any]) -> str:
    """Return an entry as an item of the list ingest.sources."""
    item = CommentedMap(entry)
    item["columns"] = CommentedMap(entry["columns"])
    item["columns"].fa.set_flow_style()
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump([item], text)
    return text.getvalue()
