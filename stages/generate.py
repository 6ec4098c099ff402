"""Answer the validation questions under one variant.

The engine of the variant answers (bula/answering.py). The stage counts the answers that are not
readable, before any stage scores them. The stages rouge, judge and compare read the answers.

    python -m stages.generate tuned
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.answering import (
    FAILED,
    Answer,
    Asked,
    Findings,
    Prompts,
    answer,
    count_kinds,
    redact_answers,
    settings,
    to_chats,
)
from bula.degeneration import is_degenerate, repeated_4gram_share
from bula.errors import UserError, run_stage
from bula.few_shot import check_context, lengths, read_shots
from bula.hardware import prepare_device, seed_everything
from bula.language import other_language
from bula.models import load_tokenizer
from bula.params import Params, Variant, load_params, variant_of
from bula.privacy import PERSONAL_DATA_KINDS, find_personal_data
from bula.prompts import encode_prompts, prompt_hash
from bula.records import Example, Row, Turn, read_validation_sets, write_rows
from bula.reports import peak_memory_gb, write_metrics
from bula.safety import seeks_care
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
    """Return one row per answer, with the example that it answers."""
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
        row["degenerate"] = is_degenerate(given.text, max_share)
        word_count = len(words(given.text))
        row["other_language"] = other_language(given.text, word_count, params.preprocess)
        row["seeks_care"] = seeks_care(given.text)
        rows.append(row)
    return rows


def summarise(rows: list[Row], found: Findings) -> Figures:
    """Return counts and means over the answer rows.

    `found` contains the personal data of each answer, before it was redacted. docs/metrics.md
    defines each figure.
    """
    shares = [row["repeated_4gram_share"] for row in rows]
    tokens = [row["completion_tokens"] for row in rows]
    figures: Figures = {"items": len(rows)}
    for name, count in count_answers(rows).items():
        figures[name] = count
        figures[f"{name}_share"] = count / len(rows)
    figures |= {
        "repeated_4gram_share": sum(shares) / len(rows),
        "repeated_4gram_share_stderr": standard_error(shares),
        "completion_tokens_mean": sum(tokens) / len(rows),
        "completion_tokens_stderr": standard_error(tokens),
        "personal_data_answers": sum(map(bool, found)),
    }
    kinds = count_kinds(found)
    for kind in PERSONAL_DATA_KINDS:
        figures[f"personal_data_{kind}"] = kinds[kind]
    return figures


def count_answers(rows: list[Row]) -> dict[str, int]:
    """Return the number of answers of each kind, of which one may have several."""
    reasons = Counter(row["finish_reason"] for row in rows)
    texts = [row["generated"] for row in rows if row["finish_reason"] != FAILED]
    return {
        "finish_stop": reasons["stop"],
        "finish_length": reasons["length"],
        "failed": reasons[FAILED],
        "empty": texts.count(""),
        "degenerate": sum(row["degenerate"] for row in rows),
        "other_language": sum(bool(row["other_language"]) for row in rows),
        "seeks_care": sum(row["seeks_care"] for row in rows),
    }


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
        chosen_settings = settings(chosen, params)
        write_metrics(metrics / f"{variant}.json", {"settings": chosen_settings, **figures})
        write_metrics(speed / f"{variant}.json", speeds)
    print(describe_run(out / f"{variant}.jsonl", figures, speeds))


if __name__ == "__main__":
    run_stage(main, less_memory="lower generate.batch_size")
