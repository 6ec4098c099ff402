"""Find the fields that a judge accepts, and read its verdicts.

Servers with OpenAI's API differ in the name of the token limit, in sampling fields, and in the ways
to ask for JSON. A server refuses an unknown field with an error that names it. The fields that
worked are recorded once per address and model.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bula.files import staged
from bula.judge_prompt import Message, Verdict, verdict_schema
from bula.params import Judge

Format = Literal["json_schema", "json_object", "text"]
NEXT_FORMAT: dict[Format, Format] = {"json_schema": "json_object", "json_object": "text"}
FORMAT_WORDS = re.compile(
    r"response_format|json_schema|json_object|schema|structured.output|guided|grammar"
)
# Thoughts of a reasoning model; some servers drop the opening tag.
THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>|\A.*?</think(?:ing)?>", re.DOTALL)
# A reply with more objects than this is no verdict.
MOST_OBJECTS = 20
# What replaces the schema where a server accepts none. A backslash continues a line.
FORM = """Responda somente com um objeto JSON com as chaves reason (texto), \
accuracy (inteiro de 1 a 3, ou null) e style (inteiro de 1 a 3, ou null), nesta ordem."""


class Dialect(BaseModel):
    """The fields of a request that a server accepts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token_limit: Literal["max_tokens", "max_completion_tokens"]
    temperature: bool
    seed: bool
    format: Format


# llama.cpp, vLLM, and most models of OpenAI's API accept these fields.
FIRST = Dialect(token_limit="max_tokens", temperature=True, seed=True, format="json_schema")
RECORD = TypeAdapter(dict[str, Dialect])


def next_dialect(dialect: Dialect, message: str) -> Dialect | None:
    """Return the dialect without the field that an error names, else None."""
    if dialect.temperature and "temperature" in message:
        return dialect.model_copy(update={"temperature": False})
    if dialect.seed and re.search(r"\bseed\b", message):
        return dialect.model_copy(update={"seed": False})
    if dialect.token_limit in message:
        return dialect.model_copy(update={"token_limit": _other_limit(dialect)})
    if dialect.format in NEXT_FORMAT and FORMAT_WORDS.search(message):
        return dialect.model_copy(update={"format": NEXT_FORMAT[dialect.format]})
    return None


def _other_limit(dialect: Dialect) -> str:
    """Return the other name of the token limit."""
    names = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
    return names[dialect.token_limit]


def to_request(settings: Judge, messages: list[Message], dialect: Dialect) -> dict[str, Any]:
    """Return the arguments of one call in a dialect."""
    request: dict[str, Any] = {
        "model": settings.model,
        "messages": messages,
        dialect.token_limit: settings.max_tokens,
    }
    if dialect.temperature:
        request["temperature"] = 0
    if dialect.seed:
        request["seed"] = 0
    if dialect.format == "json_schema":
        request["response_format"] = {"type": "json_schema", "json_schema": _schema(settings)}
        return request
    system, *others = messages
    content = f"{system['content']}\n{FORM}"
    request["messages"] = [system | {"content": content}, *others]
    if dialect.format == "json_object":
        request["response_format"] = {"type": "json_object"}
    return request


def _schema(settings: Judge) -> dict[str, Any]:
    """Return the schema of a verdict in the form of OpenAI's API."""
    return {"name": "Verdict", "strict": True, "schema": verdict_schema(settings)}


def find_verdict(text: str, kind: type[Verdict]) -> Verdict | None:
    """Return the verdict in a reply, else None.

    The reply may contain thoughts between <think> tags, a fence of Markdown, and other text. Two
    objects with different scores are no verdict.
    """
    found = []
    for value in _objects(THOUGHTS.sub("", text)):
        try:
            found.append(kind.model_validate(value))
        except ValidationError:
            continue
    scores = {(verdict.accuracy, verdict.style) for verdict in found}
    return found[0] if len(scores) == 1 else None


def _objects(text: str) -> Iterator[Any]:
    """Yield the JSON objects of a text that do not lie in another one."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    for _ in range(MOST_OBJECTS):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)


def read_dialect(path: Path, settings: Judge) -> Dialect | None:
    """Return the recorded dialect of a judge, or None if there is none.

    A damaged record is ignored, because the dialect can be found again.
    """
    return _read_record(path).get(_name(settings))


def record_dialect(path: Path, settings: Judge, dialect: Dialect) -> None:
    """Record the dialect of a judge."""
    record = _read_record(path) | {_name(settings): dialect}
    with staged(path) as temporary:
        temporary.write_bytes(RECORD.dump_json(record, indent=2) + b"\n")


def _read_record(path: Path) -> dict[str, Dialect]:
    """Return all recorded dialects."""
    try:
        return RECORD.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _name(settings: Judge) -> str:
    """Return the name of a judge in the record."""
    return f"{settings.base_url.rstrip('/')} {settings.model}"
