"""Keep finished answers, so that a killed stage resumes with them.

The answers of one run lie in .bula/answers/STAGE/FINGERPRINT.jsonl, outside DVC's outputs, because
`dvc repro` deletes the outputs of a stage before it starts the stage. A line has the answers of one
batch. Answers may contain personal data that is not redacted yet, so only the user can read the
file, and the stage deletes it when all answers are complete.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bula.files import sha256_values
from bula.records import append_row

# DVC runs an experiment in a copy that it deletes; DVC_ROOT is the repository itself even there.
ANSWERS = Path(os.environ.get("DVC_ROOT", "")) / ".bula/answers"
# Text, finish reason and number of tokens of one answer.
Parts = tuple[str, str, int]


class Line(BaseModel):
    """The answers to one batch of prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    answers: list[Parts]


def batch_key(prompts: list[list[int]]) -> str:
    """Return a hash of the prompts of one batch.

    The other prompts of a batch can change how an answer is rounded, so the key covers all of them.
    """
    return sha256_values(prompts)


def open_ledger(stage: str, fingerprint: str, folder: Path = ANSWERS) -> Path:
    """Return the file of a run, and delete those of its stage's other runs.

    `fingerprint` is a hash of everything that shapes an answer besides its prompt.
    """
    path = folder / stage / f"{fingerprint}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob("*.jsonl"):
        if other != path:
            other.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return path


def append_answers(path: Path, prompts: list[list[int]], answers: Sequence[Parts]) -> None:
    """Append the answers to one batch of prompts."""
    append_row(path, {"key": batch_key(prompts), "answers": [list(parts) for parts in answers]})


def read_ledger(path: Path) -> dict[str, list[Parts]]:
    """Return the answers of each batch by its key.

    Damaged lines are left out, so their batches are generated again. A last line that a full disk
    cut short is removed, so that the next line does not continue it.
    """
    *lines, incomplete = path.read_bytes().split(b"\n")
    if incomplete:
        os.truncate(path, path.stat().st_size - len(incomplete))
    found = {}
    for text in lines:
        line = _parse_line(text)
        if line is not None:
            found[line.key] = line.answers
    return found


def _parse_line(text: bytes) -> Line | None:
    """Return one line as its type, or None if it is damaged."""
    try:
        return Line.model_validate_json(text)
    except ValidationError:
        return None
