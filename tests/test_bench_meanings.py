"""Test the figures of bench/meanings.py by hand."""

import json

import numpy
import pytest

from bench import meanings

# Two items. The rows are two paraphrases, two originals, two other rows and two of the demo corpus.
MARGINS = numpy.array(
    [[0.5, 0.1], [0.1, 0.5], [0.45, 0.1], [0.4, 0.2], [0.3, 0.1], [0.1, 0.2], [0.1, 0], [0, 0.1]],
    numpy.float32,
)


def test_the_best_scores_by_hand() -> None:
    found = meanings.score(meanings.find(MARGINS, 2))
    # At 0.45 the three rows above are correct. The second original has the first item, at 0.4.
    assert found == {
        "f1": pytest.approx(2 * 3 / (4 + 3)),
        "threshold": pytest.approx(0.45),
        "precision": 1.0,
        "paraphrase_found": 1.0,
        "english_found": 0.5,
        "other_false_alarms": 0,
        "demo_false_alarms": 0,
        # Without item 0 the threshold is 0.5, which finds one of its two rows. Without item 1 it is
        # 0.45, which finds one of its rows too.
        "held_out_f1": pytest.approx(2 * 2 / (4 + 2)),
    }


def test_every_item_has_its_rows() -> None:
    rows = [json.loads(line) for line in meanings.PAIRS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 30
    texts = [text for row in rows for pair in row.values() for text in pair.values()]
    assert len(set(texts)) == 240
    assert {tuple(row) for row in rows} == {("item", "paraphrase", "english", "other")}
