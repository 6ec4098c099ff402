"""Correct the judge's rate by its errors on labelled answers.

The estimator is Rogan and Gladen's (1978). Its interval carries the uncertainty of the labelled
answers, as Lee et al. (arXiv 2511.21140) demand.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from bula.errors import UserError
from bula.params import Judge

Labeller = Literal["author", "clinician"]


class ErrorRates(NamedTuple):
    """Errors of a judge on labelled answers."""

    sensitivity: float
    """Share of correct answers that the judge calls correct."""
    correct: int
    """Number of correct answers."""
    specificity: float
    """Share of wrong answers that the judge calls wrong."""
    wrong: int
    """Number of wrong answers."""


class Agreement(BaseModel):
    """Figures of metrics/calibrate.json about one part, accuracy or style."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labelled_by: Labeller
    """Who scored the gold answers that the figures are about."""
    kappa: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    rates: ErrorRates | None


class Corrected(NamedTuple):
    """A corrected rate with its interval."""

    rate: float
    low: float
    high: float


def read_agreement(path: Path, part: str, judge: Judge) -> Agreement:
    """Return the agreement of one part, as the calibrate stage wrote it.

    Raise UserError if the file is missing or lacks a figure, or if it describes another judge than
    `judge`.
    """
    fix = "run `dvc repro calibrate`"
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        measured = (figures["judge"], figures["judge_kind"])
        found = _agreement(figures, part)
    except FileNotFoundError:
        raise UserError(path, "the file does not exist", fix) from None
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        raise UserError(path, f"the figures of {part} are missing or damaged", fix) from None
    if measured != (judge.model, judge.kind):
        what = (
            f"it describes the judge {measured[0]} ({measured[1]}), but params.yaml names "
            f"{judge.model} ({judge.kind})"
        )
        raise UserError(path, what, fix)
    return found


def _agreement(figures: Any, part: str) -> Agreement:
    """Return the agreement of one part from the figures of calibrate."""
    labelled_by = figures["labelled_by"]
    kappa = f"{labelled_by}_kappa_{part}"
    rates = {name: figures.get(f"{part}_{name}") for name in ErrorRates._fields}
    return Agreement(
        labelled_by=labelled_by,
        kappa=figures[kappa],
        low=figures[f"{kappa}_low"],
        high=figures[f"{kappa}_high"],
        rates=None if None in rates.values() else ErrorRates(**rates),
    )


def withheld_note(kappa: float, low: float, high: float) -> str:
    """Return the table cell that replaces the scores of a weak judge."""
    return f"withheld: kappa {kappa:.2f} [{low:.2f}, {high:.2f}]"


def error_rates(labels: Sequence[bool], judged: Sequence[bool]) -> ErrorRates | None:
    """Return sensitivity and specificity, or None if a kind of label is missing."""
    pairs = list(zip(labels, judged, strict=True))
    of_correct = [said for label, said in pairs if label]
    of_wrong = [not said for label, said in pairs if not label]
    if not of_correct or not of_wrong:
        return None
    return ErrorRates(
        sensitivity=sum(of_correct) / len(of_correct),
        correct=len(of_correct),
        specificity=sum(of_wrong) / len(of_wrong),
        wrong=len(of_wrong),
    )


def correct_rate(judged: int, items: int, rates: ErrorRates, confidence: float) -> Corrected | None:
    """Return the share of correct answers, corrected by the judge's error rates.

    `judged` of `items` answers were called correct. The estimate is (p + q0 - 1) / (q0 + q1 - 1)
    with specificity q0 and sensitivity q1, clipped to [0, 1]. Its interval is that of Lang and
    Reiczigel (2014): each share gets pseudo-counts, because a share of 0 or 1 in few labels is
    uncertain too.
    The result is None if the judge is no better than a coin, because the estimate has no meaning
    then. It is also None if the whole interval lies outside [0, 1]: the judged share is then not
    plausible under these error rates, and clipping would claim a share of 0 or 1 with certainty.
    """
    if rates.sensitivity + rates.specificity - 1 <= 0:
        return None
    rate = _estimate(judged / items, rates.specificity, rates.sensitivity)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = _shrink(judged / items, items, z * z)
    specificity = _shrink(rates.specificity, rates.wrong, 2)
    sensitivity = _shrink(rates.sensitivity, rates.correct, 2)
    youden = specificity + sensitivity - 1
    if youden <= 0:
        return Corrected(_clip(rate), 0.0, 1.0)
    middle = _estimate(share, specificity, sensitivity)
    variance = share * (1 - share) / (items + z * z)
    variance += (1 - middle) ** 2 * specificity * (1 - specificity) / (rates.wrong + 2)
    variance += middle**2 * sensitivity * (1 - sensitivity) / (rates.correct + 2)
    half = z * math.sqrt(variance) / youden
    shift = middle * sensitivity * (1 - sensitivity) / (rates.correct + 2)
    shift -= (1 - middle) * specificity * (1 - specificity) / (rates.wrong + 2)
    middle += 2 * z * z * shift
    low, high = middle - half, middle + half
    if low > 1 or high < 0:
        return None
    return Corrected(_clip(rate), _clip(low), _clip(high))


def _estimate(share: float, specificity: float, sensitivity: float) -> float:
    """Return the estimate of Rogan and Gladen."""
    return (share + specificity - 1) / (specificity + sensitivity - 1)


def _shrink(share: float, count: int, pseudo: float) -> float:
    """Return a share after `pseudo` further trials, half of them successes."""
    return (share * count + pseudo / 2) / (count + pseudo)


def _clip(value: float) -> float:
    """Return the nearest value in [0, 1]."""
    return min(max(value, 0.0), 1.0)
