"""Paired differences, the checks before them, and the report."""

import html
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.params import load_params
from bula.records import read_rows, write_rows
from bula.reports import write_metrics
from stages import compare
from tests.test_tables import fidelity, figures


def two_variants(params: dict[str, Any]) -> None:
    params["variants"].pop("quantized")


def pairs(workspace: Path, variant: str, shift: float, order: int) -> None:
    """Twenty items that differ much from each other, each better by the same `shift`, in this or the reverse order."""
    items = list(range(20))[::order]
    write_rows(
        workspace / f"data/answers/{variant}.jsonl",
        [{"id": f"{n:02}", "degenerate": False} for n in items],
    )
    write_rows(
        workspace / f"data/likelihood/{variant}.jsonl",
        [{"id": f"{n:02}", "nats": 10.0 * n, "characters": 50} for n in items],
    )
    scores = [
        {
            "id": f"{n:02}",
            "rouge1_f": 0.03 * n + shift,
            "rouge2_f": 0.03 * n,
            "rougeL_f": 0.03 * n + (n == 3) * shift,
        }
        for n in items
    ]
    write_rows(workspace / f"data/scores/{variant}.jsonl", scores)
    # Eight gained, none lost.
    right = {n: float(n % 2 == 0 or (shift > 0 and n < 16)) for n in items}
    write_rows(
        workspace / f"data/samples/{variant}.jsonl",
        [{"task": "t", "document": f"{n:02}", "scores": {"acc": right[n]}} for n in items],
    )
    # The judge failed on the other answer each time, so there is no pair.
    failed = int(shift > 0)
    verdicts: list[dict[str, Any]] = [
        {"id": f"{failed:02}", "judge": "j", "failed": "Timeout"},
        {"id": f"{1 - failed:02}", "judge": "j", "accuracy": 1, "style": 1},
    ]
    write_rows(workspace / f"data/verdicts/{variant}.jsonl", verdicts)


def test_items_are_joined_by_their_ids_and_p_is_corrected_over_all_tests(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    pairs(workspace, "base", 0.0, 1)
    pairs(workspace, "tuned", 0.1, -1)
    params = load_params()
    found = compare.compare_all(workspace / "data", params)
    compare.correct(found, {"base": 0.0, "tuned": 0.0}, params)
    results = {name.rpartition("__")[2]: row for name, row in found.items()}
    # Every item gains 0.1: only differences of the same item have no width, whatever the items' own spread.
    rouge = results["rouge1_f"]
    assert (rouge["difference"], rouge["low"], rouge["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert results["bits_per_character"]["low"] == results["bits_per_character"]["high"] == 0.0
    # Eight heads of eight: 2 / 2 ** 8.
    assert results["t_acc"]["p"] == pytest.approx(2 / 2**8)
    # Of six tests the smallest p counts six times, the next five times; the others are 1 already.
    smallest, second = rouge["p"], results["t_acc"]["p"]
    assert smallest < second
    assert rouge["p_holm"] == pytest.approx(6 * smallest)
    assert results["t_acc"]["p_holm"] == pytest.approx(5 * second)
    assert all(
        results[name]["p_holm"] == 1.0
        for name in ("degenerate", "bits_per_character", "rouge2_f", "rougeL_f")
    )
    # None of 200,000 flips of twenty equal differences reached their sum by chance, or a few did: 2 of 2^20 do.
    assert (rouge["p_at_floor"], results["t_acc"]["p_at_floor"]) == (smallest == 1 / 200_001, True)
    assert results["rougeL_f"]["p_at_floor"] is True


def answer_row(item: str, variant: str) -> dict[str, Any]:
    """An answer in the form that generate writes."""
    texts = {
        "question": f"Pergunta {item}?",
        "answer": "Beba água.",
        "generated": f"Tome água, {variant}.",
    }
    return {
        "id": item,
        "split": "A",
        "variant": variant,
        "finish_reason": "stop",
        "degenerate": False,
    } | texts


def fill(workspace: Path, variant: str, shift: float) -> None:
    """Four items under one variant, better by `shift` than the baseline."""
    ids = ["a", "b", "c", "d"]
    write_rows(
        workspace / f"data/likelihood/{variant}.jsonl",
        [{"id": i, "nats": 100 - 10 * shift, "characters": 50} for i in ids],
    )
    scores = [
        {"id": i, "rouge1_f": 0.1 + shift, "rouge2_f": 0.1, "rougeL_f": 0.2 + shift * n}
        for n, i in enumerate(ids)
    ]
    write_rows(workspace / f"data/scores/{variant}.jsonl", scores)
    right = [1.0, 0.0, 0.0, float(shift > 0)]
    samples = [
        {"task": "t", "document": i, "scores": {"acc": r}} for i, r in zip(ids, right, strict=True)
    ]
    write_rows(workspace / f"data/samples/{variant}.jsonl", samples)
    verdicts: list[dict[str, Any]] = [
        {"id": "a", "judge": "j", "accuracy": 2, "style": 3},
        {"id": "b", "judge": "j", "failed": "Timeout"},
    ]
    write_rows(workspace / f"data/verdicts/{variant}.jsonl", verdicts)
    write_rows(workspace / f"data/answers/{variant}.jsonl", [answer_row(i, variant) for i in ids])


def test_differences_are_taken_over_pairs(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 0.1)
    results = compare.compare_all(workspace / "data", load_params())
    prefix = "tuned_minus_base__"
    names = (
        "degenerate",
        "bits_per_character",
        "rouge1_f",
        "rouge2_f",
        "rougeL_f",
        "t_acc",
        "judge_accuracy",
        "judge_style",
    )
    # Degenerate answers come first.
    assert next(iter(results)) == prefix + "degenerate"
    assert set(results) == {prefix + name for name in names}
    # 1 nat less of 50 characters: 1 / ln 2 / 50 bits.
    assert results[prefix + "bits_per_character"]["difference"] == pytest.approx(-0.0288539)
    assert results[prefix + "rouge1_f"]["difference"] == pytest.approx(0.1)
    assert results[prefix + "rouge1_f"]["low"] == pytest.approx(0.1)
    assert results[prefix + "rouge1_f"]["high"] == pytest.approx(0.1)
    # Differences 0, 0.1, 0.2, 0.3.
    assert results[prefix + "rougeL_f"]["difference"] == pytest.approx(0.15)
    assert results[prefix + "rougeL_f"]["low"] < 0.15 < results[prefix + "rougeL_f"]["high"]
    # One item gained, none lost: the exact test of one discordant pair gives 1.
    assert results[prefix + "t_acc"]["difference"] == 0.25
    assert results[prefix + "t_acc"]["p"] == 1.0
    # The failed verdict is no pair.
    assert results[prefix + "judge_accuracy"]["items"] == 1


def test_variants_without_a_common_item_are_refused() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with pytest.raises(ValueError, match="share no item"):
        compare.compare({"a": 1.0}, {"b": 1.0}, params)


def test_the_report_warns_of_variants_that_machines_of_two_kinds_computed(tmp_path: Path) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    for variant in params.variants:
        for stage in ("likelihood", "generate", "benchmark"):
            # llama.cpp's arithmetic is its own, and no pair's.
            dtype = (
                "the engine's own" if stage == "generate" and variant == "quantized" else "float32"
            )
            write_metrics(
                tmp_path / stage / f"{variant}.json", {"settings": {"compute_dtype": dtype}}
            )
    # lm-eval's other backends say nothing.
    write_metrics(tmp_path / "benchmark/tuned.json", {"settings": {"backend": "vllm"}})
    assert compare.precision_note(tmp_path, params) == ""
    write_metrics(tmp_path / "generate/tuned.json", {"settings": {"compute_dtype": "bfloat16"}})
    note = compare.precision_note(tmp_path, params)
    assert (
        "**generate was computed on machines of two kinds** (base in float32, tuned in bfloat16)"
        in note
    )
    assert "likelihood" not in note


def test_the_report_says_when_the_judge_is_not_to_be_trusted() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert "not trustworthy" in compare.judge_note(params)
    # A large judge that nobody has calibrated is not small.
    assert "small" not in compare.judge_note(params)
    sure = params.model_copy(
        update={"judge": params.judge.model_copy(update={"trustworthy": True})}
    )
    assert "not trustworthy" not in compare.judge_note(sure)


def test_the_report_names_each_kind_of_interval_by_its_own_coverage(workspace: Path) -> None:
    assert (compare.percent(0.995), compare.percent(0.95), compare.percent(0.8)) == (
        "99.5%",
        "95%",
        "80%",
    )
    edit_params(workspace / "params.yaml", lambda p: p["compare"].update(confidence=0.8))
    assert "80% interval" in compare.interval_note({}, load_params())


# Answers that are loops


@pytest.mark.parametrize(
    ("base", "tuned", "meaningful"),
    [(0.0, 0.0, True), (0.2, 0.2, True), (0.21, 0.0, False), (0.0, 0.21, False), (1.0, 1.0, False)],
)
def test_figures_of_loops_mean_nothing_and_are_no_tests(
    base: float, tuned: float, meaningful: bool, workspace: Path
) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    pairs(workspace, "base", 0.0, 1)
    pairs(workspace, "tuned", 0.1, 1)
    params = load_params()
    results = compare.compare_all(workspace / "data", params)
    compare.correct(results, {"base": base, "tuned": tuned}, params)
    of_answers = {
        name.rpartition("__")[2]: row["meaningful"]
        for name, row in results.items()
        if "rouge" in name
    }
    assert of_answers == dict.fromkeys(("rouge1_f", "rouge2_f", "rougeL_f"), meaningful)
    others = {name.rpartition("__")[2]: row for name, row in results.items() if "rouge" not in name}
    assert set(others) == {"degenerate", "bits_per_character", "t_acc"}
    assert all(row["meaningful"] for row in others.values())
    # p_holm of t_acc: second of six tests, or first of the three that mean something.
    assert others["t_acc"]["p_holm"] == pytest.approx((5 if meaningful else 3) * 2 / 2**8)
    assert all(("p_holm" in row) == row["meaningful"] for row in results.values())
    note = compare.degenerate_note({"base": base, "tuned": tuned}, params)
    assert (note == "") is meaningful


def test_the_report_names_the_variants_whose_answers_are_loops() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    note = compare.degenerate_note({"base": 1.0, "tuned": 0.2, "quantized": 0.967}, params)
    assert (
        "say nothing of base (100 % degenerate answers), quantized (97 % degenerate answers).**"
        in note
    )
    assert "Above 20% of them" in note
    assert "tuned" not in note


def test_differences_that_mean_nothing_are_not_counted_among_those_that_luck_makes() -> None:
    row = {"difference": 0.1, "within_seed_range": True}
    results: compare.Results = {"a": row | {"meaningful": True}, "b": row | {"meaningful": False}}
    assert "marks the 1 of 1 differences" in compare.seed_note(results, 3)


# The whole stage


def read_metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (folder / "metrics/compare.json").read_text(encoding="utf-8")
    )
    return content


@pytest.fixture
def finished(workspace: Path) -> Path:
    """A workspace with rows and metrics of two variants, for compare to read."""
    edit_params(workspace / "params.yaml", two_variants)
    for number, (variant, shift) in enumerate((("base", 0.0), ("tuned", 0.1)), start=1):
        fill(workspace, variant, shift)
        for stage, metrics in figures(number).items():
            write_metrics(workspace / f"metrics/{stage}/{variant}.json", metrics)
    for stage, metrics in fidelity().items():
        write_metrics(workspace / f"metrics/{stage}.json", metrics)
    write_metrics(workspace / "metrics/seeds.json", {"seeds": 0})
    return workspace


def test_compare_writes_metrics_and_report(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.main()
    rows = read_metrics(finished)
    assert set(rows["tuned_minus_base__rouge1_f"]) == {
        "items",
        "difference",
        "low",
        "high",
        "p",
        "p_at_floor",
        "p_holm",
        "meaningful",
    }
    report = (finished / "report/report.md").read_text(encoding="utf-8")
    assert "| degenerate answers, % (30 answers) ↓ | 0.0 | 10.0 |" in report
    assert "| tuned − base: degenerate ↓ |" in report
    assert "**tuned** (stop): Tome água, tuned." in report
    assert "not meaningful" not in report
    assert "compare: 8 paired differences" in capsys.readouterr().out


def test_figures_of_loops_are_withheld_in_the_whole_report(finished: Path) -> None:
    metrics = figures(2)
    metrics["generate"] |= {"degenerate": 29, "degenerate_share": 29 / 30}
    write_metrics(finished / "metrics/generate/tuned.json", metrics["generate"])
    compare.main()
    report = (finished / "report/report.md").read_text(encoding="utf-8")
    assert (
        "| ROUGE-1 F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | not meaningful (97 % loops) |"
        in report
    )
    assert "| tuned − base: rouge1_f ↑ | not meaningful | – | 4 | – |" in report
    assert "| tuned − base: judge_style ↑ | not meaningful | – | 1 | – |" in report
    assert "say nothing of tuned (97 % degenerate answers)" in report
    row = read_metrics(finished)["tuned_minus_base__rouge1_f"]
    # The figure stays where programs read it.
    assert row["difference"] == pytest.approx(0.1)
    assert row["meaningful"] is False
    assert "p_holm" not in row


Break = Callable[[Path], None]


def rewrite(name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Break:
    """A fault in the rows of a file below data/."""

    def damage(folder: Path) -> None:
        rows = change(list(read_rows(folder / "data" / name)))
        write_rows(folder / "data" / name, rows)

    return damage


def with_key(name: str, key: str, value: Any) -> Break:
    return rewrite(name, lambda rows: [rows[0] | {key: value}, *rows[1:]])


def without(name: str, key: str) -> Break:
    return rewrite(name, lambda rows: [*rows[:-1], {k: v for k, v in rows[-1].items() if k != key}])


def text(name: str, content: str) -> Break:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return damage


def missing(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def metric(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Break:
    """A fault in a file below metrics/."""

    def damage(folder: Path) -> None:
        file = folder / "metrics" / name
        file.write_text(
            json.dumps(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8"
        )

    return damage


BREAKS: dict[str, tuple[Break, str]] = {
    "answers missing": (
        missing("data/answers/tuned.jsonl"),
        r"data/answers/tuned\.jsonl: .*`dvc repro generate@tuned`",
    ),
    "likelihood missing": (
        missing("data/likelihood/base.jsonl"),
        r"data/likelihood/base\.jsonl: .*`dvc repro likelihood@base`",
    ),
    "scores missing": (
        missing("data/scores/tuned.jsonl"),
        r"data/scores/tuned\.jsonl: .*`dvc repro rouge@tuned`",
    ),
    "samples missing": (
        missing("data/samples/tuned.jsonl"),
        r"data/samples/tuned\.jsonl: .*`dvc repro benchmark@tuned`",
    ),
    "verdicts missing": (
        missing("data/verdicts/base.jsonl"),
        r"data/verdicts/base\.jsonl: .*`dvc repro judge@base`",
    ),
    "empty likelihood": (
        text("data/likelihood/tuned.jsonl", ""),
        r"likelihood/tuned\.jsonl: the file holds no row\. Run `dvc repro likelihood@tuned`",
    ),
    "empty scores": (
        text("data/scores/base.jsonl", ""),
        r"scores/base\.jsonl: the file holds no row\. Run `dvc repro rouge@base`",
    ),
    "not JSON": (
        text("data/scores/base.jsonl", "{"),
        r"scores/base\.jsonl:1: .*`dvc repro rouge@base`",
    ),
    "answers of fewer items": (
        rewrite("answers/tuned.jsonl", lambda rows: rows[1:]),
        r"answers/tuned\.jsonl: 1 items of answers/base\.jsonl are missing \(first: a\)\. Run `dvc repro generate@tuned`",
    ),
    "scores of fewer items": (
        rewrite("scores/tuned.jsonl", lambda rows: rows[2:]),
        r"scores/tuned\.jsonl: 2 items of scores/base\.jsonl are missing .*rouge@tuned",
    ),
    "baseline of fewer items": (
        rewrite("scores/base.jsonl", lambda rows: rows[:3]),
        r"scores/base\.jsonl: 1 items of scores/tuned\.jsonl are missing \(first: d\).*rouge@base",
    ),
    "fewer verdicts": (
        rewrite("verdicts/tuned.jsonl", lambda rows: rows[:1]),
        r"verdicts/tuned\.jsonl: 1 items .*judge@tuned",
    ),
    "fewer benchmark items": (
        rewrite("samples/tuned.jsonl", lambda rows: rows[:2]),
        r"samples/tuned\.jsonl: 2 items .*\(first: t: c\).*benchmark@tuned",
    ),
    "an id twice": (
        rewrite("scores/tuned.jsonl", lambda rows: [*rows, rows[0] | {"rougeL_f": 0.9}]),
        r"scores/tuned\.jsonl: 1 items stand there twice \(first: a\)\. Run `dvc repro rouge@tuned`",
    ),
    "an answer twice": (
        rewrite("answers/base.jsonl", lambda rows: [*rows, rows[1]]),
        r"answers/base\.jsonl: 1 items stand there twice .*generate@base",
    ),
    "benchmark items twice": (
        rewrite("samples/tuned.jsonl", lambda rows: rows + rows[:2]),
        r"samples/tuned\.jsonl: 2 items stand there twice \(first: t: a\)\. Remove repeated items from the files of `ingest\.benchmarks`",
    ),
    "a row without a field": (
        without("scores/tuned.jsonl", "rougeL_f"),
        r"scores/tuned\.jsonl:4: the row cannot be used \(rougeL_f: Field required\)\. Run `dvc repro rouge@tuned`",
    ),
    "an answer without its text": (
        without("answers/base.jsonl", "generated"),
        r"answers/base\.jsonl:4: .*generated: Field required.*generate@base",
    ),
    "a text for a number": (
        with_key("likelihood/base.jsonl", "nats", "3"),
        r"likelihood/base\.jsonl:1: .*nats: .*likelihood@base",
    ),
    "no score in a sample": (
        with_key("samples/base.jsonl", "scores", {}),
        r"samples/base\.jsonl:1: .*scores: .*benchmark@base",
    ),
    "another metric": (
        rewrite("samples/tuned.jsonl", lambda rows: [r | {"scores": {"f1": 1.0}} for r in rows]),
        r"samples/tuned\.jsonl: base and tuned were not scored by the same metrics \(t_acc\).*benchmark@tuned",
    ),
    "another variant": (
        with_key("scores/tuned.jsonl", "variant", "base"),
        r"scores/tuned\.jsonl:1: the row is about the variant 'base', not 'tuned'.*rouge@tuned",
    ),
    "an unknown set": (
        with_key("answers/base.jsonl", "split", "Z"),
        r"answers/base\.jsonl:1: .*split: .*generate@base",
    ),
    "another judge": (
        with_key("verdicts/tuned.jsonl", "judge", "other"),
        r"verdicts/tuned\.jsonl: the judge 'other' stands there, but 'j' judged base.*judge@tuned",
    ),
    "no verdict that succeeded": (
        rewrite(
            "verdicts/tuned.jsonl",
            lambda rows: [{"id": r["id"], "judge": "j", "failed": "x"} for r in rows],
        ),
        r"verdicts/tuned\.jsonl: the judge failed on every answer.*judge@tuned",
    ),
    "half a verdict": (
        without("verdicts/tuned.jsonl", "failed"),
        r"verdicts/tuned\.jsonl: the verdict on b has neither.*judge@tuned",
    ),
    "metrics missing": (
        missing("metrics/rouge/tuned.json"),
        r"metrics/rouge/tuned\.json: the file does not exist\. Run `dvc repro rouge@tuned`",
    ),
    "metrics that are no JSON": (
        text("metrics/judge/base.json", "<html>"),
        r"metrics/judge/base\.json: the file is not JSON\. Run `dvc repro judge@base`",
    ),
    "metrics that are a list": (
        text("metrics/generate/base.json", "[]"),
        r"metrics/generate/base\.json: the file holds no JSON object.*generate@base",
    ),
    "a group missing": (
        metric("likelihood/base.json", lambda m: {"A": m["A"]}),
        r"likelihood/base\.json: the group 'pooled' is missing.*likelihood@base",
    ),
    "a figure missing": (
        metric("generate/tuned.json", lambda m: {"items": 30}),
        r"generate/tuned\.json: no number stands at degenerate_share.*generate@tuned",
    ),
    "a figure that is a text": (
        metric("judge/tuned.json", lambda m: m | {"style_mean": "2"}),
        r"judge/tuned\.json: no number stands at style_mean.*judge@tuned",
    ),
    "a task without figures": (
        metric("benchmark/base.json", lambda m: m | {"t": {"items": 3}}),
        r"benchmark/base\.json: no number stands at t\.commonest_answer_share.*benchmark@base",
    ),
    "merge without a group": (
        metric("merge.json", lambda m: {"checked": m["checked"]}),
        r"merge\.json: the group 'adapter' is missing\. Run `dvc repro merge`",
    ),
    "quantize cut short": (
        text("metrics/quantize.json", '{"bf16": {'),
        r"quantize\.json: the file is not JSON\. Run `dvc repro quantize`",
    ),
    "seeds missing": (
        missing("metrics/seeds.json"),
        r"metrics/seeds\.json: the file does not exist\. Restore it from git",
    ),
    "a spread without a range": (
        metric("seeds.json", lambda m: {"seeds": 3, "tuned__rouge1_f": {"first": 0.2}}),
        r"seeds\.json: tuned__rouge1_f lacks",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BREAKS.values(), ids=BREAKS)
def test_a_damaged_input_is_a_sentence_and_nothing_is_written(
    damage: Break, message: str, finished: Path
) -> None:
    damage(finished)
    with pytest.raises(UserError, match=message):
        compare.main()
    assert not (finished / "report").exists()
    assert not (finished / "metrics/compare.json").exists()


def test_an_answer_that_the_baseline_lacks_changes_nothing(finished: Path) -> None:
    compare.main()
    before = (
        (finished / "metrics/compare.json").read_bytes(),
        (finished / "report/report.md").read_bytes(),
    )
    rewrite("answers/tuned.jsonl", lambda rows: [*rows, rows[0] | {"id": "x"}])(finished)
    compare.main()
    assert (
        (finished / "metrics/compare.json").read_bytes(),
        (finished / "report/report.md").read_bytes(),
    ) == before


def test_the_order_of_rows_changes_nothing(finished: Path) -> None:
    compare.main()
    before = read_metrics(finished)
    for name in ("answers", "likelihood", "scores", "samples", "verdicts"):
        rewrite(f"{name}/tuned.jsonl", lambda rows: rows[::-1])(finished)
    compare.main()
    assert read_metrics(finished) == before


# Hostile text

QUESTION = "Dói?\n\n## Paired differences\n\n| difference | mean |\n|---|---|\n| tuned − base: judge_accuracy | +2.0000 |\n<svg onload=alert(1)>"
REFERENCE = "[clique](javascript:alert(1)) <object data=x></object>\n# Título\n- [ ] lista\n```html\n<x-y onclick=a()>"
GENERATED = (
    "![x](http://evil.example/t.png) | `c` <script>x</script> www.evil.example https://evil.example "
    "a@evil.example <!-- \x1b[31m\u202e @octocat #12"
)
JUDGE = "j <img src=x> | ![x](y) [z](w) \x1b[2J # um"


def test_hostile_text_adds_nothing_to_the_report(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = {
        "question": QUESTION,
        "answer": REFERENCE,
        "generated": GENERATED,
        "finish_reason": "<b>stop</b>",
    }
    compare.main()
    plain = outline((finished / "report/report.md").read_text(encoding="utf-8"))
    for variant in ("base", "tuned"):
        rewrite(f"answers/{variant}.jsonl", lambda rows: [row | hostile for row in rows])(finished)
        metric(f"judge/{variant}.json", lambda m: m | {"judge": JUDGE})(finished)
    params = load_params()
    sly = params.model_copy(update={"judge": params.judge.model_copy(update={"model": JUDGE})})
    assert "<img" not in MarkdownIt().render(compare.judge_note(sly))
    capsys.readouterr()
    compare.main()
    report = (finished / "report/report.md").read_text(encoding="utf-8")
    shown = outline(report)
    # The question of set A stands in the one heading that holds a text of somebody else.
    assert [line for line in shown.headings if not line.startswith("A: ")] == [
        line for line in plain.headings if not line.startswith("A: ")
    ]
    assert len(shown.headings) == len(plain.headings)
    assert shown.tags == plain.tags
    assert not re.search(
        r"<(?!/?(h1|h2|h3|p|strong|em|code|table|thead|tbody|tr|th|td|a)\b)", shown.page
    )
    assert "<script>x</script> www.evil.example" in html.unescape(shown.page)
    for output in (report, capsys.readouterr().out):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output)


class Outline(NamedTuple):
    """What a renderer makes of a report: its page, its headings, and how often each tag stands there."""

    page: str
    headings: list[str]
    tags: Counter[str]


def outline(report: str) -> Outline:
    page = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(report)
    )
    found = re.findall(r"<h\d>(.*?)</h\d>", page, re.DOTALL)
    headings = [html.unescape(re.sub("<[^>]*>", "", heading)) for heading in found]
    return Outline(page, headings, Counter(re.findall(r"<([^\s>/]+)", page)))
