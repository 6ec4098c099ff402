"""Measure how well an encoder finds paraphrases and translations of items.

bench/paraphrases.jsonl has hand-written questions: an item, a paraphrase, the English original and
another question on the same topic. A paraphrase or original is found if its cosine with its item
reaches the threshold and no other item is nearer. Any other pair above it is a false alarm.

    python -m bench.meanings DIRECTORY
"""

import json
from pathlib import Path
from typing import Annotated

import numpy
import typer

from bench.summary import show
from stages.preprocess.semantic import Vectors, embed_questions, open_encoder

PAIRS = Path(__file__).parent / "paraphrases.jsonl"
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
POSITIVES = ("paraphrase", "english")
# Goal of the best F1.
F1 = 0.76

Directory = Annotated[Path, typer.Argument(help="Folder of the encoder.")]


def count_found(items: Vectors, others: Vectors, threshold: float) -> tuple[int, int]:
    """Count the rows that find their own item, and those that find any.

    Row n of `others` belongs to row n of `items`.
    """
    cosine = others @ items.T
    nearest = cosine.argmax(axis=1)
    rows = numpy.arange(len(others))
    is_found = cosine[rows, nearest] >= threshold
    return int((is_found & (nearest == rows)).sum()), int(is_found.sum())


def best_scores(vectors: dict[str, Vectors]) -> dict[str, float]:
    """Return the threshold with the best F1, its recall by kind and its precision."""
    best: dict[str, float] = {"f1": 0.0}
    items = vectors["item"]
    for threshold in THRESHOLDS:
        counts = {kind: count_found(items, vectors[kind], threshold) for kind in vectors}
        correct = sum(counts[kind][0] for kind in POSITIVES)
        found = sum(counts[kind][1] for kind in (*POSITIVES, "other"))
        positives = len(items) * len(POSITIVES)
        f1 = 2 * correct / (positives + found)
        if f1 > best["f1"]:
            best = {"f1": f1, "threshold": threshold, "precision": correct / max(1, found)}
            for kind in POSITIVES:
                best[f"{kind}_found"] = counts[kind][0] / len(items)
    return best


def main(directory: Directory) -> None:
    """Measure an encoder."""
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    encoder = open_encoder(directory)
    vectors = {}
    for kind in ("item", *POSITIVES, "other"):
        vectors[kind] = embed_questions(encoder, [row[kind] for row in rows])
    figures = best_scores(vectors)
    show("meanings", figures, {"f1": F1}, figures["f1"] >= F1)


if __name__ == "__main__":
    typer.run(main)
