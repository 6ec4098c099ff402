"""Check the figures, verdicts and gates of a review on two small runs."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula.errors import UserError
from bula.params import Params, load_params
from bula.records import read_rows, write_rows
from bula.review.gate import Outcome, check_gates, check_own_gates, with_gates_of
from bula.review.measures import committed, shown_measures, stage_of
from bula.review.verdicts import Figure, compare_runs
from tests.review_runs import (
    GATE,
    ITEMS_HASH,
    PROFILE,
    VARIANT,
    change_json,
    params_of,
    run_of,
    shifted,
    two_sided,
    write_run,
)

BITS = "tuned.bits_per_character"
Edit = Callable[[dict[str, Any]], None]


def compare(before: Path, after: Path, items_hash: str = ITEMS_HASH) -> dict[str, Figure]:
    """Return the figures of two runs by name. `items_hash` belongs to the first one."""
    first = run_of(before, "main", items_hash)
    second = run_of(after)
    return {figure.name: figure for figure in compare_runs(first, second, params_of(after))}


def outcome(before: Path, after: Path, edit: Edit = lambda _: None) -> Outcome:
    """Return the outcome of the only gate, after an edit of it."""
    edit_params(after / "params.yaml", lambda params: edit(params["review"]["gates"][0]))
    params: Params = params_of(after)
    figures = compare_runs(run_of(before, "main"), run_of(after), params)
    [found] = check_gates(figures, params)
    return found


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Return a run with 20 items."""
    return write_run(tmp_path / "before")


# Comparison by pairs


def test_a_loss_in_all_items_is_worse(before: Path, tmp_path: Path) -> None:
    figure = compare(before, write_run(tmp_path / "after", bits=2.05))[BITS]
    assert figure.source == "items"
    assert (figure.items, figure.verdict) == (20, "worse")
    assert (figure.before, figure.after) == pytest.approx((2.0, 2.05))
    assert (figure.difference, figure.low, figure.high) == pytest.approx((0.05, 0.05, 0.05))
    # Only all plus and all minus of 2^20 sign flips reach the sum, and one figure has changed.
    assert figure.p_holm == pytest.approx(2 / 2**20)
    assert figure.p_at_floor


def test_a_gain_is_better(before: Path, tmp_path: Path) -> None:
    figure = compare(before, write_run(tmp_path / "after", bits=1.9))[BITS]
    assert figure.verdict == "better"
    assert figure.loss == pytest.approx(-0.1)


def test_holm_counts_only_figures_with_a_changed_item(before: Path, tmp_path: Path) -> None:
    # Four items more are loops: McNemar's p is 2 / 2^4, the larger of two p-values.
    after = write_run(tmp_path / "after", bits=2.05, loops=range(4))
    edit_params(after / "params.yaml", lambda p: p["review"].update(gates=[]))
    figures = compare(before, after)
    assert figures[BITS].p_holm == pytest.approx(2 * 2 / 2**20)
    loops = figures["tuned.degenerate"]
    assert (loops.difference, loops.p_holm) == pytest.approx((0.2, 2 / 2**4))
    assert loops.verdict == "no difference beyond noise"
    same = figures["tuned.rougeL_f"]
    assert (same.difference, same.p, same.p_holm) == (0.0, None, None)


def test_figures_without_a_gate_do_not_hide_the_loss_of_a_gated_one(
    before: Path, tmp_path: Path
) -> None:
    # Six items more are loops: p is 2 / 2^6, which a second figure would double to 0.0625.
    after = write_run(tmp_path / "after", bits=2.05, loops=range(6))
    found = outcome(
        before, after, lambda gate: gate.update(figure="tuned.degenerate", max_drop=0.05)
    )
    assert found.figure is not None
    assert found.figure.p_holm == pytest.approx(2 / 2**6)
    assert (found.result, found.reason) == ("fail", "worse by 0.3, and 0.05 is allowed")


def test_a_difference_below_the_smallest_effect_counts_as_noise(
    before: Path, tmp_path: Path
) -> None:
    figure = compare(before, write_run(tmp_path / "after", bits=2.004))[BITS]
    assert figure.p_holm == pytest.approx(2 / 2**20)
    assert figure.verdict == "no difference beyond noise"
    assert figure.reason == "significant, but smaller than min_effect 0.005"


def test_items_of_one_question_group_count_once(before: Path, tmp_path: Path) -> None:
    # All references are equal, so that all items form one group, whose sign can flip in two ways.
    same = dict.fromkeys(range(20), "Beba água.")
    first = write_run(tmp_path / "first", references=same)
    second = write_run(tmp_path / "second", references=same, bits=2.05)
    figure = compare(first, second)[BITS]
    assert (figure.p_holm, figure.low) == (1.0, None)
    assert figure.verdict == "no difference beyond noise"


@pytest.mark.parametrize(("spread", "seeds"), [(0.06, 3), (0.04, 0)])
def test_a_difference_within_the_range_over_seeds_is_marked(
    before: Path, tmp_path: Path, spread: float, seeds: int
) -> None:
    after = write_run(tmp_path / "after", bits=2.05)
    spreads = {"seeds": 3, "tuned__bits_per_character": {"seeds": 3, "range": spread}}
    change_json(after / "metrics/seeds.json", spreads)
    figure = compare(before, after)[BITS]
    assert (figure.verdict, figure.seeds) == ("worse", seeds)


# Items


def test_other_items_are_not_compared(before: Path, tmp_path: Path) -> None:
    # One reference of 20 has another text under its old id.
    after = write_run(tmp_path / "after", bits=2.05, references={3: "Outra resposta."})
    figure = compare(before, after)[BITS]
    assert figure.verdict == "not comparable"
    assert figure.reason == "other items (19 of 20 and 20 items are shared)"


def test_items_whose_text_only_one_run_has_are_compared_by_their_rows(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first")
    second = write_run(tmp_path / "second", bits=2.05)
    # Without its validation sets, a run knows only the texts of the answers' rows.
    shutil.rmtree(first / "data/clean/validation")
    rows = list(read_rows(first / f"data/answers/{VARIANT}.jsonl"))
    write_rows(first / f"data/answers/{VARIANT}.jsonl", rows[:10])
    figure = compare(first, second)[BITS]
    assert (figure.verdict, figure.items, figure.reason) == ("worse", 20, "")


def test_enough_shared_items_are_compared_and_counted(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", per_set=5)
    # The two changed references lose most, and do not count.
    bits = {0: 9.0, 1: 9.0, **dict.fromkeys(range(2, 25), 2.05)}
    changed = {0: "Outra resposta.", 1: "Mais uma resposta."}
    second = write_run(tmp_path / "second", per_set=5, bits=bits, references=changed)
    figure = compare(first, second)[BITS]
    assert (figure.items, figure.verdict) == (23, "worse")
    assert figure.after == pytest.approx(2.05)
    assert figure.level == pytest.approx((2 * 9 + 23 * 2.05) / 25)
    assert figure.reason == "on shared items only: 23 of 25 and 25 items are shared"


def test_a_call_of_the_judge_that_failed_leaves_the_same_items(
    before: Path, tmp_path: Path
) -> None:
    after = write_run(tmp_path / "after")
    file = after / "data/verdicts/tuned.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    failed = '{"failed": "Timeout", "id": "0000000000000000", "judge": "j"}\n'
    file.write_text("".join([failed, *lines[1:]]), encoding="utf-8")
    figure = compare(before, after)["tuned.judge_accuracy"]
    assert (figure.items, figure.reason) == (19, "")


def test_an_answer_that_failed_leaves_the_same_items(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", loops=range(4))
    file = after / "data/answers/tuned.jsonl"
    first, *others = file.read_text(encoding="utf-8").splitlines(keepends=True)
    failed = first.replace('"finish_reason": "stop"', '"finish_reason": "failed"')
    file.write_text("".join([failed, *others]), encoding="utf-8")
    figure = compare(before, after)["tuned.degenerate"]
    # Three of the four loops are left, over 19 answers.
    assert (figure.items, figure.reason) == (19, "")
    assert figure.difference == pytest.approx(3 / 19)


def write_samples(run: Path, correct: int) -> None:
    """Write a task of 20 items of which the first ones are correct."""
    rows = [
        {"task": "squad", "document": f"d{n}", "scores": {"acc": float(n < correct)}}
        for n in range(20)
    ]
    write_rows(run / "data/samples/tuned.jsonl", rows)
    task = {"acc": correct / 20, "acc_stderr": 0.1, "items": 20, "commonest_answer_share": 0.5}
    settings = {"compute_dtype": "bfloat16", "squad_version": "1"}
    change_json(run / "metrics/benchmark/tuned.json", {"squad": task, "settings": settings})
    edit_params(run / "params.yaml", lambda params: params["compare"].update(primary=["squad_acc"]))


def test_benchmark_items_are_compared_by_pairs(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    write_samples(before, correct=4)
    write_samples(after, correct=10)
    figure = compare(before, after)["tuned.squad_acc"]
    # Six items were gained and none was lost: McNemar's p is 2 / 2^6.
    assert (figure.source, figure.items, figure.verdict) == ("items", 20, "better")
    assert (figure.difference, figure.p_holm) == pytest.approx((0.3, 2 / 2**6))


def write_safety(run: Path, *, passed: bool, question: str = "Dor no peito?") -> None:
    """Write ten safety questions that all passed or all failed."""
    rows = [
        {"id": f"e-{n}", "slice": "emergency", "question": f"{question} {n}", "refuses": False}
        for n in range(10)
    ]
    write_rows(run / "data/safety/tuned.jsonl", [{**row, "passed": passed} for row in rows])
    emergency = {"items": 10, "pass_share": float(passed), "degenerate_share": 0.0}
    settings = {"compute_dtype": "bfloat16"}
    change_json(run / "metrics/safety/tuned.json", {"emergency": emergency, "settings": settings})


def test_few_items_are_compared_if_both_runs_have_the_same(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    write_safety(before, passed=True)
    write_safety(after, passed=False)
    figure = compare(before, after)["tuned.safety_emergency"]
    assert (figure.items, figure.verdict, figure.low) == (10, "worse", None)
    assert figure.p_holm == pytest.approx(2 / 2**10)
    write_safety(after, passed=False, question="Falta de ar?")
    figure = compare(before, after)["tuned.safety_emergency"]
    assert figure.reason == "other items (0 of 10 and 10 items are shared)"


# Committed figures


def test_without_rows_committed_figures_are_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", loops=range(2), rows=False)
    second = write_run(tmp_path / "second", loops=range(10))
    figure = compare(first, second)["tuned.degenerate"]
    assert figure.source == "committed figures"
    # Shares 2/20 and 10/20 have the adjusted shares 3/22 and 11/22.
    error = math.sqrt((3 / 22 * 19 / 22 + 1 / 4) / 22)
    assert figure.difference == pytest.approx(0.4)
    assert figure.p == pytest.approx(two_sided(0.4 / error))
    assert figure.low == pytest.approx(0.4 - 1.959964 * error)
    assert figure.verdict == "worse"


def test_the_error_of_committed_bits_is_that_of_the_loss(before: Path) -> None:
    level = committed(run_of(before), VARIANT, "bits_per_character")
    assert level is not None
    assert level == pytest.approx((2.0, 0.2, 20))
    # Half of the interval from 0.4 to 0.6, over 1.96.
    level = committed(run_of(before), VARIANT, "rougeL_f")
    assert level is not None
    assert level == pytest.approx((0.5, 0.1 / 1.959964, 20))


def test_committed_figures_of_other_data_are_not_compared(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", bits=2.5, rows=False)
    figure = compare(before, after, items_hash="b" * 32)[BITS]
    assert figure.verdict == "not comparable"
    assert figure.reason == "other items (data/clean/validation changed)"


def test_committed_figures_without_any_error_are_not_compared(tmp_path: Path) -> None:
    for name, bits in (("first", 2.0), ("second", 2.5)):
        folder = write_run(tmp_path / name, bits=bits, rows=False)
        pooled = {"items": 20, "bits_per_character": bits, "loss_nats": 3.0, "loss_nats_stderr": 0}
        change_json(folder / f"metrics/likelihood/{VARIANT}.json", {"pooled": pooled})
    figure = compare(tmp_path / "first", tmp_path / "second")[BITS]
    assert (figure.verdict, figure.p) == ("not comparable", None)
    assert figure.reason == "git has a standard error of 0 for it"


# What prevents a comparison


def test_another_kind_of_machine_is_not_compared(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", bits=2.5)
    settings = {"settings": {"compute_dtype": "float32"}}
    change_json(after / "metrics/likelihood/tuned.json", settings)
    figures = compare(before, after)
    figure = figures[BITS]
    assert figure.verdict == "not comparable"
    assert figure.reason == "other machine kind (cpu, bfloat16 → cpu, float32)"
    # The answers come from the same kind of machine.
    assert figures["tuned.degenerate"].verdict == "unchanged"


def test_a_model_trained_on_another_kind_of_machine_is_not_compared(
    before: Path, tmp_path: Path
) -> None:
    after = write_run(tmp_path / "after", bits=2.5)
    change_json(after / "metrics/train.json", {"run": {"compute_dtype": "float32"}})
    assert compare(before, after)[BITS].reason.startswith("other machine kind")
    for run in (before, after):
        edit_params(
            run / "params.yaml",
            lambda params: params["variants"][VARIANT].update(model="models/base"),
        )
    assert compare(before, after)[BITS].verdict == "worse"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"judge": "other"}, "other judge (j → other)"),
        ({"accuracy_withheld": True}, "judge withheld (its kappa is too low)"),
    ],
)
def test_scores_of_another_or_a_withheld_judge_are_not_compared(
    before: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    after = write_run(tmp_path / "after")
    change_json(after / "metrics/judge/tuned.json", change)
    figure = compare(before, after)["tuned.judge_accuracy"]
    assert (figure.verdict, figure.reason) == ("not comparable", reason)


def test_overlap_of_loops_is_not_meaningful(before: Path, tmp_path: Path) -> None:
    # Five of 20 answers are 25 %; compare.max_degenerate_share is 20 %.
    after = write_run(tmp_path / "after", loops=range(5))
    figures = compare(before, after)
    assert figures["tuned.rougeL_f"].verdict == "not meaningful"
    assert figures["tuned.rougeL_f"].reason == "too many answers are loops (25 %)"
    assert figures["tuned.degenerate"].verdict == "no difference beyond noise"


def test_a_score_of_another_version_of_a_task_is_not_compared(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    for run, version in ((before, "1"), (after, "2")):
        task = {"acc": 0.5, "acc_stderr": 0.1, "items": 20, "commonest_answer_share": 0.5}
        settings = {"squad_version": version, "compute_dtype": "bfloat16"}
        change_json(run / "metrics/benchmark/tuned.json", {"squad": task, "settings": settings})
    edit_params(after / "params.yaml", lambda p: p["compare"].update(primary=["squad_acc"]))
    figure = compare(before, after)["tuned.squad_acc"]
    assert figure.reason == "other squad_version of the benchmark (1 → 2)"


# Gates


def test_a_gate_fails_on_a_significant_loss(before: Path, tmp_path: Path) -> None:
    found = outcome(before, write_run(tmp_path / "after", bits=2.05))
    assert (found.result, found.reason) == ("fail", "worse by 0.05, and 0.02 is allowed")


def test_a_gate_passes_a_loss_that_is_allowed(before: Path, tmp_path: Path) -> None:
    found = outcome(before, write_run(tmp_path / "after", bits=2.015))
    assert (found.result, found.reason) == ("pass", "no loss above 0.02 was found")


def test_a_gate_warns_of_a_loss_that_the_interval_does_not_exclude(
    before: Path, tmp_path: Path
) -> None:
    # Four losses have the exact p-value 2 / 2^4, and the interval reaches beyond 0.02.
    found = outcome(before, write_run(tmp_path / "after", bits=shifted(4, 0.5)))
    assert found.result == "warn"
    assert found.reason == "the interval does not exclude a loss above 0.02"


def test_a_gate_fails_beyond_its_floor(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    found = outcome(before, after, lambda gate: gate.update(floor=1.9))
    assert (found.result, found.reason) == ("fail", "2 is beyond the floor 1.9")


def test_a_gate_fails_on_a_figure_that_is_gone(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", rows=False)
    (after / "metrics/likelihood/tuned.json").unlink()
    found = outcome(before, after)
    assert (found.result, found.reason) == ("fail", "this run has no such figure")


def test_a_gate_on_a_figure_of_no_run_fails(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    found = outcome(before, after, lambda gate: gate.update(figure="tuned.bits"))
    assert (found.result, found.figure) == ("fail", None)


@pytest.mark.parametrize("choice", ["fail", "warn"])
def test_a_gate_says_what_follows_without_comparison(
    before: Path, tmp_path: Path, choice: str
) -> None:
    after = write_run(tmp_path / "after", references={3: "Outra resposta."})
    found = outcome(before, after, lambda gate: gate.update(not_comparable=choice))
    assert found.result == choice
    assert found.reason.startswith("not comparable: other items")


def test_a_gate_in_the_wrong_direction_is_refused(before: Path) -> None:
    edit_params(
        before / "params.yaml", lambda p: p["review"]["gates"][0].update(direction="higher")
    )
    with pytest.raises(UserError, match=r"says that higher is better\. Write direction: lower"):
        check_own_gates(params_of(before))


@pytest.mark.parametrize(
    ("figure", "proposal"),
    [
        ("tuned.bits_per_char", "tuned.bits_per_character"),
        ("tuend.bits_per_character", "tuned.bits_per_character"),
        ("tuned.rougel_f", "tuned.rougeL_f"),
        ("tuned.safety_emergncy", "tuned.safety_emergency"),
    ],
)
def test_a_gate_on_no_figure_is_refused_with_the_most_similar_name(
    before: Path, figure: str, proposal: str
) -> None:
    edit_params(before / "params.yaml", lambda p: p["review"]["gates"][0].update(figure=figure))
    message = f"review.gates: no such figure as {figure} (did you mean {proposal}?). Name a"
    with pytest.raises(UserError, match=re.escape(message)):
        check_own_gates(params_of(before))


@pytest.mark.parametrize(
    "figure",
    ["tuned.bula_contrast_dose_acc", "quantized.bits_per_character", "tuned.judge_style"],
)
def test_tasks_their_parts_and_removed_variants_can_have_gates(before: Path, figure: str) -> None:
    direction = "lower" if figure.endswith("character") else "higher"
    gate = {"figure": figure, "direction": direction}
    edit_params(before / "params.yaml", lambda p: p["review"]["gates"][0].update(gate))
    check_own_gates(params_of(before))


def test_two_gates_on_one_figure_are_refused(before: Path) -> None:
    edit_params(
        before / "params.yaml",
        lambda p: p["review"]["gates"].append(dict(p["review"]["gates"][0])),
    )
    with pytest.raises(UserError, match=r"review\.gates has tuned\.bits_per_character twice"):
        params_of(before)


# Gates of the other run


def test_a_run_cannot_loosen_its_own_gate(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after", bits=2.05)
    loose = {**GATE, "max_drop": 0.5}
    extra = {**GATE, "figure": "tuned.degenerate"}
    edit_params(
        after / "params.yaml", lambda p: p["review"].update(gates=[loose, extra], alpha=0.01)
    )
    params, differing = with_gates_of(run_of(before, "main"), params_of(after))
    assert differing == ["alpha 0.05 → 0.01", f"{BITS} max_drop 0.02 → 0.5"]
    assert params.review.alpha == 0.05
    [first, second] = params.review.gates
    assert (first.figure, first.max_drop) == (BITS, 0.02)
    assert second.figure == "tuned.degenerate"


def test_a_gate_that_this_run_removed_still_applies(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    edit_params(after / "params.yaml", lambda p: p["review"].update(gates=[]))
    params, differing = with_gates_of(run_of(before, "main"), params_of(after))
    assert differing == [f"{BITS} has no gate here"]
    assert [gate.figure for gate in params.review.gates] == [BITS]


def test_a_run_cannot_loosen_the_tests_behind_its_gate(before: Path, tmp_path: Path) -> None:
    after = write_run(tmp_path / "after")
    base = params_of(before).compare
    edit_params(
        after / "params.yaml",
        lambda p: p["compare"].update(
            permutations=400_000, max_degenerate_share=0.0, primary=[*base.primary, "chrf"]
        ),
    )
    params, differing = with_gates_of(run_of(before, "main"), params_of(after))
    assert params.compare == base
    assert differing == [
        f"compare.max_degenerate_share {base.max_degenerate_share} → 0.0",
        f"compare.permutations {base.permutations} → 400000",
        f"compare.primary[{len(base.primary)}] – → chrf",
    ]


def test_own_tests_apply_where_the_other_run_has_another_form(before: Path) -> None:
    run = run_of(before, "main")
    other = run._replace(params={**run.params, "compare": {"primary": 1}})
    params, differing = with_gates_of(other, params_of(before))
    assert params == params_of(before)
    assert differing == ["its section compare has another form, so the tests of this run apply"]


@pytest.mark.parametrize("section", [None, {"gates": [{"figure": 1}]}])
def test_own_gates_apply_where_the_other_run_has_none(before: Path, section: object) -> None:
    run = run_of(before, "main")
    params, differing = with_gates_of(
        run._replace(params={**run.params, "review": section}), params_of(before)
    )
    assert params == params_of(before)
    assert len(differing) == (section is not None)


# Names


def test_the_default_profile_shows_ten_measures() -> None:
    measures = shown_measures(load_params(PROFILE))
    assert measures == [
        "bits_per_character",
        "question_worth",
        "bula_contrast_acc",
        "rougeL_f",
        "degenerate",
        "safety_emergency",
        "safety_no_dose",
        "safety_harmful",
        "safety_harmless",
        "judge_accuracy",
    ]


def test_each_measure_has_the_stage_that_writes_it() -> None:
    stages = {
        "degenerate": "generate",
        "question_worth": "likelihood",
        "rouge2_f": "rouge",
        "judge_style": "judge",
        "safety_over_refusal": "safety",
        "bula_contrast_acc": "benchmark",
    }
    assert {measure: stage_of(measure) for measure in stages} == stages
