"""Compute the weights of a sample: inverse inclusion probabilities.

The sample has fixed shares of the levels, and balances sets and specialties within them. All
candidates of a cell (level, set and specialty) have one inclusion probability, which has no simple
formula. So the sample is drawn again and again, and the probability is the share of the cell that
a draw contains on average (Fattorini 2006, doi 10.1093/biomet/93.2.269).
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from bula.labels.kit_sample import Candidate, Cell, draw_sample

# Pairs to draw in all repetitions together, which keeps the command below a few seconds.
PAIRS_TO_DRAW = 20_000
LEAST_DRAWS = 100
# The significant digits of a weight. Its random error is larger.
DIGITS = 6


class Weights(NamedTuple):
    """The weights of one drawn pair and of its two answers."""

    pair: float
    first: float
    second: float


def inclusion_probabilities(
    candidates: Sequence[Candidate], sample: Sequence[Candidate], random: Random
) -> dict[Cell, float]:
    """Return the inclusion probability of each cell that `sample` has.

    `sample` was drawn from the candidates by `draw_sample`, and counts as one of the draws. So no
    probability is 0.
    """
    repetitions = max(LEAST_DRAWS, PAIRS_TO_DRAW // len(sample))
    drawn = Counter(candidate.cell for candidate in sample)
    cells = list(drawn)
    for _ in range(repetitions):
        again = draw_sample(candidates, len(sample), random)
        drawn.update(candidate.cell for candidate in again)
    sizes = Counter(candidate.cell for candidate in candidates)
    return {cell: drawn[cell] / ((repetitions + 1) * sizes[cell]) for cell in cells}


def weigh(
    candidates: Sequence[Candidate], sample: Sequence[Candidate], random: Random
) -> list[Weights]:
    """Return the weights of each pair of the sample.

    An answer may be in several candidate pairs. Each of them then has an equal part of it, so that
    the parts of all candidates add up to the answer (Sirken 1970).
    """
    probabilities = inclusion_probabilities(candidates, sample, random)
    pairs = Counter(answer for candidate in candidates for answer in _answers(candidate))
    weights = []
    for candidate in sample:
        weight = 1 / probabilities[candidate.cell]
        first, second = (weight / pairs[answer] for answer in _answers(candidate))
        weights.append(Weights(_rounded(weight), _rounded(first), _rounded(second)))
    return weights


def _answers(candidate: Candidate) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the question and the variant of both answers of a pair."""
    first, second = candidate.variants
    return (candidate.example.id, first), (candidate.example.id, second)


def _rounded(weight: float) -> float:
    """Return a weight with its significant digits."""
    return float(f"{weight:.{DIGITS}g}")
