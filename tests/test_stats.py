import math
import random

import pytest

from bula import stats
from bula.stats import (
    bootstrap_kappa,
    bootstrap_mean,
    holm,
    mcnemar,
    paired_permutation,
    ratio_standard_error,
    standard_error,
    weighted_kappa,
)

# Bootstrap


def test_the_bootstrap_of_two_values_has_the_quantiles_of_a_coin_thrown_twice() -> None:
    # The mean of two draws from {0, 1} is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    # The middle 40 % (quantiles 0.3 and 0.7) are all 1/2; the middle 60 % (0.2 and 0.8) reach 0 and 1.
    assert bootstrap_mean([0, 1], 2000, 0.4, seed=1) == (0.5, 0.5)
    assert bootstrap_mean([0, 1], 2000, 0.6, seed=1) == (0.0, 1.0)


def test_the_bootstrap_interval_of_many_values_is_the_normal_one() -> None:
    # 0, 1, ..., 99: mean 49.5, standard deviation sqrt((100^2 - 1) / 12) = 28.866, so 95 % is 49.5 -+ 1.96 x 2.8866 = 5.658.
    low, high = bootstrap_mean([float(value) for value in range(100)], 20_000, 0.95, seed=3)
    assert low == pytest.approx(49.5 - 5.658, abs=0.2)
    assert high == pytest.approx(49.5 + 5.658, abs=0.2)
    # 68.27 % is one standard error to either side.
    low, high = bootstrap_mean([float(value) for value in range(100)], 20_000, 0.6827, seed=3)
    assert (high - low) / 2 == pytest.approx(2.8866, abs=0.1)


def test_the_bootstrap_repeats_itself_by_its_seed_alone() -> None:
    values = [math.sin(number) for number in range(30)]
    first = bootstrap_mean(values, 200, 0.95, seed=1)
    random.seed(5)
    assert bootstrap_mean(values, 200, 0.95, seed=1) == first
    assert bootstrap_mean(values, 200, 0.95, seed=2) != first


def test_equal_values_or_a_single_one_give_an_interval_of_no_width() -> None:
    assert bootstrap_mean([0.25] * 7, 100, 0.95, seed=1) == (0.25, 0.25)
    assert bootstrap_mean([3.0], 100, 0.95, seed=1) == (3.0, 3.0)


def test_there_is_no_interval_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([], 100, 0.95, seed=1)


# Standard errors


def test_standard_error_divides_by_n_minus_1() -> None:
    # Mean 2.5, squares 2.25 + 0.25 + 0.25 + 2.25 = 5, variance 5/3, over 4 values: sqrt(5/12).
    assert standard_error([1, 2, 3, 4]) == pytest.approx(math.sqrt(5 / 12))
    assert standard_error([7.0]) == 0.0


def test_ratio_standard_error_by_hand() -> None:
    # 9 nats over 6 tokens: 1.5 a token. Residuals 1 - 1.5 = -0.5, 2 - 3 = -1, 6 - 4.5 = 1.5; their squares sum to 3.5.
    # sqrt(3/2 x 3.5) / 6 = sqrt(5.25) / 6 = 2.291288 / 6 = 0.381881.
    assert ratio_standard_error([1, 2, 6], [1, 2, 3]) == pytest.approx(0.381881, abs=1e-6)


def test_ratio_standard_error_is_zero_where_every_example_has_the_same_ratio() -> None:
    assert ratio_standard_error([2, 6, 10], [1, 3, 5]) == pytest.approx(0.0, abs=1e-12)
    assert ratio_standard_error([2.5], [4]) == 0.0


def test_ratio_standard_error_of_sizes_of_one_is_that_of_the_mean() -> None:
    assert ratio_standard_error([1, 2, 3, 4], [1, 1, 1, 1]) == pytest.approx(math.sqrt(5 / 12))


# Paired tests


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        # 8 ways to flip signs; only +++ reaches the mean observed: 2 x 1/8.
        ([1, 2, 3], 0.25),
        ([-1, -2, -3], 0.25),
        # 2 x 1/32.
        ([1, 1, 1, 1, 1], 0.0625),
        # Sums 6, 4, 2, 0, 0, -2, -4, -6; the observed 4 is reached by two: 2 x 2/8.
        ([3, 2, -1], 0.5),
        # Zeros change nothing: as [1, 2, 3].
        ([0, 1, 0, 2, 3], 0.25),
        # A sum of 0 is the least surprising of all.
        ([1, 2, -3], 1.0),
        ([0, 0, 0], 1.0),
        ([0], 1.0),
    ],
)
def test_sign_flips_of_a_few_pairs_are_counted_exactly(differences: list[float], p: float) -> None:
    assert paired_permutation(differences, 9999, seed=1).p == pytest.approx(p)


@pytest.mark.parametrize(
    ("differences", "floor", "at_floor"),
    [
        ([1, 2, 3], 2 / 8, True),
        ([3, 2, -1], 2 / 8, False),
        # A pair without a difference cannot make a result more surprising.
        ([0, 1, 0, 2, 3], 2 / 8, True),
        ([5], 1.0, True),
        ([0, 0], 1.0, True),
        ([], 1.0, True),
    ],
)
def test_the_smallest_p_of_n_sign_flips_is_two_in_two_to_the_n(
    differences: list[float], floor: float, at_floor: bool
) -> None:
    test = paired_permutation(differences, 9999, seed=1)
    assert (test.floor, test.at_floor) == (floor, at_floor)


def test_seventeen_pairs_are_counted_and_eighteen_are_drawn() -> None:
    # 2^17 = 131,072 flips are at most 200,000, 2^18 are not.
    assert paired_permutation([1.0] * 17, 200_000, seed=1) == (2 / 2**17, 2 / 2**17)
    test = paired_permutation([1.0] * 18, 200_000, seed=1)
    assert test.floor == 1 / 200_001
    # Two of 262,144 flips reach the sum: about 1.5 of 200,000.
    assert test.p <= 10 / 200_001


def test_sums_that_are_equal_but_for_rounding_count_as_ties() -> None:
    # The sum 4 of [1, 2, 3, -2] is also that of two other flips; 0.1 + 0.2 is not 0.3 in binary.
    tenths = paired_permutation([0.1, 0.2, 0.3, -0.2], 9999, seed=1)
    assert tenths == paired_permutation([1, 2, 3, -2], 9999, seed=1)
    # Sums of +-1 +-2 +-3 +-2: 8, 6, 4, 4, 2, 2, 2, 0 and their negatives.
    assert tenths.p == 8 / 16
    # Also where flips are drawn: in thirds, no sum is exact.
    thirds = paired_permutation([1 / 3] * 15 + [-1 / 3] * 9, 100_000, seed=4)
    assert thirds == paired_permutation([1.0] * 15 + [-1.0] * 9, 100_000, seed=4)
    # 15 or more heads of 24, either way: 2 x 0.153728 = 0.307456.
    assert thirds.p == pytest.approx(0.307456, abs=0.006)


def test_sign_flips_of_many_pairs_are_drawn_by_the_seed() -> None:
    # Of 2^40 flips two reach the mean observed; none of 9,999 drawn does: (0 + 1) / (9,999 + 1).
    test = paired_permutation([1.0] * 40, 9999, seed=1)
    assert test == (0.0001, 0.0001)
    assert test.at_floor
    # 22 gains and 18 losses of 1. Exactly: 2 P(at least 22 heads of 40) = 2 x 0.31791 = 0.6358.
    balanced = [1.0] * 22 + [-1.0] * 18
    test = paired_permutation(balanced, 200_000, seed=1)
    # Three standard errors of a share of 0.6358 among 200,000: 0.0032.
    assert test.p == pytest.approx(0.6358, abs=0.0032)
    assert not test.at_floor
    assert paired_permutation(balanced, 200_000, seed=1) == test
    assert paired_permutation(balanced, 200_000, seed=2) != test


def test_drawn_sign_flips_agree_with_the_binomial_in_any_number_of_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [1.0] * 62 + [-1.0] * 37 + [0.0]
    # Exactly, by the binomial: 2 P(at least 62 heads of 99).
    exact = 2 * sum(math.comb(99, heads) for heads in range(62, 100)) / 2**99
    for batch in (1_000_000, 777):
        monkeypatch.setattr(stats, "BATCH", batch)
        assert paired_permutation(values, 100_000, seed=3).p == pytest.approx(exact, abs=0.0013)


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Paired right/wrong of two variants, by how many items each case has."""
    cases = (
        [(True, True)] * both
        + [(True, False)] * lost
        + [(False, True)] * gained
        + [(False, False)] * neither
    )
    return [first for first, _ in cases], [second for _, second in cases]


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        # 2 x P(at most 1 head of 8) = 2 x (1 + 8) / 256.
        (1, 7, 18 / 256),
        (7, 1, 18 / 256),
        # 2 x 1/32.
        (0, 5, 2 / 32),
        # 2 x (1 + 10 + 45) / 1024.
        (2, 8, 112 / 1024),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
@pytest.mark.parametrize(("both", "neither"), [(0, 0), (9, 4)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(
    both: int, lost: int, gained: int, neither: int, p: float
) -> None:
    assert mcnemar(*outcomes(both, lost, gained, neither)).p == pytest.approx(p)


@pytest.mark.parametrize(
    ("lost", "gained", "floor", "at_floor"),
    [
        (1, 7, 2 / 2**8, False),
        (0, 5, 2 / 2**5, True),
        (8, 0, 2 / 2**8, True),
        (0, 1, 1.0, True),
        (0, 0, 1.0, True),
    ],
)
def test_the_smallest_p_of_mcnemar_depends_on_the_pairs_that_differ(
    lost: int, gained: int, floor: float, at_floor: bool
) -> None:
    test = mcnemar(*outcomes(10, lost, gained, 10))
    assert test.floor == pytest.approx(floor)
    assert test.at_floor is at_floor


def test_mcnemar_refuses_lists_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # Sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04, raised to the 0.06 before it.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 0.4 x 3 and 0.5 x 2 stop at 1, and so does what follows.
        ([0.4, 0.5, 0.9], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_in_the_order_given(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


# Agreement


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ([1, 2, 3, 1], [1, 2, 3, 1], 1.0),
        # Observed: one disagreement of 1, squared, in 4: 0.25. Expected by chance, over all 16 pairings:
        # 1 against 1, 2, 2, 3 gives 0 + 1 + 1 + 4 = 6, twice; 2 gives 1 + 0 + 0 + 1 = 2; 3 gives 4 + 1 + 1 + 0 = 6: 20 / 16 = 1.25.
        # 1 - 0.25 / 1.25. (Linear weights would give 0.714, none 0.636.)
        ([1, 1, 2, 3], [1, 2, 2, 3], 0.8),
        # Observed 4; expected (0 + 4 + 4 + 0) / 4 = 2: 1 - 4 / 2.
        ([1, 3], [3, 1], -1.0),
        # Observed (0 + 4 + 4 + 0) / 4 = 2, expected 2.
        ([1, 1, 3, 3], [1, 3, 1, 3], 0.0),
        # A judge who always says 2 agrees no better than chance.
        ([1, 2, 3], [2, 2, 2], 0.0),
        # No variation at all: undefined, written as 0.
        ([2, 2, 2], [2, 2, 2], 0.0),
    ],
)
def test_weighted_kappa_by_hand(first: list[int], second: list[int], kappa: float) -> None:
    assert weighted_kappa(first, second) == pytest.approx(kappa)
    assert weighted_kappa(second, first) == pytest.approx(kappa)


def test_bootstrap_kappa_resamples_pairs() -> None:
    scores = [1, 2, 3] * 8
    # Pairs that agree agree in every resample; lists resampled apart from each other would not.
    assert bootstrap_kappa(scores, scores, 50, 0.95, seed=1) == (1.0, 1.0)
    low, high = bootstrap_kappa([1, 1, 2, 3] * 5, [1, 2, 2, 3] * 5, 100, 0.9, seed=1)
    assert -1 <= low < 0.8 < high < 1
    assert bootstrap_kappa([1, 1, 2, 3] * 5, [1, 2, 2, 3] * 5, 100, 0.9, seed=1) == (low, high)
    assert bootstrap_kappa([1, 1, 2, 3] * 5, [1, 2, 2, 3] * 5, 100, 0.9, seed=2) != (low, high)
    narrow = bootstrap_kappa([1, 1, 2, 3] * 5, [1, 2, 2, 3] * 5, 100, 0.5, seed=1)
    assert low < narrow[0] < narrow[1] < high
