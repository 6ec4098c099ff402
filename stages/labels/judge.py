"""Compare the judge with people, and correct its rates by their labels.

A kit draws answers by the judge's score too. So all figures weigh each answer by the inverse of its
probability to be drawn (Begg and Greenes 1983 on verification bias).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bula.calibration import ErrorRates, Labeller, correct_rate
from bula.item_scores import VerdictRow, read_checked
from bula.labels.records import Level
from bula.params import Params
from stages.labels.answers import BEST, Consensus, by_question
from stages.labels.intervals import (
    TOLERANCE,
    Figures,
    Floats,
    Indices,
    effective_items,
    with_interval,
)

PARTS = ("accuracy", "style")


class LabelledVerdict(VerdictRow):
    """A verdict, and whether the answer was empty and the judge not asked."""

    empty: bool = False


# The verdicts on one variant, by question.
Verdicts = Mapping[str, LabelledVerdict]


class Scored(NamedTuple):
    """The scores of people and of the judge for the same answers."""

    questions: list[str]
    people: list[int]
    judged: list[int]
    weights: list[float]
    levels: list[Level | None]


def read_verdicts(folder: Path, params: Params) -> dict[str, Verdicts]:
    """Return the judge's verdicts on each variant, without failed calls and empty answers."""
    verdicts: dict[str, Verdicts] = {}
    for variant in params.variants:
        rows = read_checked(folder / f"{variant}.jsonl", f"judge@{variant}", LabelledVerdict)
        kept = [row for row in rows if row.failed is None and not row.empty]
        verdicts[variant] = {row.id: row for row in kept}
    return verdicts


def scored_by_both(
    part: str, answers: Sequence[Consensus], verdicts: Mapping[str, Verdicts]
) -> Scored:
    """Return the answers that people and the judge scored in one part."""
    found = Scored([], [], [], [], [])
    for (variant, question), answer in by_question(answers).items():
        verdict = verdicts[variant].get(question)
        people = getattr(answer, part)
        judged = getattr(verdict, part, None)
        if people is not None and judged is not None:
            found.questions.append(question)
            found.people.append(people)
            found.judged.append(judged)
            found.weights.append(answer.weight)
            found.levels.append(answer.level)
    return found


def kappa_figures(
    who: Labeller,
    answers: Sequence[Consensus],
    verdicts: Mapping[str, Verdicts],
    params: Params,
) -> Figures:
    """Return the weighted kappa of judge and people in each part.

    It is absent if all scores are equal.
    """
    figures: Figures = {}
    for part in PARTS:
        scored = scored_by_both(part, answers, verdicts)
        figures[f"{who}_items_{part}"] = len(scored.questions)
        figures |= judge_kappa(f"{who}_kappa_{part}", scored, params)
    return figures


def judge_kappa(name: str, scored: Scored, params: Params) -> Figures:
    """Return the weighted kappa with its interval."""
    pairs = np.asarray([scored.people, scored.judged], dtype=np.int64)
    weights = np.asarray(scored.weights, dtype=np.float64)
    return with_interval(
        name, lambda at: kappa(pairs[:, at], weights[at]), scored.questions, params, scored.levels
    )


def kappa(pairs: Indices, weights: Floats) -> float | None:
    """Return kappa with quadratic weights (Cohen 1968) of answers that have weights too.

    `pairs` has the shape (2, items). Each mean of the items is weighted: kappa is 1 - D / E with
    the mean squared difference D and its mean E over all pairings of a first with a second value
    (Fleiss and Cohen 1973). The result is None if all values are equal.
    """
    if len(np.unique(pairs)) < 2:
        return None
    first, second = pairs.astype(np.float64)
    observed = np.average((first - second) ** 2, weights=weights)
    first_mean, second_mean = np.average(pairs, axis=1, weights=weights)
    first_variance = np.average((first - first_mean) ** 2, weights=weights)
    second_variance = np.average((second - second_mean) ** 2, weights=weights)
    expected = first_variance + second_variance + (first_mean - second_mean) ** 2
    return float(1 - observed / expected)


def error_rates(scored: Scored) -> ErrorRates | None:
    """Return the judge's weighted sensitivity and specificity for the best score.

    Their counts are effective ones, rounded down, because `correct_rate` computes its interval
    from them. The result is None if people called no answer correct, or none wrong.
    """
    people = np.asarray(scored.people) == BEST
    judged = np.asarray(scored.judged) == BEST
    weights = np.asarray(scored.weights, dtype=np.float64)
    if not people.any() or people.all():
        return None
    return ErrorRates(
        sensitivity=float(np.average(judged[people], weights=weights[people])),
        correct=_effective(weights[people]),
        specificity=float(np.average(~judged[~people], weights=weights[~people])),
        wrong=_effective(weights[~people]),
    )


def _effective(weights: Floats) -> int:
    """Return the complete effective items."""
    return int(effective_items(weights.tolist()) * (1 + TOLERANCE))


def correction_figures(
    who: Labeller,
    answers: Sequence[Consensus],
    verdicts: Mapping[str, Verdicts],
    params: Params,
) -> dict[str, Figures]:
    """Return the judge's errors by people's labels, and the corrected rate of each variant.

    The group of a variant has `withheld` with the reason where there is no corrected rate.
    """
    scored = scored_by_both("accuracy", answers, verdicts)
    rates = error_rates(scored)
    correct = scored.people.count(BEST)
    wrong = len(scored.people) - correct
    errors: Figures = {"correct": correct, "wrong": wrong, "source": f"{who}_labels"}
    if rates:
        errors |= {"sensitivity": rates.sensitivity, "specificity": rates.specificity}
    if rates and len(set(scored.weights)) > 1:
        errors |= {"effective_correct": rates.correct, "effective_wrong": rates.wrong}
    groups = {"judge_errors": errors}
    reason = too_few(correct, wrong, params.labels.min_labels)
    for variant, rows in verdicts.items():
        scores = [row.accuracy for row in rows.values() if row.accuracy is not None]
        if reason or rates is None:
            groups[f"judge_{variant}"] = {"verdicts": len(scores), "withheld": reason}
        else:
            groups[f"judge_{variant}"] = corrected(scores, rates, params)
    return groups


def too_few(correct: int, wrong: int, least: int) -> str:
    """Return why labels cannot correct the judge, or an empty text."""
    if min(correct, wrong) >= least:
        return ""
    return (
        f"{correct} correct and {wrong} wrong answers have a label and a verdict, and "
        f"labels.min_labels asks for {least} of each"
    )


def corrected(scores: Sequence[int], rates: ErrorRates, params: Params) -> Figures:
    """Return the judged and the corrected share of the best score.

    Answers without text are in neither.
    """
    best = list(scores).count(BEST)
    figures: Figures = {"verdicts": len(scores)}
    if not scores:
        return figures | {"withheld": "the judge scored no answer"}
    figures["accuracy_3_share"] = best / len(scores)
    found = correct_rate(best, len(scores), rates, params.labels.confidence)
    if found is None:
        return figures | {
            "withheld": "the judge is no better than a coin, or contradicts its errors"
        }
    return figures | {
        "accuracy_3_corrected_share": found.rate,
        "accuracy_3_corrected_low": found.low,
        "accuracy_3_corrected_high": found.high,
    }
