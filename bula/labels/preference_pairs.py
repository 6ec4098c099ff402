"""Turn people's preferences into training pairs for TRL's DPOTrainer."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bula.errors import UserError
from bula.labels.files import faults_of
from bula.labels.records import Label, answer_sha256
from bula.labels.votes import AnswerId, majority, pairs_of, trusted_kind, votes_by_pair
from bula.prompts import to_messages
from bula.records import SET_NAMES, Row, Turn, read_rows

LEAK = (
    "a model that is trained on them would be scored on questions that it has seen; let people "
    "judge answers to questions of train or dev (`python -m bula answers`), or add "
    "--allow-validation for a model whose validation figures nobody reads"
)


class Judged(NamedTuple):
    """One question with the preferred and the other answer."""

    question: str
    chosen: AnswerId
    rejected: AnswerId


class Exported(NamedTuple):
    """The rows of the data set, and how many pairs have none, by reason."""

    rows: list[Row]
    left_out: Counter[str]


class SourceAnswer(BaseModel):
    """The fields of an answer that a training pair needs."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str
    question: str = Field(min_length=1)
    generated: str
    history: list[Turn] | None = None


def strict_preferences(labels: Sequence[Label], left_out: Counter[str]) -> Iterator[Judged]:
    """Yield the pairs with a strict preference of more than half of the raters.

    Labels of clinicians count alone if there are any. Other pairs are counted in `left_out`.
    """
    kind = trusted_kind(labels)
    counted = pairs_of(label for label in labels if label.labels == kind)
    for pair, votes in votes_by_pair(counted).items():
        chosen = majority(votes)
        if chosen == "first":
            yield Judged(pair.question, pair.first, pair.second)
        elif chosen == "second":
            yield Judged(pair.question, pair.second, pair.first)
        else:
            left_out["without a strict preference"] += 1


def validation_questions(labels: Iterable[Label], clean: Path) -> set[str]:
    """Return the questions of the validation sets, by the labels and by data/clean."""
    found = {label.id for label in labels if label.set in SET_NAMES}
    for name in SET_NAMES:
        path = clean / "validation" / f"{name}.jsonl"
        if path.exists():
            found |= {str(row.get("id")) for row in read_rows(path)}
    return found


def read_sources(folders: Iterable[Path]) -> dict[AnswerId, SourceAnswer]:
    """Return all answers below some folders; a file's name is its variant.

    Raise UserError if a folder has no answers or a row is damaged.
    """
    answers = {}
    for folder in folders:
        paths = sorted(folder.glob("*.jsonl"))
        if not paths:
            fix = "name a folder with the answers of VARIANT.jsonl by --answers"
            raise UserError(folder, "it has no answers", fix)
        for path in paths:
            for number, row in enumerate(read_rows(path), start=1):
                answer = _source(row, f"{path}:{number}")
                answers[answer.id, path.stem, answer_sha256(answer.generated)] = answer
    return answers


def _source(row: Row, where: str) -> SourceAnswer:
    """Return a row as an answer; a UserError reports damage."""
    try:
        return SourceAnswer.model_validate(row)
    except ValidationError as error:
        what = f"the row is no answer ({faults_of(error)})"
        raise UserError(where, what, "name a folder that generate wrote") from None


def export_pairs(
    labels: Sequence[Label],
    answers: Mapping[AnswerId, SourceAnswer],
    excluded: set[str],
    *,
    has_system: bool,
) -> Exported:
    """Return one row per strict preference: prompt, chosen and rejected as chat messages.

    Pairs about `excluded` questions, pairs whose answers are not there, and pairs with an equal or
    an empty answer are counted and left out.
    """
    left_out: Counter[str] = Counter()
    rows = []
    for judged in strict_preferences(labels, left_out):
        reason = _reason(judged, answers, excluded)
        if reason:
            left_out[reason] += 1
            continue
        rows.append(training_row(answers[judged.chosen], answers[judged.rejected], has_system))
    return Exported(rows, left_out)


def _reason(judged: Judged, answers: Mapping[AnswerId, SourceAnswer], excluded: set[str]) -> str:
    """Return why a pair has no row, or an empty text."""
    if judged.question in excluded:
        return "of validation sets"
    if judged.chosen not in answers or judged.rejected not in answers:
        return "without their answers"
    if judged.chosen[2] == judged.rejected[2]:
        return "of equal answers"
    if not (answers[judged.chosen].generated and answers[judged.rejected].generated):
        return "with an empty answer"
    return ""


def training_row(chosen: SourceAnswer, rejected: SourceAnswer, has_system: bool) -> Row:
    """Return one preference in TRL's conversational form."""
    return {
        "prompt": to_messages(chosen.question, chosen.history or [], has_system=has_system),
        "chosen": [{"role": "assistant", "content": chosen.generated}],
        "rejected": [{"role": "assistant", "content": rejected.generated}],
    }


def refuse_empty(exported: Exported, where: Path) -> None:
    """Raise UserError if no pair is left, with the reasons."""
    if exported.rows:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in exported.left_out.items())
    what = f"no pair can be exported ({reasons or 'there are no labels of pairs'})"
    if exported.left_out["of validation sets"]:
        raise UserError(where, what, LEAK)
    raise UserError(where, what, "import more labels, or name the judged answers by --answers")
