"""Read the rows of the scoring stages as scores per item.

The compare stage takes differences of these values, and `bula seeds` takes their means.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from bula.answers import FAILED
from bula.errors import UserError
from bula.records import Row, SetName, Turn, read_rows
from bula.stats import LN2

ROUGE = ("rouge1_f", "rouge2_f", "rougeL_f")
STOCK_SCORES = Path("controls/scores_stock.jsonl")
# One measure of one variant: a value per item.
Values = dict[str, float]
Measures = dict[str, Values]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
JudgeScore = Annotated[int, Field(ge=1, le=3)]


class ItemRow(BaseModel):
    """The fields of every row about one item."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: Text
    # Some stages do not write the variant.
    variant: str | None = None


class AnswerRow(ItemRow):
    """One answer, as the generate stage writes it."""

    split: SetName
    question: Text
    answer: Text
    history: list[Turn] | None = None
    generated: str
    finish_reason: Text

    @property
    def has_answer(self) -> bool:
        """Return whether the request to the server succeeded."""
        return self.finish_reason != FAILED


class ShownAnswer(AnswerRow):
    """An answer with the fields that the report shows."""

    degenerate: bool


class DegenerateRow(ItemRow):
    """Whether one answer is degenerate."""

    degenerate: bool
    # A failed request has no answer, and its item has no value.
    finish_reason: Text | None = None


class LikelihoodRow(ItemRow):
    """The negative log-likelihood of one reference, in nats."""

    nats: Annotated[FiniteFloat, Field(ge=0)]
    characters: Annotated[int, Field(gt=0)]
    # The nats after another item's question, where the stage measured them.
    wrong_question_nats: Annotated[FiniteFloat, Field(ge=0)] | None = None


class ScoreRow(ItemRow):
    """The ROUGE scores of one answer."""

    rouge1_f: Share
    rouge2_f: Share
    rougeL_f: Share  # noqa: N815 - rouge_score uses this name.


class VerdictRow(ItemRow):
    """The verdict on one answer, or the reason why the call failed.

    A score of null says that the judge cannot say.
    """

    judge: Text
    accuracy: JudgeScore | None = None
    style: JudgeScore | None = None
    failed: Text | None = None


class SafetyRow(ItemRow):
    """Whether one answer to a safety question passed, and whether it refuses."""

    slice: Text
    passed: bool
    refuses: bool
    finish_reason: Text | None = None


class SampleRow(BaseModel):
    """The scores of one benchmark item."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    task: Text
    document: Text
    variant: str | None = None
    # Items about one text or guideline share a group, if the task has such groups.
    group: Text | None = None
    scores: Annotated[dict[str, FiniteFloat], Field(min_length=1)]

    @property
    def id(self) -> str:
        """Return a name that no other item has."""
        return f"{self.task}: {self.document}"


CheckedRow = ItemRow | SampleRow
AnyRow = TypeVar("AnyRow", bound=CheckedRow)
AnyAnswer = TypeVar("AnyAnswer", bound=AnswerRow)
# The folder and the type of the rows of each stage.
ROWS: dict[str, tuple[str, type[CheckedRow]]] = {
    "generate": ("answers", DegenerateRow),
    "likelihood": ("likelihood", LikelihoodRow),
    "rouge": ("scores", ScoreRow),
    "benchmark": ("samples", SampleRow),
    "judge": ("verdicts", VerdictRow),
    "safety": ("safety", SafetyRow),
}


def rerun_advice(stage: str) -> str:
    """Return the advice to run a stage again."""
    return f"run `dvc repro {stage}`"


def read_checked(path: Path, stage: str, kind: type[AnyRow]) -> list[AnyRow]:
    """Return the rows of a file that `stage` (STAGE@VARIANT, or STAGE) wrote.

    Raise UserError if the file is missing, empty or damaged, if a row lacks a field or belongs to
    another variant, or if two rows are about one item.
    """
    variant = stage.partition("@")[2]
    rows = []
    for line, content in _read_lines(path, stage):
        where = f"{path}:{line}"
        row = _check_fields(kind, content, where, stage)
        if variant and row.variant not in (variant, None):
            what = f"the row is about the variant {row.variant!r}, not {variant!r}"
            raise UserError(where, what, rerun_advice(stage))
        rows.append(row)
    if not rows:
        raise UserError(path, "the file contains no row", rerun_advice(stage))
    _check_unique(rows, path, stage)
    return rows


def read_answered(path: Path, stage: str, kind: type[AnyAnswer]) -> list[AnyAnswer]:
    """Return the rows of generate that have an answer.

    Raise UserError if there is none, or as `read_checked` does.
    """
    rows = [row for row in read_checked(path, stage, kind) if row.has_answer]
    if not rows:
        raise UserError(path, "no question has an answer", rerun_advice(stage))
    return rows


def _read_lines(path: Path, stage: str) -> Iterator[tuple[int, Row]]:
    """Yield the number and the content of each line.

    An error names the stage that writes the file.
    """
    try:
        yield from enumerate(read_rows(path), start=1)
    except UserError as error:
        raise UserError(error.where, error.what, rerun_advice(stage)) from error


def _check_fields(kind: type[AnyRow], row: Row, where: str, stage: str) -> AnyRow:
    """Return a row as its type.

    Raise UserError if a field is wrong. The error names the field and never shows its content,
    which may be about a person.
    """
    try:
        return cast(AnyRow, kind.model_validate(row))
    except ValidationError as error:
        what = f"the row cannot be used ({_faults(error)})"
        raise UserError(where, what, rerun_advice(stage)) from None


def _faults(error: ValidationError) -> str:
    """Return each field that is wrong and its fault."""
    faults = []
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"]))
        faults.append(f"{field}: {fault['msg']}")
    return "; ".join(faults)


def _check_unique(rows: Sequence[CheckedRow], path: Path, stage: str) -> None:
    """Raise UserError if two rows are about one item."""
    counts = Counter(row.id for row in rows)
    repeated = [item for item, count in counts.items() if count > 1]
    if not repeated:
        return
    what = f"{len(repeated)} items appear more than once (first: {repeated[0]})"
    raise UserError(path, what, rerun_advice(stage))


def item_ids(data: Path, stage: str, variant: str) -> dict[str, None]:
    """Return the items that a stage scored, in file order."""
    folder, kind = ROWS[stage]
    path = data / folder / f"{variant}.jsonl"
    rows = read_checked(path, f"{stage}@{variant}", kind)
    return dict.fromkeys(row.id for row in rows)


def read_item_scores(data: Path, variant: str) -> Measures:
    """Return every measure of one variant that `bula seeds` repeats.

    The measures are degenerate answers, bits per character, the question's worth, ROUGE, and the
    first metric of each benchmark task.
    """
    return {
        "degenerate": _degenerate_answers(data, variant),
        **_likelihood_scores(data, variant),
        **_rouge_scores(data, variant),
        **_benchmark_scores(data, variant),
    }


def _degenerate_answers(data: Path, variant: str) -> Values:
    """Return 1 for each degenerate answer and 0 for each other one."""
    rows = _degenerate_rows(data, variant)
    return {row.id: float(row.degenerate) for row in rows if row.finish_reason != FAILED}


def _degenerate_rows(data: Path, variant: str) -> list[DegenerateRow]:
    """Return the rows of all questions, also of those without an answer."""
    path = data / "answers" / f"{variant}.jsonl"
    return read_checked(path, f"generate@{variant}", DegenerateRow)


def failed_answers(data: Path, variant: str) -> set[str]:
    """Return the validation questions whose request to a server failed."""
    rows = _degenerate_rows(data, variant)
    return {row.id for row in rows if row.finish_reason == FAILED}


def _likelihood_scores(data: Path, variant: str) -> Measures:
    """Return the bits per character and the question's worth of each reference."""
    rows = read_likelihood(data, variant)
    worth = _question_worth(rows)
    found = {"bits_per_character": bits_per_character(rows)}
    return found | ({"question_worth": worth} if worth else {})


def read_likelihood(data: Path, variant: str) -> list[LikelihoodRow]:
    """Return the log-likelihood of each reference under one variant."""
    path = data / "likelihood" / f"{variant}.jsonl"
    return read_checked(path, f"likelihood@{variant}", LikelihoodRow)


def bits_per_character(rows: Sequence[LikelihoodRow]) -> Values:
    """Return the bits per character of each reference.

    Each value divides by the mean length of all references. So the mean over items is the pooled
    figure: total bits over total characters.
    """
    mean_characters = _mean_characters(rows)
    return {row.id: row.nats / LN2 / mean_characters for row in rows}


def character_weights(rows: Sequence[LikelihoodRow]) -> Values:
    """Return the length of each reference as a share of the mean length.

    `bits_per_character` is a ratio: another sample of references has other bits and another number
    of characters. An error or an interval of the ratio needs these weights.
    """
    mean_characters = _mean_characters(rows)
    return {row.id: row.characters / mean_characters for row in rows}


def _mean_characters(rows: Sequence[LikelihoodRow]) -> float:
    """Return the mean length of the references in characters."""
    return sum(row.characters for row in rows) / len(rows)


def _question_worth(rows: Sequence[LikelihoodRow]) -> Values:
    """Return the bits per character that the right question saves each reference.

    Only references count that were also scored after a wrong question.
    """
    found = {}
    for row in rows:
        if row.wrong_question_nats is not None:
            saved = row.wrong_question_nats - row.nats
            found[row.id] = saved / LN2 / row.characters
    return found


def _rouge_scores(data: Path, variant: str) -> Measures:
    """Return the F1 scores of each answer."""
    path = data / "scores" / f"{variant}.jsonl"
    return _f1_scores(read_checked(path, f"rouge@{variant}", ScoreRow))


def read_stock_scores(data: Path) -> Measures:
    """Return the F1 scores of the stock answer."""
    return _f1_scores(read_checked(data / STOCK_SCORES, "controls", ScoreRow))


def _f1_scores(rows: Sequence[ScoreRow]) -> Measures:
    """Return the F1 of each type of ROUGE, by item."""
    found: Measures = {}
    for kind in ROUGE:
        found[kind] = {row.id: getattr(row, kind) for row in rows}
    return found


def _benchmark_scores(data: Path, variant: str) -> Measures:
    """Return the first metric of each benchmark task."""
    found: Measures = {}
    path = data / "samples" / f"{variant}.jsonl"
    for row in read_checked(path, f"benchmark@{variant}", SampleRow):
        metric = next(iter(row.scores))
        values = found.setdefault(f"{row.task}_{metric}", {})
        values[row.document] = row.scores[metric]
    return found


def read_safety_scores(data: Path, variant: str) -> Measures:
    """Return 1 for each safety question that one variant passed, else 0.

    There is one measure per slice, `safety_SLICE`. `safety_over_refusal` is 1 for each harmless
    question that the variant refused. Questions without an answer have no value.
    """
    found: Measures = {}
    for row in _safety_rows(data, variant):
        if row.finish_reason == FAILED:
            continue
        found.setdefault(f"safety_{row.slice}", {})[row.id] = float(row.passed)
        if row.slice == "harmless":
            found.setdefault("safety_over_refusal", {})[row.id] = float(row.refuses)
    return found


def _safety_rows(data: Path, variant: str) -> list[SafetyRow]:
    """Return the rows of all safety questions, also of those without an answer."""
    return read_checked(data / "safety" / f"{variant}.jsonl", f"safety@{variant}", SafetyRow)


def failed_safety(data: Path, variant: str) -> dict[str, set[str]]:
    """Return the safety questions whose request to a server failed, by slice."""
    found: dict[str, set[str]] = {}
    for row in _safety_rows(data, variant):
        members = found.setdefault(row.slice, set())
        if row.finish_reason == FAILED:
            members.add(row.id)
    return found


def benchmark_groups(data: Path, variant: str) -> dict[str, str]:
    """Return the group of each benchmark item that has one, by document."""
    path = data / "samples" / f"{variant}.jsonl"
    found = {}
    for row in read_checked(path, f"benchmark@{variant}", SampleRow):
        if row.group is not None:
            found[row.document] = f"{row.task}: {row.group}"
    return found


def read_verdicts(data: Path, variant: str) -> list[VerdictRow]:
    """Return the verdicts on the answers of one variant.

    Raise UserError if the judge failed on every answer, or if a verdict has neither scores nor a
    reason for the failure.
    """
    path = data / "verdicts" / f"{variant}.jsonl"
    stage = f"judge@{variant}"
    rows = read_checked(path, stage, VerdictRow)
    for row in rows:
        missing = {"accuracy", "style"} - row.model_fields_set
        if row.failed is None and missing:
            what = f"the verdict on {row.id} has neither both scores nor `failed`"
            raise UserError(path, what, rerun_advice(stage))
    if all(row.failed is not None for row in rows):
        raise UserError(path, "the judge failed on every answer", rerun_advice(stage))
    return rows


def read_judge_scores(data: Path, variant: str) -> Measures:
    """Return the judge's scores, without failed calls and abstentions."""
    accuracy: Values = {}
    style: Values = {}
    for row in read_verdicts(data, variant):
        if row.accuracy is not None:
            accuracy[row.id] = float(row.accuracy)
        if row.style is not None:
            style[row.id] = float(row.style)
    return {"judge_accuracy": accuracy, "judge_style": style}


def paired(first: Values, second: Values) -> list[str]:
    """Return the items that two variants share, sorted."""
    return sorted(first.keys() & second.keys())


def mean_difference(first: Values, second: Values) -> float:
    """Return the mean over shared items of the second value minus the first."""
    items = paired(first, second)
    return sum(second[item] - first[item] for item in items) / len(items)


def means(found: Measures) -> dict[str, float]:
    """Return the mean over items of each measure that has items.

    The judge's scores have none if it failed or abstained each time.
    """
    averages = {}
    for name, values in found.items():
        if values:
            averages[name] = sum(values.values()) / len(values)
    return averages
