"""Check the stage that judges the answers of a variant."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula.calibration import Agreement, ErrorRates
from bula.errors import UserError
from bula.params import load_params
from bula.records import SET_NAMES, Row, read_rows, write_rows
from stages import judge
from tests.conftest import leftovers
from tests.judge_server import StartJudge, point_to, verdict, write_calibration

ANSWER = {
    "id": "1",
    "split": "A",
    "question": "Q?",
    "answer": "Sim.",
    "generated": "Não.",
    "finish_reason": "stop",
}


def write_answers(workspace: Path) -> None:
    """Write three answers of the variant base per validation set."""
    write_calibration(workspace)
    rows = []
    for name in SET_NAMES:
        for number in range(3):
            question = f"Pergunta {number} de {name}?"
            rows.append(ANSWER | {"id": f"{name}{number}", "split": name, "question": question})
    write_rows(workspace / "data/answers/base.jsonl", rows)


# The judge stage


def test_figures_of_the_verdicts_ignore_failed_calls(workspace: Path) -> None:
    verdicts: list[Row] = [
        {"accuracy": 3, "style": 3},
        {"failed": "Timeout"},
        {"accuracy": 1, "style": 2},
    ]
    figures = judge.summarise(verdicts, load_params().judge)
    assert figures == {
        "judge": load_params().judge.model,
        "items": 3,
        "scored": 2,
        "empty": 0,
        "attack_like": 0,
        "failed": 1,
        "failed_Timeout": 1,
        "accuracy_abstained": 0,
        "accuracy_abstained_share": 0.0,
        "accuracy_mean": 2.0,
        # Scores 3 and 1: the standard deviation is sqrt(2), over sqrt(2).
        "accuracy_stderr": pytest.approx(1.0),
        "accuracy_1_share": 0.5,
        "accuracy_2_share": 0.0,
        "accuracy_3_share": 0.5,
        "style_abstained": 0,
        "style_abstained_share": 0.0,
        "style_mean": 2.5,
        # Scores 3 and 2: the standard deviation is sqrt(1/2), over sqrt(2).
        "style_stderr": pytest.approx(0.5),
        "style_1_share": 0.0,
        "style_2_share": 0.5,
        "style_3_share": 0.5,
    }


def test_abstentions_are_counted_and_never_averaged(workspace: Path) -> None:
    verdicts: list[Row] = [
        {"accuracy": 3, "style": None},
        {"failed": "Timeout"},
        {"accuracy": None, "style": None},
    ]
    params = load_params()
    figures = judge.summarise(verdicts, params.judge)
    assert figures["scored"] == 2
    assert figures["accuracy_abstained"] == 1
    assert figures["accuracy_abstained_share"] == 0.5
    assert figures["accuracy_mean"] == 3.0
    assert figures["accuracy_3_share"] == 1.0
    assert figures["style_abstained_share"] == 1.0
    assert "style_mean" not in figures
    assert figures["style_3_share"] == 0.0
    rates = ErrorRates(sensitivity=0.9, correct=20, specificity=0.8, wrong=20)
    agreement = Agreement(labelled_by="author", kappa=0.5, low=0.4, high=0.6, rates=rates)
    calibrated = judge.calibrated(verdicts, "accuracy", agreement, params)
    # One score, and it is 3: (1 + 0.8 - 1) / 0.7 is clipped.
    assert calibrated["accuracy_3_corrected_share"] == 1.0
    none = judge.calibrated(verdicts, "style", agreement, params)
    assert "style_3_corrected_share" not in none


def test_empty_answers_are_no_part_of_the_corrected_share(workspace: Path) -> None:
    empty: list[Row] = [{"accuracy": 1, "style": 1, "empty": True}] * 50
    best: list[Row] = [{"accuracy": 3, "style": None}] * 28
    others: list[Row] = [{"accuracy": 1, "style": None}] * 22
    rates = ErrorRates(sensitivity=0.9, correct=15, specificity=0.8, wrong=15)
    agreement = Agreement(labelled_by="author", kappa=0.5, low=0.4, high=0.6, rates=rates)
    verdicts = empty + best + others
    figures = judge.calibrated(verdicts, "accuracy", agreement, load_params())
    # 28 of the 50 judged answers: (0.56 + 0.8 - 1) / 0.7, and half of the answers were judged.
    assert figures["accuracy_3_corrected_share"] == pytest.approx(0.36 / 0.7 / 2)
    # Halves of the interval for 28 of 50 answers, which is [0.2076, 0.8105].
    assert figures["accuracy_3_corrected_share_low"] == pytest.approx(0.1038, abs=1e-4)
    assert figures["accuracy_3_corrected_share_high"] == pytest.approx(0.4052, abs=1e-4)
    # The judge abstained on all styles, so its errors correct nothing.
    style = judge.calibrated(verdicts, "style", agreement, load_params())
    assert "style_3_corrected_share" not in style


def test_stage_judges_the_first_answers_of_each_set(api: StartJudge, workspace: Path) -> None:
    _, server = api([verdict(2, 3)])
    write_answers(workspace)
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(items_per_set=2))
    judge.main("base")
    judged = [row["id"] for row in read_rows(workspace / "data/verdicts/base.jsonl")]
    assert judged == ["A0", "A1", "B0", "B1", "C0", "C1", "D0", "D1", "E0", "E1"]
    assert len(server.requests) == 10


def fail_requests(workspace: Path, *items: str) -> None:
    """Let the requests of generate fail for some questions."""
    file = workspace / "data/answers/base.jsonl"
    rows = list(read_rows(file))
    for row in rows:
        if row["id"] in items:
            row |= {"generated": "", "finish_reason": "failed"}
    write_rows(file, rows)


def test_questions_without_an_answer_are_not_judged(api: StartJudge, workspace: Path) -> None:
    _, server = api([verdict(2, 3)])
    write_answers(workspace)
    fail_requests(workspace, "A1")
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(items_per_set=2))
    judge.main("base")
    judged = [row["id"] for row in read_rows(workspace / "data/verdicts/base.jsonl")]
    # A2 does not replace A1, because other variants have no verdict on it.
    assert judged == ["A0", "B0", "B1", "C0", "C1", "D0", "D1", "E0", "E1"]
    assert len(server.requests) == 9
    fail_requests(workspace, *judged)
    with pytest.raises(UserError, match="no question that it selects has an answer"):
        judge.main("base")


def test_prompt_has_question_reference_and_generated_answer(
    api: StartJudge, workspace: Path
) -> None:
    _, server = api([verdict(2, 3)])
    write_answers(workspace)
    judge.main("base")
    lines = server.requests[0]["messages"][1]["content"].split("\n")
    assert [line for line in lines if not line.startswith("---")] == [
        "Pergunta:",
        "Pergunta 0 de A?",
        "",
        "Referência:",
        "Sim.",
        "",
        "Resposta a avaliar:",
        "Não.",
    ]


def test_url_that_refuses_connections_is_an_error_without_output(workspace: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    point_to(workspace, url)
    write_answers(workspace)
    message = rf"the judge judge-1 at {url}: all 5 calls failed: APIConnectionError 5\."
    with pytest.raises(UserError, match=message):
        judge.main("base")
    assert not (workspace / "data/verdicts").exists()
    assert not (workspace / "metrics/judge").exists()
    assert leftovers(workspace) == []


def test_run_without_a_verdict_is_an_error_without_output(api: StartJudge, workspace: Path) -> None:
    api(["no JSON"])
    write_answers(workspace)
    with pytest.raises(UserError, match=r"all 5 calls failed: ValidationError 5\."):
        judge.main("base")
    assert not (workspace / "metrics/judge").exists()


def test_scores_below_the_smallest_kappa_are_withheld(api: StartJudge, workspace: Path) -> None:
    api([verdict(3, 3), verdict(1, 3)])
    write_answers(workspace)
    rates = {"sensitivity": 0.9, "correct": 20, "specificity": 0.8, "wrong": 20}
    changes = {f"accuracy_{name}": value for name, value in rates.items()}
    write_calibration(workspace, author_kappa_style_low=0.4, **changes)
    judge.main("base")
    figures = json.loads((workspace / "metrics/judge/base.json").read_text(encoding="utf-8"))
    assert figures["labelled_by"] == "author"
    assert figures["accuracy_withheld"] is True
    assert figures["style_withheld"] is False
    assert figures["accuracy_kappa_low"] == 0.3
    # 3 of 5 answers: (0.6 + 0.8 - 1) / (0.8 + 0.9 - 1).
    assert figures["accuracy_3_corrected_share"] == pytest.approx(0.571429)
    assert figures["accuracy_3_corrected_share_low"] < 0.2
    assert figures["accuracy_3_corrected_share_high"] > 0.8
    # Without labels of both kinds there is nothing to correct by.
    assert "style_3_corrected_share" not in figures


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"author_kappa_accuracy": "x"}'])
def test_judge_needs_the_figures_of_calibrate(
    content: str | None, api: StartJudge, workspace: Path
) -> None:
    _, server = api([verdict(3, 3)])
    write_answers(workspace)
    path = workspace / "metrics/calibrate.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"calibrate\.json: .*Run `dvc repro calibrate`"):
        judge.main("base")
    assert server.requests == []


def test_a_kappa_of_clinicians_decides_where_there_is_one(api: StartJudge, workspace: Path) -> None:
    api([verdict(3, 3)])
    write_answers(workspace)
    changes: dict[str, float] = {}
    for part in ("accuracy", "style"):
        changes |= {
            f"clinician_kappa_{part}": 0.6,
            f"clinician_kappa_{part}_low": 0.5,
            f"clinician_kappa_{part}_high": 0.7,
        }
    write_calibration(workspace, labelled_by="clinician", **changes)
    judge.main("base")
    figures = json.loads((workspace / "metrics/judge/base.json").read_text(encoding="utf-8"))
    assert figures["labelled_by"] == "clinician"
    # The author's lower bound of 0.3 would withhold the scores.
    assert figures["accuracy_kappa_low"] == 0.5
    assert figures["accuracy_withheld"] is False


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"judge": "judge-2"}, r"judge-2 \(api\)"), ({"judge_kind": "local"}, r"judge-1 \(local\)")],
)
def test_figures_of_another_judge_are_refused(
    changes: dict[str, Any], named: str, api: StartJudge, workspace: Path
) -> None:
    _, server = api([verdict(3, 3)])
    write_answers(workspace)
    write_calibration(workspace, **changes)
    message = (
        rf"calibrate\.json: it describes the judge {named}, but params\.yaml names "
        r"judge-1 \(api\)\. Run `dvc repro calibrate`"
    )
    with pytest.raises(UserError, match=message):
        judge.main("base")
    assert server.requests == []


def test_error_about_an_unknown_variant_names_the_known_ones(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"\.\./x.* base, quantized, tuned"):
        judge.main("../x")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, ": the file does not exist"),
        ([], ": the file contains no row"),
        ([{**ANSWER, "split": "train"}], r":1: the row cannot be used \(split: "),
        ([{**ANSWER, "generated": None}], r":1: the row cannot be used \(generated: "),
        ([ANSWER, ANSWER], r": 1 items appear more than once"),
    ],
)
def test_answers_that_cannot_be_judged_are_an_error(
    rows: list[dict[str, Any]] | None, message: str, workspace: Path
) -> None:
    write_calibration(workspace)
    if rows is not None:
        write_rows(workspace / "data/answers/base.jsonl", rows)
    expected = rf"data/answers/base\.jsonl{message}.*Run `dvc repro generate@base`"
    with pytest.raises(UserError, match=expected):
        judge.main("base")


def test_error_about_an_answer_does_not_show_its_content(workspace: Path) -> None:
    row = ANSWER | {"generated": "PACIENTE-CANARIO", "finish_reason": 1, "question": ""}
    write_calibration(workspace)
    write_rows(workspace / "data/answers/base.jsonl", [row])
    with pytest.raises(UserError) as caught:
        judge.main("base")
    assert "finish_reason: " in str(caught.value)
    assert "question: " in str(caught.value)
    assert "PACIENTE" not in str(caught.value)
    # A traceback would show the content that pydantic quotes.
    assert caught.value.__suppress_context__
