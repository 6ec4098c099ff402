"""Test which variant of a pair people prefer."""

from collections import Counter
from collections.abc import Sequence

from bula.labels.records import Label
from bula.labels.votes import PairId, Vote, majority, pairs_of, votes_by_pair
from bula.params import Pair, Params
from stages.labels.intervals import Figures, share


def preference_figures(labels: Sequence[Label], params: Params) -> dict[str, Figures]:
    """Return the figures of each pair of variants that people judged."""
    votes = votes_by_pair(pairs_of(labels))
    groups = {}
    for pair in params.compare.pairs:
        found = pair_votes(votes, pair)
        if found:
            groups[f"prefer_{pair.name}"] = pair_figures(found, params)
    return groups


def pair_votes(votes: dict[PairId, list[Vote]], pair: Pair) -> list[str | None]:
    """Return the majority on each question: `variant`, `baseline`, both, neither or None."""
    found: list[str | None] = []
    for judged, of_raters in votes.items():
        variants = (judged.first[1], judged.second[1])
        if set(variants) != {pair.variant, pair.baseline}:
            continue
        sides = ["variant" if name == pair.variant else "baseline" for name in variants]
        names = {"first": sides[0], "second": sides[1]}
        chosen = majority(of_raters)
        found.append(names.get(chosen, chosen) if chosen else None)
    return found


def pair_figures(votes: Sequence[str | None], params: Params) -> Figures:
    """Return counts, the share that prefers the variant, and the exact sign test.

    The test and the share are about questions with a strict preference (Dixon and Mood 1946).
    """
    counts = Counter(votes)
    wins, losses = counts["variant"], counts["baseline"]
    figures: Figures = {
        "questions": len(votes),
        "prefer_variant": wins,
        "prefer_baseline": losses,
        "both": counts["both"],
        "neither": counts["neither"],
        "undecided": counts[None],
        "p": sign_test(wins, losses),
    }
    return figures | share("prefer_variant", wins, wins + losses, params)


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test; without preferences it is 1."""
    from scipy import stats

    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)
