"""The one Example type, JSON Lines in and out, and outputs that appear whole or not at all."""

import hashlib
import json
import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

Row = dict[str, Any]


class Example(BaseModel):
    """One question with its reference answer, after preprocessing: text is normalised and never empty."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    source: str = Field(min_length=1)
    license: str = Field(min_length=1)
    split: str = Field(pattern=r"^(train|dev|[A-E])$")
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    specialty: str | None = None
    kind: str | None = None


def example_id(source: str, question: str, answer: str) -> str:
    """Stable id: the first 64 bits of SHA-256 over the three texts."""
    return hashlib.sha256("\x1f".join((source, question, answer)).encode()).hexdigest()[:16]


def read_rows(path: Path) -> Iterator[Row]:
    """Objects of a JSON Lines file; ValueError names the file, the line and what is wrong there."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line)") from error
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: not JSON ({getattr(error, 'msg', error)})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: a JSON object is expected, found {type(row).__name__}")
            yield row


def _refuse_constant(name: str) -> None:
    """NaN and infinities are no JSON, whatever Python's reader thinks."""
    raise ValueError(f"{name} is no JSON value")


def read_examples(path: Path) -> list[Example]:
    """Examples of a file that preprocess wrote; ValueError if it is empty or a row is not an Example."""
    try:
        examples = [Example.model_validate(row) for row in read_rows(path)]
    except ValidationError as error:
        raise ValueError(f"{path} holds a row that is no Example: {error}") from error
    if not examples:
        raise ValueError(f"{path} is empty; there is nothing to train on or to score")
    return examples


def validation_sets(folder: Path) -> dict[str, list[Example]]:
    """The validation sets below `folder`, by name, in order; ValueError if one is missing or empty."""
    return {name: read_examples(folder / f"{name}.jsonl") for name in "ABCDE"}


def write_rows(path: Path, rows: Iterable[Row | BaseModel]) -> int:
    """Write objects as JSON Lines (UTF-8, NFC, keys sorted), whole or not at all; gives the number of rows."""
    count = 0
    with staged(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            plain = row.model_dump(exclude_none=True) if isinstance(row, BaseModel) else row
            file.write(json_line(_composed(plain)))
            count += 1
    return count


def json_line(value: Any) -> str:
    """A value as one line of a JSON Lines file: keys sorted, text as it is; ValueError for NaN and infinity."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"


def _composed(value: Any) -> Any:
    """The value with every text in NFC. Not the line as a whole: a mark after a line feed would join the n of its escape."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return {_composed(key): _composed(part) for key, part in value.items()}
    return [_composed(part) for part in value] if isinstance(value, list | tuple) else value


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write a file or folder to; rename it on success, remove it on failure.

    A failed write (disk full, quota, read-only) ends the program with one sentence; what was at `path` stays.
    """
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old.tmp"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield temporary
        if path.is_dir():
            # A folder cannot be renamed over another: the old one steps aside and is deleted last.
            path.rename(old)
        temporary.rename(path)
    except (OSError, SafetensorError) as error:
        if old.exists():
            old.rename(path)
        if not _is_failed_write(error, path.parent):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise SystemExit(f"cannot write {path}: {reason}; {path} is as it was before") from error
    finally:
        _remove(temporary)
        _remove(old)


def _is_failed_write(error: OSError | SafetensorError, folder: Path) -> bool:
    """Whether an error comes from writing below `folder`, and not from reading somewhere else while rows are made."""
    if isinstance(error, ConnectionError | FileNotFoundError):
        return False
    if isinstance(error, SafetensorError):
        return "os error" in str(error)
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return error.errno is not None and all(folder.absolute() in path.absolute().parents or path == folder for path in named)


def _remove_stale(path: Path) -> None:
    """Delete what killed runs, or an earlier one of this process, left under a temporary name of `path`."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        owner = int(stale.name.removeprefix(f".{path.name}.").split(".")[0])
        if owner == os.getpid() or not Path(f"/proc/{owner}").exists():
            _remove(stale)


def _remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append_row(path: Path, row: Row) -> None:
    """Add one object to a JSON Lines file, on disk before this returns; one write, so that a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json_line(row).encode())
        os.fsync(file.fileno())


def sha256_values(*values: Any) -> str:
    """SHA-256 over plain values (what JSON can hold), in hexadecimal; key order does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
