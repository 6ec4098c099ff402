"""Decide by the thresholds of params.yaml whether a run passes."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from bula.errors import UserError
from bula.params import Gate, Params
from bula.review.verdicts import NOT_COMPARABLE, NOT_MEANINGFUL, Figure
from bula.tables import LOWER, direction

Result = Literal["pass", "warn", "fail"]


class Outcome(NamedTuple):
    """The outcome of one gate."""

    gate: Gate
    figure: Figure | None
    result: Result
    reason: str


def check_directions(params: Params) -> None:
    """Raise UserError if a gate's direction is not that of its measure."""
    for gate in params.review.gates:
        known = "lower" if direction(gate.measure) == LOWER else "higher"
        if gate.direction != known:
            what = f"the gate on {gate.figure} says that {gate.direction} is better"
            raise UserError("params.yaml: review.gates", what, f"write direction: {known}")


def check_gates(figures: Iterable[Figure], params: Params) -> list[Outcome]:
    """Return the outcome of each gate."""
    by_name = {figure.name: figure for figure in figures}
    alpha = params.review.alpha
    return [_check(gate, by_name.get(gate.figure), alpha) for gate in params.review.gates]


def _check(gate: Gate, figure: Figure | None, alpha: float) -> Outcome:
    """Return the outcome of one gate."""
    if figure is None or figure.level is None:
        return Outcome(gate, figure, "fail", "this run has no such figure")
    if _is_beyond_floor(gate, figure.level):
        reason = f"{figure.level:.4g} is beyond the floor {gate.floor:g}"
        return Outcome(gate, figure, "fail", reason)
    if figure.verdict in (NOT_COMPARABLE, NOT_MEANINGFUL):
        return Outcome(gate, figure, gate.not_comparable, f"{figure.verdict}: {figure.reason}")
    if _is_worse(figure, alpha) and figure.loss > gate.max_drop:
        reason = f"worse by {figure.loss:.3g}, and {gate.max_drop:g} is allowed"
        return Outcome(gate, figure, "fail", reason)
    return Outcome(gate, figure, "pass", _passing(gate, figure))


def _is_beyond_floor(gate: Gate, level: float) -> bool:
    """Return whether a figure is worse than the worst value that passes."""
    if gate.floor is None:
        return False
    return level > gate.floor if gate.direction == "lower" else level < gate.floor


def _is_worse(figure: Figure, alpha: float) -> bool:
    """Return whether a figure is significantly worse after Holm's correction."""
    return figure.loss > 0 and figure.p_holm is not None and figure.p_holm < alpha


def _passing(gate: Gate, figure: Figure) -> str:
    """Return what a gate that passes leaves open."""
    if figure.p is None:
        return "nothing changed"
    if figure.verdict == "better":
        return "better"
    if figure.largest_loss is not None and figure.largest_loss > gate.max_drop:
        return f"the interval does not exclude a loss above {gate.max_drop:g}"
    return f"no loss above {gate.max_drop:g} was found"
