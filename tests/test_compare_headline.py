"""Check the main figures and answers that a README shows."""

from pathlib import Path

import pytest

from bench.clones import edit_params
from bula.params import Params, load_params
from bula.tables.results import headline_table
from stages.compare import __main__ as stage
from stages.compare.headline import _answers
from stages.compare.inputs import PageAnswer
from tests.test_compare import write_inputs


def shown(split: str, number: int, generated: str, *, degenerate: bool = False) -> PageAnswer:
    """Return an answer."""
    return PageAnswer.model_validate(
        {
            "id": f"{split}{number}",
            "split": split,
            "question": f"Pergunta {split}{number}?",
            "answer": "Referência.",
            "generated": generated,
            "finish_reason": "stop",
            "degenerate": degenerate,
        }
    )


@pytest.fixture
def params(workspace: Path) -> Params:
    """Return the default parameters."""
    return load_params(workspace / "params.yaml")


def test_first_question_of_three_sets_has_the_answers_of_the_first_pair(params: Params) -> None:
    rows = [shown(split, number, "Sim.") for split in "DBAC" for number in (1, 2)]
    base = {row.id: row for row in rows}
    tuned = base | {"A1": shown("A", 1, "Não. " * 9, degenerate=True)}
    tuned |= {"B1": shown("B", 1, "  "), "C1": shown("C", 1, "a b\n" * 30 + "c")}
    assert _answers({"base": base, "tuned": tuned}, params).splitlines() == [
        "| question | base | tuned |",
        "|---|---|---|",
        "| Pergunta A1? | Sim. | Não. (repeats 9 times) *(degenerate)* |",
        "| Pergunta B1? | Sim. | (empty) |",
        "| Pergunta C1? | Sim. | a b (repeats 30 times) c |",
    ]


def test_question_without_an_answer_of_the_variant_is_skipped(params: Params) -> None:
    rows = [shown(split, number, "Sim.") for split in "AB" for number in (1, 2)]
    base = {row.id: row for row in rows}
    # The baseline has an additional answer in A, and the only answers in B.
    tuned = {"A2": base["A2"]}
    text = _answers({"base": base, "tuned": tuned}, params)
    assert text.splitlines()[2:] == ["| Pergunta A2? | Sim. | Sim. |"]


def test_long_answer_is_cut_after_60_words(params: Params) -> None:
    # 61 different words: aa, ab, ac, ...
    words = [first + second for first in "abcdefgh" for second in "abcdefgh"][:61]
    rows = {"A1": shown("A", 1, " ".join(words))}
    text = _answers({"base": rows, "tuned": rows}, params)
    assert text.count(f"{words[59]} … |") == 2
    assert words[60] not in text


def test_answers_are_escaped(params: Params) -> None:
    rows = {"A1": shown("A", 1, "<b>x</b> | [y](z)")}
    assert "<b>" not in _answers({"base": rows, "tuned": rows}, params)


def test_stage_writes_table_and_answers_beside_the_report(workspace: Path) -> None:
    write_inputs(workspace)
    stage.main()
    text = (workspace / "report/headline.md").read_text(encoding="utf-8")
    params = load_params()
    assert text.startswith(headline_table(workspace / "metrics", params))
    assert text.count("| question | base | tuned |\n") == 1


def test_run_without_pairs_shows_its_first_two_variants(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", lambda params: params["compare"].update(pairs=[]))
    rows = {"A1": shown("A", 1, "Sim.")}
    params = load_params()
    text = _answers(dict.fromkeys(params.variants, rows), params)
    first, second, *_ = params.variants
    assert text.startswith(f"| question | {first} | {second} |\n")
