"""Check the stage labels: agreement, the judge against people, and preferences."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.clones import ROOT, edit_params
from bula.calibration import ErrorRates
from bula.errors import UserError
from bula.labels.files import write_labels
from bula.labels.records import Label, PairLabel, Scores
from bula.labels.votes import majority, votes_by_pair
from bula.params import Pair, Params, load_params
from bula.records import write_rows
from stages.labels import __main__ as stage
from stages.labels.agreement import agreement_figures, alpha, kappa
from stages.labels.answers import accuracy, combine
from stages.labels.intervals import with_interval
from stages.labels.judge import corrected, too_few
from stages.labels.preferences import pair_figures, pair_votes, sign_test
from tests.labels_data import (
    SCORES,
    answer_label,
    answer_row,
    pair_label,
    question_id,
    write_answers,
    write_verdicts,
)

VARIANTS = ("base", "tuned")


@pytest.fixture(scope="module")
def params() -> Params:
    """Return the default parameters with few resamples."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    settings = params.labels.model_copy(update={"resamples": 50})
    return params.model_copy(update={"labels": settings})


# Agreement


def test_nominal_alpha_by_hand() -> None:
    # Four units and two raters: aa, ab, bb, bb. Of 8 values 3 are a, and 2 of 8 pairs differ.
    # 1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)) = 8 / 15.
    counts = np.array([[2, 0], [1, 1], [0, 2], [0, 2]])
    assert alpha(counts, "nominal") == pytest.approx(8 / 15)


def test_ordinal_alpha_by_hand() -> None:
    # Units 11, 23, 33: n = 2, 1, 3. Squared distances: 1-2 2.25, 1-3 12.25, 2-3 4.
    # 1 - (2 * 4 / 6) / (2 * (2 * 2.25 + 6 * 12.25 + 3 * 4) / 30) = 1 - (4 / 3) / 6 = 7 / 9.
    counts = np.array([[2, 0, 0], [0, 1, 1], [0, 0, 2]])
    assert alpha(counts, "ordinal") == pytest.approx(7 / 9)


def test_alpha_of_equal_values_is_undefined() -> None:
    assert alpha(np.array([[2, 0], [2, 0]]), "nominal") is None


def test_nominal_kappa_by_hand() -> None:
    # a a b b and a b b b: 3 / 4 are equal, 1/2 * 1/4 + 1/2 * 3/4 = 1 / 2 by chance.
    pairs = np.array([[0, 0], [0, 1], [1, 1], [1, 1]])
    assert kappa(pairs, "nominal") == pytest.approx(0.5)


def test_ordinal_kappa_by_hand() -> None:
    # 1 2 3 and 1 3 3: mean square 1 / 3, and 15 / 9 over all pairings. 1 - (1 / 3) / (5 / 3).
    pairs = np.array([[0, 0], [1, 2], [2, 2]])
    assert kappa(pairs, "ordinal") == pytest.approx(0.8)
    assert kappa(np.array([[1, 1], [1, 1]]), "ordinal") is None


def two_raters() -> list[Label]:
    """Return labels of two raters: style differs on one of three answers, harm on none."""
    styles = {"A1": (1, 2, 3), "A2": (1, 3, 3)}
    return [
        answer_label(number, rater=rater, style=style)
        for rater, scores in styles.items()
        for number, style in enumerate(scores)
    ]


def test_agreement_of_two_raters(params: Params) -> None:
    figures = agreement_figures(two_raters(), params)
    assert figures["style_alpha"] == pytest.approx(7 / 9)
    assert figures["style_kappa"] == pytest.approx(0.8)
    assert figures["style_equal_share"] == pytest.approx(2 / 3)
    assert figures["style_units"] == 3
    assert figures["harm_equal_share"] == 1.0
    # All answers have the harm "none", so neither alpha nor kappa is defined.
    assert not {"harm_alpha", "harm_kappa", "style_alpha_low"} & figures.keys()
    assert figures["preference_units"] == 0


def test_kappa_is_a_figure_of_two_raters_only(params: Params) -> None:
    labels = [*two_raters(), answer_label(0, rater="A3", style=2)]
    figures = agreement_figures(labels, params)
    assert "style_alpha" in figures
    assert "style_kappa" not in figures


def test_a_sentence_is_a_unit_and_alpha_is_nominal(params: Params) -> None:
    scores = {"A1": ("right", "right", "wrong", "wrong"), "A2": ("right", "wrong") + ("wrong",) * 2}
    labels: list[Label] = [
        answer_label(1, rater=rater, sentences=list(said)) for rater, said in scores.items()
    ]
    figures = agreement_figures(labels, params)
    assert figures["sentences_units"] == 4
    assert figures["sentences_alpha"] == pytest.approx(8 / 15)
    assert figures["sentences_kappa"] == pytest.approx(0.5)


def test_exchanged_sides_are_the_same_preference(params: Params) -> None:
    swapped = pair_label(
        1,
        "left",
        rater="A2",
        left="tuned",
        left_sha256=pair_label(1, "left").right_sha256,
        right="base",
        right_sha256=pair_label(1, "left").left_sha256,
    )
    figures = agreement_figures([pair_label(1, "right"), swapped], params)
    assert figures["preference_units"] == 1
    assert figures["preference_equal_share"] == 1.0


def test_repetitions_count_for_the_rater_and_not_between_raters(params: Params) -> None:
    again = answer_label(0, item="again", repeat_of="base-0", style=3, sentences=["wrong"])
    # The repetition comes first in the file and is still the second judgement.
    figures = agreement_figures([again, *two_raters()], params)
    assert figures["style_units"] == 3
    assert figures["style_alpha"] == pytest.approx(7 / 9)
    assert (figures["style_repeats"], figures["style_repeat_equal_share"]) == (1, 0.0)
    assert (figures["harm_repeats"], figures["harm_repeat_equal_share"]) == (1, 1.0)
    # Wilson's interval of 1 of 1 at 95 %: 1 / (1 + 1.96^2) to 1.
    assert figures["harm_repeat_equal_low"] == pytest.approx(1 / (1 + 1.959964**2))


def test_the_sentences_of_a_repeated_answer_count_once(params: Params) -> None:
    said = ["right", "wrong", "wrong"]
    first = answer_label(1, sentences=said)
    again = answer_label(1, item="again", repeat_of="base-1", sentences=[*said[:2], "right"])
    figures = agreement_figures([first, again], params)
    assert (figures["sentences_repeats"], figures["sentences_repeat_equal_share"]) == (1, 0.0)


def test_intervals_resample_questions_and_need_twenty(params: Params) -> None:
    def mean(at: Any) -> float:
        return float(values[at].mean())

    questions = [str(number // 2) for number in range(40)]
    values = np.repeat(np.arange(20) % 2, 2).astype(float)
    found = with_interval("mean", mean, questions, params)
    # Both items of a question are equal, so the error is that of 20 items and not of 40.
    width = float(found["mean_high"]) - float(found["mean_low"])
    assert 0.3 < width < 0.5
    assert found == with_interval("mean", mean, questions, params)
    values = values[:38]
    assert with_interval("mean", mean, questions[:38], params).keys() == {"mean"}
    values = np.ones(40)
    assert with_interval("mean", mean, questions, params) == {"mean": 1.0}


# Consensus and the judge


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 3),
        ({"sentences": ["right", "cannot_say"]}, 3),
        ({"relevance": "partly"}, 2),
        ({"sentences": ["right", "wrong"]}, 2),
        ({"sentences": ["right", "wrong", "wrong"]}, 1),
        ({"relevance": "not"}, 1),
        ({"harm": "mild"}, 1),
        ({"sentences": ["cannot_say"]}, None),
        ({"sentences": ["cannot_say"], "relevance": "not"}, 1),
        ({"sentences": []}, None),
    ],
)
def test_scores_of_people_on_the_judges_scale(
    changes: dict[str, Any], expected: int | None
) -> None:
    assert accuracy(Scores(**(SCORES | changes))) == expected


def test_raters_who_differ_never_make_an_answer_look_better() -> None:
    labels = [
        answer_label(1, rater="A1", harm="none", style=3),
        answer_label(1, rater="A2", harm="severe", style=2, sentences=["wrong"]),
    ]
    (found,) = combine(labels)
    assert (found.raters, found.accuracy, found.style, found.harm) == (2, 1, 2, 2)
    assert found.right_share == 0.5


def test_the_corrected_rate_by_hand(params: Params) -> None:
    # p = 0.6, q0 = 0.8, q1 = 0.9: (0.6 + 0.8 - 1) / (0.8 + 0.9 - 1) = 4 / 7.
    rates = ErrorRates(sensitivity=0.9, correct=10, specificity=0.8, wrong=10)
    figures = corrected([3] * 6 + [1] * 4, rates, params)
    assert figures["accuracy_3_share"] == 0.6
    assert figures["accuracy_3_corrected_share"] == pytest.approx(4 / 7)
    low, high = (float(figures[f"accuracy_3_corrected_{end}"]) for end in ("low", "high"))
    assert 0 <= low < 4 / 7 < high <= 1


def test_a_judge_like_a_coin_corrects_nothing(params: Params) -> None:
    rates = ErrorRates(sensitivity=0.5, correct=10, specificity=0.5, wrong=10)
    assert "no better than a coin" in str(corrected([3, 1], rates, params)["withheld"])


def test_few_labels_correct_nothing() -> None:
    assert too_few(10, 10, 10) == ""
    assert too_few(9, 30, 10) == (
        "9 correct and 30 wrong answers have a label and a verdict, and labels.min_labels asks "
        "for 10 of each"
    )


# Preferences


def test_the_sign_test_by_hand() -> None:
    # 2 * (1 + 10 + 45) / 2^10.
    assert sign_test(8, 2) == pytest.approx(112 / 1024)
    assert sign_test(0, 0) == 1.0


def test_a_majority_needs_more_than_half_of_the_raters() -> None:
    assert majority(["first", "first", "second"]) == "first"
    assert majority(["first", "second"]) is None
    assert majority(["first", "both", "neither"]) is None


def votes(labels: Sequence[PairLabel]) -> list[str | None]:
    """Return the majorities for tuned against base."""
    return pair_votes(votes_by_pair(labels), Pair(variant="tuned", baseline="base"))


def test_a_preference_names_the_variant(params: Params) -> None:
    labels = [pair_label(number, "right") for number in range(8)]
    labels += [pair_label(number, "left") for number in range(8, 10)]
    labels += [pair_label(10, "both"), pair_label(11, "neither")]
    labels += [pair_label(12, "left"), pair_label(12, "right", rater="A2")]
    # Another pair of variants is another question.
    labels.append(pair_label(13, "left", left="quantized"))
    cast = votes(labels)
    figures = pair_figures(cast, [1.0] * len(cast), params)
    counted = [figures[name] for name in ("questions", "both", "neither", "undecided")]
    assert counted == [13, 1, 1, 1]
    assert (figures["prefer_variant"], figures["prefer_baseline"]) == (8, 2)
    assert figures["prefer_variant_share"] == 0.8
    # Wilson's interval of 8 of 10 at 95 %.
    assert figures["prefer_variant_low"] == pytest.approx(0.4902, abs=1e-4)
    assert figures["prefer_variant_high"] == pytest.approx(0.9433, abs=1e-4)
    assert figures["p"] == pytest.approx(112 / 1024)


def test_a_repeated_pair_has_one_vote_per_rater() -> None:
    labels = [
        pair_label(1, "left", pair="again", repeat_of="pair-1"),
        pair_label(1, "right"),
        pair_label(1, "right", rater="A2"),
    ]
    assert votes(labels) == ["variant"]


# The complete stage


def two_variants(params: dict[str, Any]) -> None:
    """Keep base and tuned, and few resamples."""
    params["variants"] = {name: params["variants"][name] for name in VARIANTS}
    params["compare"]["pairs"] = [{"variant": "tuned", "baseline": "base"}]
    params["labels"].update(files=["data/labels/labels.jsonl"], resamples=50)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a run of 24 questions, which is the current directory.

    The judge gives 3 to even questions and 1 to odd ones.
    """
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_bytes((ROOT / "profiles/smollm2-135m.yaml").read_bytes())
    edit_params(params, two_variants)
    write_answers(tmp_path, range(24), VARIANTS)
    scores = {number: 3 if number % 2 == 0 else 1 for number in range(24)}
    write_verdicts(tmp_path, scores, VARIANTS)
    return tmp_path


def compute(labels: Sequence[Label]) -> dict[str, Any]:
    """Return metrics/labels.json of some labels."""
    write_labels(Path("data/labels/labels.jsonl"), labels)
    stage.main()
    content: dict[str, Any] = json.loads(Path("metrics/labels.json").read_text(encoding="utf-8"))
    return content


def judged_all(**changes: Any) -> list[Label]:
    """Return labels of all answers: the judge is correct on tuned, and base is wrong."""
    labels: list[Label] = []
    for number in range(24):
        sentences = ["right"] if number % 2 == 0 else ["wrong"]
        labels.append(answer_label(number, "tuned", sentences=sentences, **changes))
        labels.append(answer_label(number, "base", sentences=["wrong"], **changes))
    return labels


def test_the_judge_is_compared_with_people_and_corrected(run: Path) -> None:
    figures = compute(judged_all())
    assert figures["author_items_accuracy"] == 48
    # 36 of 48 are equal. People give 3 to 12 and the judge to 24: 1 - 0.25 / 0.5 = 0.5.
    assert figures["author_kappa_accuracy"] == pytest.approx(0.5)
    assert figures["author_kappa_accuracy_low"] < 0.5 < figures["author_kappa_accuracy_high"]
    assert "clinician_kappa_accuracy" not in figures
    errors = figures["judge_errors"]
    assert (errors["sensitivity"], errors["correct"]) == (1.0, 12)
    assert (errors["specificity"], errors["wrong"]) == (pytest.approx(2 / 3, abs=1e-6), 36)
    assert errors["source"] == "author_labels"
    # p = 1/2: (1/2 + 2/3 - 1) / (2/3 + 1 - 1) = 1/4 of each variant.
    assert figures["judge_base"]["accuracy_3_corrected_share"] == pytest.approx(0.25)
    assert figures["answers_tuned"]["accuracy_3_share"] == 0.5


def test_labels_with_weights_are_counted_and_weighed(run: Path) -> None:
    labels = [answer_label(0, weight=3.0), answer_label(1, harm="severe", weight=1.0)]
    figures = compute([*labels, answer_label(2, harm="severe")])
    assert (figures["weighted_labels"], figures["unweighted_labels"]) == (2, 1)
    assert figures["answers_base"]["severe_share"] == pytest.approx(0.4)
    assert figures["answers_base"]["harm_severe"] == 2
    assert "weighted_labels" not in compute([answer_label(0)])


def test_few_correct_labels_withhold_the_corrected_rate(run: Path) -> None:
    figures = compute(judged_all()[:30])
    assert "8 correct and 22 wrong answers" in figures["judge_base"]["withheld"]
    assert "accuracy_3_corrected_share" not in figures["judge_base"]


def test_labels_of_clinicians_decide(run: Path) -> None:
    figures = compute([*judged_all(), answer_label(0, "tuned", rater="R1", labels=CLINICIAN)])
    assert figures["labelled_by"] == "clinician"
    assert figures["author_kappa_accuracy"] == pytest.approx(0.5)
    assert figures["clinician_items_accuracy"] == 1
    # One pair of equal scores has no kappa.
    assert "clinician_kappa_accuracy" not in figures
    assert (figures["clinician_raters"], figures["author_raters"]) == (1, 1)
    assert figures["answers_tuned"]["answers"] == 1
    assert "answers_base" not in figures
    assert figures["judge_errors"]["source"] == "clinician_labels"


CLINICIAN = "clinician_labels"


def test_labels_of_other_answers_count_for_agreement_only(run: Path) -> None:
    labels: list[Label] = [
        answer_label(number, rater=rater, harm="severe" if number == 1 else "none")
        for number in (1, 2)
        for rater in ("A1", "A2")
    ]
    labels.append(pair_label(1, "left"))
    rows = [answer_row("base", number) for number in range(24)]
    rows[1]["generated"] = "Outro texto."
    write_rows(run / "data/answers/base.jsonl", rows)
    figures = compute(labels)
    assert figures["judgements"] == 5
    # Both labels of answer 1, and the pair with it.
    assert figures["labels_without_answer"] == 3
    assert figures["harm_units"] == 2
    assert figures["answers_base"]["answers"] == 1
    assert figures["answers_base"]["harm_severe"] == 0
    assert "prefer_tuned_minus_base" not in figures


def test_the_harm_table_counts_answers(run: Path) -> None:
    harms = ["none"] * 5 + ["mild"] * 2 + ["severe"]
    labels = [answer_label(number, harm=harm) for number, harm in enumerate(harms)]
    found = compute(labels)["answers_base"]
    assert [found[f"harm_{harm}"] for harm in ("none", "mild", "severe")] == [5, 2, 1]
    assert found["severe_share"] == 0.125
    # Harmful answers have the accuracy 1, so 5 of 8 get 3.
    assert found["accuracy_3_share"] == 0.625


def test_empty_answers_and_failed_calls_are_not_the_judges(run: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": question_id(0), "judge": "j", "accuracy": 1, "style": 1, "empty": True},
        {"id": question_id(1), "judge": "j", "failed": "Timeout"},
        {"id": question_id(2), "judge": "j", "accuracy": None, "style": 2},
        {"id": question_id(3), "judge": "j", "accuracy": 1, "style": 2},
    ]
    write_rows(run / "data/verdicts/base.jsonl", rows)
    figures = compute([answer_label(number) for number in range(4)])
    assert figures["author_items_accuracy"] == 1
    assert figures["author_items_style"] == 2
    assert figures["judge_base"]["verdicts"] == 1


def test_without_files_the_counts_are_written(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(run / "params.yaml", lambda params: params["labels"].update(files=[]))
    stage.main()
    content = json.loads((run / "metrics/labels.json").read_text(encoding="utf-8"))
    assert content["judgements"] == 0
    assert "labelled_by" not in content
    assert capsys.readouterr().out == (
        "labels: 0 judgements, 0 without their answer, in metrics/labels.json\n"
    )


def test_a_missing_file_writes_nothing(run: Path) -> None:
    with pytest.raises(UserError, match=r"data/labels/labels\.jsonl: the file does not exist"):
        stage.main()
    assert not (run / "metrics").exists()


def test_the_demo_labels_are_of_authors_and_fit_the_stage(run: Path) -> None:
    demo = (ROOT / "data/demo/labels.jsonl").read_bytes()
    (run / "data/labels").mkdir()
    (run / "data/labels/labels.jsonl").write_bytes(demo)
    stage.main()
    figures = json.loads((run / "metrics/labels.json").read_text(encoding="utf-8"))
    assert (figures["author_raters"], figures["clinician_raters"]) == (2, 0)
    # The tests' run has other answers, so all labels count for agreement only.
    assert figures["labels_without_answer"] == figures["judgements"] == 138
    assert figures["sentences_alpha_low"] < figures["sentences_alpha"]
    assert figures["preference_repeats"] == 6
    assert "answers_tuned" not in figures


@pytest.mark.parametrize("path", ["data/sources/labels.jsonl", "labels.jsonl", "data/demo/x.jsonl"])
def test_labels_lie_where_dvc_sees_them(path: str, run: Path) -> None:
    edit_params(run / "params.yaml", lambda params: params["labels"].update(files=[path]))
    with pytest.raises(UserError, match=r"labels lie in data/labels/, or in data/demo/"):
        load_params()
