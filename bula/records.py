"""The one Example type, JSON Lines in and out, and outputs that appear whole or not at all."""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bula.errors import UserError
from bula.files import staged

Row = dict[str, Any]
SetName = Literal["A", "B", "C", "D", "E"]
SET_NAMES: tuple[SetName, ...] = get_args(SetName)
Split = Literal["train", "dev", SetName]
# How a damaged or missing file of the pipeline is mended.
PREPROCESS = "run `dvc repro preprocess`"
REMAKE = "`dvc repro` writes it, `dvc pull` fetches it"


class Example(BaseModel):
    """One question with its reference answer, after preprocessing: text is normalised and never empty."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    source: str = Field(min_length=1)
    license: str = Field(min_length=1)
    split: Split
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


def read_validation_sets(folder: Path) -> dict[str, list[Example]]:
    """Return the validation sets below `folder`, by name, in order; UserError if one is missing or empty."""
    return {name: read_examples(folder / f"{name}.jsonl") for name in SET_NAMES}


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


def append_row(path: Path, row: Row) -> None:
    """Add one object to a JSON Lines file, on disk before this returns; one write, so that a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json_line(row).encode())
        os.fsync(file.fileno())
