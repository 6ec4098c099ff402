"""Measure what needs no model, for comparison with the variants.

python -m stages.controls
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from bula.degeneration import is_degenerate, repeated_4gram_share
from bula.errors import run_stage
from bula.params import Params, load_params
from bula.records import Example, Row, read_examples, read_validation_sets, write_rows
from bula.reports import write_metrics
from bula.rouge import Figures, score_answers, summarise
from bula.stats import LN2, ratio_standard_error
from stages.controls import ngram
from stages.controls.answers import echo, nearest, stock
from stages.controls.compressors import COMPRESSORS, added_bits, compressed_bits


def answer_without_model(
    train: list[Example], asked: list[Example], stock_answers: int
) -> dict[str, list[str]]:
    """Return the answers of each control, one per question."""
    return {
        "stock": stock(train[:stock_answers], asked),
        "nearest": nearest(train, asked),
        "echo": echo(asked),
    }


def to_rows(control: str, asked: list[Example], texts: list[str], max_share: float) -> list[Row]:
    """Return one row per answer, in the format of the generate stage."""
    rows = []
    for example, text in zip(asked, texts, strict=True):
        row = example.model_dump(exclude_none=True)
        row["variant"] = control
        row["generated"] = text
        row["finish_reason"] = "stop"
        row["repeated_4gram_share"] = repeated_4gram_share(text)
        row["degenerate"] = is_degenerate(text, max_share)
        rows.append(row)
    return rows


def summarise_answers(rows: list[Row], scores: list[Row], params: Params) -> Figures:
    """Return ROUGE and the share of degenerate answers of one control."""
    degenerate = sum(row["degenerate"] for row in rows)
    return {**summarise(scores, params), "degenerate_share": degenerate / len(rows)}


def ngram_rows(train: list[Example], scored: list[Example]) -> list[Row]:
    """Return the nats of each reference under the character n-gram."""
    counts = ngram.count(example.answer for example in train)
    rows = []
    for example in scored:
        row: Row = {
            "id": example.id,
            "split": example.split,
            "variant": "ngram",
            "characters": len(example.answer),
            "nats": ngram.answer_bits(counts, example.answer) * LN2,
        }
        rows.append(row)
    return rows


def summarise_ngram(rows: list[Row]) -> Figures:
    """Return the bits per character of the character n-gram."""
    bits = [row["nats"] / LN2 for row in rows]
    characters = [row["characters"] for row in rows]
    return {
        "items": len(rows),
        "order": ngram.ORDER,
        "bits_per_character": sum(bits) / sum(characters),
        "bits_per_character_stderr": ratio_standard_error(bits, characters),
    }


def measure_compressors(train: list[Example], scored: list[Example]) -> dict[str, Figures]:
    """Return the bits per character of each compressor.

    The figure `alone` compresses the references without the training answers before them.
    """
    known = [example.answer for example in train]
    answers = [example.answer for example in scored]
    characters = sum(len(answer) for answer in answers)
    figures: dict[str, Figures] = {}
    for name, compress in COMPRESSORS.items():
        figures[name] = {
            "items": len(answers),
            "bits_per_character": added_bits(compress, known, answers) / characters,
            "bits_per_character_alone": compressed_bits(compress, answers) / characters,
        }
    return figures


def first_of_each_set(sets: Mapping[str, list[Example]], count: int) -> list[Example]:
    """Return the first `count` examples of each set; 0 returns all."""
    return [example for items in sets.values() for example in items[: count or None]]


def main(
    clean: Annotated[Path, typer.Option(help="Folder of clean examples.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for answers.")] = Path("data/controls"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/controls.json"),
) -> None:
    """Measure the controls."""
    params = load_params()
    train = read_examples(clean / "train.jsonl")
    sets = read_validation_sets(clean / "validation")
    asked = first_of_each_set(sets, params.generate.items_per_set)
    scored = first_of_each_set(sets, params.likelihood.items_per_set)
    figures = measure_compressors(train, scored)
    predicted = ngram_rows(train, scored)
    figures["ngram"] = summarise_ngram(predicted)
    answers = answer_without_model(train, asked, params.controls.stock_answers)
    for name, texts in answers.items():
        rows = to_rows(name, asked, texts, params.generate.max_repeated_share)
        scores = score_answers(rows)
        figures[name] = summarise_answers(rows, scores, params)
        write_rows(out / f"answers_{name}.jsonl", rows)
        write_rows(out / f"scores_{name}.jsonl", scores)
    write_rows(out / "likelihood_ngram.jsonl", predicted)
    write_metrics(metrics, figures)
    bits = figures["ngram"]["bits_per_character"]
    mean = figures["stock"]["rougeL_f"]
    found = f"stock answer ROUGE-L F1 {mean:.4f}, n-gram {bits:.4f} bits per character"
    print(f"controls: {found}, in {metrics}")


if __name__ == "__main__":
    run_stage(main, less_memory="lower preprocess.train_limit")
