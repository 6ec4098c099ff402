"""Check the paired differences and the complete compare stage."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.item_scores import Measures, means
from bula.paired import Difference
from bula.params import load_params
from bula.records import Row, read_rows, write_rows
from bula.reports import write_metrics
from stages.compare import __main__ as stage
from stages.compare.inputs import Doubts, check_items, read_doubts
from stages.compare.pairs import Results, compare, compare_all, mark_families
from stages.compare.power import exact_detectable
from tests.conftest import write_validation_sets
from tests.test_tables import (
    benchmark_figures,
    calibrate_figures,
    control_bertscores,
    control_figures,
    fidelity,
    figures,
    generate_figures,
)


def two_variants(params: dict[str, Any]) -> None:
    """Keep the variants base and tuned, and measures that all rows below have."""
    params["variants"].pop("quantized")
    params["compare"]["pairs"].pop()
    few_primary(params)


def few_primary(params: dict[str, Any]) -> None:
    """Keep the primary measures that need no contrast pairs."""
    params["compare"]["primary"] = ["bits_per_character", "rougeL_f", "degenerate"]


STOCK = "tuned_minus_stock_answer"
NGRAM = "tuned_minus_character_6gram"


def by_measure(results: Results) -> Results:
    """Return the results of pairs of variants, with the measures as keys."""
    found = {}
    for name, row in results.items():
        pair, _, measure = name.rpartition("__")
        if pair not in (STOCK, NGRAM):
            found[measure] = row
    return found


# Twenty items that differ much from each other


def write_twenty(workspace: Path, variant: str, shift: float, order: int) -> None:
    """Write twenty items in the given order, each better by `shift`."""
    data = workspace / "data"
    file = f"{variant}.jsonl"
    numbers = list(range(20))[::order]
    answers = [{"id": f"{n:02}", "degenerate": False} for n in numbers]
    likelihood = [{"id": f"{n:02}", "nats": 10.0 * n, "characters": 50} for n in numbers]
    write_rows(data / "safety" / file, [safety_row(n, shift) for n in numbers])
    # Each reference has 0.05 less ROUGE-L under the stock answer than under base.
    stock = [score_row(n, 0.0) for n in numbers]
    write_stock(workspace, {row["id"]: row["rougeL_f"] - 0.05 for row in stock})
    write_rows(data / "answers" / file, answers)
    write_rows(data / "likelihood" / file, likelihood)
    # The n-gram needs one bit more for each item, over 50 characters.
    write_ngram(workspace, {f"{n:02}": 10.0 * n + math.log(2) for n in numbers})
    write_rows(data / "scores" / file, [score_row(n, shift) for n in numbers])
    write_rows(data / "samples" / file, [sample_row(n, shift) for n in numbers])
    # The judge fails on a different answer each time, so there is no pair.
    failed = int(shift > 0)
    verdicts: list[Row] = [
        {"id": f"{failed:02}", "judge": "j", "failed": "Timeout"},
        {"id": f"{1 - failed:02}", "judge": "j", "accuracy": 1, "style": 1},
    ]
    write_rows(data / "verdicts" / file, verdicts)


def score_row(number: int, shift: float) -> Row:
    """Return the ROUGE scores of one item.

    Only item 3 gains in ROUGE-L.
    """
    level = 0.03 * number
    return {
        "id": f"{number:02}",
        "rouge1_f": level + shift,
        "rouge2_f": level,
        "rougeL_f": level + (number == 3) * shift,
    }


def write_stock(workspace: Path, scores: dict[str, float]) -> None:
    """Write the ROUGE-L of the stock answer for each item."""
    rows = []
    for item, score in scores.items():
        same = {"rouge1_f": 0.0, "rouge2_f": 0.0, "rougeL_f": abs(score)}
        rows.append({"id": item, "variant": "stock", **same})
    write_rows(workspace / "data/controls/scores_stock.jsonl", rows)


def write_ngram(workspace: Path, nats: dict[str, float]) -> None:
    """Write the nats of each item under the n-gram, each with 50 characters."""
    rows = []
    for item, value in nats.items():
        rows.append({"id": item, "variant": "ngram", "nats": value, "characters": 50})
    write_rows(workspace / "data/controls/likelihood_ngram.jsonl", rows)


def safety_row(number: int, shift: float) -> Row:
    """Return the result of one safety question.

    The first ten questions are emergencies, of which tuned passes six more than base. The others
    are harmless; base refuses none and tuned refuses three.
    """
    emergency = number < 10
    refuses = not emergency and shift > 0 and number >= 17
    passed = (shift > 0 and number < 6) if emergency else not refuses
    slice_name = "emergency" if emergency else "harmless"
    return {"id": f"s{number:02}", "slice": slice_name, "passed": passed, "refuses": refuses}


def sample_row(number: int, shift: float) -> Row:
    """Return the accuracy of one item; eight items become correct."""
    correct = number % 2 == 0 or (shift > 0 and number < 16)
    return {"task": "t", "document": f"{number:02}", "scores": {"acc": float(correct)}}


PRIMARY = ["rouge1_f", "rouge2_f", "t_acc", "bits_per_character"]


def primary(params: dict[str, Any]) -> None:
    """Keep two variants, and choose four primary measures."""
    two_variants(params)
    params["compare"]["primary"] = list(PRIMARY)


def doubts_about(degenerate: float = 0.0, **changes: Any) -> Doubts:
    """Return the doubts about a variant, by default none."""
    none = Doubts(degenerate, {"no_dose": 0.0, "harmless": 0.0}, frozenset(), frozenset())
    return none._replace(**changes)


def compared(
    workspace: Path, doubts: dict[str, Doubts], groups: dict[str, str] | None = None
) -> dict[str, Difference]:
    """Return the differences of twenty items by measure."""
    return by_measure(all_compared(workspace, doubts, groups))


def all_compared(
    workspace: Path, doubts: dict[str, Doubts], groups: dict[str, str] | None = None
) -> Results:
    """Return the differences of twenty items."""
    edit_params(workspace / "params.yaml", primary)
    write_twenty(workspace, "base", 0.0, 1)
    # The items are in another order, so they are paired by their ids.
    write_twenty(workspace, "tuned", 0.1, -1)
    params = load_params()
    results = compare_all(workspace / "data", groups or {}, params)
    mark_families(results, doubts, params)
    return results


NO_DOUBT = {"base": doubts_about(), "tuned": doubts_about()}
# Items 00 and 01 are one group, 02 and 03 the next one, and so on.
TENS = {f"{n:02}": f"{n // 2}" for n in range(20)}


def test_items_are_paired_by_their_ids(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT)
    # Each item gains 0.1, so the interval has no width, however different the items are.
    rouge = results["rouge1_f"]
    interval = (rouge["difference"], rouge["low"], rouge["high"])
    assert interval == pytest.approx((0.1, 0.1, 0.1))
    assert results["bits_per_character"]["low"] == 0.0
    assert results["bits_per_character"]["high"] == 0.0


def test_p_values_of_primary_measures_are_corrected(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT)
    corrected = {name: row["p_holm"] for name, row in results.items() if "p_holm" in row}
    # The smallest of four p-values counts four times, the next one three times.
    assert corrected == {
        "bits_per_character": 1.0,
        "rouge1_f": pytest.approx(4 * 2 / 2**20),
        "rouge2_f": 1.0,
        "t_acc": pytest.approx(3 * 2 / 2**8),
    }
    assert {name for name, row in results.items() if row["primary"]} == set(PRIMARY)


def test_each_pair_is_a_family_of_its_own(workspace: Path) -> None:
    for variant, shift in (("base", 0.0), ("tuned", 0.1), ("quantized", 0.2)):
        write_twenty(workspace, variant, shift, 1)
    edit_params(workspace / "params.yaml", lambda values: values["compare"].update(primary=PRIMARY))
    params = load_params()
    results = compare_all(workspace / "data", {}, params)
    mark_families(results, NO_DOUBT | {"quantized": doubts_about()}, params)
    # The pairs follow params.yaml, and quantized is compared with tuned.
    pairs = [name.partition("__")[0] for name in results]
    assert list(dict.fromkeys(pairs)) == [
        "tuned_minus_base",
        "quantized_minus_tuned",
        "tuned_minus_stock_answer",
        "quantized_minus_stock_answer",
        "tuned_minus_character_6gram",
        "quantized_minus_character_6gram",
    ]
    for pair in ("tuned_minus_base", "quantized_minus_tuned"):
        row = results[f"{pair}__rouge1_f"]
        assert row["difference"] == pytest.approx(0.1)
        assert row["p_holm"] == pytest.approx(4 * 2 / 2**20)


def test_correct_answers_are_compared_by_mcnemar(workspace: Path) -> None:
    row = compared(workspace, NO_DOUBT)["t_acc"]
    # Eight items are gained and none is lost: 2 / 2^8.
    assert row["p"] == pytest.approx(2 / 2**8)
    assert row["p_at_floor"] is True


def test_p_value_at_the_floor_of_its_test_is_marked(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT)
    assert results["rouge1_f"]["p"] == 2 / 2**20
    assert results["rouge1_f"]["p_at_floor"] is True
    assert results["rougeL_f"]["p_at_floor"] is True


def test_paraphrases_of_a_question_are_one_unit(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT, TENS)
    # Ten groups gain 0.2 each: 2 of 2^10 flips reach the sum, and no interval is shown.
    rouge = results["rouge1_f"]
    assert (rouge["items"], rouge["groups"]) == (20, 10)
    assert rouge["p"] == 2 / 2**10
    assert "low" not in rouge
    # The odd items 1 to 15 are gained, one in each of the first eight groups of two. Mean 0.4,
    # residuals 0.6 and -0.4: eight groups total 0.2, two total -0.8: 8 x 0.04 + 2 x 0.64 = 1.6.
    # Squares of items: 8 x 0.36 + 12 x 0.16 = 4.8. sqrt(1.6 + 4.8 / 19) / 20 = 0.068056.
    accuracy = results["t_acc"]
    assert accuracy["stderr"] == pytest.approx(0.068056, abs=1e-6)
    # The first step of Holm's correction of four tests: z(1 - 0.05 / 8) + z(0.8) = 2.4977 + 0.8416.
    assert accuracy["detectable"] == pytest.approx(3.33933 * 0.068056, abs=1e-5)
    # Sign flips of eight groups that gained one item each.
    assert accuracy["p"] == 2 / 2**8


@pytest.mark.parametrize(
    ("base", "tuned", "meaningful"),
    [(0.0, 0.0, True), (0.2, 0.2, True), (0.21, 0.0, False), (0.0, 0.21, False), (1.0, 1.0, False)],
)
def test_figures_of_degenerate_answers_are_not_meaningful_and_not_tested(
    base: float, tuned: float, meaningful: bool, workspace: Path
) -> None:
    doubts = {"base": doubts_about(base), "tuned": doubts_about(tuned)}
    results = compared(workspace, doubts)
    assert {name: row["meaningful"] for name, row in results.items()} == {
        "safety_emergency": True,
        "safety_harmless": True,
        "safety_over_refusal": True,
        "degenerate": True,
        "bits_per_character": True,
        "rouge1_f": meaningful,
        "rouge2_f": meaningful,
        "rougeL_f": meaningful,
        "t_acc": True,
    }
    tested = {name for name, row in results.items() if "p_holm" in row}
    assert tested == {name for name in PRIMARY if results[name]["meaningful"]}
    # t_acc has the second smallest of four p-values, or the smaller of two.
    tests = 3 if meaningful else 2
    assert results["t_acc"]["p_holm"] == pytest.approx(tests * 2 / 2**8)


def test_safety_questions_are_compared_by_mcnemar(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT)
    emergency = results["safety_emergency"]
    assert (emergency["items"], emergency["difference"]) == (10, 0.6)
    # Six questions are gained and none is lost: 2 / 2^6.
    assert emergency["p"] == pytest.approx(2 / 2**6)
    refusal = results["safety_over_refusal"]
    # Three of ten harmless questions are refused: 2 / 2^3.
    assert refusal["difference"] == pytest.approx(0.3)
    assert refusal["p"] == pytest.approx(2 / 2**3)


@pytest.mark.parametrize(
    ("shares", "withheld"),
    [
        ({"no_dose": 0.0, "harmless": 0.21}, {"safety_harmless", "safety_over_refusal"}),
        ({"no_dose": 0.21, "harmless": 0.2}, {"safety_no_dose"}),
        ({"no_dose": 0.2, "harmless": 0.2}, set()),
    ],
)
@pytest.mark.parametrize("variant", ["base", "tuned"])
def test_slices_to_which_a_loop_is_no_answer_are_withheld(
    variant: str, shares: dict[str, float], withheld: set[str], workspace: Path
) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    for name, shift in (("base", 0.0), ("tuned", 0.1)):
        fill(workspace, name, shift)
        file = workspace / f"data/safety/{name}.jsonl"
        row = {"passed": True, "refuses": False}
        others = [{"id": word, "slice": word, **row} for word in ("no_dose", "harmful")]
        write_rows(file, [*read_rows(file), *others])
    params = load_params()
    results = compare_all(workspace / "data", {}, params)
    doubts = {**NO_DOUBT, variant: doubts_about(degenerate_slices=shares)}
    mark_families(results, doubts, params)
    names = {name for name, row in by_measure(results).items() if not row["meaningful"]}
    assert names == withheld


def test_each_variant_is_compared_with_the_stock_answer(workspace: Path) -> None:
    row = all_compared(workspace, NO_DOUBT)[f"{STOCK}__rougeL_f"]
    # Items 0 and 1 have 0.05 and 0.02 less under base, so their stock scores are 0.05 and 0.02.
    # tuned gains -0.05, 0.01, then 0.05 seventeen times, and 0.15 for item 3: 0.96 / 20.
    assert row["items"] == 20
    assert row["difference"] == pytest.approx(0.048)
    assert (row["primary"], row["meaningful"]) == (False, True)
    assert "p_holm" not in row


def test_each_variant_is_compared_with_the_ngram(workspace: Path) -> None:
    row = all_compared(workspace, NO_DOUBT)[f"{NGRAM}__bits_per_character"]
    # One bit less over 50 characters for each of 20 items.
    assert row["items"] == 20
    assert row["difference"] == pytest.approx(-0.02)
    assert (row["primary"], row["meaningful"]) == (False, True)
    assert row["p"] == pytest.approx(2 / 2**20)


def test_interval_of_bits_per_character_is_that_of_a_ratio(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", primary)
    for variant, bits_each in (("base", 0.5), ("tuned", 0.4), ("ngram", 0.6)):
        write_twenty(workspace, variant, 0.0, 1)
        rows = []
        for number in range(20):
            characters = 10 * (number + 1)
            nats = bits_each * math.log(2) * characters
            row: Row = {"id": f"{number:02}", "variant": variant}
            rows.append(row | {"nats": nats, "characters": characters})
        write_rows(workspace / f"data/likelihood/{variant}.jsonl", rows)
    ngram = workspace / "data/controls/likelihood_ngram.jsonl"
    (workspace / "data/likelihood/ngram.jsonl").replace(ngram)
    results = compare_all(workspace / "data", {}, load_params())
    # Every answer saves as many bits per character, so no sample of answers has another ratio.
    for key, saved in (("tuned_minus_base", 0.1), (NGRAM, 0.2)):
        row = results[f"{key}__bits_per_character"]
        assert row["stderr"] == pytest.approx(0, abs=1e-9)
        interval = (row["difference"], row["low"], row["high"])
        assert interval == pytest.approx((-saved, -saved, -saved))


@pytest.mark.parametrize(
    ("write_control", "message"),
    [
        (write_ngram, r"likelihood_ngram\.jsonl: its items are not those of likelihood/tuned"),
        (write_stock, r"scores_stock\.jsonl: its items are not those of scores/tuned"),
    ],
    ids=["ngram", "stock answer"],
)
def test_a_control_over_other_items_is_refused(
    write_control: Callable[[Path, dict[str, float]], None], message: str, workspace: Path
) -> None:
    edit_params(workspace / "params.yaml", primary)
    write_twenty(workspace, "base", 0.0, 1)
    write_twenty(workspace, "tuned", 0.1, 1)
    write_control(workspace, {"00": 0.1})
    with pytest.raises(UserError, match=rf"{message}\.jsonl\. Run .*controls"):
        compare_all(workspace / "data", {}, load_params())


def test_each_difference_has_the_levels_of_both_variants(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT)
    emergency = results["safety_emergency"]
    assert (emergency["before"], emergency["after"], emergency["binary"]) == (0.0, 0.6, True)
    bits = results["bits_per_character"]
    # Items have 0, 10, ... 190 nats: 95 in the mean, over ln 2 and 50 characters.
    assert bits["before"] == bits["after"] == pytest.approx(95 / math.log(2) / 50)
    assert bits["binary"] is False


def test_detectable_share_of_changed_items_follows_mcnemar_and_holm(workspace: Path) -> None:
    results = compared(workspace, NO_DOUBT)
    # Four primary tests: 2 x 0.5^8 = 0.0078 is the first p below 0.05 / 4.
    assert results["t_acc"]["detectable"] == exact_detectable(20, 0.05 / 4)
    # Exploratory: six of ten emergencies must change.
    assert results["safety_emergency"]["detectable"] == exact_detectable(10, 0.05)


@pytest.mark.parametrize(("base", "tuned", "meaningful"), [(1.0, 0.2, True), (0.0, 0.21, False)])
def test_loops_of_the_variant_do_not_beat_the_stock_answer(
    base: float, tuned: float, meaningful: bool, workspace: Path
) -> None:
    doubts = {"base": doubts_about(base), "tuned": doubts_about(tuned)}
    row = all_compared(workspace, doubts)[f"{STOCK}__rougeL_f"]
    assert row["meaningful"] is meaningful


def add_prompted(params: dict[str, Any]) -> None:
    """Compare tuned with base under few-shot examples as well."""
    primary(params)
    params["variants"]["prompted"] = {**params["variants"]["base"], "few_shot": 3}
    params["compare"]["pairs"].append({"variant": "tuned", "baseline": "prompted"})


def test_a_pair_with_borrowed_benchmark_scores_does_not_test_them(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", add_prompted)
    for variant, shift in (("base", 0.0), ("tuned", 0.1), ("prompted", 0.0)):
        write_twenty(workspace, variant, shift, 1)
    params = load_params()
    results = compare_all(workspace / "data", {}, params)
    mark_families(results, NO_DOUBT | {"prompted": doubts_about()}, params)
    assert "tuned_minus_base__t_acc" in results
    assert "tuned_minus_prompted__t_acc" not in results
    # The pair has the other three of the four primary measures, with a p of 2 / 2^20.
    assert results["tuned_minus_base__rouge1_f"]["p_holm"] == pytest.approx(4 * 2 / 2**20)
    assert results["tuned_minus_prompted__rouge1_f"]["p_holm"] == pytest.approx(3 * 2 / 2**20)


def test_scores_of_a_withheld_judge_are_not_meaningful(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 0.1)
    params = load_params()
    results = compare_all(workspace / "data", {}, params)
    judged = doubts_about(withheld=frozenset(["judge_style"]))
    mark_families(results, {"base": judged, "tuned": doubts_about()}, params)
    found = by_measure(results)
    style = found["judge_style"]
    assert (style["judge_withheld"], style["meaningful"]) == (True, False)
    assert found["judge_accuracy"]["meaningful"] is True


CONSTANT = doubts_about(constant=frozenset(["t_acc"]))


def test_constant_answers_of_both_variants_leave_the_family(workspace: Path) -> None:
    results = compared(workspace, {"base": CONSTANT, "tuned": CONSTANT})
    row = results["t_acc"]
    assert (row["constant_answers"], row["meaningful"]) == (True, False)
    assert "p_holm" not in row
    # Three tests are left.
    assert results["rouge1_f"]["p_holm"] == pytest.approx(3 * 2 / 2**20)


def test_constant_answers_of_one_variant_are_compared(workspace: Path) -> None:
    results = compared(workspace, {**NO_DOUBT, "base": CONSTANT})
    assert results["t_acc"]["constant_answers"] is False
    assert results["t_acc"]["meaningful"] is True


def test_doubts_are_read_from_the_metrics(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    base = benchmark_figures(0.25)
    base["bula_medmcqa"]["commonest_answer_share"] = 0.95
    # The share over options replaces the share over answers where both are known.
    tuned = benchmark_figures(0.25)
    tuned["bula_squad_completion"]["constant_answer_share"] = 0.99
    tuned["bula_medmcqa"]["commonest_answer_share"] = 0.949
    for variant, content in (("base", base), ("tuned", tuned)):
        for name in ("generate", "safety", "judge"):
            write_metrics(workspace / f"metrics/{name}/{variant}.json", figures(2)[name])
        write_metrics(workspace / f"metrics/benchmark/{variant}.json", content)
    judge = figures(2)["judge"] | {"style_withheld": True}
    write_metrics(workspace / "metrics/judge/tuned.json", judge)
    doubts = read_doubts(workspace / "metrics", load_params())
    assert "bula_medmcqa_acc" in doubts["base"].constant
    assert "bula_medmcqa_acc" not in doubts["tuned"].constant
    assert "bula_squad_completion_contains" not in doubts["base"].constant
    assert "bula_squad_completion_contains" in doubts["tuned"].constant
    assert (doubts["base"].withheld, doubts["tuned"].withheld) == (
        frozenset(),
        frozenset({"judge_style"}),
    )
    # 3 of 30 answers, and 0.1 of the questions of each slice.
    assert doubts["tuned"].degenerate == pytest.approx(0.1)
    assert doubts["tuned"].degenerate_slices == {"no_dose": 0.1, "harmless": 0.1}


# Four items


def answer_row(item: str, variant: str) -> Row:
    """Return an answer in the form that the generate stage writes."""
    return {
        "id": item,
        "split": "A",
        "variant": variant,
        "question": f"Pergunta {item}?",
        "answer": "Beba água.",
        "generated": f"Tome água, {variant}.",
        "finish_reason": "stop",
        "degenerate": False,
    }


def fill(workspace: Path, variant: str, shift: float) -> None:
    """Write four items of one variant, better than the baseline by `shift`."""
    data = workspace / "data"
    file = f"{variant}.jsonl"
    ids = ["a", "b", "c", "d"]
    answers = [answer_row(item, variant) for item in ids]
    nats = 100 - 10 * shift
    likelihood = [
        {"id": item, "nats": nats, "characters": 50, "wrong_question_nats": 105.0} for item in ids
    ]
    write_stock(workspace, dict.fromkeys(ids, 0.25))
    write_ngram(workspace, dict.fromkeys(ids, 99.0))
    write_rows(data / "safety" / file, [safety_row(number, shift) for number in (5, 9, 12, 19)])
    scores = []
    for number, item in enumerate(ids):
        rouge_l = 0.2 + shift * number
        scores.append({"id": item, "rouge1_f": 0.1 + shift, "rouge2_f": 0.1, "rougeL_f": rouge_l})
    samples = []
    for item, correct in (("a", 1.0), ("b", 0.0), ("c", 0.0), ("d", float(shift > 0))):
        samples.append({"task": "t", "document": item, "scores": {"acc": correct}})
    verdicts: list[Row] = [
        {"id": "a", "judge": "j", "accuracy": 2, "style": 3},
        {"id": "b", "judge": "j", "failed": "Timeout"},
    ]
    write_rows(data / "answers" / file, answers)
    write_rows(data / "likelihood" / file, likelihood)
    write_rows(data / "scores" / file, scores)
    write_rows(data / "samples" / file, samples)
    write_rows(data / "verdicts" / file, verdicts)


@pytest.fixture
def four(workspace: Path) -> Results:
    """Return the differences of four items."""
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 0.1)
    return compare_all(workspace / "data", {}, load_params())


def fail(workspace: Path, variant: str, item: str) -> None:
    """Let the request for one answer fail, so that no stage scores it.

    The judge scores all other answers.
    """
    file = f"{variant}.jsonl"
    answers = workspace / "data/answers" / file
    rows = []
    for row in read_rows(answers):
        failed = {"generated": "", "finish_reason": "failed"} if row["id"] == item else {}
        rows.append(row | failed)
    write_rows(answers, rows)
    for folder, scores in (("scores", {}), ("verdicts", {"accuracy": 2, "style": 3})):
        scored = workspace / "data" / folder / file
        others = [row for row in read_rows(scored) if row["id"] != item]
        write_rows(scored, [{**row, "failed": None, **scores} for row in others])


def test_an_item_leaves_the_pair_if_a_request_failed_under_either_variant(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    fill(workspace, "base", 0.0)
    fill(workspace, "tuned", 0.1)
    fail(workspace, "base", "a")
    fail(workspace, "tuned", "c")
    data = workspace / "data"
    safety = data / "safety/base.jsonl"
    first, *others = read_rows(safety)
    write_rows(safety, [first | {"finish_reason": "failed"}, *others])
    params = load_params()
    check_items(data, params)
    results = compare_all(data, {}, params)
    found = by_measure(results)
    # Item b gains 0.1 and item d 0.3.
    assert found["rougeL_f"]["difference"] == pytest.approx(0.2)
    counts = {name: (row["items"], row.get("left_out")) for name, row in found.items()}
    assert counts == {
        "degenerate": (2, 2),
        "bits_per_character": (4, None),
        "question_worth": (4, None),
        "rouge1_f": (2, 2),
        "rouge2_f": (2, 2),
        "rougeL_f": (2, 2),
        "t_acc": (4, None),
        "safety_emergency": (1, 1),
        "safety_harmless": (2, None),
        "safety_over_refusal": (2, None),
        # The judge scores the items a and b.
        "judge_accuracy": (1, 1),
        "judge_style": (1, 1),
    }
    stock = results[f"{STOCK}__rougeL_f"]
    assert (stock["items"], stock["left_out"]) == (3, 1)


def test_a_measure_without_a_pair_is_named(workspace: Path) -> None:
    write_inputs(workspace)
    for item in ("a", "b"):
        fail(workspace, "base", item)
    for item in ("c", "d"):
        fail(workspace, "tuned", item)
    verdicts = [{"id": "a", "judge": "j", "accuracy": 2, "style": 3}]
    write_rows(workspace / "data/verdicts/base.jsonl", verdicts)
    stage.main()
    report = read_report(workspace)
    for name in ("ROUGE-L F1", "the share of degenerate answers"):
        assert f"**Not measured**: {name}, because no item was scored" in report


def test_every_measure_is_compared_degenerate_answers_first(four: Results) -> None:
    prefix = "tuned_minus_base__"
    assert next(iter(four)) == f"{prefix}degenerate"
    assert set(four) == {
        f"{prefix}degenerate",
        f"{prefix}bits_per_character",
        f"{prefix}question_worth",
        f"{prefix}safety_emergency",
        f"{prefix}safety_harmless",
        f"{prefix}safety_over_refusal",
        f"{STOCK}__rougeL_f",
        f"{NGRAM}__bits_per_character",
        f"{prefix}rouge1_f",
        f"{prefix}rouge2_f",
        f"{prefix}rougeL_f",
        f"{prefix}t_acc",
        f"{prefix}judge_accuracy",
        f"{prefix}judge_style",
    }


def test_bits_per_character_divide_nats_by_characters(four: Results) -> None:
    # 1 nat less over 50 characters is 1 / ln 2 / 50 bits.
    difference = by_measure(four)["bits_per_character"]["difference"]
    assert difference == pytest.approx(-0.0288539)


def test_question_worth_divides_saved_nats_by_characters(four: Results) -> None:
    # The wrong question costs 105 nats, the right one 100 under base and 99 under tuned. So the
    # worth is 5 / ln 2 / 50 = 0.144270 and 6 / ln 2 / 50 = 0.173123 bits per character.
    row = by_measure(four)["question_worth"]
    assert row["difference"] == pytest.approx(0.0288539)
    assert row["items"] == 4


def test_question_worth_is_absent_without_wrong_questions(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", two_variants)
    for variant in ("base", "tuned"):
        fill(workspace, variant, 0.0)
        file = workspace / f"data/likelihood/{variant}.jsonl"
        rows = [{**row, "wrong_question_nats": None} for row in read_rows(file)]
        write_rows(file, rows)
    assert "question_worth" not in by_measure(compare_all(workspace / "data", {}, load_params()))


def test_no_interval_is_shown_below_20_items(four: Results) -> None:
    for row in four.values():
        assert not row.keys() & {"low", "high"}


def test_detectable_difference_follows_the_standard_error_and_holm(four: Results) -> None:
    mark_families(four, NO_DOUBT, load_params())
    row = by_measure(four)["rougeL_f"]
    # The differences are 0, 0.1, 0.2 and 0.3: their deviation is 0.129099, over the root of 4.
    assert row["difference"] == pytest.approx(0.15)
    assert row["stderr"] == pytest.approx(0.0645497, abs=1e-6)
    # Three primary tests: z(1 - 0.05 / 6) + z(0.8) = 2.39398 + 0.84162 standard errors.
    assert row["detectable"] == pytest.approx(3.23560 * 0.0645497, abs=1e-5)


def test_equal_differences_detect_nothing(four: Results) -> None:
    mark_families(four, NO_DOUBT, load_params())
    row = by_measure(four)["bits_per_character"]
    assert row["stderr"] == 0.0
    assert "detectable" not in row


def test_one_discordant_pair_has_a_p_value_of_1(four: Results) -> None:
    row = by_measure(four)["t_acc"]
    assert row["difference"] == 0.25
    assert row["p"] == 1.0


def test_failed_verdict_is_no_pair(four: Results) -> None:
    assert by_measure(four)["judge_accuracy"]["items"] == 1


def test_variants_without_a_shared_item_are_refused() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with pytest.raises(ValueError, match="share no item"):
        compare("t_acc", {"a": 1.0}, {"b": 1.0}, {}, params, {})


@pytest.mark.parametrize(
    ("measure", "value", "binary"),
    [
        # 1 is the judge's worst score.
        ("judge_accuracy", 1.0, False),
        ("rouge2_f", 0.0, False),
        ("bits_per_character", 1.0, False),
        ("question_worth", 0.0, False),
        ("t_acc", 1.0, True),
        ("t_f1", 0.5, False),
        ("degenerate", 0.0, True),
        ("safety_harmful", 1.0, True),
    ],
)
def test_only_shares_of_items_are_binary(measure: str, value: float, binary: bool) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    values = {"a": value, "b": value}
    assert compare(measure, values, values, {}, params, {})["binary"] is binary


# The complete stage


def write_inputs(workspace: Path) -> None:
    """Write the rows and the metrics of two variants."""
    edit_params(workspace / "params.yaml", two_variants)
    metrics = workspace / "metrics"
    for number, variant, shift in ((1, "base", 0.0), (2, "tuned", 0.1)):
        fill(workspace, variant, shift)
        for name, content in figures(number).items():
            write_metrics(metrics / name / f"{variant}.json", content)
    for name, content in fidelity().items():
        write_metrics(metrics / f"{name}.json", content)
    write_metrics(metrics / "calibrate.json", calibrate_figures())
    write_metrics(metrics / "labels.json", {"judgements": 0, "labels_without_answer": 0})
    write_metrics(metrics / "controls.json", control_figures())
    write_metrics(metrics / "bertscore_controls.json", control_bertscores())
    write_metrics(metrics / "seeds.json", {"seeds": 0})
    run: dict[str, float | str] = {"steps": 30, "epochs": 0.280374, "compute_dtype": "bfloat16"}
    write_metrics(metrics / "train.json", {"run": run})
    write_metrics(metrics / "template.json", {"rows": 430})
    write_validation_sets(workspace)


@pytest.fixture
def inputs(workspace: Path) -> Path:
    """Return a workspace with the inputs of the compare stage."""
    write_inputs(workspace)
    return workspace


def read_results(folder: Path) -> dict[str, Any]:
    """Return metrics/compare.json."""
    file = folder / "metrics/compare.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def read_report(folder: Path) -> str:
    """Return the text of the report."""
    return (folder / "report/report.md").read_text(encoding="utf-8")


def test_stage_writes_the_figures_of_each_difference(inputs: Path) -> None:
    stage.main()
    assert set(read_results(inputs)["tuned_minus_base__rougeL_f"]) == {
        "items",
        "groups",
        "binary",
        "before",
        "after",
        "difference",
        "stderr",
        "detectable",
        "p",
        "p_at_floor",
        "p_holm",
        "primary",
        "constant_answers",
        "judge_withheld",
        "meaningful",
    }


def test_stage_writes_the_report(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()
    report = read_report(inputs)
    assert "| degenerate answers, % (30 answers) ↓ | 0.0 | 10.0 | " in report
    assert "| tuned − base: degenerate ↓ |" in report
    assert "**tuned** (stop): Tome água, tuned." in report
    # Items gain -0.05, 0.05, 0.15 and 0.25. Four sign flips cannot reach p below 0.05.
    assert "**tuned is not surely better than** the stock answer on ROUGE-L" in report
    assert "(0.220 against 0.170, difference +0.100). **tuned" in report
    assert "| tuned − stock answer: rougeL_f ↑ | +0.1000 |" in report
    assert "| not meaningful" not in report
    assert "compare: 14 paired differences" in capsys.readouterr().out


@pytest.fixture
def degenerate(inputs: Path) -> Path:
    """Return a workspace after a run with 97 % degenerate answers."""
    write_metrics(inputs / "metrics/generate/tuned.json", generate_figures(29))
    stage.main()
    return inputs


def test_report_withholds_figures_of_degenerate_answers(degenerate: Path) -> None:
    report = read_report(degenerate)
    line = "| ROUGE-1 F1 (40 answers) ↑ | 0.120 [0.110, 0.135] | not meaningful (97 % loops) | "
    assert line in report
    assert "| tuned − base: rouge1_f ↑ | not meaningful | – | – | 4 | – |" in report
    assert "| tuned − base: judge_style ↑ | not meaningful | – | – | 1 | – |" in report
    assert (
        "BERTScore and the judge's scores mean nothing for tuned (97 % degenerate answers)"
        in report
    )


def test_metrics_keep_figures_of_degenerate_answers(degenerate: Path) -> None:
    row = read_results(degenerate)["tuned_minus_base__rougeL_f"]
    assert row["difference"] == pytest.approx(0.15)
    assert row["meaningful"] is False
    assert "p_holm" not in row


def test_additional_answer_of_a_variant_changes_nothing(inputs: Path) -> None:
    stage.main()
    before = (read_results(inputs), read_report(inputs))
    file = inputs / "data/answers/tuned.jsonl"
    rows = list(read_rows(file))
    write_rows(file, [*rows, rows[0] | {"id": "x"}])
    stage.main()
    assert (read_results(inputs), read_report(inputs)) == before


def test_order_of_rows_changes_nothing(inputs: Path) -> None:
    stage.main()
    before = read_results(inputs)
    for name in ("answers", "likelihood", "scores", "samples", "verdicts"):
        file = inputs / f"data/{name}/tuned.jsonl"
        rows = list(read_rows(file))
        write_rows(file, rows[::-1])
    stage.main()
    assert read_results(inputs) == before


def test_default_primary_measures_are_compared(inputs: Path) -> None:
    default = load_params(ROOT / "params.yaml").compare.primary

    def contrast(params: dict[str, Any]) -> None:
        params["compare"]["primary"] = default

    edit_params(inputs / "params.yaml", contrast)
    for variant in ("base", "tuned"):
        file = inputs / f"data/samples/{variant}.jsonl"
        rows = list(read_rows(file))
        write_rows(file, [*rows, *({**row, "task": "bula_contrast"} for row in rows)])
    stage.main()
    results = read_results(inputs)
    primary = [name.rpartition("__")[2] for name, row in results.items() if row["primary"]]
    assert sorted(primary) == sorted(default)
    # One of four pairs is gained.
    assert results["tuned_minus_base__bula_contrast_acc"]["difference"] == 0.25


def test_unknown_primary_measure_is_refused(inputs: Path) -> None:
    def unknown(params: dict[str, Any]) -> None:
        params["compare"]["primary"] = ["rougeL"]

    edit_params(inputs / "params.yaml", unknown)
    message = "compare.primary has 'rougeL', which tuned was not scored by. Choose among degenerate"
    with pytest.raises(UserError, match=message):
        stage.main()
    assert not (inputs / "report").exists()


def test_groups_of_validation_questions_reach_the_figures(inputs: Path) -> None:
    question = {"question": "Dói?", "source": "s", "license": "l", "split": "A"}
    ids = [f"{number:016x}" for number in range(4)]
    write_stock(inputs, dict.fromkeys(ids, 0.25))
    write_ngram(inputs, dict.fromkeys(ids, 99.0))
    # Three answers to one question, and another question with another answer.
    examples = [question | {"id": name, "answer": f"Resposta {name}."} for name in ids]
    examples[3]["question"] = "Arde?"
    write_rows(inputs / "data/clean/validation/A.jsonl", examples)
    for variant in ("base", "tuned"):
        for folder in ("answers", "likelihood", "scores"):
            file = inputs / f"data/{folder}/{variant}.jsonl"
            rows = list(read_rows(file))
            write_rows(file, [row | {"id": name} for row, name in zip(rows, ids, strict=True)])
        file = inputs / f"data/samples/{variant}.jsonl"
        write_rows(file, [row | {"group": "g"} for row in list(read_rows(file))])
        file = inputs / f"data/verdicts/{variant}.jsonl"
        rows = list(read_rows(file))
        named = [row | {"id": name} for row, name in zip(rows, ids, strict=False)]
        failed = [{"id": name, "judge": "j", "failed": "x"} for name in ids[2:]]
        write_rows(file, [*named, *failed])
    stage.main()
    results = read_results(inputs)
    rouge = results["tuned_minus_base__rougeL_f"]
    assert (rouge["items"], rouge["groups"]) == (4, 2)
    # Groups gain 0 + 0.1 + 0.2 and 0.3.
    assert rouge["p"] == 2 / 4
    assert results["tuned_minus_base__t_acc"]["groups"] == 1
    assert "4 in 2 groups" in read_report(inputs)
    assert "Items of one question group count together." in read_report(inputs)


def test_judge_that_scored_nothing_leaves_the_other_measures(inputs: Path) -> None:
    file = inputs / "data/verdicts/tuned.jsonl"
    rows = [row | {"accuracy": None, "style": None} for row in read_rows(file)]
    write_rows(file, rows)
    stage.main()
    results = read_results(inputs)
    assert "tuned_minus_base__judge_accuracy" not in results
    assert "tuned_minus_base__rougeL_f" in results


def test_mean_leaves_out_a_measure_without_items() -> None:
    found: Measures = {"judge_accuracy": {}, "rougeL_f": {"a": 0.1, "b": 0.4}}
    assert means(found) == {"rougeL_f": 0.25}
