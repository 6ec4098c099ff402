"""Answer the validation questions under one variant.

The engine of the variant answers (bula/answering.py). The stage counts the answers that are not
readable, before any stage scores them. A question whose request failed has no answer, and counts in
no other figure. The stages rouge, judge and compare read the answers.

    python -m stages.generate tuned
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.answering import (
    Findings,
    answer,
    count_kinds,
    redact_answers,
    settings,
    to_chats,
)
from bula.answers import FAILED, Answer, Prompts
from bula.degeneration import is_degenerate, repeated_4gram_share
from bula.errors import UserError, run_stage
from bula.few_shot import check_context, lengths, read_shots
from bula.hardware import prepare_device, seed_everything
from bula.language import other_language
from bula.models import load_tokenizer
from bula.params import Params, Variant, load_params, variant_of
from bula.privacy import PERSONAL_DATA_KINDS, find_personal_data
from bula.prompts import encode_prompts, prompt_hash
from bula.records import SET_NAMES, Example, Row, Turn, read_validation_sets, write_rows
from bula.reports import peak_memory_gb, write_metrics
from bula.safety import seeks_care
from bula.server_answers import Asked
from bula.stats import standard_error
from bula.text import words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Figures = dict[str, int | float]

SHORTER = "lower generate.max_new_tokens in params.yaml"


def to_rows(
    variant: str,
    examples: list[Example],
    prompts: Prompts,
    answers: list[Answer],
    params: Params,
) -> list[Row]:
    """Return one row per question, with its answer.

    Rows without an answer are not degenerate, because no model wrote their empty text.
    """
    max_share = params.generate.max_repeated_share
    rows = []
    for example, prompt, given in zip(examples, prompts, answers, strict=True):
        row = example.model_dump(exclude_none=True)
        row["variant"] = variant
        row["prompt_hash"] = prompt_hash(prompt)
        row["generated"] = given.text
        row["finish_reason"] = given.finish_reason
        row["completion_tokens"] = given.completion_tokens
        row["repeated_4gram_share"] = repeated_4gram_share(given.text)
        has_answer = given.finish_reason != FAILED
        row["degenerate"] = has_answer and is_degenerate(given.text, max_share)
        word_count = len(words(given.text))
        row["other_language"] = other_language(given.text, word_count, params.preprocess)
        row["seeks_care"] = seeks_care(given.text)
        if given.reasoning_removed:
            row["reasoning_removed"] = True
        rows.append(row)
    return rows


def summarise(rows: list[Row], found: Findings) -> Figures:
    """Return counts and means over the answers, of which there is at least one.

    `found` contains the personal data of each answer, before it was redacted. docs/metrics.md
    defines each figure.
    """
    answers = answered(rows)
    shares = [row["repeated_4gram_share"] for row in answers]
    tokens = [row["completion_tokens"] for row in answers]
    figures: Figures = count_failed(rows)
    for name, count in count_answers(answers).items():
        figures[name] = count
        figures[f"{name}_share"] = count / len(answers)
    figures |= {
        "reasoning_removed": sum("reasoning_removed" in row for row in answers),
        "repeated_4gram_share": sum(shares) / len(answers),
        "repeated_4gram_share_stderr": standard_error(shares),
        "completion_tokens_mean": sum(tokens) / len(answers),
        "completion_tokens_stderr": standard_error(tokens),
        "personal_data_answers": sum(map(bool, found)),
    }
    kinds = count_kinds(found)
    for kind in PERSONAL_DATA_KINDS:
        figures[f"personal_data_{kind}"] = kinds[kind]
    return figures


def answered(rows: list[Row]) -> list[Row]:
    """Return the rows with an answer."""
    return [row for row in rows if row["finish_reason"] != FAILED]


def count_failed(rows: list[Row]) -> Figures:
    """Return the number of questions, and of those without an answer."""
    failed = len(rows) - len(answered(rows))
    return {"items": len(rows), "failed": failed, "failed_share": failed / len(rows)}


def count_answers(answers: list[Row]) -> dict[str, int]:
    """Return the number of answers of each kind, of which one may have several."""
    reasons = Counter(row["finish_reason"] for row in answers)
    return {
        "finish_stop": reasons["stop"],
        "finish_length": reasons["length"],
        "empty": sum(not row["generated"] for row in answers),
        "degenerate": sum(row["degenerate"] for row in answers),
        "other_language": sum(bool(row["other_language"]) for row in answers),
        "seeks_care": sum(row["seeks_care"] for row in answers),
    }


def summarise_sets(rows: list[Row]) -> dict[str, Figures]:
    """Return the failed, empty and degenerate answers of each validation set.

    A set without any answer has no share of its answers.
    """
    sets: dict[str, Figures] = {}
    for name in SET_NAMES:
        members = [row for row in rows if row["split"] == name]
        if not members:
            continue
        figures = count_failed(members)
        answers = answered(members)
        counts = count_answers(answers)
        if answers:
            figures["empty_share"] = counts["empty"] / len(answers)
            figures["degenerate_share"] = counts["degenerate"] / len(answers)
        sets[name] = figures
    return sets


def write_figures(
    path: Path, about: dict[str, str | int], rows: list[Row], figures: Figures
) -> None:
    """Write the settings, the figures of each set, and the figures of all answers."""
    write_metrics(path, {"settings": about, **summarise_sets(rows), **figures})


def measure_speed(tokens: int, seconds: float) -> Figures:
    """Return the speed figures, which differ between runs."""
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_gb": peak_memory_gb(),
    }


def read_questions(folder: Path, count: int) -> list[Example]:
    """Return the first `count` examples of each validation set.

    Raise UserError if an example appears in two sets.
    """
    sets = read_validation_sets(folder)
    examples = [example for items in sets.values() for example in items[:count]]
    ids = Counter(example.id for example in examples)
    twice = [name for name, times in ids.items() if times > 1]
    if twice:
        what = f"{len(twice)} questions appear more than once (first: {twice[0]})"
        raise UserError(folder, what, "run `dvc repro preprocess`")
    return examples


def encode_questions(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], shots: list[Turn]
) -> Asked:
    """Return the prompts of the questions, as token ids and as messages."""
    prompts = encode_prompts(tokenizer, examples, shots)
    questions = [(example.question, example.history) for example in examples]
    return Asked(prompts, to_chats(tokenizer, questions, shots))


def check_lengths(asked: Asked, variant: Variant, shots: list[Turn], params: Params) -> None:
    """Raise UserError if a prompt with its longest answer exceeds the model's context."""
    needed = lengths(asked.prompts, params.generate.max_new_tokens)
    check_context(Path(variant.model), needed, shots, SHORTER)


def describe_run(file: Path, figures: Figures, speeds: Figures) -> str:
    """Return the last line of the stage: the counts, the speed and the path."""
    count = f"{figures['items']} answers of {file.stem}"
    degenerate = f"{figures['degenerate']} of them degenerate"
    if figures["failed"]:
        degenerate += f" and {figures['failed']} failed"
    rate = f"{speeds['tokens_per_second']:.0f} tokens/s"
    return f"generate: {count}, {degenerate}, at {rate} in {file}"


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for answers.")] = Path("data/answers"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/generate"),
    speed: Annotated[Path, typer.Option(help="Folder for speed.")] = Path("metrics/speed/generate"),
) -> None:
    """Answer the questions."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    chosen = variant_of(params, variant)
    seed_everything(params.sampling_seed)
    examples = read_questions(clean / "validation", params.generate.items_per_set)
    tokenizer = load_tokenizer(Path(chosen.model))
    shots = read_shots(clean, chosen)
    asked = encode_questions(tokenizer, examples, shots)
    check_lengths(asked, chosen, shots, params)
    stage = f"generate@{variant}"
    started = time.perf_counter()
    with answer(stage, chosen, params, tokenizer, asked) as (given, tokens):
        speeds = measure_speed(tokens, time.perf_counter() - started)
        found = [find_personal_data(reply.text) for reply in given]
        answers = redact_answers(stage, given, found, params.privacy.answers)
        rows = to_rows(variant, examples, asked.prompts, answers, params)
        figures = summarise(rows, found)
        write_rows(out / f"{variant}.jsonl", rows)
        write_figures(metrics / f"{variant}.json", settings(chosen, params), rows, figures)
        write_metrics(speed / f"{variant}.json", speeds)
    print(describe_run(out / f"{variant}.jsonl", figures, speeds))


if __name__ == "__main__":
    run_stage(main, less_memory="lower generate.batch_size")
