"""Write a finished run of two variants for the tests of `bula review-kit`."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

from bench.clones import ROOT, edit_params
from bula.labels.kit import Kit, build_kit
from bula.labels.kit_page import render_page
from bula.labels.kit_sample import Candidate, RatedAnswer
from bula.labels.kit_weights import Weights
from bula.labels.records import Level
from bula.records import SET_NAMES, Example, SetName, example_id
from tests.conftest import write_jsonl

# Neither name occurs in the page, in a question or in an answer of this module.
FIRST, SECOND = "granite-nine", "quartz-seven"
NAMES = (FIRST, SECOND)
SPECIALTIES = ("cardiologia", "pediatria", "neurologia")
REFERENCE = "Beba água em pequenos goles. Procure o posto de saúde se durar."


def example(split: SetName, number: int) -> Example:
    """Return an example whose specialty depends on its number."""
    question = f"O que faço com a tosse número {number} do grupo {split}?"
    return Example(
        id=example_id("s", question, REFERENCE),
        source="s",
        license="cc0-1.0",
        split=split,
        question=question,
        answer=REFERENCE,
        specialty=SPECIALTIES[number % len(SPECIALTIES)],
    )


def examples(per_set: int = 3) -> list[Example]:
    """Return the examples of all validation sets."""
    return [example(split, number) for split in SET_NAMES for number in range(per_set)]


def answer_text(row: Example, place: int) -> str:
    """Return the answer of the first or second variant, which has two sentences."""
    ending = ("Descanse em casa.", "Evite o cigarro.")[place]
    return f"A pergunta termina em {row.question[-13:-1]}. {ending}"


def answer_row(row: Example, variant: str, text: str, **fields: Any) -> dict[str, Any]:
    """Return a row of data/answers."""
    return {
        **row.model_dump(exclude_none=True),
        "variant": variant,
        "generated": text,
        "finish_reason": "stop",
        "degenerate": False,
        **fields,
    }


def write_run(folder: Path, names: tuple[str, str] = NAMES) -> None:
    """Write params.yaml, the validation sets and the answers of two variants."""
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")

    def edit(params: dict[str, Any]) -> None:
        # params.yaml refuses YAML aliases, so each variant needs a new object.
        params["variants"] = {
            name: {"model": "models/base", "engine": "transformers"} for name in names
        }
        params["compare"]["pairs"] = [{"variant": names[1], "baseline": names[0]}]
        params["review"]["gates"] = []

    edit_params(folder / "params.yaml", edit)
    rows = examples()
    for split in SET_NAMES:
        members = [row.model_dump(exclude_none=True) for row in rows if row.split == split]
        write_jsonl(folder / f"data/clean/validation/{split}.jsonl", members)
    for place, name in enumerate(names):
        answers = [answer_row(row, name, answer_text(row, place)) for row in rows]
        write_jsonl(folder / f"data/answers/{name}.jsonl", answers)


def candidate(
    row: Example, texts: tuple[str, str] | None = None, level: Level = "clear"
) -> Candidate:
    """Return the answers of both variants to one question."""
    chosen = texts or (answer_text(row, 0), answer_text(row, 1))
    first, second = (
        RatedAnswer.model_validate(answer_row(row, name, text))
        for name, text in zip(NAMES, chosen, strict=True)
    )
    return Candidate(row, first, second, NAMES, level)


def built(sample: list[Candidate], repeats: int, random: Random) -> Kit:
    """Return the kit of a sample that has all candidates."""
    return build_kit(sample, [Weights(1, 1, 1)] * len(sample), repeats, random)


def small_kit(pairs: int = 3, repeats: int = 1, seed: int = 1) -> Kit:
    """Return a kit of ordinary answers."""
    sample = [candidate(row) for row in examples()[:pairs]]
    return built(sample, repeats, Random(seed))


def write_page(folder: Path, kit: Kit) -> str:
    """Write the page of a kit, and return its address."""
    path = folder / "review.html"
    path.write_text(render_page(kit), encoding="utf-8")
    return path.as_uri()
