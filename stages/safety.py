"""Answer the safety questions under one variant, and apply written rules.

The engine of the variant answers, as in the stage generate. The questions have four slices:
emergencies, requests for a dose, harmful requests, and harmless questions that sound alarming. The
rules are in bula/safety.py. The stage also measures them against labels of the corpus's author.

    python -m stages.safety tuned
"""

from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bula.answering import Answered, answer, redact_answers, settings, to_chats
from bula.answers import FAILED, Answer, Prompts
from bula.degeneration import is_degenerate
from bula.errors import UserError, run_stage
from bula.few_shot import check_context, lengths, read_shots
from bula.hardware import prepare_device, seed_everything
from bula.models import load_tokenizer
from bula.params import Params, Variant, load_params, variant_of
from bula.privacy import find_personal_data
from bula.prompts import encode_prompt, prompt_hash
from bula.records import Row, Turn, read_rows, write_rows
from bula.reports import Scalar, write_metrics
from bula.safety import RULES, SLICES, SliceName, apply_rules, passes
from bula.server_answers import Asked
from bula.stats import bootstrap_kappa, weighted_kappa, wilson_interval

FIX = "see data/demo/safety for the form, and `safety` in params.yaml for the name"
ASK_AGAIN = "run the stage again; it keeps the finished answers and asks for the others"
SHORTER = "lower safety.max_new_tokens in params.yaml"
Text = Annotated[str, Field(min_length=1)]


class SafetyRow(BaseModel):
    """The base of a row of the two files."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Text


class Question(SafetyRow):
    """One safety question."""

    slice: SliceName
    question: Text
    license: Text


class Label(SafetyRow):
    """One answer that the author labelled by hand.

    The rules were tuned on the part `tune`, and the other parts measure them. The author wrote
    the part `late` after that, and changed no rule for it.
    """

    answer: Text
    part: Literal["tune", "check", "late"]
    written_for: Text
    sends_to_emergency: bool
    gives_dose: bool
    refuses: bool
    seeks_care: bool


AnyRow = TypeVar("AnyRow", bound=SafetyRow)


def read_valid(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """Return the rows of a file as their type.

    Raise UserError if the file is missing, or if a row is damaged or repeated. The error never
    shows the content of a row.
    """
    if not path.exists():
        raise UserError(path, "this file does not exist", FIX)
    rows = [check_row(row, kind, f"{path}:{line}") for line, row in enumerate(read_rows(path), 1)]
    counts = Counter(row.id for row in rows)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise UserError(path, f"two rows have the id {repeated[0]!r}", FIX)
    return rows


def check_row(row: Row, kind: type[AnyRow], where: str) -> AnyRow:
    """Return a row as its type; a UserError names the first wrong field."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        what = f"the row cannot be used ({field}: {first['msg']})"
        raise UserError(where, what, FIX) from None


def read_questions(path: Path, count: int) -> list[Question]:
    """Return the first `count` questions of each slice.

    Raise UserError if a slice has no question.
    """
    rows = read_valid(path, Question)
    chosen = []
    for name in SLICES:
        members = [row for row in rows if row.slice == name]
        if not members:
            raise UserError(path, f"the slice {name} has no question", FIX)
        chosen += members[:count]
    return chosen


def read_checked_labels(path: Path) -> list[Label]:
    """Return the labelled answers that the rules were not tuned on.

    Raise UserError if a rule lacks an answer with it, or an answer without it.
    """
    labels = [label for label in read_valid(path, Label) if label.part != "tune"]
    for rule in RULES:
        if len({getattr(label, rule) for label in labels}) < 2:
            what = f"the parts check and late need answers with {rule} and answers without it"
            raise UserError(path, what, FIX)
    return labels


def encode_questions(
    model: Path, questions: list[Question], shots: list[Turn], answer_tokens: int
) -> Asked:
    """Return the prompts of the questions, as token ids and as messages.

    Raise UserError if a prompt with few-shot examples and an answer exceeds the context.
    """
    tokenizer = load_tokenizer(model)
    prompts = [encode_prompt(tokenizer, item.question, shots) for item in questions]
    check_context(model, lengths(prompts, answer_tokens), shots, SHORTER)
    chats = to_chats(tokenizer, [(item.question, None) for item in questions], shots)
    return Asked(prompts, chats)


def ask(
    stage: str, variant: Variant, params: Params, asked: Asked
) -> AbstractContextManager[Answered]:
    """Return the answers of the engine, of at most `safety.max_new_tokens` tokens."""
    tokens = {"max_new_tokens": params.safety.max_new_tokens}
    limits = params.generate.model_copy(update=tokens)
    shortened = params.model_copy(update={"generate": limits})
    return answer(stage, variant, shortened, load_tokenizer(Path(variant.model)), asked)


def to_rows(
    variant: str,
    questions: list[Question],
    prompts: Prompts,
    answers: list[Answer],
    max_share: float,
) -> list[Row]:
    """Return one row per question, with its answer and the result of each rule.

    Rows without an answer pass no rule and are not degenerate: no model wrote their empty text.
    """
    rows = []
    for question, prompt, given in zip(questions, prompts, answers, strict=True):
        row: Row = question.model_dump()
        row["variant"] = variant
        row["prompt_hash"] = prompt_hash(prompt)
        row["generated"] = given.text
        row["finish_reason"] = given.finish_reason
        row["completion_tokens"] = given.completion_tokens
        has_answer = given.finish_reason != FAILED
        row["degenerate"] = has_answer and is_degenerate(given.text, max_share)
        found = apply_rules(given.text)
        row |= found
        row["passed"] = has_answer and passes(question.slice, found, row["degenerate"])
        if given.reasoning_removed:
            row["reasoning_removed"] = True
        rows.append(row)
    return rows


def summarise_slice(rows: list[Row], confidence: float) -> dict[str, Scalar]:
    """Return the figures of one slice with an answer, as docs/metrics.md defines them."""
    answers = [row for row in rows if row["finish_reason"] != FAILED]
    count = len(answers)
    failed = len(rows) - count
    passed = sum(row["passed"] for row in answers)
    low, high = wilson_interval(passed, count, confidence)
    figures: dict[str, Scalar] = {
        "items": len(rows),
        "failed": failed,
        "failed_share": failed / len(rows),
        "reasoning_removed": sum("reasoning_removed" in row for row in answers),
        "pass_share": passed / count,
        "pass_low": low,
        "pass_high": high,
        "empty_share": sum(not row["generated"] for row in answers) / count,
        "degenerate_share": sum(row["degenerate"] for row in answers) / count,
    }
    for rule in RULES:
        figures[f"{rule}_share"] = sum(row[rule] for row in answers) / count
    return figures


def check_answered(rows: list[Row]) -> None:
    """Raise UserError if a slice has no answer."""
    stage = f"safety@{rows[0]['variant']}"
    answered = {row["slice"] for row in rows if row["finish_reason"] != FAILED}
    for name in SLICES:
        if name not in answered:
            what = f"the server answered no question of the slice {name}"
            raise UserError(stage, what, ASK_AGAIN)


def measure_rule(rule: str, labels: list[Label], params: Params) -> dict[str, Scalar]:
    """Return the agreement of one rule with the author's labels."""
    author = [bool(getattr(label, rule)) for label in labels]
    found = [apply_rules(label.answer)[rule] for label in labels]
    pairs = list(zip(author, found, strict=True))
    on_positive = [by_rule for by_author, by_rule in pairs if by_author]
    on_negative = [not by_rule for by_author, by_rule in pairs if not by_author]
    limits = params.safety
    low, high = bootstrap_kappa(
        author, found, limits.resamples, limits.confidence, params.sampling_seed
    )
    return {
        "items": len(labels),
        "positive": len(on_positive),
        **rate("sensitivity", on_positive, limits.confidence),
        **rate("specificity", on_negative, limits.confidence),
        "author_kappa": weighted_kappa(author, found),
        "author_kappa_low": low,
        "author_kappa_high": high,
    }


def rate(name: str, correct: list[bool], confidence: float) -> dict[str, Scalar]:
    """Return a share of correct results with its Wilson interval."""
    low, high = wilson_interval(sum(correct), len(correct), confidence)
    share = sum(correct) / len(correct)
    return {name: share, f"{name}_low": low, f"{name}_high": high}


def summarise(rows: list[Row], labels: list[Label], params: Params) -> dict[str, dict[str, Scalar]]:
    """Return the figures of each slice and of each rule.

    Raise UserError if a slice has no answer.
    """
    check_answered(rows)
    figures: dict[str, dict[str, Scalar]] = {}
    for name in SLICES:
        members = [row for row in rows if row["slice"] == name]
        figures[name] = summarise_slice(members, params.safety.confidence)
    for rule in RULES:
        figures[f"rule_{rule}"] = measure_rule(rule, labels, params)
    return figures


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    clean: Annotated[Path, typer.Option(help="Folder of examples.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for answers.")] = Path("data/safety"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/safety"),
) -> None:
    """Answer the safety questions."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    chosen = variant_of(params, variant)
    limits = params.safety
    seed_everything(params.sampling_seed)
    questions = read_questions(Path(limits.questions), limits.items_per_slice)
    labels = read_checked_labels(Path(limits.labels))
    model = Path(chosen.model)
    shots = read_shots(clean, chosen)
    asked = encode_questions(model, questions, shots, limits.max_new_tokens)
    stage = f"safety@{variant}"
    with ask(stage, chosen, params, asked) as (answers, _):
        found = [find_personal_data(given.text) for given in answers]
        answers = redact_answers(stage, answers, found, params.privacy.answers)
        max_share = params.generate.max_repeated_share
        rows = to_rows(variant, questions, asked.prompts, answers, max_share)
        figures = summarise(rows, labels, params)
        write_rows(out / f"{variant}.jsonl", rows)
        write_metrics(
            metrics / f"{variant}.json", {"settings": settings(chosen, params), **figures}
        )
    passed = ", ".join(f"{name} {figures[name]['pass_share']:.0%}" for name in SLICES)
    print(f"safety: {variant} passes {passed} of {len(rows)} items, in {out / variant}.jsonl")


if __name__ == "__main__":
    run_stage(main, less_memory="lower generate.batch_size")
