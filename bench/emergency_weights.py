"""Fit the weights of bula/emergency/meaning.py, and measure them on unseen authors.

The sentences come from files in tests/data/emergency, one for each author, and from the training
questions of the demo corpus whose reference sends nobody to emergency care. Each author's file is
measured by weights that were fitted without it. The last file, unseen.tsv, is in no fit.

    python -m bench.emergency_weights [--write]
"""

import json
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy
import typer
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bench.clones import ROOT
from bench.emergency import LABELS, group_questions
from bula.emergency.meaning import MOST_NONE, NEEDS, WEIGHTS, Vectors, Weights, embed, probabilities

FOLDER = ROOT / "tests/data/emergency"
UNSEEN = "unseen.tsv"
# The inverse strength of the penalty (L2), and the weight of a question of the demo corpus, whose
# one style would else be read as a sign of calm. Both were chosen on unseen authors.
STRENGTH = 3.0
ORDINARY_WEIGHT = 0.3
DIGITS = 3


class Labelled(NamedTuple):
    """Sentences with their vectors and needs."""

    texts: list[str]
    vectors: Vectors
    needs: NDArray[numpy.str_]


def read_sentences(path: Path) -> Labelled:
    """Return the labelled sentences of a file."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [text for _, text in lines]
    return Labelled(texts, embed(texts), numpy.array([LABELS[label] for label, _ in lines]))


def ordinary_questions() -> Labelled:
    """Return the questions of the demo corpus that need no emergency care."""
    groups = group_questions(ROOT / "data/demo")
    texts = [
        text
        for name, questions in groups.items()
        if name.endswith("names no SAMU")
        for text in questions
    ]
    return Labelled(texts, embed(texts), numpy.array(["none"] * len(texts)))


def fit(authors: list[Labelled], ordinary: Labelled) -> Weights:
    """Return the weights of a multinomial logistic regression."""
    parts = [*authors, ordinary]
    importance = numpy.ones(sum(len(part.texts) for part in parts))
    importance[-len(ordinary.texts) :] = ORDINARY_WEIGHT
    model = LogisticRegression(C=STRENGTH, max_iter=5000, tol=1e-6)
    model.fit(
        numpy.concatenate([part.vectors for part in parts]),
        numpy.concatenate([part.needs for part in parts]),
        sample_weight=importance,
    )
    order = [list(model.classes_).index(need) for need in NEEDS]
    return Weights(model.coef_[order], model.intercept_[order])


def count_found(part: Labelled, weights: Weights) -> dict[str, tuple[int, int]]:
    """Return, by need, how many sentences are called an emergency, and all sentences."""
    found = probabilities(part.texts, weights)[:, 0] < MOST_NONE
    counts: dict[str, tuple[int, int]] = {}
    for need in NEEDS:
        of_need = part.needs == need
        counts[need] = (int(found[of_need].sum()), int(of_need.sum()))
    return counts


def line(name: str, counts: dict[str, tuple[int, int]]) -> str:
    """Return a line with the counts of a file."""
    parts = (f"{need} {found} of {total}" for need, (found, total) in counts.items())
    return f"{name:16} {', '.join(parts)} called an emergency"


def write_weights(weights: Weights) -> None:
    """Write the weights with as many digits as change no probability by 0.01."""
    document = {
        "coefficients": {
            need: [round(float(value), DIGITS) for value in row]
            for need, row in zip(NEEDS, weights.coefficients, strict=True)
        },
        "intercepts": {
            need: round(float(value), DIGITS)
            for need, value in zip(NEEDS, weights.intercepts, strict=True)
        },
    }
    WEIGHTS.write_text(json.dumps(document) + "\n", encoding="utf-8")


def read_authors() -> dict[str, Labelled]:
    """Return the labelled sentences that weights may be fitted to, by file name."""
    files = sorted(path for path in FOLDER.glob("*.tsv") if path.name != UNSEEN)
    return {path.name: read_sentences(path) for path in files}


def main(
    write: Annotated[bool, typer.Option("--write", help="Write the weights.")] = False,
) -> None:
    """Print how many sentences of each author are found by weights without that author."""
    ordinary = ordinary_questions()
    authors = read_authors()
    for name, part in authors.items():
        others = [authors[other] for other in authors if other != name]
        print(line(name, count_found(part, fit(others, ordinary))))
    weights = fit(list(authors.values()), ordinary)
    print(line(UNSEEN, count_found(read_sentences(FOLDER / UNSEEN), weights)))
    if write:
        write_weights(weights)


if __name__ == "__main__":
    typer.run(main)
