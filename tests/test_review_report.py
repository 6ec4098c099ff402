"""Check what a reviewer reads: Markdown and JSON of a review."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula.records import read_rows, write_rows
from bula.review.answers import Answers, Changed, changed_answers, word_distance
from bula.review.cells import short
from bula.review.changes import Change, changed_counts, changed_params, differences
from bula.review.gate import check_gates
from bula.review.report import Review
from bula.review.report_json import as_object
from bula.review.report_markdown import as_markdown
from bula.review.verdicts import compare_runs
from tests.review_runs import GATE, change_json, params_of, run_of, shifted, write_run
from tests.test_escaping import HOSTILE, RENDER

MOST_BYTES = 20_000


def review_of(before: Path, after: Path, **fields: Any) -> Review:
    """Return the review of two runs."""
    params = params_of(after)
    first, second = run_of(before, "main"), run_of(after)
    figures = compare_runs(first, second, params)
    found = Review(
        before=first,
        after=second,
        behind=0,
        problems=[],
        figures=figures,
        outcomes=check_gates(figures, params),
        params=changed_params(first, second),
        counts=changed_counts(first, second),
        headline=[],
        answers=changed_answers(first, second),
        alpha=params.review.alpha,
        lock=params.review.lock,
        differing=[],
    )
    return found._replace(**fields)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Return a run with 20 items."""
    return write_run(tmp_path / "before")


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """Return the review of a run against itself."""
    folder = write_run(tmp_path_factory.mktemp("same") / "run")
    return review_of(folder, folder)


def test_a_review_names_the_processor_of_each_run(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    (after / "metrics/speed").mkdir()
    speed = after / "metrics/speed/train.json"
    speed.write_text('{"processor": "NVIDIA H200"}', encoding="utf-8")
    review = review_of(before, after)
    [runs] = re.findall(r"^- \*\*Runs\*\*: .*", as_markdown(review), re.MULTILINE)
    assert "this run (`abc1234`; cpu, bfloat16, NVIDIA H200, profile" in runs
    assert "main (`abc1234`; cpu, bfloat16, profile" in runs
    assert as_object(review)["run"]["processor"] == "NVIDIA H200"


def test_the_first_ten_lines_carry_the_verdict(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", bits=2.05, generated={3: "Outro texto."})
    edit_params(after / "params.yaml", lambda params: params["train"].update(learning_rate=0.5))
    lines = as_markdown(review_of(before, after)).splitlines()[:10]
    assert lines[0] == "# Review: the gate fails"
    reason = "worse by 0.05, and 0.02 is allowed"
    assert lines[2] == f"- **Gate**: 1 of 1 fails: `tuned.bits_per_character` ({reason})"
    assert lines[3] == "- **Worse**: `tuned.bits_per_character` +0.05"
    assert lines[4] == "- **Better**: nothing"
    noise = "- **No difference beyond noise**: 0 figures. **Unchanged**: 3 figures."
    assert lines[5].startswith(f"{noise} **No comparison**: 0")
    assert "4 figures by pairs, item by item" in lines[6]
    assert "this run (`abc1234`; cpu, bfloat16, profile own parameters" in lines[7]
    assert lines[8] == "- **dvc.lock**: matches the code, the parameters and the data"
    changed = "1 parameter, 0 counts of data and privacy, 1 of 20 answers"
    assert lines[9] == f"- **Changed**: {changed}"


def test_parameters_that_change_no_output_are_counted_apart(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    edit_params(after / "params.yaml", lambda params: params["compute"].update(workers=7))
    edit_params(after / "params.yaml", lambda params: params["train"].update(learning_rate=0.5))
    lines = as_markdown(review_of(before, after)).splitlines()[:10]
    assert lines[9].startswith("- **Changed**: 1 parameter (and 1 that change no output), ")


def test_the_table_of_all_figures_has_their_numbers(before: Path, tmp_path: Path) -> None:
    text = as_markdown(review_of(before, write_run(tmp_path / "after", bits=2.05)))
    row = "| `tuned.bits_per_character` ↓ | 2 → 2.05 | +0.05 [+0.05, +0.05] | ≤ 1.9e-06 | 20 |"
    assert f"{row} items | worse |" in text


def test_a_review_that_compared_no_gated_figure_says_so(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", references={3: "Outra resposta."})
    text = as_markdown(review_of(before, after))
    assert text.startswith("# Review: the gate could compare none of its figures\n")
    assert "1 of 1 warns: `tuned.bits_per_character` (not comparable: other items)" in text


def test_a_gate_that_excludes_no_loss_is_a_warning_in_title_and_line(
    before: Path, tmp_path: Path
) -> None:
    text = as_markdown(review_of(before, write_run(tmp_path / "after", bits=shifted(4, 0.5))))
    assert text.startswith("# Review: the gate passes, with 1 warning\n")
    reason = "the interval does not exclude a loss above 0.02"
    assert f"1 of 1 warns: `tuned.bits_per_character` ({reason})" in text


def test_committed_figures_are_marked(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", loops=range(10), rows=False)
    text = as_markdown(review_of(before, after))
    # Half of the answers are loops, so ROUGE and the judge's scores are not meaningful.
    assert "2 from committed figures, because rows are missing" in text
    assert r"| `degenerate` ↓ | **worse** +0.5\* |" in text
    assert "answers unknown, because rows are missing" in text


def test_new_and_missing_figures_are_marked(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    (before / "metrics/rouge/tuned.json").unlink()
    (after / "metrics/judge/tuned.json").unlink()
    text = as_markdown(review_of(before, after))
    assert "| `rougeL_f` ↑ | new |" in text
    assert "| `judge_accuracy` ↑ | **missing** |" in text


def test_parameters_of_no_stage_come_last(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    edit_params(after / "params.yaml", lambda p: p["review"].update(alpha=0.01))
    edit_params(after / "params.yaml", lambda p: p["train"].update(max_steps=7))
    keys = [change.key for change in changed_params(run_of(before), run_of(after))]
    assert keys == ["train.max_steps", "review.alpha"]


def test_two_equal_runs_are_reviewed_in_two_sentences(before: Path) -> None:
    shown, _, folded = as_markdown(review_of(before, before)).partition("<details>")
    equal = "Nothing differs from main (`abc1234`): 4 figures, 20 answers, the parameters, the"
    gate = "counts of data. Gate: 1 of 1 figure passes."
    assert shown == f"# Review: the gate passes\n\n{equal} {gate}\n\n"
    assert "- **Unchanged**" not in shown
    assert "**Unchanged**: 4 figures" in folded
    assert "| `rougeL_f` ↑ | = |" in folded


def test_equal_runs_without_rows_leave_the_answers_unknown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rows=False)
    shown, _, folded = as_markdown(review_of(folder, folder)).partition("<details>")
    assert "Nothing differs from main (`abc1234`): 4 figures, the parameters, the" in shown
    assert "The answers are unknown, because rows are missing." in shown
    assert r"| `rougeL_f` ↑ | =\* |" in folded


@pytest.mark.parametrize(
    "change",
    [
        {"params": [Change("seed", 1, 2)]},
        {"counts": [Change("ingest.rows", 1, 2)]},
        {"answers": Answers(compared=20, changed=1, shown=[], hidden=1)},
        {"problems": ["code.py is modified (train)"], "lock": "warn"},
        {"differing": ["alpha 0.05 → 0.1"]},
    ],
)
def test_a_review_with_any_difference_is_complete(same: Review, change: dict[str, Any]) -> None:
    text = as_markdown(same._replace(**change))
    assert "Nothing differs" not in text
    assert text.splitlines()[2].startswith("- **Gate**: 1 of 1 figure passes")


def test_gates_that_no_value_could_fail_are_counted_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", loops=range(19))
    loops = {"figure": "tuned.degenerate", "direction": "lower", "max_drop": 0.1}
    added = {**GATE, **loops}
    edit_params(run / "params.yaml", lambda params: params["review"]["gates"].append(added))
    # 19 of 20 answers are loops, so at most 5 % more of them can become loops.
    text = as_markdown(review_of(run, run))
    reason = "1 gate could not fail, because every possible loss is allowed: `tuned.degenerate`"
    assert f"Gate: 2 of 2 figures pass; {reason}." in text
    gates = as_object(review_of(run, run))["gates"]
    assert [gate["can_fail"] for gate in gates] == [True, False]
    edit_params(run / "params.yaml", lambda params: params["review"]["gates"][1].update(floor=0.98))
    assert "could not fail" not in as_markdown(review_of(run, run))


def test_problems_of_the_lock_and_missing_commits_are_stated(before: Path) -> None:
    problems = ["bula/x.py is modified (train and 2 more stages)"] * 7
    text = as_markdown(review_of(before, before, problems=problems, behind=1))
    assert "**does not match**: `bula/x.py` is modified (train and 2 more stages); " in text
    assert "; 2 more. Run `dvc repro`" in text
    reason = "dvc.lock does not match, the figures belong to other code"
    assert text.startswith(f"# Review: the gate fails: {reason}\n")
    assert "\n- **Gate**: 1 of 1 figure passes; dvc.lock fails\n" in text
    assert "this branch lacks 1 commit of it" in text


@pytest.mark.parametrize(("lock", "passed"), [("fail", False), ("warn", True)])
def test_a_lock_that_does_not_match_fails_or_warns(before: Path, lock: str, passed: bool) -> None:
    review = review_of(before, before, problems=["code.py is modified (train)"], lock=lock)
    assert (review.passed, as_object(review)["passed"]) == (passed, passed)
    title = as_markdown(review).splitlines()[0]
    assert title.endswith("dvc.lock does not match, the figures belong to other code")
    assert ("the gate fails" in title) is not passed


def test_counts_of_data_and_privacy_are_listed(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    change_json(after / "metrics/preprocess.json", {"privacy": {"cpf": 2}})
    change_json(after / "metrics/generate/tuned.json", {"personal_data_answers": 1})
    text = as_markdown(review_of(before, after))
    assert "| `preprocess.privacy.cpf` | `0` | `2` |" in text
    assert "| `generate.tuned.personal_data_answers` | `0` | `1` |" in text


def test_keys_of_lists_and_absent_keys_are_differences() -> None:
    before = {"a": [1, {"b": 2}], "c": None, "same": 1}
    after = {"a": [1, {"b": True}], "same": 1, "d": []}
    assert differences(before, after) == [
        Change("a[1].b", 2, True),
        Change("c", None, "–"),
        Change("d", "–", []),
    ]
    assert differences({"n": 1}, {"n": True}) == [Change("n", 1, True)]


# Answers


def test_the_distance_is_the_share_of_words_that_are_not_shared() -> None:
    # Two of 3 + 5 words occur in both texts, so 4 of 8 words are shared.
    assert word_distance("beba muita água", "Água, beba pouco e devagar.") == 0.5
    assert word_distance("a a b", "a b b") == pytest.approx(1 / 3)
    assert word_distance("sim", "Sim!") == 0.0
    assert word_distance("", "...") == 0.0
    assert word_distance("", "sim") == 1.0


def test_the_five_answers_that_changed_most_are_shown(before: Path, tmp_path: Path) -> None:
    # Text n keeps the words "texto" and "número" and gains n new words.
    generated = {n: "Texto número" + " novo" * n for n in range(1, 8)}
    after = write_run(tmp_path / "after", generated=generated)
    found = changed_answers(run_of(before), run_of(after))
    assert (found.compared, found.changed) == (20, 7)
    distances = [round(shown.distance, 3) for shown in found.shown]
    # 1 - 2 × 2 / (3 + 2 + n) for n = 7 to 3.
    assert distances == [round(1 - 4 / (5 + n), 3) for n in (7, 6, 5, 4, 3)]
    assert "Pergunta sobre palavra7?" in as_markdown(review_of(before, after))


@pytest.mark.parametrize("failed", ["before", "after"])
def test_a_failed_request_is_no_changed_answer(before: Path, tmp_path: Path, failed: str) -> None:
    after = write_run(tmp_path / "after", generated={3: "Outro texto."})
    path = tmp_path / failed / "data/answers/tuned.jsonl"
    rows = list(read_rows(path))
    rows[0].update(generated="", finish_reason="failed")
    write_rows(path, rows)
    found = changed_answers(run_of(before), run_of(after))
    assert (found.compared, found.changed) == (19, 1)


@pytest.mark.parametrize("closed", ["before", "after"])
def test_answers_to_rows_of_a_closed_source_are_not_shown(
    before: Path, tmp_path: Path, closed: str
) -> None:
    after = write_run(tmp_path / "after", generated={3: "Texto secreto."})
    edit_params(
        tmp_path / closed / "params.yaml",
        lambda params: params["ingest"]["sources"][0].update(redistribution="forbidden"),
    )
    review = review_of(before, after)
    text = as_markdown(review)
    assert "1 of 20 answers" in text
    assert "1 changed answers are not shown, because their source does not allow" in text
    assert "secreto" not in text + json.dumps(as_object(review), ensure_ascii=False)
    assert "palavra3" not in text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_text(same: Review, text: str) -> None:
    shown = [Changed(text, "id", 1.0, text, text, text)]
    review = same._replace(
        before=same.before._replace(name=text, missing={text: text}),
        params=[Change(text, "1", text)],
        problems=[text],
        figures=[figure._replace(reason=text) for figure in same.figures],
        answers=Answers(compared=1, changed=1, shown=shown, hidden=0),
    )
    page = RENDER(as_markdown(review))
    tags = set(re.findall(r"<(/?[a-zA-Z!][^\s>]*)", page))
    known = "h1 ul li strong code p table thead tbody tr th td details summary"
    assert {tag.strip("/") for tag in tags} <= set(known.split())
    assert page.count("<details>") == page.count("</details>") == 4


def test_the_review_stays_below_20_kb(before: Path, tmp_path: Path) -> None:
    answers = {n: f"<b>{n}</b>|" * 400 for n in range(20)}
    after = write_run(tmp_path / "after", generated=answers)
    changes = [Change(f"key.{n}", "a" * 500, "*" * 500) for n in range(300)]
    problems = ["<i>" * 200] * 90
    review = review_of(before, after, params=changes, counts=changes, problems=problems)
    text = as_markdown(review)
    assert len(text.encode()) < MOST_BYTES
    assert text.count("<details>") == text.count("</details>")
    left_out = re.findall(r"(\d+) more lines: `python -m bula review --json` prints all", text)
    shown = len(re.findall(r"^\| `key\.", text, re.MULTILINE))
    assert shown + sum(map(int, left_out)) >= 600
    assert len(as_object(review)["parameters"]) == 300


def test_short_text_is_cut_by_its_bytes_after_escaping() -> None:
    assert short("água", 5) == "água"
    assert short("<" * 10, 12) == "&lt;&lt;&lt; …"
    assert short("a" * 10, 4) == "aaaa …"


# JSON


def test_json_has_the_same_content(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", bits=2.05)
    found = json.loads(json.dumps(as_object(review_of(before, after)), allow_nan=False))
    assert found["passed"] is False
    [gate] = found["gates"]
    assert (gate["figure"], gate["result"]) == ("tuned.bits_per_character", "fail")
    figures = {figure["figure"]: figure for figure in found["figures"]}
    figure = figures["tuned.bits_per_character"]
    assert (figure["direction"], figure["verdict"], figure["items"]) == ("lower", "worse", 20)
    assert figure["difference"] == pytest.approx(0.05)
    assert found["base"]["name"] == "main"
    assert found["lock_matches"] is True
