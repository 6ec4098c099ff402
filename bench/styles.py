"""Measure how often answers keep the form of a style.

The questions are those of dev.

python -m bench.styles --model models/merged --style post
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bula.answer_styles import STYLES, StyleName, with_style
from bula.asking import encode_question
from bula.errors import run_app
from bula.params import Params, load_params

FIGURES = re.compile(r"-?\d+")
DEV = Path("data/demo/dev.jsonl")


def read_questions(path: Path, count: int) -> list[str]:
    """Return the first questions of a JSON Lines file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines[:count]]


def write_answers(model: Path, questions: list[str], style: StyleName, params: Params) -> list[str]:
    """Return the answers of a model directory to the questions, in one style."""
    from bula.generation import batches_of_prompts, generate_batch
    from bula.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    loaded = load_model(model, params.dtype)
    prompts = [encode_question(tokenizer, with_style(text, style)) for text in questions]
    answers = [""] * len(prompts)
    limits = params.generate
    for batch in batches_of_prompts(prompts, limits.batch_size):
        ids = generate_batch(
            loaded,
            tokenizer,
            [prompts[index] for index in batch],
            STYLES[style].tokens,
            limits.decoding,
        )
        for index, row in zip(batch, ids, strict=True):
            answers[index] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return answers


def summarise(style: StyleName, answers: list[str]) -> str:
    """Return the share of answers that keep the form, and the commonest faults."""
    found = [STYLES[style].faults(answer) for answer in answers]
    kept = found.count([])
    # A fault's figures differ from answer to answer, and its words do not.
    kinds = Counter(FIGURES.sub("N", fault) for faults in found for fault in faults)
    common = "; ".join(f"{name} ({count})" for name, count in kinds.most_common(3)) or "none"
    share = kept / len(answers)
    return f"{style}: {kept} of {len(answers)} answers keep the form ({share:.0%}); {common}"


def main(
    model: Annotated[Path, typer.Option(help="A model directory.")] = Path("models/merged"),
    style: Annotated[list[StyleName] | None, typer.Option(help="Only these styles.")] = None,
    questions: Annotated[Path, typer.Option(help="JSON Lines file of questions.")] = DEV,
    count: Annotated[int, typer.Option(min=1, help="Number of questions.")] = 25,
) -> None:
    """Print the share of answers that keep the form of each style."""
    from bula.hardware import prepare_device, seed_everything

    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    asked = read_questions(questions, count)
    for name in style or list(StyleName):
        print(summarise(name, write_answers(model, asked, name, params)), flush=True)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)
