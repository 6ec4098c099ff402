"""Read the rows that the scoring stages wrote, check them, and return the value of each item.

compare takes differences of these values, `bula seeds` their means.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from bula.errors import UserError
from bula.records import SetName, read_rows

LN2 = 0.6931471805599453
ROUGE = ("rouge1_f", "rouge2_f", "rougeL_f")
# One measure of one variant: a value for each item.
Values = dict[str, float]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class ItemRow(BaseModel):
    """What every row about one item has."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: Text
    # The variant that the row is about, where its stage wrote it.
    variant: str | None = None


class AnswerRow(ItemRow):
    """One answer, as generate writes it."""

    split: SetName
    question: Text
    answer: Text
    generated: str
    finish_reason: Text


class ShownAnswer(AnswerRow):
    """The same with what the report says of it."""

    degenerate: bool


class DegenerateRow(ItemRow):
    """Whether generate found an answer degenerate."""

    degenerate: bool


class LikelihoodRow(ItemRow):
    """The log-likelihood of one reference answer."""

    nats: Annotated[FiniteFloat, Field(ge=0)]
    characters: Annotated[int, Field(gt=0)]


class ScoreRow(ItemRow):
    """ROUGE of one answer."""

    rouge1_f: Share
    rouge2_f: Share
    rougeL_f: Share  # noqa: N815 - the name that rouge_score gives it.


class VerdictRow(ItemRow):
    """The judge's scores of one answer, or why the call failed."""

    judge: Text
    accuracy: Annotated[int, Field(ge=1, le=3)] | None = None
    style: Annotated[int, Field(ge=1, le=3)] | None = None
    failed: Text | None = None


class SampleRow(BaseModel):
    """The scores of one benchmark item."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    task: Text
    document: Text
    variant: str | None = None
    scores: Annotated[dict[str, FiniteFloat], Field(min_length=1)]

    @property
    def id(self) -> str:
        """Return what tells this item from all others."""
        return f"{self.task}: {self.document}"


AnyRow = TypeVar("AnyRow", bound=ItemRow | SampleRow)
# The folder of the rows of each stage, and their type.
ROWS: dict[str, tuple[str, type[ItemRow] | type[SampleRow]]] = {
    "generate": ("answers", DegenerateRow),
    "likelihood": ("likelihood", LikelihoodRow),
    "rouge": ("scores", ScoreRow),
    "benchmark": ("samples", SampleRow),
    "judge": ("verdicts", VerdictRow),
}


def rerun_advice(stage: str) -> str:
    """Return the sentence that asks for another run of a stage."""
    return f"run `dvc repro {stage}`"


def read_checked(path: Path, stage: str, kind: type[AnyRow]) -> list[AnyRow]:
    """Return the rows of a file that `stage` (STAGE@VARIANT) wrote.

    UserError if the file is missing, empty or damaged, if a row lacks a field or belongs to another
    variant, or if an item stands there twice.
    """
    rows = [_check_row(kind, row, f"{path}:{line}", stage) for line, row in _read(path, stage)]
    if not rows:
        raise UserError(path, "the file holds no row", rerun_advice(stage))
    twice = [item for item, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        what = f"{len(twice)} items stand there twice (first: {twice[0]})"
        raise UserError(path, what, _fix_twice(stage))
    return rows


def item_ids(data: Path, stage: str, variant: str) -> dict[str, None]:
    """Return the items that a stage scored under one variant, in the order of its file."""
    folder, kind = ROWS[stage]
    rows = read_checked(data / folder / f"{variant}.jsonl", f"{stage}@{variant}", kind)
    return dict.fromkeys(row.id for row in rows)


def _read(path: Path, stage: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and content of each line; UserError names the stage that writes the file."""
    try:
        yield from enumerate(read_rows(path), start=1)
    except UserError as error:
        raise UserError(error.where, error.what, rerun_advice(stage)) from error


def _check_row(kind: type[AnyRow], row: dict[str, Any], where: str, stage: str) -> AnyRow:
    """Return a row as its type; UserError names the fields that are wrong, but not what they hold."""
    try:
        checked = cast(AnyRow, kind.model_validate(row))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UserError(
            where, f"the row cannot be used ({'; '.join(faults)})", rerun_advice(stage)
        ) from error
    variant = stage.partition("@")[2]
    if checked.variant not in (variant, None):
        raise UserError(
            where,
            f"the row is about the variant {checked.variant!r}, not {variant!r}",
            rerun_advice(stage),
        )
    return checked


def _fix_twice(stage: str) -> str:
    """Return what to do about an item that stands twice in a file."""
    if stage.startswith("benchmark@"):
        return (
            f"remove repeated items from the files of `ingest.benchmarks`, or {rerun_advice(stage)}"
        )
    return rerun_advice(stage)


def read_item_scores(data: Path, variant: str) -> dict[str, Values]:
    """Return every measure below `data` that no judge made.

    Those are degenerate answers, bits per character, ROUGE and the first metric of each task.
    """
    file = f"{variant}.jsonl"
    answers = read_checked(data / "answers" / file, f"generate@{variant}", DegenerateRow)
    likelihood = read_checked(data / "likelihood" / file, f"likelihood@{variant}", LikelihoodRow)
    scores = read_checked(data / "scores" / file, f"rouge@{variant}", ScoreRow)
    # Scaled so that the mean over items is the pooled figure: total bits over total characters.
    characters = sum(row.characters for row in likelihood) / len(likelihood)
    found = {
        "degenerate": {row.id: float(row.degenerate) for row in answers},
        "bits_per_character": {row.id: row.nats / LN2 / characters for row in likelihood},
    }
    for kind in ROUGE:
        found[kind] = {row.id: getattr(row, kind) for row in scores}
    return found | _benchmarked(data, variant)


def _benchmarked(data: Path, variant: str) -> dict[str, Values]:
    """Return the first metric of each benchmark task."""
    found: dict[str, Values] = {}
    path = data / "samples" / f"{variant}.jsonl"
    for row in read_checked(path, f"benchmark@{variant}", SampleRow):
        name, value = next(iter(row.scores.items()))
        found.setdefault(f"{row.task}_{name}", {})[row.document] = value
    return found


def read_verdicts(data: Path, variant: str) -> list[VerdictRow]:
    """Return the judge's verdicts; UserError if all failed, or one has neither scores nor a reason."""
    path, stage = data / "verdicts" / f"{variant}.jsonl", f"judge@{variant}"
    rows = read_checked(path, stage, VerdictRow)
    for row in rows:
        if row.failed is None and (row.accuracy is None or row.style is None):
            what = f"the verdict on {row.id} has neither both scores nor `failed`"
            raise UserError(path, what, rerun_advice(stage))
    if all(row.failed is not None for row in rows):
        raise UserError(path, "the judge failed on every answer", rerun_advice(stage))
    return rows


def read_judge_scores(data: Path, variant: str) -> dict[str, Values]:
    """Return the judge's scores of the answers on which it did not fail."""
    found: dict[str, Values] = {"judge_accuracy": {}, "judge_style": {}}
    for row in read_verdicts(data, variant):
        if row.accuracy is not None and row.style is not None:
            found["judge_accuracy"][row.id] = float(row.accuracy)
            found["judge_style"][row.id] = float(row.style)
    return found


def means(found: dict[str, Values]) -> dict[str, float]:
    """Return the mean over items of each measure."""
    return {name: sum(values.values()) / len(values) for name, values in found.items()}
