"""Select the figures of one variant that a card may show.

A figure that says nothing about the model is left out with its reason: scores of answers that
mostly repeat themselves, scores of a judge that does not agree with people, and benchmarks on which
the model always chose the same option.
"""

import math
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from bula.degeneration import not_meaningful
from bula.params import Params
from bula.stats import wilson_interval
from bula.tables.benchmark import (
    CHANCE,
    CONSTANT_SHARE,
    benchmark_tasks,
    constant_share,
    first_metric,
    pin_note,
)
from bula.tables.figures import LIKELIHOOD, ROUGE, Metrics, answered, variant_group
from bula.tables.judge import JUDGE, PARTS, kappa_note

VALIDATION = "validation sets A to E"
SAFETY = "safety questions"
SLICES = {
    "emergency": "emergencies: the answer sends to emergency care, and is no loop",
    "no_dose": "requests for a dangerous dose: the answer has no dose, and is no loop",
    "harmful": "harmful requests: the answer refuses, has no dose, and is no loop",
    "harmless": "harmless questions: the answer neither refuses nor is a loop",
}
# lm-eval's names of metrics, in words. The hub has the first one as "accuracy".
METRIC_NAMES = {
    "acc": "accuracy",
    "acc_norm": "accuracy, options weighted by length",
    "contains": "completions that contain the answer, share",
}
HUB_METRICS = {"acc": "accuracy"}
BERTSCORE_REASON = "it is not comparable with BERTScore of another encoder, or another layer"


class Result(NamedTuple):
    """A figure with its interval."""

    kind: str
    """Name of the metric for programs."""
    name: str
    """Name of the metric for people."""
    items_from: str
    """Set of items, or benchmark task."""
    value: float
    low: float
    high: float
    confidence: float
    """Probability with which intervals of this kind contain the true value."""
    items: int
    better: str
    """Direction: "higher" or "lower"."""


class LeftOut(NamedTuple):
    """A figure that the card does not show, and the reason."""

    name: str
    reason: str


class Results(NamedTuple):
    """All figures of one variant."""

    variant: str
    degenerate: Result
    """Share of answers that repeat themselves or have no words."""
    too_many: bool
    """Whether this share exceeds compare.max_degenerate_share."""
    shown: list[Result]
    left_out: list[LeftOut]


def variant_results(folder: Path, variant: str, params: Params) -> Results:
    """Return the figures in metrics/ of one variant."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate"])
    degenerate = _degenerate(generate, params)
    too_many = degenerate.value > params.compare.max_degenerate_share
    found = Results(variant, degenerate, too_many, [degenerate], [])
    _add_likelihood(found, folder, params)
    _add_rouge(found, folder, params)
    found.left_out.append(LeftOut("BERTScore", BERTSCORE_REASON))
    _add_benchmarks(found, folder, params)
    _add_safety(found, folder, params)
    _add_judge(found, folder, params)
    return found


def normal_interval(mean: float, stderr: float, confidence: float) -> tuple[float, float]:
    """Return the two-sided normal interval, mean ± z · stderr."""
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * stderr
    return mean - reach, mean + reach


def _degenerate(figures: Metrics, params: Params) -> Result:
    """Return the share of degenerate answers with its Wilson interval."""
    items = answered(figures)
    confidence = params.compare.confidence
    count = int(figures["degenerate"])
    return Result(
        "degenerate_share",
        "answers that are repetitions or have no words, share",
        VALIDATION,
        count / items if items else 0.0,
        *(wilson_interval(count, items, confidence) if items else (0.0, 1.0)),
        confidence,
        items,
        "lower",
    )


def _add_likelihood(found: Results, folder: Path, params: Params) -> None:
    """Add the perplexity of the reference answers, and the question's worth."""
    figures = variant_group(folder, "likelihood", found.variant, "pooled", LIKELIHOOD)
    confidence = params.likelihood.confidence
    loss = figures["loss_nats"]
    low, high = normal_interval(loss, figures["loss_nats_stderr"], confidence)
    values = (math.exp(loss), math.exp(low), math.exp(high), confidence, figures["items"])
    name = "perplexity of the reference answers"
    found.shown.append(Result("perplexity", name, VALIDATION, *values, "lower"))
    if items := figures.get("question_worth_items"):
        values = (*_bounds(figures, "question_worth_bits"), confidence, items)
        name = "question's worth, bits per character"
        found.shown.append(Result("question_worth_bits", name, VALIDATION, *values, "higher"))


def _bounds(figures: Metrics, name: str) -> tuple[float, float, float]:
    """Return a figure with both ends of its interval."""
    return figures[name], figures[f"{name}_low"], figures[f"{name}_high"]


def _add_rouge(found: Results, folder: Path, params: Params) -> None:
    """Add ROUGE-L and chrF."""
    figures = variant_group(folder, "rouge", found.variant, "pooled", ROUGE)
    for kind, key, name in (("rouge", "rougeL_f", "ROUGE-L F1"), ("chrf", "chrf", "chrF")):
        if found.too_many:
            found.left_out.append(LeftOut(name, not_meaningful(found.degenerate.value)))
            continue
        values = (*_bounds(figures, key), params.rouge.confidence, figures["items"])
        found.shown.append(Result(kind, name, VALIDATION, *values, "higher"))


def _add_benchmarks(found: Results, folder: Path, params: Params) -> None:
    """Add the first metric of each benchmark task."""
    confidence = params.compare.confidence
    tasks = benchmark_tasks(folder, found.variant, params.benchmark.tasks)
    for task, figures in tasks.items():
        metric = first_metric(figures)
        if reason := _benchmark_doubt(folder, found.variant, task, figures):
            found.left_out.append(LeftOut(f"{task}, {metric}", reason))
            continue
        mean = figures[metric]
        low, high = normal_interval(mean, figures[f"{metric}_stderr"], confidence)
        name = METRIC_NAMES.get(metric, metric)
        if task in CHANCE:
            name += f" (chance {CHANCE[task]:g})"
        values = (mean, max(low, 0.0), min(high, 1.0), confidence, figures["items"])
        kind = HUB_METRICS.get(metric, metric)
        found.shown.append(Result(kind, name, task, *values, "higher"))


def _benchmark_doubt(folder: Path, variant: str, task: str, figures: Metrics) -> str:
    """Return why the score of a task says nothing, or an empty text."""
    if constant_share(figures) >= CONSTANT_SHARE:
        return "the model chose the same option for nearly all items"
    if pin_note(folder, variant, task):
        return "its items are not pinned, so nobody can repeat it"
    return ""


def _add_safety(found: Results, folder: Path, params: Params) -> None:
    """Add the share of answers that keep the safety rule of each slice."""
    needed = ("items", "pass_share", "pass_low", "pass_high", "degenerate_share")
    for slice_name, description in SLICES.items():
        figures = variant_group(folder, "safety", found.variant, slice_name, needed)
        share = figures["degenerate_share"]
        if share > params.compare.max_degenerate_share:
            found.left_out.append(LeftOut(description, not_meaningful(share)))
            continue
        items = answered(figures)
        values = (figures["pass_share"], figures["pass_low"], figures["pass_high"])
        confidence = params.safety.confidence
        kind = f"safety_{slice_name}"
        found.shown.append(
            Result(kind, f"{description}, share", SAFETY, *values, confidence, items, "higher")
        )


def _add_judge(found: Results, folder: Path, params: Params) -> None:
    """Add the mean scores of the judge, unless they are withheld."""
    figures = variant_group(folder, "judge", found.variant, "", JUDGE)
    for part in PARTS:
        name = f"judge's score of {part}, 1 to 3 ({figures.get('judge', 'unnamed')})"
        said = int(figures["scored"]) - int(figures.get(f"{part}_abstained", 0))
        reason = ""
        if figures[f"{part}_withheld"]:
            reason = kappa_note(figures, part)
        elif found.too_many:
            reason = not_meaningful(found.degenerate.value)
        elif not said:
            reason = "the judge scored no answer"
        if reason:
            found.left_out.append(LeftOut(name, reason))
            continue
        confidence = params.compare.confidence
        mean = figures[f"{part}_mean"]
        low, high = normal_interval(mean, figures[f"{part}_stderr"], confidence)
        values = (mean, max(low, 1.0), min(high, 3.0), confidence, said)
        found.shown.append(Result(f"judge_{part}", name, VALIDATION, *values, "higher"))
