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

from bula.errors import UserError

Row = dict[str, Any]
# How a damaged or missing file of the pipeline is mended.
PREPROCESS = "run `dvc repro preprocess`"
REMAKE = "`dvc repro` writes it, `dvc pull` fetches it"


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
    """Yield the objects of a JSON Lines file; UserError names the file, the line and what is wrong there."""
    if not path.is_file():
        raise UserError(path, "the file does not exist", REMAKE)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _parse_row(line, f"{path}:{number}")


def _parse_row(line: bytes, where: str) -> Row:
    """Return one line as an object; UserError if it is damaged."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UserError(where, f"not UTF-8 (byte {error.start + 1} of the line)", REMAKE) from error
    except (ValueError, RecursionError) as error:
        raise UserError(where, f"not JSON ({getattr(error, 'msg', error)})", REMAKE) from error
    if not isinstance(row, dict):
        raise UserError(where, f"a JSON object is expected, found {type(row).__name__}", REMAKE)
    return row


def _refuse_constant(name: str) -> None:
    """NaN and infinities are no JSON, whatever Python's reader thinks."""
    raise ValueError(f"{name} is no JSON value")


def read_examples(path: Path) -> list[Example]:
    """Return the examples that preprocess wrote; UserError if there are none, or one is damaged or repeated."""
    examples = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            examples.append(Example.model_validate(row))
        except ValidationError as error:
            fields = ", ".join(str(item["loc"][0]) for item in error.errors())
            # Not pydantic's own words, which quote what the row holds.
            raise UserError(
                f"{path}:{number}", f"not an Example (look at {fields})", PREPROCESS
            ) from error
    if not examples:
        raise UserError(path, "the file is empty", PREPROCESS)
    identities = {example.id for example in examples}
    if len(identities) < len(examples):
        raise UserError(
            path, f"{len(examples) - len(identities)} ids stand there more than once", PREPROCESS
        )
    return examples


def validation_sets(folder: Path) -> dict[str, list[Example]]:
    """Return the validation sets below `folder`, by name, in order; UserError if one is missing or empty."""
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

    The bytes are on the disk before the name appears, so a power cut leaves the old output or the new one.
    A failed write (disk full, quota, read-only) is a UserError; what was at `path` stays.
    """
    temporary, old = (
        path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old.tmp")
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield temporary
        _tree_to_disk(temporary)
        if path.is_dir():
            # A folder cannot be renamed over another: the old one steps aside and is deleted last.
            path.rename(old)
        temporary.rename(path)
        to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        if old.exists():
            old.rename(path)
        if not _is_failed_write(error, path.parent):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        what = f"it cannot be written ({reason}); what was there before is kept"
        raise UserError(path, what, "look at disk space, quota and permissions") from error
    finally:
        _remove(temporary)
        _remove(old)


def _is_failed_write(error: OSError | SafetensorError, folder: Path) -> bool:
    """Whether an error comes from writing below `folder`, and not from reading somewhere else while rows are made."""
    if isinstance(error, ConnectionError | FileNotFoundError):
        return False
    if isinstance(error, SafetensorError):
        return "os error" in str(error)
    named = [
        Path(os.fsdecode(name))
        for name in (error.filename, error.filename2)
        if isinstance(name, str | bytes)
    ]
    return error.errno is not None and all(
        folder.absolute() in path.absolute().parents or path == folder for path in named
    )


def to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _tree_to_disk(path: Path) -> None:
    """Wait until a file, or every file and folder below a folder, is on the disk."""
    for part in [*path.rglob("*"), path]:
        if not part.is_symlink():
            to_disk(part)


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
