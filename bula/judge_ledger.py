"""Keep each verdict in a ledger, so that none is paid twice."""

import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bula.errors import UserError
from bula.files import sha256_values
from bula.judge_prompt import Message, Verdict, verdict_type
from bula.params import Judge
from bula.records import append_row

LEDGER = Path(".bula/ledger.jsonl")


class Entry(BaseModel):
    """The fields of a ledger line that a later run needs."""

    key: str
    verdict: Verdict


def ledger_key(identity: str, messages: list[Message], settings: Judge) -> str:
    """Return the hash of everything that influences a verdict.

    `identity` is the URL of the judge or the hash of its model file.
    """
    schema = verdict_type(settings).model_json_schema()
    return sha256_values(identity, settings.model, settings.max_tokens, messages, schema)


def append_verdict(path: Path, key: str, judge: str, verdict: Verdict) -> None:
    """Append one verdict to the ledger."""
    append_row(path, {"key": key, "judge": judge, "verdict": verdict.model_dump()})


def read_ledger(path: Path) -> dict[str, Verdict]:
    """Return the verdicts in the ledger by key.

    A last line that a full disk cut short is removed. Raise UserError if another line is damaged.
    """
    if not path.exists():
        return {}
    *lines, incomplete = path.read_bytes().split(b"\n")
    if incomplete:
        os.truncate(path, path.stat().st_size - len(incomplete))
    verdicts = {}
    for number, line in enumerate(lines, start=1):
        entry = _read_entry(f"{path}:{number}", line)
        verdicts[entry.key] = entry.verdict
    return verdicts


def _read_entry(where: str, line: bytes) -> Entry:
    """Return one line of the ledger as its type."""
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        what = "this line contains no verdict"
        fix = "delete the line; its verdict will be requested again"
        raise UserError(where, what, fix) from None
