"""Check the corrected rate of a judge against numbers worked by hand and a simulation."""

import numpy as np
import pytest

from bula.calibration import ErrorRates, correct_rate, error_rates, withheld_note


def test_error_rates_by_hand() -> None:
    labels = [True, True, True, True, False, False]
    judged = [True, True, True, False, False, True]
    assert error_rates(labels, judged) == ErrorRates(0.75, 4, 0.5, 2)
    assert error_rates([True], [True]) is None
    assert error_rates([False], [True]) is None


def test_corrected_rate_by_hand() -> None:
    rates = ErrorRates(sensitivity=0.9, correct=20, specificity=0.8, wrong=20)
    found = correct_rate(60, 100, rates, 0.95)
    assert found is not None
    # (0.6 + 0.8 - 1) / (0.8 + 0.9 - 1)
    assert found.rate == pytest.approx(0.4 / 0.7)
    assert found.low < found.rate < found.high
    # The rate of 60 % alone has an interval of 0.19.
    assert found.high - found.low > 0.3


def test_a_perfect_judge_with_many_labels_keeps_its_rate() -> None:
    rates = ErrorRates(1.0, 10**6, 1.0, 10**6)
    found = correct_rate(60, 100, rates, 0.95)
    assert found is not None
    assert found.rate == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.502, 0.69), abs=2e-3)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [(10, 0.0), (95, 1.0)],
)
def test_rates_outside_of_0_and_1_are_clipped(judged: int, expected: float) -> None:
    # (0.1 + 0.8 - 1) / 0.7 is below 0, and (0.95 + 0.8 - 1) / 0.7 above 1.
    found = correct_rate(judged, 100, ErrorRates(0.9, 20, 0.8, 20), 0.95)
    assert found is not None
    assert found.rate == expected
    assert 0 <= found.low < found.high <= 1


@pytest.mark.parametrize(
    ("judged", "items", "rates"),
    [
        # The interval is -1.098 ± 1.035: a judge with 40 % false alarms raised 2 of 100.
        (2, 100, ErrorRates(0.9, 15, 0.6, 15)),
        # The interval is 1.679 ± 0.568: a judge that finds 70 % called 98 % correct.
        (490, 500, ErrorRates(0.7, 20, 0.9, 20)),
    ],
)
def test_a_share_that_contradicts_the_error_rates_is_not_corrected(
    judged: int, items: int, rates: ErrorRates
) -> None:
    assert correct_rate(judged, items, rates, 0.95) is None


def test_a_judge_like_a_coin_corrects_nothing() -> None:
    assert correct_rate(60, 100, ErrorRates(0.5, 20, 0.5, 20), 0.95) is None


def test_few_labels_tell_nothing() -> None:
    # One label of each kind: with pseudo-counts the judge is at 2/3, and the interval is wide.
    found = correct_rate(6, 10, ErrorRates(1.0, 1, 1.0, 1), 0.95)
    assert found == pytest.approx((0.6, 0.0, 1.0))


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_the_interval_covers_the_truth_as_often_as_it_says(truth: float) -> None:
    generator = np.random.default_rng(7)
    specificity, sensitivity, labels, items = 0.75, 0.85, 40, 200
    share = truth * sensitivity + (1 - truth) * (1 - specificity)
    covered = 0
    for _ in range(1000):
        rates = ErrorRates(
            generator.binomial(labels, sensitivity) / labels,
            labels,
            generator.binomial(labels, specificity) / labels,
            labels,
        )
        found = correct_rate(int(generator.binomial(items, share)), items, rates, 0.95)
        covered += found is not None and found.low <= truth <= found.high
    assert 0.93 <= covered / 1000 <= 0.99


def test_note_in_place_of_scores() -> None:
    assert withheld_note(0.134, -0.19, 0.47) == "withheld: kappa 0.13 [-0.19, 0.47]"
