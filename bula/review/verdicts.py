"""Decide for each figure of two runs whether it is better.

Rows of items are compared by pairs. Committed figures replace them where they are not at hand: this
test treats the two runs as independent, so that it finds fewer differences.
"""

import math
import statistics
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from bula.paired import Draws, Groups, paired_difference
from bula.params import Gate, Params
from bula.review.items import FEWEST_SHARED, Known, Matched, known_items, match
from bula.review.measures import (
    Level,
    committed,
    figure_names,
    not_comparable,
    not_meaningful_in,
    other_items,
)
from bula.review.runs import Run
from bula.stats import holm
from bula.tables.cells import LOWER
from bula.tables.differences import direction

Verdict = Literal[
    "better",
    "worse",
    "unchanged",
    "no difference beyond noise",
    "not comparable",
    "not meaningful",
]
Source = Literal["items", "committed figures", "none"]
# No item has another score, or the committed figures are equal.
UNCHANGED: Verdict = "unchanged"
NOISE: Verdict = "no difference beyond noise"
NOT_COMPARABLE: Verdict = "not comparable"
NOT_MEANINGFUL: Verdict = "not meaningful"


class Figure(NamedTuple):
    """One figure of a variant in two runs."""

    variant: str
    measure: str
    lower_is_better: bool
    level: float | None
    """The complete figure of this run, or None if the run lacks it."""
    before: float | None = None
    """The other run's figure, over shared items if those were compared."""
    after: float | None = None
    """This run's figure, over shared items if those were compared."""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    """The p-value after Holm's correction over the gated figures, or over the others."""
    p_at_floor: bool = False
    items: int = 0
    source: Source = "none"
    verdict: Verdict = NOT_COMPARABLE
    reason: str = ""
    """Why there is no comparison, or a note on it."""
    seeds: int = 0
    """Number of training seeds whose range is at least the difference, or 0."""

    @property
    def name(self) -> str:
        """Return VARIANT.MEASURE."""
        return f"{self.variant}.{self.measure}"

    @property
    def loss(self) -> float:
        """Return the loss in units of the figure; a gain is negative."""
        change = self.difference or 0.0
        return change if self.lower_is_better else -change

    @property
    def largest_loss(self) -> float | None:
        """Return the worse end of the interval, if there is one."""
        if self.low is None or self.high is None:
            return None
        return self.high if self.lower_is_better else -self.low


def compare_runs(before: Run, after: Run, params: Params) -> list[Figure]:
    """Return all figures of two runs with their verdicts."""
    known: dict[str, Known] = {}
    found = []
    for variant, measure in figure_names(before, after, params):
        if variant not in known:
            known[variant] = known_items(before, after, variant)
        figure = _compare(before, after, variant, measure, known[variant], params)
        if figure is not None:
            found.append(figure)
    gates = {gate.figure: gate for gate in params.review.gates}
    judged = _judge(found, gates, params.review.alpha)
    spreads = after.metrics("seeds")
    return [figure._replace(seeds=_seeds(figure, spreads)) for figure in judged]


def _compare(
    before: Run, after: Run, variant: str, measure: str, known: Known, params: Params
) -> Figure | None:
    """Return one figure before its test is judged, if a run has it."""
    matched = match(before, after, variant, measure, known)
    levels = [committed(run, variant, measure) for run in (before, after)]
    first, second = (level.value if level else None for level in levels)
    lower = direction(measure) == LOWER
    figure = Figure(variant, measure, lower, second, first, second)
    if first is None or second is None:
        return _one_sided(figure, before.name)
    reason = not_comparable(before, after, variant, measure)
    if reason:
        return figure._replace(reason=reason)
    limit = params.compare.max_degenerate_share
    reason = not_meaningful_in((before, after), variant, measure, limit)
    if reason:
        return figure._replace(verdict=NOT_MEANINGFUL, reason=reason)
    if matched is None:
        reason = other_items(before, after, measure)
        return _compare_levels(figure, levels, reason, params)
    return _compare_items(figure, matched, known.groups, params)


def _one_sided(figure: Figure, base: str) -> Figure | None:
    """Return a figure that only one run has, if any has it."""
    if figure.after is not None:
        return figure._replace(reason=f"new: {base} has no such figure")
    if figure.before is not None:
        return figure._replace(reason="missing: this run has no such figure")
    return None


def _compare_items(figure: Figure, matched: Matched, groups: Groups, params: Params) -> Figure:
    """Return a figure with its difference by pairs."""
    first, second = matched.counts
    count = f"{matched.shared} of {first} and {second} items are shared"
    if not matched.is_same and matched.shared < FEWEST_SHARED:
        return figure._replace(reason=f"other items ({count})")
    if not matched.before.keys() & matched.after.keys():
        return figure._replace(reason="no item has a score in both runs")
    draws = Draws(
        params.compare.permutations,
        params.review.resamples,
        1 - params.review.alpha,
        params.sampling_seed,
    )
    row: Mapping[str, Any] = paired_difference(
        figure.measure, matched.before, matched.after, groups, matched.weights, draws
    )
    is_unchanged = matched.before == matched.after
    return figure._replace(
        before=row["before"],
        after=row["after"],
        difference=row["difference"],
        low=row.get("low"),
        high=row.get("high"),
        p=None if is_unchanged else row["p"],
        p_at_floor=row["p_at_floor"],
        items=row["items"],
        source="items",
        verdict=UNCHANGED if is_unchanged else NOISE,
        reason="" if matched.is_same else f"on shared items only: {count}",
    )


def _compare_levels(
    figure: Figure, levels: list[Level | None], reason: str, params: Params
) -> Figure:
    """Return a figure with the difference of two committed figures.

    The figures count as independent.
    """
    before, after = levels
    if before is None or after is None or reason:
        return figure._replace(reason=reason)
    if before.items != after.items:
        return figure._replace(reason=f"other items ({before.items} → {after.items})")
    difference = after.value - before.value
    compared = figure._replace(
        difference=difference, items=after.items, source="committed figures", verdict=NOISE
    )
    if difference == 0:
        return compared._replace(verdict=UNCHANGED)
    if before.error is None or after.error is None:
        return compared._replace(verdict=NOT_COMPARABLE, reason="git has no standard error of it")
    error = math.hypot(before.error, after.error)
    if not error:
        reason = "git has a standard error of 0 for it"
        return compared._replace(verdict=NOT_COMPARABLE, reason=reason)
    normal = statistics.NormalDist()
    reach = normal.inv_cdf(1 - params.review.alpha / 2) * error
    return compared._replace(
        low=difference - reach,
        high=difference + reach,
        p=2 * normal.cdf(-abs(difference) / error),
    )


def _judge(figures: list[Figure], gates: Mapping[str, Gate], alpha: float) -> list[Figure]:
    """Return the figures with their corrected p-values and verdicts.

    Figures with a gate and those without one are two families of Holm's correction: figures that
    decide nothing must not hide a loss of a gated one. A figure without a changed item has no
    p-value and does not count, because no test could find a difference there (Tarone 1990).
    """
    judged = list(figures)
    for gated in (True, False):
        tested = [
            number
            for number, figure in enumerate(figures)
            if figure.p is not None and (figure.name in gates) == gated
        ]
        corrected = holm([figures[number].p or 0.0 for number in tested])
        for number, p_holm in zip(tested, corrected, strict=True):
            figure = figures[number]._replace(p_holm=p_holm)
            min_effect = gates[figure.name].min_effect if gated else 0.0
            judged[number] = _with_verdict(figure, min_effect, alpha)
    return judged


def _with_verdict(figure: Figure, min_effect: float, alpha: float) -> Figure:
    """Return a figure with the verdict that its test and its size give."""
    if figure.p_holm is None or figure.p_holm >= alpha:
        return figure
    if abs(figure.loss) < min_effect:
        reason = f"significant, but smaller than min_effect {min_effect:g}"
        return figure._replace(reason="; ".join(filter(None, [figure.reason, reason])))
    return figure._replace(verdict="worse" if figure.loss > 0 else "better")


def _seeds(figure: Figure, spreads: Mapping[str, Any]) -> int:
    """Return the number of training seeds that may explain a difference, or 0.

    They may if their range is at least as large. A test on items takes both models as given, so it
    cannot see seed variance. `spreads` is the content of metrics/seeds.json.
    """
    spread = spreads.get(f"{figure.variant}__{figure.measure}")
    if not figure.difference or not isinstance(spread, dict):
        return 0
    within = abs(figure.difference) <= float(spread.get("range", 0.0))
    return int(spread.get("seeds", 0)) if within else 0
