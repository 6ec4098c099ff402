"""Test the figures of bench/meanings.py by hand."""

import json

import numpy
import pytest

from bench import meanings
from stages.preprocess.semantic import Vectors


def vectors(*rows: list[float]) -> Vectors:
    """Return vectors as an array."""
    return numpy.array(rows, numpy.float32)


def test_the_best_scores_by_hand() -> None:
    near, other = 0.96, 0.28
    found = meanings.best_scores(
        {
            "item": vectors([1, 0], [0, 1]),
            "paraphrase": vectors([near, other], [other, near]),
            # The second original is nearer to the first item, which is a false alarm.
            "english": vectors([near, other], [near, other]),
            "other": vectors([0.62, 0], [0.3, 0]),
        }
    )
    # At 0.7 three of four found rows are correct; at 0.6 the first other question is found too.
    assert found == {
        "f1": pytest.approx(2 * 3 / (4 + 4)),
        "threshold": 0.7,
        "precision": 3 / 4,
        "paraphrase_found": 1.0,
        "english_found": 0.5,
    }


def test_every_item_has_its_questions() -> None:
    rows = [json.loads(line) for line in meanings.PAIRS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 20
    texts = [text for row in rows for text in row.values()]
    assert len(set(texts)) == 80
    assert {tuple(row) for row in rows} == {("item", "paraphrase", "english", "other")}
