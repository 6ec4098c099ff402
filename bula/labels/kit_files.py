"""Read the run behind a review kit, and write the kit's files."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from bula.errors import UserError
from bula.files import staged
from bula.labels.kit import Kit, build_kit
from bula.labels.kit_page import render_page
from bula.labels.kit_sample import LEVELS, Found, draw_sample, find_candidates
from bula.labels.kit_weights import weigh
from bula.params import Pair, Params
from bula.records import Example, read_examples, read_validation_sets

PAGE = "review.html"
KEY = "key.json"
SAMPLE = "sample.json"


class Drawn(NamedTuple):
    """A kit, the run's candidates and the sources that may not be passed on."""

    kit: Kit
    found: Found
    closed: set[str]
    """Sources of the sample with `redistribution: forbidden`."""


def read_questions(data: Path, answers: Path) -> dict[str, Example]:
    """Return the questions that a folder of answers may be about, by id.

    `data/answers` is about the validation sets. Another folder may be about train and dev, whose
    preferences may become training pairs.
    """
    clean = data / "clean"
    if answers == data / "answers":
        sets = read_validation_sets(clean / "validation")
    else:
        sets = {name: read_examples(clean / f"{name}.jsonl") for name in ("train", "dev")}
    return {example.id: example for rows in sets.values() for example in rows}


def draw_kit(
    data: Path,
    answers: Path,
    params: Params,
    compared: list[Pair],
    sizes: tuple[int, int],
    seed: int,
) -> Drawn:
    """Return the kit of the answers in a folder.

    `sizes` are the numbers of pairs and of repetitions. A small run has fewer pairs, and at most
    half of the pairs are repeated. Raise UserError if no question has two different answers.
    """
    examples = read_questions(data, answers)
    found = find_candidates(answers, data / "verdicts", examples, compared)
    if not found.candidates:
        what = "the variants gave no two different answers to one question"
        raise UserError(answers, what, "name other variants by --left and --right")
    random = Random(seed)
    sample = draw_sample(found.candidates, sizes[0], random)
    # The sample of a seed must not depend on the weights, so they have a generator of their own.
    weights = weigh(found.candidates, sample, Random(f"weights {seed}"))
    kit = build_kit(sample, weights, min(sizes[1], len(sample) // 2), random)
    questions = [candidate.example for candidate in sample]
    return Drawn(kit, found, closed_sources(params, questions))


def closed_sources(params: Params, examples: list[Example]) -> set[str]:
    """Return the sources of the examples whose rows may not be passed on."""
    closed = {item.name for item in params.ingest.sources if item.redistribution == "forbidden"}
    return closed & {example.source for example in examples}


def describe_sample(drawn: Drawn, seed: int) -> dict[str, Any]:
    """Return how the sample was drawn, for sample.json.

    Each level of doubt has the number of its candidates and of its drawn pairs, without
    repetitions. key.json has the weights that follow from the draw.
    """
    candidates = Counter(candidate.level for candidate in drawn.found.candidates)
    repeats = {pair.pair for pair in drawn.kit.key.pairs if pair.repeat_of is not None}
    firsts = Counter(level for pair, level in drawn.kit.levels.items() if pair not in repeats)
    levels = {level: {"candidates": candidates[level], "drawn": firsts[level]} for level in LEVELS}
    return {
        "kit": drawn.kit.id,
        "seed": seed,
        "equal_answers": drawn.found.equal,
        "levels": levels,
        "pairs": drawn.kit.levels,
    }


def write_kit(folder: Path, drawn: Drawn, seed: int) -> None:
    """Write the page, the key and the description of the sample.

    Raise UserError if the folder has the key of another kit, without which its labels are lost.
    """
    _refuse_another_kit(folder / KEY, drawn.kit.id)
    _write_json(folder / KEY, drawn.kit.key.model_dump())
    _write_json(folder / SAMPLE, describe_sample(drawn, seed))
    _write_text(folder / PAGE, render_page(drawn.kit))


def _refuse_another_kit(path: Path, kit: str) -> None:
    """Raise UserError if a key exists and does not belong to this kit."""
    if not path.exists():
        return
    try:
        other = json.loads(path.read_text(encoding="utf-8"))["kit"]
    except (ValueError, KeyError, TypeError) as error:
        what = "it is not a key that can be read"
        raise UserError(
            path, what, "move it away, or write into another folder by --out"
        ) from error
    if other != kit:
        what = f"it is the key of another kit ({other}), whose labels need it"
        raise UserError(path, what, "move the folder away, or write into another one by --out")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a value as indented JSON."""
    _write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
