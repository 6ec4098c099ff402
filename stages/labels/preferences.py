"""Test which variant of a pair people prefer."""

from collections import Counter
from collections.abc import Sequence

from bula.labels.records import Label
from bula.labels.votes import PairId, Vote, majority, pair_id, pairs_of, votes_by_pair
from bula.params import Pair, Params
from bula.stats import holm
from stages.labels.intervals import Figures, weighted_share

# The votes for one of the two answers.
SIDES = ("variant", "baseline")


def preference_figures(labels: Sequence[Label], params: Params) -> dict[str, Figures]:
    """Return the figures of each pair of variants that people judged.

    If people judged several pairs, each has a p-value with Holm's correction too.
    """
    votes = votes_by_pair(pairs_of(labels))
    weights = pair_weights(labels)
    groups = {}
    for pair in params.compare.pairs:
        found = {judged: of for judged, of in votes.items() if is_about(judged, pair)}
        if found:
            weighted = [weights.get(judged, 1.0) for judged in found]
            figures = pair_figures(pair_votes(found, pair), weighted, params)
            groups[f"prefer_{pair.name}"] = figures
    if len(groups) > 1:
        adjusted = holm([float(figures["p"]) for figures in groups.values()])
        for figures, p in zip(groups.values(), adjusted, strict=True):
            figures["p_holm"] = p
    return groups


def pair_weights(labels: Sequence[Label]) -> dict[PairId, float]:
    """Return the weight of each pair that has one; a repetition adds nothing."""
    parts: dict[PairId, dict[str, float]] = {}
    for label in pairs_of(labels):
        if label.weight is not None:
            parts.setdefault(pair_id(label), {})[label.kit] = label.weight
    return {judged: sum(found.values()) for judged, found in parts.items()}


def is_about(judged: PairId, pair: Pair) -> bool:
    """Return whether a judged pair has the variants of a compared pair."""
    return {judged.first[1], judged.second[1]} == {pair.variant, pair.baseline}


def pair_votes(votes: dict[PairId, list[Vote]], pair: Pair) -> list[str | None]:
    """Return the majority on each question: `variant`, `baseline`, both, neither or None."""
    found: list[str | None] = []
    for judged, of_raters in votes.items():
        if not is_about(judged, pair):
            continue
        variants = (judged.first[1], judged.second[1])
        sides = ["variant" if name == pair.variant else "baseline" for name in variants]
        names = {"first": sides[0], "second": sides[1]}
        chosen = majority(of_raters)
        found.append(names.get(chosen, chosen) if chosen else None)
    return found


def pair_figures(votes: Sequence[str | None], weights: Sequence[float], params: Params) -> Figures:
    """Return counts, the share that prefers the variant, and the exact sign test.

    The test and the share are about questions with a strict preference (Dixon and Mood 1946). The
    share weighs the questions. The test does not: under its hypothesis, each judged question has
    both preferences with equal probability, whatever the sample prefers to draw.
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
    strict = [(vote, weight) for vote, weight in zip(votes, weights, strict=True) if vote in SIDES]
    hits = [vote == "variant" for vote, _ in strict]
    return figures | weighted_share(
        "prefer_variant", hits, [weight for _, weight in strict], params
    )


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test; without preferences it is 1."""
    from scipy import stats

    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)
