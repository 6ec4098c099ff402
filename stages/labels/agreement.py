"""Measure the agreement of raters with each other and with themselves."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import krippendorff
import numpy as np
from numpy.typing import NDArray

from bula.labels.records import Harm, Label, Relevance, Sentence
from bula.labels.votes import Vote, answer_id, answers_of, pair_id, pairs_of, vote
from bula.params import Params
from bula.stats import weighted_kappa
from stages.labels.intervals import Figures, Indices, share, with_interval

Level = Literal["nominal", "ordinal"]
Counts = NDArray[np.int64]
# Cohen's kappa is a figure of two raters.
TWO = 2


class Rating(NamedTuple):
    """The value that one rater gives to one unit."""

    question: str
    unit: tuple[object, ...]
    """An answer, a sentence of it, or a pair."""
    rater: str
    value: int
    """The place of the value in its scale."""


class Scale(NamedTuple):
    """The values of a kind of question, and its level of measurement."""

    level: Level
    values: Sequence[object]
    read: Callable[[Sequence[Label]], list[Rating]]
    """Return the ratings of this kind, repetitions last."""


class Repeated(NamedTuple):
    """The first rating of each unit by each rater, and the repetitions."""

    firsts: list[Rating]
    again: list[tuple[Rating, Rating]]
    """Each later rating with the first one of the same rater."""


def sentence_ratings(labels: Sequence[Label]) -> list[Rating]:
    """Return one rating per sentence."""
    ratings = []
    for label in answers_of(labels):
        for number, value in enumerate(label.sentences):
            unit = (*answer_id(label), number)
            place = SENTENCES.index(value)
            ratings.append(Rating(label.id, unit, label.rater, place))
    return ratings


def relevance_ratings(labels: Sequence[Label]) -> list[Rating]:
    """Return one rating of relevance per answer."""
    return [
        Rating(label.id, answer_id(label), label.rater, RELEVANCES.index(label.relevance))
        for label in answers_of(labels)
    ]


def harm_ratings(labels: Sequence[Label]) -> list[Rating]:
    """Return one rating of harm per answer."""
    return [
        Rating(label.id, answer_id(label), label.rater, HARMS.index(label.harm))
        for label in answers_of(labels)
    ]


def style_ratings(labels: Sequence[Label]) -> list[Rating]:
    """Return one rating of style per answer."""
    return [
        Rating(label.id, answer_id(label), label.rater, STYLES.index(label.style))
        for label in answers_of(labels)
    ]


def preference_ratings(labels: Sequence[Label]) -> list[Rating]:
    """Return one rating per pair, whichever side its answers stand on."""
    return [
        Rating(label.id, pair_id(label), label.rater, VOTES.index(vote(label)))
        for label in pairs_of(labels)
    ]


# The values of each scale; those of ordinal scales are in order.
SENTENCES: tuple[Sentence, ...] = get_args(Sentence)
RELEVANCES: tuple[Relevance, ...] = ("not", "partly", "relevant")
HARMS: tuple[Harm, ...] = get_args(Harm)
STYLES = (1, 2, 3)
VOTES: tuple[Vote, ...] = get_args(Vote)
SCALES = {
    "sentences": Scale("nominal", SENTENCES, sentence_ratings),
    "relevance": Scale("ordinal", RELEVANCES, relevance_ratings),
    "harm": Scale("ordinal", HARMS, harm_ratings),
    "style": Scale("ordinal", STYLES, style_ratings),
    "preference": Scale("nominal", VOTES, preference_ratings),
}


def agreement_figures(labels: Sequence[Label], params: Params) -> Figures:
    """Return the agreement of raters in each kind of question."""
    figures: Figures = {}
    for name, scale in SCALES.items():
        ratings = split_repetitions(scale.read(labels))
        figures |= inter_rater(name, scale, ratings.firsts, params)
        figures |= intra_rater(name, ratings.again, params)
    return figures


def split_repetitions(ratings: Sequence[Rating]) -> Repeated:
    """Return the first rating of each unit by each rater, and the repetitions."""
    firsts: dict[tuple[object, ...], Rating] = {}
    again = []
    for rating in ratings:
        key = (rating.rater, rating.unit)
        if key in firsts:
            again.append((firsts[key], rating))
        else:
            firsts[key] = rating
    return Repeated(list(firsts.values()), again)


def inter_rater(name: str, scale: Scale, ratings: Sequence[Rating], params: Params) -> Figures:
    """Return alpha, the share of equal ratings, and kappa if there are two raters.

    Only units with two ratings or more count.
    """
    units: dict[tuple[object, ...], dict[str, Rating]] = {}
    for rating in ratings:
        units.setdefault(rating.unit, {})[rating.rater] = rating
    shared = [list(found.values()) for found in units.values() if len(found) > 1]
    figures: Figures = {f"{name}_units": len(shared)}
    if not shared:
        return figures
    questions = [found[0].question for found in shared]
    equal = [len({rating.value for rating in found}) == 1 for found in shared]
    figures[f"{name}_equal_share"] = sum(equal) / len(equal)
    counts = value_counts(shared, len(scale.values))
    figures |= with_interval(
        f"{name}_alpha", lambda at: alpha(counts[at], scale.level), questions, params
    )
    if len({rating.rater for found in shared for rating in found}) == TWO:
        ordered = [sorted(found, key=lambda rating: rating.rater) for found in shared]
        pairs = np.asarray([[rating.value for rating in found] for found in ordered])
        figures |= with_interval(
            f"{name}_kappa", lambda at: kappa(pairs[at], scale.level), questions, params
        )
    return figures


def value_counts(units: Sequence[Sequence[Rating]], values: int) -> Counts:
    """Return how many raters gave each value to each unit: (units, values)."""
    counts = np.zeros((len(units), values), dtype=np.int64)
    for row, ratings in enumerate(units):
        for rating in ratings:
            counts[row, rating.value] += 1
    return counts


def alpha(counts: Counts, level: Level) -> float | None:
    """Return Krippendorff's alpha (Krippendorff 2018, chapter 12) of value counts.

    It is undefined where all values are equal; the result is None then.
    """
    if np.count_nonzero(counts.sum(axis=0)) < TWO:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))


def kappa(pairs: Indices, level: Level) -> float | None:
    """Return Cohen's kappa of two raters: (units, 2).

    Ordinal values have quadratic weights (Cohen 1968), nominal ones none (Cohen 1960). The result
    is None where all values are equal.
    """
    first, second = pairs.T
    if len(np.unique(pairs)) < TWO:
        return None
    if level == "ordinal":
        return weighted_kappa(first.tolist(), second.tolist())
    observed = float((first == second).mean())
    values = range(int(pairs.max()) + 1)
    expected = sum(float((first == v).mean() * (second == v).mean()) for v in values)
    return (observed - expected) / (1 - expected)


def intra_rater(name: str, again: Sequence[tuple[Rating, Rating]], params: Params) -> Figures:
    """Return the share of repeated judgements that a rater gave again.

    The sentences of one answer count once, because they are judged together.
    """
    equal: dict[tuple[object, ...], bool] = {}
    for number, (first, later) in enumerate(again):
        key = (first.rater, *first.unit[:3]) if name == "sentences" else (number,)
        equal[key] = equal.get(key, True) and first.value == later.value
    figures: Figures = {f"{name}_repeats": len(equal)}
    return figures | share(f"{name}_repeat_equal", sum(equal.values()), len(equal), params)
