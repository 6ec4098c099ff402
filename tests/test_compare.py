from pathlib import Path
from typing import Any

import pytest

from bula.params import load_params
from bula.records import write_rows
from bula.reports import write_metrics
from stages import compare
from tests.conftest import ROOT, edit_params


def two_variants(params: dict[str, Any]) -> None:
    params["variants"].pop("quantized")


def pairs(workspace: Path, variant: str, shift: float, order: int) -> None:
    """Twenty items that differ much from each other, each better by the same `shift`, in this or the reverse order."""
    items = list(range(20))[::order]
    write_rows(workspace / f"data/likelihood/{variant}.jsonl", [{"id": f"{n:02}", "nats": 10.0 * n, "characters": 50} for n in items])
    scores = [{"id": f"{n:02}", "rouge1_f": 0.04 * n + shift, "rouge2_f": 0.04 * n, "rougeL_f": 0.04 * n + (n == 3) * shift} for n in items]
    write_rows(workspace / f"data/scores/{variant}.jsonl", scores)
    # Eight gained, none lost.
    right = {n: float(n % 2 == 0 or (shift > 0 and n < 16)) for n in items}
    write_rows(
        workspace / f"data/samples/{variant}.jsonl", [{"task": "t", "document": f"{n:02}", "scores": {"acc": right[n]}} for n in items]
    )
    write_rows(workspace / f"data/verdicts/{variant}.jsonl", [{"id": "00", "failed": "Timeout"}])


def test_items_are_joined_by_their_ids_and_p_is_corrected_over_all_tests(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    pairs(workspace, "base", 0.0, 1)
    pairs(workspace, "tuned", 0.1, -1)
    results = {name.rpartition("__")[2]: row for name, row in compare.compare_all(workspace / "data", load_params()).items()}
    # Every item gains 0.1: only differences of the same item have no width, whatever the items' own spread.
    rouge = results["rouge1_f"]
    assert (rouge["difference"], rouge["low"], rouge["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert results["bits_per_character"]["low"] == results["bits_per_character"]["high"] == 0.0
    # Eight heads of eight: 2 / 2 ** 8.
    assert results["t_acc"]["p"] == pytest.approx(2 / 2**8)
    # Of five tests the smallest p counts five times, the next four times; the others are 1 already.
    smallest, second = rouge["p"], results["t_acc"]["p"]
    assert smallest < second
    assert rouge["p_holm"] == pytest.approx(5 * smallest)
    assert results["t_acc"]["p_holm"] == pytest.approx(4 * second)
    assert all(results[name]["p_holm"] == 1.0 for name in ("bits_per_character", "rouge2_f", "rougeL_f"))


def fill(workspace: Path, variant: str, shift: float) -> None:
    """Four items under one variant, better by `shift` than the baseline."""
    ids = ["a", "b", "c", "d"]
    write_rows(workspace / f"data/likelihood/{variant}.jsonl", [{"id": i, "nats": 100 - 10 * shift, "characters": 50} for i in ids])
    scores = [{"id": i, "rouge1_f": 0.1 + shift, "rouge2_f": 0.1, "rougeL_f": 0.2 + shift * n} for n, i in enumerate(ids)]
    write_rows(workspace / f"data/scores/{variant}.jsonl", scores)
    right = [1.0, 0.0, 0.0, float(shift > 0)]
    samples = [{"task": "t", "document": i, "scores": {"acc": r}} for i, r in zip(ids, right, strict=True)]
    write_rows(workspace / f"data/samples/{variant}.jsonl", samples)
    write_rows(workspace / f"data/verdicts/{variant}.jsonl", [{"id": "a", "accuracy": 2, "style": 3}, {"id": "b", "failed": "Timeout"}])


def test_differences_are_taken_over_pairs(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 0.1)
    results = compare.compare_all(workspace / "data", load_params())
    prefix = "tuned_minus_base__"
    names = ("bits_per_character", "rouge1_f", "rouge2_f", "rougeL_f", "t_acc", "judge_accuracy", "judge_style")
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
    assert all(row["p_holm"] >= row["p"] for row in results.values())


def test_variants_without_a_common_item_are_refused() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with pytest.raises(ValueError, match="share no item"):
        compare.compare({"a": 1.0}, {"b": 1.0}, params)


def test_the_report_warns_of_variants_that_machines_of_two_kinds_computed(tmp_path: Path) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    for variant in params.variants:
        for stage in ("likelihood", "generate", "benchmark"):
            # llama.cpp's arithmetic is its own, and no pair's.
            dtype = "the engine's own" if stage == "generate" and variant == "quantized" else "float32"
            write_metrics(tmp_path / stage / f"{variant}.json", {"settings": {"compute_dtype": dtype}})
    # lm-eval's other backends say nothing.
    write_metrics(tmp_path / "benchmark/tuned.json", {"settings": {"backend": "vllm"}})
    assert compare.precision_note(tmp_path, params) == ""
    write_metrics(tmp_path / "generate/tuned.json", {"settings": {"compute_dtype": "bfloat16"}})
    note = compare.precision_note(tmp_path, params)
    assert "**generate was computed on machines of two kinds** (base in float32, tuned in bfloat16)" in note
    assert "likelihood" not in note


def test_generated_markup_cannot_break_the_report() -> None:
    assert compare.quote("# Título\n| a | <script>") == "# Título \\| a \\| &lt;script>"
    assert compare.quote("  ") == "(empty)"


def test_the_report_says_when_the_judge_is_not_to_be_trusted() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert "not trustworthy" in compare.judge_note(params)
    # A large judge that nobody has calibrated is not small.
    assert "small" not in compare.judge_note(params)
    sure = params.model_copy(update={"judge": params.judge.model_copy(update={"trustworthy": True})})
    assert "not trustworthy" not in compare.judge_note(sure)


def test_the_report_names_each_kind_of_interval_by_its_own_coverage(workspace: Path) -> None:
    assert (compare.percent(0.995), compare.percent(0.95), compare.percent(0.8)) == ("99.5%", "95%", "80%")
    edit_params(workspace / "params.yaml", lambda p: p["compare"].update(confidence=0.8))
    assert "80% interval" in compare.interval_note({}, load_params())
