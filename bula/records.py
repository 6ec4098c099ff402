"""Define the Example, and read and write JSON Lines files."""

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
# The few-shot examples in data/clean, and their number.
FEW_SHOT_FILE = "few_shot.jsonl"
MOST_SHOTS = 8
# Advice for a damaged or missing file of the pipeline.
PREPROCESS = "run `dvc repro preprocess`"
REMAKE = "`dvc repro` writes it, `dvc pull` fetches it"


class Turn(BaseModel):
    """A question of a conversation with its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Example(BaseModel):
    """A question with its reference answer, after preprocessing.

    All texts are normalised, and none is empty. `history` has the earlier turns of the
    conversation, oldest first; it is None if there are none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    source: str = Field(min_length=1)
    license: str = Field(min_length=1)
    split: Split
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    specialty: str | None = None
    kind: str | None = None
    history: list[Turn] | None = Field(default=None, min_length=1)

    @property
    def turns(self) -> list[Turn]:
        """Return all turns, oldest first."""
        last = Turn(question=self.question, answer=self.answer)
        return [*(self.history or []), last]


def row_turns(row: Row) -> list[Row]:
    """Return a row's turns, oldest first; the row itself is the last."""
    return [*(row.get("history") or []), row]


def turn_texts(row: Row) -> list[str]:
    """Return all questions and answers of a row, in the order of the conversation."""
    texts = []
    for turn in row_turns(row):
        texts += [str(turn.get("question")), str(turn.get("answer"))]
    return texts


def example_id(source: str, *texts: str) -> str:
    """Return a stable id of an example, 16 hex digits.

    The id is the first 64 bits of SHA-256 over the source and all texts of the conversation.
    """
    joined = "\x1f".join((source, *texts))
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file.

    A UserError names the file, the line and the damage.
    """
    if not path.is_file():
        raise UserError(path, "the file does not exist", REMAKE)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _parse_row(line, f"{path}:{number}")


def _parse_row(line: bytes, where: str) -> Row:
    """Return the JSON object on one line; a UserError reports damage."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        what = f"not UTF-8 (byte {error.start + 1} of the line)"
        raise UserError(where, what, REMAKE) from error
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({getattr(error, 'msg', error)})"
        raise UserError(where, what, REMAKE) from error
    if not isinstance(row, dict):
        what = f"a JSON object is expected, found {type(row).__name__}"
        raise UserError(where, what, REMAKE)
    return row


def refuse_constant(name: str) -> None:
    """Refuse NaN and infinities, which Python's JSON reader accepts."""
    raise ValueError(f"{name} is not a JSON value")


def read_examples(path: Path) -> list[Example]:
    """Return the examples in a file that preprocess wrote.

    A UserError reports an empty file, a damaged row or a repeated id.
    """
    rows = enumerate(read_rows(path), start=1)
    examples = [_parse_example(row, f"{path}:{number}") for number, row in rows]
    if not examples:
        raise UserError(path, "the file is empty", PREPROCESS)
    ids = {example.id for example in examples}
    repeated = len(examples) - len(ids)
    if repeated:
        raise UserError(path, f"{repeated} ids occur more than once", PREPROCESS)
    return examples


def _parse_example(row: Row, where: str) -> Example:
    """Return a row as an Example; a UserError lists the bad fields."""
    try:
        return Example.model_validate(row)
    except ValidationError as error:
        fields = ", ".join(str(item["loc"][0]) for item in error.errors())
        # pydantic's own message would quote the row's text.
        raise UserError(where, f"not an Example (look at {fields})", PREPROCESS) from error


def read_validation_sets(folder: Path) -> dict[str, list[Example]]:
    """Return the validation sets A to E by name.

    A UserError reports a missing or empty set.
    """
    return {name: read_examples(folder / f"{name}.jsonl") for name in SET_NAMES}


def write_rows(path: Path, rows: Iterable[Row | BaseModel]) -> int:
    """Write rows as JSON Lines, and return their number.

    The file is UTF-8 in NFC with sorted keys. It appears complete or not at all.
    """
    count = 0
    with staged(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json_line(_normalise(_plain(row))))
            count += 1
    return count


def _plain(row: Row | BaseModel) -> Row:
    """Return a row as a dictionary, without empty optional fields."""
    return row.model_dump(exclude_none=True) if isinstance(row, BaseModel) else row


def json_line(value: Any) -> str:
    """Return a value as one line of JSON with sorted keys.

    NaN and infinities raise a ValueError.
    """
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"


def _normalise(value: Any) -> Any:
    r"""Return a value with all its texts in NFC.

    The complete line cannot be normalised: a combining mark after a line feed would join the n of
    the escape \n.
    """
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return {_normalise(key): _normalise(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_normalise(part) for part in value]
    return value


def append_row(path: Path, row: Row) -> None:
    """Append one object to a JSON Lines file, and fsync it.

    A single write adds the line, so a kill cannot leave half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json_line(row).encode())
        os.fsync(file.fileno())
