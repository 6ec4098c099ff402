"""Compare the judge with people, and correct its rates by their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bula.calibration import ErrorRates, Labeller, correct_rate, error_rates
from bula.item_scores import VerdictRow, read_checked
from bula.params import Params
from bula.stats import weighted_kappa
from stages.labels.answers import BEST, Consensus, by_question
from stages.labels.intervals import Figures, Indices, with_interval

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
    found = Scored([], [], [])
    for (variant, question), answer in by_question(answers).items():
        verdict = verdicts[variant].get(question)
        people = getattr(answer, part)
        judged = getattr(verdict, part, None)
        if people is not None and judged is not None:
            found.questions.append(question)
            found.people.append(people)
            found.judged.append(judged)
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
    return with_interval(name, lambda at: _kappa(pairs[:, at]), scored.questions, params)


def _kappa(pairs: Indices) -> float | None:
    """Return the weighted kappa of pairs, or None if all are equal: (2, items)."""
    if len(np.unique(pairs)) < 2:
        return None
    first, second = pairs.tolist()
    return weighted_kappa(first, second)


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
    people = [score == BEST for score in scored.people]
    rates = error_rates(people, [score == BEST for score in scored.judged])
    correct = sum(people)
    wrong = len(people) - correct
    errors: Figures = {"correct": correct, "wrong": wrong, "source": f"{who}_labels"}
    if rates:
        errors |= {"sensitivity": rates.sensitivity, "specificity": rates.specificity}
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
