"""Check intervals, tests and agreement against values worked out by hand."""

import math
import random

import pytest

from bula import stats
from bula.stats import (
    PairedTest,
    bootstrap_groups,
    bootstrap_mean,
    clustered_standard_error,
    detectable_effect,
    group_totals,
    grouped_test,
    holm,
    mcnemar,
    paired_permutation,
    ratio_standard_error,
    standard_error,
    weighted_kappa,
)

FLIPS = 200_000


# Bootstrap


@pytest.mark.parametrize(
    ("confidence", "interval"),
    # The mean of two draws from {0, 1} is 0, 1/2 or 1 with probabilities 1/4, 1/2 and 1/4.
    [
        # The quantiles 0.3 and 0.7 are both 1/2.
        (0.4, (0.5, 0.5)),
        # The quantiles 0.2 and 0.8 are 0 and 1.
        (0.6, (0.0, 1.0)),
    ],
)
def test_bootstrap_of_two_values_has_binomial_quantiles(
    confidence: float, interval: tuple[float, float]
) -> None:
    assert bootstrap_mean([0, 1], 2000, confidence, seed=1) == interval


# The values 0, 1, ..., 99 have a mean of 49.5 and a standard deviation of
# sqrt((100^2 - 1) / 12) = 28.866. So the standard error of the mean is 2.8866.
HUNDRED = [float(value) for value in range(100)]


def test_bootstrap_interval_of_many_values_is_normal() -> None:
    low, high = bootstrap_mean(HUNDRED, 20_000, 0.95, seed=3)
    # A 95 % interval reaches 1.96 x 2.8866 = 5.658 to each side.
    assert low == pytest.approx(49.5 - 5.658, abs=0.2)
    assert high == pytest.approx(49.5 + 5.658, abs=0.2)


def test_bootstrap_interval_of_68_percent_is_one_standard_error() -> None:
    low, high = bootstrap_mean(HUNDRED, 20_000, 0.6827, seed=3)
    assert (high - low) / 2 == pytest.approx(2.8866, abs=0.1)


def test_bootstrap_depends_only_on_its_seed() -> None:
    values = [math.sin(number) for number in range(30)]
    first = bootstrap_mean(values, 200, 0.95, seed=1)
    random.seed(5)
    assert bootstrap_mean(values, 200, 0.95, seed=1) == first
    assert bootstrap_mean(values, 200, 0.95, seed=2) != first


def test_bootstrap_interval_of_equal_values_has_width_0() -> None:
    assert bootstrap_mean([0.25] * 7, 100, 0.95, seed=1) == (0.25, 0.25)
    assert bootstrap_mean([3.0], 100, 0.95, seed=1) == (3.0, 3.0)


def test_bootstrap_refuses_an_empty_list() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([], 100, 0.95, seed=1)


# Standard errors


def test_standard_error_divides_by_n_minus_1() -> None:
    # Mean 2.5, squares 2.25 + 0.25 + 0.25 + 2.25 = 5, variance 5/3, over 4 values: sqrt(5/12).
    assert standard_error([1, 2, 3, 4]) == pytest.approx(math.sqrt(5 / 12))
    assert standard_error([7.0]) == 0.0


def test_ratio_standard_error_by_hand() -> None:
    # 9 nats over 6 tokens are 1.5 per token. The residuals are 1 - 1.5 = -0.5, 2 - 3 = -1 and
    # 6 - 4.5 = 1.5, and their squares sum to 3.5. sqrt(3/2 x 3.5) / 6 = 2.291288 / 6 = 0.381881.
    assert ratio_standard_error([1, 2, 6], [1, 2, 3]) == pytest.approx(0.381881, abs=1e-6)


def test_ratio_standard_error_of_equal_ratios_is_0() -> None:
    assert ratio_standard_error([2, 6, 10], [1, 3, 5]) == pytest.approx(0.0, abs=1e-12)
    assert ratio_standard_error([2.5], [4]) == 0.0


def test_ratio_standard_error_with_sizes_of_1_is_that_of_the_mean() -> None:
    assert ratio_standard_error([1, 2, 3, 4], [1, 1, 1, 1]) == pytest.approx(math.sqrt(5 / 12))


# Sign flips


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        # There are 8 ways to flip signs, and only +++ reaches the observed mean: 2 x 1/8.
        ([1, 2, 3], 0.25),
        ([-1, -2, -3], 0.25),
        # 2 x 1/32.
        ([1, 1, 1, 1, 1], 0.0625),
        # Sums 6, 4, 2, 0, 0, -2, -4, -6: two of them reach the observed 4: 2 x 2/8.
        ([3, 2, -1], 0.5),
        # Zeros change nothing: the result is that of [1, 2, 3].
        ([0, 1, 0, 2, 3], 0.25),
        # Every sum reaches an observed sum of 0.
        ([1, 2, -3], 1.0),
        ([0, 0, 0], 1.0),
        ([0], 1.0),
    ],
)
def test_sign_flips_of_few_pairs_are_exact(differences: list[float], p: float) -> None:
    assert paired_permutation(differences, 9999, seed=1).p == pytest.approx(p)


@pytest.mark.parametrize(
    ("differences", "floor", "at_floor"),
    [
        ([1, 2, 3], 2 / 8, True),
        ([3, 2, -1], 2 / 8, False),
        # A pair without a difference does not lower the floor.
        ([0, 1, 0, 2, 3], 2 / 8, True),
        ([5], 1.0, True),
        ([0, 0], 1.0, True),
        ([], 1.0, True),
    ],
)
def test_floor_of_exact_sign_flips_is_2_in_2_to_the_n(
    differences: list[float], floor: float, at_floor: bool
) -> None:
    test = paired_permutation(differences, 9999, seed=1)
    assert (test.floor, test.at_floor) == (floor, at_floor)


def test_flips_of_20_pairs_are_counted() -> None:
    # 2^20 = 1,048,576 flips, whatever the number of drawn flips would be.
    assert paired_permutation([1.0] * 20, FLIPS, seed=1) == (2 / 2**20, 2 / 2**20)
    # 15 or more heads, or 15 or more tails, of 20: 2 x 21,700 / 2^20. A zero does not count.
    mixed = [1.0] * 15 + [-1.0] * 5 + [0.0]
    assert paired_permutation(mixed, FLIPS, seed=1).p == 2 * 21_700 / 2**20


def test_flips_of_21_pairs_are_drawn() -> None:
    test = paired_permutation([1.0] * 21, FLIPS, seed=1)
    assert test.floor == 1 / 200_001
    # Two of 2,097,152 flips reach the sum: about 0.2 of 200,000.
    assert test.p <= 5 / 200_001


def test_counted_sums_that_differ_by_rounding_are_equal() -> None:
    # Another flip of [1, 2, 3, -2] also has the sum 4, and 0.1 + 0.2 is not 0.3 in binary.
    tenths = paired_permutation([0.1, 0.2, 0.3, -0.2], 9999, seed=1)
    assert tenths == paired_permutation([1, 2, 3, -2], 9999, seed=1)
    # The sums of +-1 +-2 +-3 +-2 are 8, 6, 4, 4, 2, 2, 2, 0 and their negatives.
    assert tenths.p == 8 / 16


def test_drawn_sums_that_differ_by_rounding_are_equal() -> None:
    # No sum of thirds is exact in binary.
    thirds = paired_permutation([1 / 3] * 15 + [-1 / 3] * 9, 100_000, seed=4)
    assert thirds == paired_permutation([1.0] * 15 + [-1.0] * 9, 100_000, seed=4)
    # At least 15 heads or at least 15 tails of 24: 2 x 0.153728 = 0.307456.
    assert thirds.p == pytest.approx(0.307456, abs=0.006)


def test_drawn_sign_flips_never_return_0() -> None:
    # Two of 2^40 flips reach the mean, and none of the 9,999 drawn: (0 + 1) / (9,999 + 1).
    test = paired_permutation([1.0] * 40, 9999, seed=1)
    assert test == (0.0001, 0.0001)
    assert test.at_floor


# 22 gains and 18 losses of 1.
BALANCED = [1.0] * 22 + [-1.0] * 18


def test_drawn_sign_flips_approach_the_exact_p_value() -> None:
    test = paired_permutation(BALANCED, FLIPS, seed=1)
    # Exact: 2 P(at least 22 heads of 40) = 2 x 0.31791 = 0.6358. Three standard errors of a share
    # of 0.6358 among 200,000 are 0.0032.
    assert test.p == pytest.approx(0.6358, abs=0.0032)
    assert not test.at_floor


def test_drawn_sign_flips_depend_on_their_seed() -> None:
    test = paired_permutation(BALANCED, FLIPS, seed=1)
    assert paired_permutation(BALANCED, FLIPS, seed=1) == test
    assert paired_permutation(BALANCED, FLIPS, seed=2) != test


@pytest.mark.parametrize("batch", [1_000_000, 777])
def test_drawn_sign_flips_agree_with_the_binomial_in_batches_of_any_size(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "BATCH", batch)
    values = [1.0] * 62 + [-1.0] * 37 + [0.0]
    # Exact, by the binomial: 2 P(at least 62 heads of 99).
    heads = sum(math.comb(99, count) for count in range(62, 100))
    exact = 2 * heads / 2**99
    assert paired_permutation(values, 100_000, seed=3).p == pytest.approx(exact, abs=0.0013)


# McNemar's test


def run_mcnemar(both: int, lost: int, gained: int, neither: int) -> PairedTest:
    """Run the test on the given numbers of pairs.

    In pairs of `both` the two variants are correct, in pairs of `neither` none is.
    """
    first = [True] * both + [True] * lost + [False] * gained + [False] * neither
    second = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return mcnemar(first, second)


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
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(
    both: int, lost: int, gained: int, neither: int, p: float
) -> None:
    assert run_mcnemar(both, lost, gained, neither).p == pytest.approx(p)


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
def test_floor_of_mcnemar_depends_on_the_discordant_pairs(
    lost: int, gained: int, floor: float, at_floor: bool
) -> None:
    test = run_mcnemar(10, lost, gained, 10)
    assert test.floor == pytest.approx(floor)
    assert test.at_floor is at_floor


def test_mcnemar_refuses_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])


# Groups


def test_totals_of_groups_follow_their_first_values() -> None:
    totals, sizes = group_totals([1, 2, 3, 4, 5], ["b", "a", "b", "c", "a"])
    assert totals.tolist() == [4, 7, 4]
    assert sizes.tolist() == [2, 2, 1]


def test_total_that_differs_from_0_by_rounding_is_0() -> None:
    # 0.1 + 0.2 - 0.3 is 5.6e-17 in binary.
    totals, _ = group_totals([0.1, 0.2, -0.3, 1.0], ["a", "a", "a", "b"])
    assert totals.tolist() == [0.0, 1.0]


def test_clustered_standard_error_by_hand() -> None:
    # Mean 2.5, residuals -1.5, -0.5, 0.5, 1.5. Independent items: 5/3 / 4 = 0.416667. Pairs within
    # groups: 2 x (0.75 + 0.75) / 16 = 0.1875. The root of the sum 0.604167 is 0.777282.
    error = clustered_standard_error([1, 2, 3, 4], ["a", "a", "b", "b"])
    assert error == pytest.approx(0.777282, abs=1e-6)
    assert error == pytest.approx(math.sqrt(5 / 3 / 4 + 2 * (0.75 + 0.75) / 16))


def test_opposite_items_of_a_group_lower_the_clustered_error() -> None:
    # Pairs within groups: 2 x (-1.5 x 1.5 - 0.5 x 0.5) / 16 = -0.3125. 0.416667 - 0.3125.
    error = clustered_standard_error([1, 2, 3, 4], ["a", "b", "b", "a"])
    assert error == pytest.approx(math.sqrt(5 / 12 - 0.3125))


def test_clustered_error_of_single_items_is_the_standard_error() -> None:
    values = [0.1, 0.2, 0.4, 0.1, 0.3]
    assert clustered_standard_error(values, list("abcde")) == pytest.approx(standard_error(values))


def test_clustered_error_of_one_group_is_0() -> None:
    assert clustered_standard_error([1, 2, 3], ["a", "a", "a"]) == 0.0
    assert clustered_standard_error([], []) == 0.0


def test_copies_of_items_do_not_shrink_the_clustered_error() -> None:
    values = [math.sin(number) for number in range(50)]
    names = [str(number) for number in range(50)]
    once = clustered_standard_error(values, names)
    # Three equal answers to each question say no more than one.
    assert clustered_standard_error(values * 3, names * 3) == pytest.approx(once, rel=0.01)
    assert standard_error(values * 3) == pytest.approx(once / math.sqrt(3), rel=0.02)


def test_group_bootstrap_of_single_items_is_the_bootstrap_of_the_mean() -> None:
    names = [str(number) for number in range(100)]
    low, high = bootstrap_groups(HUNDRED, names, 500, 0.95, seed=3)
    assert (low, high) == pytest.approx(bootstrap_mean(HUNDRED, 500, 0.95, seed=3))


def test_group_bootstrap_resamples_complete_groups() -> None:
    # The mean of two draws among the groups {0, 0, 0} and {1} is 0, 1/4 or 1 with probabilities
    # 1/4, 1/2 and 1/4.
    values = [0.0, 0.0, 0.0, 1.0]
    assert bootstrap_groups(values, list("aaab"), 2000, 0.4, seed=1) == (0.25, 0.25)
    assert bootstrap_groups(values, list("aaab"), 2000, 0.6, seed=1) == (0.0, 1.0)


def test_all_items_of_a_group_flip_together() -> None:
    before = [0.0] * 6
    after = [1.0, 2.0, 3.0, 4.0, 2.0, 1.0]
    # Groups a, b and c gain 3, 7 and 3: only the observed signs and their opposites reach 13.
    test = grouped_test(before, after, list("aabbcc"), FLIPS, seed=1)
    assert test == (2 / 8, 2 / 8)
    # Six independent items: 2 / 64.
    assert grouped_test(before, after, list("abcdef"), FLIPS, seed=1).p == 2 / 64


def test_single_zeros_and_ones_get_mcnemars_test() -> None:
    before = [0.0] * 25 + [1.0] * 5
    after = [1.0] * 25 + [0.0] * 5
    names = [str(number) for number in range(30)]
    test = grouped_test(before, after, names, FLIPS, seed=1)
    assert test == mcnemar([value == 1 for value in before], [value == 1 for value in after])
    assert test.floor == 2 / 2**30


def test_grouped_zeros_and_ones_get_sign_flips() -> None:
    # Eight gains in two groups of four are two independent gains: 2 / 4 and not 2 / 256.
    test = grouped_test([0.0] * 8, [1.0] * 8, list("aaaabbbb"), FLIPS, seed=1)
    assert test.p == 2 / 4


def test_detectable_effect_is_2_8_standard_errors() -> None:
    # 1.959964 + 0.841621 = 2.801585.
    assert detectable_effect(0.1) == pytest.approx(0.2801585, abs=1e-7)


def test_detectable_effect_is_found_with_its_power() -> None:
    effect = detectable_effect(1.0)
    # With a standard error of 1, z = effect + noise exceeds 1.96 in 80 % of trials.
    draw = random.Random(4)
    found = sum(draw.gauss(effect, 1.0) > 1.959964 for _ in range(20_000))
    assert found / 20_000 == pytest.approx(0.8, abs=0.01)


# Holm's correction


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # Sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06 and 0.04 x 1 = 0.04, which
        # rises to the 0.06 before it.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 0.4 x 3 and 0.5 x 2 are at most 1, and so are all larger p-values.
        ([0.4, 0.5, 0.9], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_keeps_the_order_of_p_values(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


# Agreement


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ([1, 2, 3, 1], [1, 2, 3, 1], 1.0),
        # Observed: one disagreement of 1, squared, in 4 pairs: 0.25. Expected by chance, over all
        # 16 pairings: each 1 against 1, 2, 2, 3 gives 0 + 1 + 1 + 4 = 6; 2 gives 1 + 0 + 0 + 1 = 2;
        # 3 gives 4 + 1 + 1 + 0 = 6. The sum is 20, over 16: 1.25. Kappa is 1 - 0.25 / 1.25.
        # Linear weights would give 0.714, and no weights 0.636.
        ([1, 1, 2, 3], [1, 2, 2, 3], 0.8),
        # Observed 4; expected (0 + 4 + 4 + 0) / 4 = 2: 1 - 4 / 2.
        ([1, 3], [3, 1], -1.0),
        # Observed (0 + 4 + 4 + 0) / 4 = 2, expected 2.
        ([1, 1, 3, 3], [1, 3, 1, 3], 0.0),
        # A judge that always says 2 agrees no better than chance.
        ([1, 2, 3], [2, 2, 2], 0.0),
        # Kappa is undefined without variation, and written as 0.
        ([2, 2, 2], [2, 2, 2], 0.0),
    ],
)
def test_weighted_kappa_by_hand(first: list[int], second: list[int], kappa: float) -> None:
    assert weighted_kappa(first, second) == pytest.approx(kappa)
    assert weighted_kappa(second, first) == pytest.approx(kappa)
