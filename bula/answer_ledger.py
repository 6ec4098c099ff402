"""Keep finished answers, so that a killed stage resumes with them.

The answers of one run lie in .bula/answers/STAGE@VARIANT/FINGERPRINT.jsonl, outside DVC's outputs,
because `dvc repro` deletes the outputs of a stage before it starts the stage. A line has the
answers of one batch. Answers may contain personal data that is not redacted yet, so only the user
can read the file. The run that owns it holds a lock, and deletes it after it wrote its outputs, or
if the answers contain personal data that nobody may keep.
"""

import errno
import fcntl
import io
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bula.errors import UserError
from bula.escaping import terminal
from bula.files import sha256_values
from bula.records import json_line

# DVC runs an experiment in a copy that it deletes; DVC_ROOT is the repository itself even there.
ANSWERS = Path(os.environ.get("DVC_ROOT", "")) / ".bula/answers"
# Permissions: only the user reads, writes and lists.
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
# Text, finish reason and number of tokens of one answer, and whether reasoning was removed from it.
Parts = tuple[str, str, int, bool]


class PersonalDataError(UserError):
    """Answers contain personal data, and privacy.answers forbids to keep them."""


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


@contextmanager
def open_ledger(
    stage: str, fingerprint: str, variants: Collection[str], folder: Path = ANSWERS
) -> Iterator[io.FileIO]:
    """Yield the locked file of a run, and delete it after the block.

    The file stays if the block is killed or raises an error, unless it is PersonalDataError.
    `stage` is STAGE@VARIANT, and `fingerprint` is a hash of everything that shapes an answer
    besides its prompt. The stage's files of other runs are deleted, and those of variants that
    `variants` lacks, unless a run holds them. Raise UserError if another process has this run's
    file.
    """
    path = folder / stage / f"{fingerprint}.jsonl"
    for part in (folder, path.parent):
        part.mkdir(parents=True, exist_ok=True)
        part.chmod(PRIVATE_FOLDER)
    ledger = _open_locked(path)
    if ledger is None:
        what = "another process answers the same questions and holds this file"
        raise UserError(path, what, "wait for that process, or stop it")
    with ledger:
        for other in path.parent.glob("*.jsonl"):
            if other != path:
                _delete(other)
        delete_removed(variants, folder, keep=stage)
        try:
            yield ledger
        except PersonalDataError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def delete_removed(variants: Collection[str], folder: Path = ANSWERS, keep: str = "") -> None:
    """Delete the answers of variants that params.yaml no longer has.

    Each deleted folder is printed. The folder `keep` and the files that a run holds stay.
    """
    for place in sorted(folder.glob("*@*")):
        if place.name == keep or place.name.partition("@")[2] in variants:
            continue
        deleted = sum(_delete(file) for file in place.glob("*.jsonl"))
        with suppress(OSError):
            place.rmdir()
        if deleted:
            print(f"{terminal(str(place))}: deleted, params.yaml has no such variant", flush=True)


def _delete(path: Path) -> bool:
    """Return whether a file was deleted; a file that a run holds stays."""
    ledger = _open_locked(path)
    if ledger is None:
        return False
    with ledger:
        path.unlink(missing_ok=True)
    return True


def _open_locked(path: Path) -> io.FileIO | None:
    """Open and lock a private file.

    Return None if another process holds it. The last holder deletes the file when it is complete,
    so a lock on a deleted file does not count.
    """
    while True:
        file = io.FileIO(path, "a+", opener=partial(os.open, mode=PRIVATE_FILE))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if os.fstat(file.fileno()).st_nlink:
            # The umask of an earlier run may have left other permissions.
            os.fchmod(file.fileno(), PRIVATE_FILE)
            return file
        file.close()


def append_answers(ledger: io.FileIO, prompts: list[list[int]], answers: Sequence[Parts]) -> None:
    """Append the answers to one batch of prompts, and fsync them.

    A single write adds the line, so that concurrent requests do not mix their lines. Raise OSError
    if the disk has no room for it.
    """
    row = {"key": batch_key(prompts), "answers": [list(parts) for parts in answers]}
    line = json_line(row).encode()
    if ledger.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(ledger.name))
    os.fsync(ledger.fileno())


def read_ledger(ledger: io.FileIO) -> dict[str, list[Parts]]:
    """Return the answers of each batch by its key.

    Damaged lines are left out, so their batches are generated again. A last line that a full disk
    cut short is removed, so that the next line does not continue it.
    """
    ledger.seek(0)
    *lines, incomplete = ledger.readall().split(b"\n")
    if incomplete:
        ledger.truncate(ledger.tell() - len(incomplete))
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
