"""Check the smallest detectable effects against binomial sums worked out by hand."""

import math

import pytest

from stages.compare.power import changes_needed, exact_detectable, normal_detectable


@pytest.mark.parametrize(
    ("alpha", "changes"),
    # 2 x 0.5^5 = 0.0625 and 2 x 0.5^6 = 0.03125; 0.05 / 5 = 0.01 lies below 2 x 0.5^7 = 0.0156.
    [(0.05, 6), (0.05 / 2, 7), (0.05 / 5, 8), (0.0626, 5), (0.0625, 6)],
)
def test_fewest_changes_in_one_direction_with_a_small_p(alpha: float, changes: int) -> None:
    assert changes_needed(alpha) == changes


def power(items: int, share: float, changes: int) -> float:
    """Return the probability of at least so many changed items."""
    terms = []
    for number in range(changes, items + 1):
        ways = math.comb(items, number)
        terms.append(ways * share**number * (1 - share) ** (items - number))
    return sum(terms)


def test_six_of_six_items_must_change() -> None:
    # All six change with the probability d^6 = 0.8.
    assert exact_detectable(6, 0.05) == pytest.approx(0.8 ** (1 / 6))


def test_thirty_items_find_a_share_of_a_quarter_and_not_one_of_nine_percent() -> None:
    found = exact_detectable(30, 0.05)
    assert found is not None
    assert power(30, found, 6) == pytest.approx(0.8)
    # 7 of 30 is not enough, and 8 of 30 is.
    assert 7 / 30 < found < 8 / 30
    # 2.8 standard errors of one changed item of 30 are 0.0934, which has a power of 5.6 %.
    assert power(30, 0.0934, 6) == pytest.approx(0.056, abs=0.002)


def test_too_few_items_detect_nothing() -> None:
    assert exact_detectable(5, 0.05) is None
    assert exact_detectable(7, 0.05 / 5) is None


def test_more_tests_need_a_larger_share() -> None:
    one, five = exact_detectable(30, 0.05), exact_detectable(30, 0.05 / 5)
    assert one is not None and five is not None
    assert one < five
    assert power(30, five, 8) == pytest.approx(0.8)


def test_difference_of_means_needs_2_8_standard_errors() -> None:
    assert normal_detectable(0.0645497, 0.05) == pytest.approx(0.180842, abs=1e-6)
    # z(0.995) = 2.57583 and z(0.8) = 0.84162.
    assert normal_detectable(1.0, 0.01) == pytest.approx(3.41745, abs=1e-5)
    assert normal_detectable(0.0, 0.05) is None
