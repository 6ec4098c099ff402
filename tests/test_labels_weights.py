"""Check the weights of a sample, and the figures that use them."""

from random import Random
from statistics import fmean

import numpy as np
import pytest

from bench.clones import ROOT
from bula.labels.kit_sample import Candidate, draw_sample
from bula.labels.kit_weights import Weights, inclusion_probabilities, weigh
from bula.params import Params, load_params
from stages.labels.answers import combine
from stages.labels.intervals import effective_items, weighted_share, wilson_bounds, with_interval
from stages.labels.judge import Scored, error_rates, kappa
from stages.labels.preferences import preference_figures
from tests.labels_data import answer_label, pair_label
from tests.review_kit_run import candidate, example

CORRECT, WRONG = 3, 1


@pytest.fixture(scope="module")
def params() -> Params:
    """Return the default parameters with few resamples."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    settings = params.labels.model_copy(update={"resamples": 50})
    return params.model_copy(update={"labels": settings})


def population(doubtful: int, clear: int) -> list[Candidate]:
    """Return candidates of one set, whose numbers start with the doubtful ones."""
    levels = ["doubtful"] * doubtful + ["clear"] * clear
    rows = []
    for number, level in enumerate(levels):
        row = example("A", number).model_copy(update={"specialty": None})
        rows.append(candidate(row, level="doubtful" if level == "doubtful" else "clear"))
    return rows


# The sample


def test_the_weights_of_levels_by_hand() -> None:
    # Of 10 pairs, 5 are doubtful and 3 clear, and the missing 2 loops are doubtful ones too.
    candidates = population(doubtful=14, clear=30)
    sample = draw_sample(candidates, 10, Random(1))
    weights = weigh(candidates, sample, Random(2))
    for drawn, weight in zip(sample, weights, strict=True):
        assert weight == Weights(*([2.0] * 3 if drawn.level == "doubtful" else [10.0] * 3))


def test_a_sample_of_all_candidates_has_weights_of_one() -> None:
    candidates = population(doubtful=2, clear=3)
    assert set(weigh(candidates, candidates, Random(1))) == {Weights(1.0, 1.0, 1.0)}


def test_an_answer_of_two_pairs_has_half_of_each_weight() -> None:
    candidates = population(doubtful=0, clear=4)
    twice = [row._replace(variants=(row.variants[0], "third")) for row in candidates]
    weights = weigh([*candidates, *twice], [*candidates, *twice], Random(1))
    assert set(weights) == {Weights(1.0, 0.5, 1.0)}


def test_rare_sets_have_a_larger_probability() -> None:
    # One pair of each set: 1 of 10 and 1 of 2.
    candidates = [candidate(example("A", 3 * number)) for number in range(10)]
    candidates += [candidate(example("B", 3 * number)) for number in range(2)]
    sample = draw_sample(candidates, 2, Random(1))
    found = inclusion_probabilities(candidates, sample, Random(2))
    assert {cell.split: probability for cell, probability in found.items()} == {"A": 0.1, "B": 0.5}


# The judge


def scored(people: list[int], judged: list[int], weights: list[float]) -> Scored:
    """Return scores of answers to different questions."""
    names = [str(number) for number in range(len(people))]
    return Scored(names, people, judged, weights, [None] * len(people))


def test_weighted_error_rates_by_hand() -> None:
    # Of correct answers, 3 of 3 + 1 are called correct, and of wrong ones 1 of 1 + 4 wrong.
    # Effective items: 4^2 / (9 + 1) = 1.6, and 5^2 / (1 + 16) = 1.47.
    rates = error_rates(scored([3, 3, 1, 1], [3, 1, 1, 3], [3.0, 1.0, 1.0, 4.0]))
    assert rates is not None
    assert [rates.sensitivity, rates.specificity] == pytest.approx([0.75, 0.2])
    assert (rates.correct, rates.wrong) == (1, 1)
    assert error_rates(scored([3, 3, 1], [3, 1, 1], [0.7] * 3)) == (0.5, 2, 1.0, 1)
    assert error_rates(scored([3, 3], [3, 1], [1.0, 1.0])) is None


def test_a_weighted_kappa_is_that_of_repeated_answers() -> None:
    pairs = np.array([[1, 2, 3, 3], [1, 3, 3, 1]])
    repeated = np.repeat(pairs, [2, 1, 3, 1], axis=1)
    expected = kappa(repeated, np.ones(7))
    assert kappa(pairs, np.array([2.0, 1.0, 3.0, 1.0])) == pytest.approx(expected)


def test_weights_remove_the_bias_of_a_sample_by_doubt() -> None:
    # The judge gives the middle score to 100 doubtful answers, of which 50 are correct. It scores
    # 300 clear answers like people, who call 150 correct. The sensitivity is 150 / 200.
    candidates = population(doubtful=100, clear=300)
    truth = {row.example.id: number % 2 for number, row in enumerate(candidates)}
    first = draw_sample(candidates, 40, Random(0))
    inclusion = inclusion_probabilities(candidates, first, Random(0))
    weighted, plain = [], []
    for seed in range(200):
        sample = draw_sample(candidates, 40, Random(seed))
        people = [CORRECT if truth[row.example.id] else WRONG for row in sample]
        judged = [
            score if row.level == "clear" else 2 for row, score in zip(sample, people, strict=True)
        ]
        weights = [1 / inclusion[row.cell] for row in sample]
        found = error_rates(scored(people, judged, weights))
        unweighted = error_rates(scored(people, judged, [1.0] * 40))
        assert found is not None
        assert unweighted is not None
        weighted.append(found.sensitivity)
        plain.append(unweighted.sensitivity)
    assert fmean(weighted) == pytest.approx(0.75, abs=0.01)
    # 12 of 40 sampled answers are clear.
    assert fmean(plain) == pytest.approx(0.3, abs=0.02)


# Shares


def test_a_weighted_share_by_hand(params: Params) -> None:
    figures = weighted_share("x", [True, False, False], [3.0, 1.0, 1.0], params)
    assert figures["x_share"] == pytest.approx(0.6)
    # 5^2 / (9 + 1 + 1) effective items.
    assert effective_items([3.0, 1.0, 1.0]) == pytest.approx(25 / 11)
    assert figures["x_low"] == wilson_bounds(0.6, effective_items([3.0, 1.0, 1.0]), 0.95)[0]
    assert weighted_share("x", [], [], params) == {}


def test_equal_weights_change_no_share(params: Params) -> None:
    plain = weighted_share("x", [True, False, False], [1.0] * 3, params)
    assert weighted_share("x", [True, False, False], [7.0] * 3, params) == plain
    assert (plain["x_low"], plain["x_high"]) == pytest.approx(wilson_bounds(1 / 3, 3, 0.95))


def test_resamples_keep_the_size_of_each_level(params: Params) -> None:
    values = np.array([0.0] * 10 + [1.0] * 10)
    questions = [str(number) for number in range(20)]
    levels = ["clear"] * 10 + ["doubtful"] * 10

    def mean(at: np.ndarray) -> float:
        return float(values[at].mean())

    # Each resample has 10 questions of each level, so the mean is always the same.
    assert with_interval("mean", mean, questions, params, levels) == {"mean": 0.5}
    assert "mean_low" in with_interval("mean", mean, questions, params)


def test_the_weights_of_an_answer_add_up_over_pairs_and_not_over_repetitions() -> None:
    labels = [
        answer_label(1, weight=2.0),
        answer_label(1, item="again", repeat_of="base-1", weight=2.0),
        answer_label(1, item="other", weight=3.0),
        answer_label(1, rater="A2", weight=2.0),
        answer_label(2),
    ]
    assert [found.weight for found in combine(labels)] == [5.0, 1.0]


# Preferences


def test_preferences_are_weighted_and_their_test_is_not(params: Params) -> None:
    labels = [pair_label(number, "right", weight=1.0) for number in range(8)]
    labels += [pair_label(number, "left", weight=4.0) for number in range(8, 10)]
    (figures,) = preference_figures(labels, params).values()
    assert figures["prefer_variant_share"] == 0.5
    assert figures["p"] == pytest.approx(112 / 1024)
    # One pair of variants is one test.
    assert "p_holm" not in figures


def test_several_pairs_of_variants_are_corrected_by_holm(params: Params) -> None:
    labels = [pair_label(number, "right") for number in range(10)]
    labels += [pair_label(number, "right", left="tuned", right="quantized") for number in range(6)]
    groups = preference_figures(labels, params)
    first, second = groups["prefer_tuned_minus_base"], groups["prefer_quantized_minus_tuned"]
    # 2 / 2^10 and 2 / 2^6, of which the smaller is doubled.
    assert [first["p"], first["p_holm"]] == pytest.approx([2 / 1024, 4 / 1024])
    assert [second["p"], second["p_holm"]] == pytest.approx([2 / 64, 2 / 64])
