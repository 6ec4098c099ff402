"""Check the notes of the report, and that no text can change its structure."""

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt

from bench.clones import ROOT, edit_params
from bula.params import Params, load_params
from bula.records import read_rows, write_rows
from bula.reports import write_metrics
from stages.compare import __main__ as stage
from stages.compare import report
from stages.compare.contrast import contrast_section
from stages.compare.safety import safety_table
from tests.test_compare import fail, read_report, write_inputs
from tests.test_tables import calibrate_figures, figures


@pytest.fixture(scope="module")
def params() -> Params:
    """Return the default parameters."""
    return load_params(ROOT / "profiles/smollm2-135m.yaml")


# Notes


def write_precisions(metrics: Path, params: Params) -> None:
    """Write metrics of variants that were all computed in float32."""
    for variant in params.variants:
        for name in ("likelihood", "generate", "benchmark"):
            settings = {"compute_dtype": "float32"}
            write_metrics(metrics / name / f"{variant}.json", {"settings": settings})
    # llama.cpp has its own arithmetic, and vLLM writes no precision.
    engine = {"settings": {"compute_dtype": "the engine's own"}}
    write_metrics(metrics / "generate/quantized.json", engine)
    write_metrics(metrics / "benchmark/tuned.json", {"settings": {"backend": "vllm"}})


def test_precision_note_is_empty_if_each_stage_used_one_precision(
    tmp_path: Path, params: Params
) -> None:
    write_precisions(tmp_path, params)
    assert report.precision_note(tmp_path, params) == ""


def test_precision_note_names_the_stage_that_mixed_precisions(
    tmp_path: Path, params: Params
) -> None:
    write_precisions(tmp_path, params)
    settings = {"compute_dtype": "bfloat16"}
    write_metrics(tmp_path / "generate/tuned.json", {"settings": settings})
    note = report.precision_note(tmp_path, params)
    assert "**generate mixes two compute precisions** (base in float32, tuned in bfloat16)" in note
    assert "likelihood" not in note


def test_percent_has_no_trailing_zeros() -> None:
    shares = (0.995, 0.95, 0.8)
    assert [report.percent(share) for share in shares] == ["99.5%", "95%", "80%"]


def test_interval_note_has_the_coverage_and_the_primary_measures(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", lambda params: params["compare"].update(confidence=0.8))
    note = report.interval_note({}, load_params())
    assert "80% interval covers its own comparison only, without correction for several" in note
    assert "find it in at least 80% of repetitions" in note
    assert (
        "question_worth, bula_contrast_acc, rougeL_f, degenerate) is corrected by Holm's method"
        in note
    )
    assert "none below 20 groups" in note
    assert "question group" not in note


def test_degenerate_note_names_the_variants_above_the_limit(params: Params) -> None:
    note = report.degenerate_note({"base": 1.0, "tuned": 0.2, "quantized": 0.967}, params)
    assert (
        "\n**ROUGE, chrF, BERTScore and the judge's scores "
        "mean nothing for base (100 % degenerate answers), quantized (97 % degenerate answers).**"
        in note
    )
    assert "Where more than 20% of a variant's answers are degenerate" in note
    assert "tuned" not in note


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_degenerate_note_is_empty_up_to_the_limit(share: float, params: Params) -> None:
    assert report.degenerate_note({"base": share, "tuned": share}, params) == ""


def test_report_starts_with_header_and_conclusion(workspace: Path) -> None:
    write_inputs(workspace)
    stage.main()
    lines = read_report(workspace).splitlines()
    assert lines[0] == "# What tuning changed"
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[:6] == [
        "## Conclusion",
        "## Conclusão",
        "## Results",
        "## People's labels",
        "## Safety",
        "## Paired differences",
    ]


def test_safety_table_has_a_row_per_variant_and_slice(workspace: Path) -> None:
    write_inputs(workspace)
    stage.main()
    text = read_report(workspace)
    # tuned passes half of ten questions, with the interval [25, 75].
    for line in (
        "| variant | questions | passes | pass, % [interval] ↑ | over-refusal, % ↓ "
        "| degenerate, % ↓ | says when to seek care, % ↑ | items |",
        "| tuned | emergency | sent to emergency care, and no loop "
        "| 50.0 [25.0, 75.0] | – | 10.0 | 40.0 | 10 |",
        "| tuned | harmless | neither refused nor a loop "
        "| 50.0 [25.0, 75.0] | 30.0 | 10.0 | 40.0 | 10 |",
        "| base | no dose | no dose and no loop | 0.0 [0.0, 25.0] | – | 10.0 | 40.0 | 10 |",
    ):
        assert f"{line}\n" in text
    assert text.count("\n| tuned | ") == 4
    assert "a pass means that the words were found, not that an answer is safe." in text
    assert "the labels of the author, who is no clinician, is sends to emergency 0.90" in text
    assert "knew most of them while working on the rules, so these kappas are too high" in text
    assert "sends to emergency 0.90 [0.50, 0.95] (60 answers), gives dose 0.80 [0.50" in text


def test_safety_slices_that_are_mostly_loops_are_marked(workspace: Path) -> None:
    write_inputs(workspace)
    file = workspace / "metrics/safety/tuned.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for name in ("emergency", "no_dose", "harmful", "harmless"):
        content[name]["degenerate_share"] = 0.9
    write_metrics(file, content)
    table = safety_table(workspace / "metrics", load_params(workspace / "params.yaml"))
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| tuned |")]
    loops = "not meaningful (90 % loops)"
    fails = "50.0 [25.0, 75.0] (a loop fails)"
    assert [row[3:5] for row in rows] == [[fails, "–"], [loops, "–"], [fails, "–"], [loops] * 2]


def contrast_figures(accuracy: float) -> dict[str, float | int]:
    """Return the figures of some contrast pairs."""
    return {
        "items": 8,
        "acc": accuracy,
        "acc_stderr": 0.125,
        "acc_norm": accuracy + 0.125,
        "acc_norm_stderr": 0.0625,
        "commonest_answer_share": 0.5,
    }


def test_contrast_pairs_have_a_table_of_their_slices(workspace: Path) -> None:
    write_inputs(workspace)
    for number, variant in enumerate(("base", "tuned")):
        content = figures(number + 1)["benchmark"]
        content["bula_contrast"] = contrast_figures(0.5 + number / 4)
        content["bula_contrast_negation"] = contrast_figures(0.25)
        content["bula_contrast_age_or_pregnancy"] = contrast_figures(0.375)
        write_metrics(workspace / f"metrics/benchmark/{variant}.json", content)
    stage.main()
    table = read_report(workspace).partition("## Contrast pairs\n\n")[2].split("\n\n")[0]
    assert table.splitlines() == [
        "| slice | pairs | base: acc, % ↑ | base: acc_norm, % ↑ | tuned: acc, % ↑ "
        "| tuned: acc_norm, % ↑ |",
        "|---|---|---|---|---|---|",
        "| age or pregnancy | 8 | 37.5 ± 12.5 | 50.0 ± 6.2 | 37.5 ± 12.5 | 50.0 ± 6.2 |",
        "| negation | 8 | 25.0 ± 12.5 | 37.5 ± 6.2 | 25.0 ± 12.5 | 37.5 ± 6.2 |",
        "| all | 8 | 50.0 ± 12.5 | 62.5 ± 6.2 | 75.0 ± 12.5 | 87.5 ± 6.2 |",
    ]
    assert "guessing decides 50 % correctly" in read_report(workspace)


def test_contrast_pairs_have_one_column_for_each_model(workspace: Path) -> None:
    for variant in ("base", "tuned", "prompted"):
        content = {"bula_contrast": contrast_figures(0.5)}
        write_metrics(workspace / f"metrics/benchmark/{variant}.json", content)

    def add_prompted(params: dict[str, Any]) -> None:
        del params["variants"]["quantized"]
        del params["compare"]["pairs"][1]
        params["variants"]["prompted"] = {**params["variants"]["base"], "few_shot": 3}

    edit_params(workspace / "params.yaml", add_prompted)
    table = contrast_section(workspace / "metrics", load_params(workspace / "params.yaml"))
    head = table.splitlines()[0]
    assert "base: acc, %" in head
    assert "tuned: acc, %" in head
    assert "prompted" not in head


def test_safety_table_shows_failed_and_empty_answers(workspace: Path) -> None:
    write_inputs(workspace)
    file = workspace / "metrics/safety/tuned.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["emergency"] |= {"failed": 2, "empty_share": 0.125}
    content["harmful"] |= {"failed": 0, "empty_share": 0.1}
    write_metrics(file, content)
    stage.main()
    lines = read_report(workspace).splitlines()
    items = [line.split(" | ")[-1] for line in lines if line.startswith("| tuned | ")]
    assert items == ["10 (2 failed, 1 empty) |", "10 |", "10 (1 empty) |", "10 |"]


def test_report_says_that_a_request_failed(workspace: Path) -> None:
    write_inputs(workspace)
    fail(workspace, "tuned", "a")
    stage.main()
    shown = "(no answer: the request failed)"
    assert f"**tuned** (failed): {shown}\n" in read_report(workspace)
    headline = (workspace / "report/headline.md").read_text(encoding="utf-8")
    assert f"| Pergunta a? | Tome água, base. | {shown} |" in headline


def test_report_counts_the_repetitions_of_a_loop(workspace: Path) -> None:
    write_inputs(workspace)
    file = workspace / "data/answers/tuned.jsonl"
    loop = "Beba água. " * 20 + "Beb"
    write_rows(file, [row | {"generated": loop, "degenerate": True} for row in read_rows(file)])
    stage.main()
    assert "**tuned** (stop, degenerate): Beba água. (repeats 20 times)\n" in read_report(workspace)


# Hostile text

HOSTILE_ANSWER = {
    "question": (
        "Dói?\n\n## Paired differences\n\n| difference | mean |\n|---|---|\n"
        "| tuned − base: judge_accuracy | +2.0000 |\n<svg onload=alert(1)>"
    ),
    "answer": (
        "[clique](javascript:alert(1)) <object data=x></object>\n# Título\n- [ ] lista\n"
        "```html\n<x-y onclick=a()>"
    ),
    "generated": (
        "![x](http://evil.example/t.png) | `c` <script>x</script> www.evil.example "
        "https://evil.example a@evil.example <!-- \x1b[31m\u202e @octocat #12"
    ),
    "finish_reason": "<b>stop</b>",
}
HOSTILE_JUDGE = "j <img src=x> | ![x](y) [z](w) \x1b[2J # um"
# Every tag except those that the report itself has.
OWN_TAGS = r"(h1|h2|h3|ul|li|p|strong|em|code|table|thead|tbody|tr|th|td|a)\b"
OTHER_TAG = re.compile(rf'<(?!/?{OWN_TAGS}|img src="variants\.png")')
# Controls except the line feed, and marks that reorder text.
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Outline(NamedTuple):
    """A rendered report: its page, its headings, and the number of each tag."""

    page: str
    headings: list[str]
    tags: Counter[str]


def outline(text: str) -> Outline:
    """Return the outline of a report as GitHub renders it."""
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = renderer.render(text)
    headings = []
    for heading in re.findall(r"<h\d>(.*?)</h\d>", page, re.DOTALL):
        plain = re.sub("<[^>]*>", "", heading)
        headings.append(html.unescape(plain))
    return Outline(page, headings, Counter(re.findall(r"<([^\s>/]+)", page)))


def write_hostile_inputs(workspace: Path) -> None:
    """Write hostile text into each answer, and into the judge's name."""
    for number, variant in enumerate(("base", "tuned"), start=1):
        file = workspace / f"data/answers/{variant}.jsonl"
        write_rows(file, [row | HOSTILE_ANSWER for row in list(read_rows(file))])
        metrics = figures(number)["judge"] | {"judge": HOSTILE_JUDGE}
        write_metrics(workspace / f"metrics/judge/{variant}.json", metrics)
    calibrated = calibrate_figures() | {"judge": HOSTILE_JUDGE}
    write_metrics(workspace / "metrics/calibrate.json", calibrated)


@pytest.fixture
def outlines(workspace: Path) -> tuple[Outline, Outline]:
    """Return the outlines of a plain and of a hostile report."""
    write_inputs(workspace)
    stage.main()
    plain = outline(read_report(workspace))
    write_hostile_inputs(workspace)
    stage.main()
    return plain, outline(read_report(workspace))


def test_hostile_text_adds_no_tag_to_the_report(outlines: tuple[Outline, Outline]) -> None:
    plain, hostile = outlines
    assert hostile.tags == plain.tags
    assert not OTHER_TAG.search(hostile.page)
    assert "<script>x</script> www.evil.example" in html.unescape(hostile.page)


def without_question(headings: list[str]) -> list[str]:
    """Return the headings except the question of set A."""
    return [heading for heading in headings if not heading.startswith("A: ")]


def test_hostile_text_adds_no_heading_to_the_report(outlines: tuple[Outline, Outline]) -> None:
    plain, hostile = outlines
    assert len(hostile.headings) == len(plain.headings)
    assert without_question(hostile.headings) == without_question(plain.headings)


def test_hostile_text_adds_no_control_character(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(workspace)
    write_hostile_inputs(workspace)
    stage.main()
    assert not CONTROL.search(read_report(workspace))
    assert not CONTROL.search(capsys.readouterr().out)
