"""Answer the validation questions under one variant, greedily.

The engine of the variant answers (bula/answering.py). The stage counts degenerate answers. The
stages rouge, judge and compare read the answers.

    python -m stages.generate tuned
"""

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bula.answering import (
    Answer,
    Findings,
    Prompts,
    answer,
    count_kinds,
    redact_answers,
    settings,
)
from bula.degeneration import is_degenerate, repeated_4gram_share
from bula.errors import UserError, run_stage
from bula.few_shot import check_context, read_shots
from bula.hardware import prepare_device, seed_everything
from bula.models import load_tokenizer
from bula.params import load_params, variant_of
from bula.privacy import PERSONAL_DATA_KINDS, find_personal_data
from bula.prompts import encode_prompts, prompt_hash
from bula.records import Example, Row, read_validation_sets, write_rows
from bula.reports import peak_memory_gb, write_metrics
from bula.stats import standard_error

Figures = dict[str, int | float]


def to_rows(
    variant: str,
    examples: list[Example],
    prompts: Prompts,
    answers: list[Answer],
    max_share: float,
) -> list[Row]:
    """Return one row per answer, with the example that it answers."""
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
        rows.append(row)
    return rows


def summarise(rows: list[Row], found: Findings) -> Figures:
    """Return counts and means over the answer rows.

    `found` contains the personal data of each answer, before it was redacted. docs/metrics.md
    defines each figure.
    """
    reasons = Counter(row["finish_reason"] for row in rows)
    degenerate = sum(row["degenerate"] for row in rows)
    shares = [row["repeated_4gram_share"] for row in rows]
    tokens = [row["completion_tokens"] for row in rows]
    figures: Figures = {
        "items": len(rows),
        "finish_stop": reasons["stop"],
        "finish_length": reasons["length"],
        "empty": sum(not row["generated"] for row in rows),
        "degenerate": degenerate,
        "degenerate_share": degenerate / len(rows),
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


def measure_speed(answers: list[Answer], seconds: float) -> Figures:
    """Return the speed figures, which differ between runs."""
    tokens = sum(given.completion_tokens for given in answers)
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
    limits = params.generate
    seed_everything(params.sampling_seed)
    examples = read_questions(clean / "validation", limits.items_per_set)
    model = Path(chosen.model)
    tokenizer = load_tokenizer(model)
    shots = read_shots(clean, chosen)
    prompts = encode_prompts(tokenizer, examples, shots)
    check_context(model, [len(prompt) + limits.max_new_tokens for prompt in prompts], shots)
    started = time.perf_counter()
    answers = answer(model, chosen.engine, params, tokenizer, prompts)
    speeds = measure_speed(answers, time.perf_counter() - started)
    found = [find_personal_data(given.text) for given in answers]
    answers = redact_answers(f"generate@{variant}", answers, found, params.privacy.answers)
    rows = to_rows(variant, examples, prompts, answers, limits.max_repeated_share)
    figures = summarise(rows, found)
    write_rows(out / f"{variant}.jsonl", rows)
    engine = settings(chosen.engine, params.dtype, limits.gpu_layers)
    write_metrics(
        metrics / f"{variant}.json", {"settings": engine | {"few_shot": len(shots)}, **figures}
    )
    write_metrics(speed / f"{variant}.json", speeds)
    counts = f"{len(rows)} answers of {variant}, {figures['degenerate']} of them degenerate"
    rate = f"{speeds['tokens_per_second']:.0f} tokens/s"
    print(f"generate: {counts}, at {rate} in {out / variant}.jsonl")


if __name__ == "__main__":
    run_stage(main, less_memory="lower generate.batch_size")
