import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from bula import distributions
from bula.errors import UserError
from bula.records import SET_NAMES, Row, read_rows, write_rows
from bula.rouge import score_answers
from stages import rouge
from tests.conftest import leftovers

ANSWERS = "data/answers/base.jsonl"
# A row of the tests by hand; the answer and the generated text differ per test.
ROW = {"id": "1", "split": "A", "variant": "v", "answer": "Não tome sol"}


def answer_rows() -> list[Row]:
    """Return four answers of each set."""
    rows = []
    for split in SET_NAMES:
        for number in range(4):
            row = {
                "id": f"{split}{number}",
                "split": split,
                "variant": "base",
                "question": "O que tomo?",
                "answer": "tome água e repouse",
                "generated": "tome " * (number + 1),
                "finish_reason": "stop",
                "degenerate": False,
            }
            rows.append(row)
    return rows


def test_rouge_of_portuguese_words_equals_a_calculation_by_hand() -> None:
    [scores] = score_answers([ROW | {"generated": "não, TOME água e sol"}])
    expected = {
        "id": "1",
        "split": "A",
        "variant": "v",
        # The reference is "não tome sol", the answer "não tome água e sol": three words are shared.
        "rouge1_precision": 3 / 5,
        "rouge1_recall": 3 / 3,
        "rouge1_f": 3 / 4,
        # Of the bigrams only "não tome" is shared.
        "rouge2_precision": 1 / 4,
        "rouge2_recall": 1 / 2,
        "rouge2_f": 1 / 3,
        "rougeL_precision": 3 / 5,
        "rougeL_recall": 3 / 3,
        "rougeL_f": 3 / 4,
    }
    del scores["chrf"]
    assert scores == pytest.approx(expected)


def test_chrf_equals_a_calculation_by_hand() -> None:
    [scores] = score_answers([ROW | {"answer": "abc", "generated": "ab"}])
    # 1-grams: precision 2 / 2, recall 2 / 3. 2-grams: 1 / 1 and 1 / 2. The answer has no 3-gram,
    # so two orders count: precision 1, recall 7 / 12. With beta 2, F is 5 P R / (4 P + R) = 7 / 11.
    assert scores["chrf"] == pytest.approx(7 / 11)


def test_an_empty_answer_scores_zero() -> None:
    [scores] = score_answers([ROW | {"generated": ""}])
    values = [value for name, value in scores.items() if name.startswith(("rouge", "chrf"))]
    assert values == [0.0] * 10


def test_rouge_never_imports_torch() -> None:
    code = "import stages.rouge, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rouge_writes_figures_per_set_with_intervals(workspace: Path) -> None:
    write_rows(workspace / ANSWERS, answer_rows())
    rouge.main("base")
    figures = json.loads((workspace / "metrics/rouge/base.json").read_text(encoding="utf-8"))
    assert figures["A"]["items"] == 4
    assert figures["pooled"]["items"] == 20
    assert figures["A"]["rouge1_f_low"] <= figures["A"]["rouge1_f"] <= figures["A"]["rouge1_f_high"]
    chrf = [figures["pooled"][f"chrf{end}"] for end in ("_low", "", "_high")]
    assert chrf == sorted(chrf)
    assert figures["pooled"]["chrf_stderr"] > 0
    assert leftovers(workspace) == []


def test_questions_without_an_answer_have_no_score(workspace: Path) -> None:
    rows = answer_rows()
    rows[3] |= {"generated": "", "finish_reason": "failed"}
    write_rows(workspace / ANSWERS, rows)
    rouge.main("base")
    scored = [row["id"] for row in read_rows(workspace / "data/scores/base.jsonl")]
    assert scored == [row["id"] for row in rows if row["id"] != "A3"]
    write_rows(workspace / ANSWERS, rows[3:4])
    with pytest.raises(UserError, match=r"answers/base\.jsonl: no question has an answer\. Run"):
        rouge.main("base")


def test_a_second_run_draws_the_same_picture(workspace: Path) -> None:
    write_rows(workspace / ANSWERS, answer_rows())
    rouge.main("base")
    first = (workspace / "plots/rouge/base.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    rouge.main("base")
    assert (workspace / "plots/rouge/base.png").read_bytes() == first
    assert leftovers(workspace) == []


@pytest.mark.parametrize(("loops", "mark"), [(4, ""), (5, "\nnot meaningful (25 % loops)")])
def test_picture_of_too_many_degenerate_answers_is_marked(
    loops: int, mark: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(distributions, "save_png", lambda figure, *_: drawn.append(figure))
    rows = answer_rows()
    for row in rows[:loops]:
        row["degenerate"] = True
    write_rows(workspace / ANSWERS, rows)
    rouge.main("base")
    # Four of 20 answers are the largest share that is allowed.
    assert drawn[0].get_suptitle() == f"ROUGE of base against the references, 20 answers{mark}"


DAMAGED: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "empty": (
        lambda rows: [],
        r"answers/base\.jsonl: the file contains no row. Run `dvc repro generate@base`",
    ),
    "repeated item": (
        lambda rows: [*rows, rows[0]],
        r"answers/base\.jsonl: 1 items appear more than once \(first: A0\)",
    ),
    "missing fields": (
        lambda rows: [*rows[:2], {"id": "x", "split": "A"}],
        r"answers/base\.jsonl:3: .*generated: Field required",
    ),
    "another variant": (
        lambda rows: [rows[0] | {"variant": "tuned"}],
        r"answers/base\.jsonl:1: the row is about the variant 'tuned'",
    ),
    "no text": (
        lambda rows: [rows[0] | {"generated": None}],
        r"answers/base\.jsonl:1: .*generated: Input should be a valid string",
    ),
    "another set": (
        lambda rows: [rows[0] | {"split": "train"}],
        r"answers/base\.jsonl:1: .*split: ",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_answers_are_refused_before_any_output(
    change: Any, message: str, workspace: Path
) -> None:
    write_rows(workspace / ANSWERS, change(answer_rows()))
    with pytest.raises(UserError, match=message):
        rouge.main("base")
    assert not (workspace / "data/scores").exists()
    assert not (workspace / "metrics").exists()


def test_missing_answers_are_named_with_the_stage_that_writes_them(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"answers/base\.jsonl: .*Run `dvc repro generate@base`"):
        rouge.main("base")


def test_an_unknown_variant_is_refused_with_the_known_names(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"variants has no 'tunned'\. Name one of base, "):
        rouge.main("tunned")
    assert not (workspace / "data/answers").exists()
