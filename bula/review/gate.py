"""Decide by the thresholds of params.yaml whether a run passes.

The thresholds and tests of the other run apply where it has them, so that no change loosens its own
gate.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from pydantic import ValidationError

from bula.errors import UserError
from bula.params import Compare, Gate, Params, Review
from bula.review.changes import Change, differences
from bula.review.gate_names import refuse_unknown_figures
from bula.review.runs import Run
from bula.review.verdicts import NOT_COMPARABLE, NOT_MEANINGFUL, UNCHANGED, Figure
from bula.tables.cells import LOWER
from bula.tables.differences import direction

Result = Literal["pass", "warn", "fail"]
# The settings of the section compare that decide what is tested, and what is significant.
TESTS = {"primary", "permutations", "max_degenerate_share"}

# The measures without a worst value. The others are shares, overlaps, or scores from 1 to 3.
UNBOUNDED = ("bits_per_character", "question_worth")
LOWEST_JUDGEMENT = 1.0


class Outcome(NamedTuple):
    """The outcome of one gate."""

    gate: Gate
    figure: Figure | None
    result: Result
    reason: str

    @property
    def can_fail(self) -> bool:
        """Return whether some value of this run would fail the gate.

        A share of 0 cannot become lower, so that only a floor could fail it.
        """
        worst = worst_value(self.gate.measure)
        if worst is None or self.figure is None or self.figure.before is None:
            return True
        largest_loss = abs(worst - self.figure.before)
        return largest_loss > self.gate.max_drop or _is_beyond_floor(self.gate, worst)


def worst_value(measure: str) -> float | None:
    """Return the worst possible value of a measure, if it has one."""
    if measure in UNBOUNDED:
        return None
    if direction(measure) == LOWER:
        return 1.0
    return LOWEST_JUDGEMENT if measure.startswith("judge_") else 0.0


def check_own_gates(params: Params) -> None:
    """Raise UserError if a gate has a wrong figure or direction."""
    refuse_unknown_figures(params)
    for gate in params.review.gates:
        known = "lower" if direction(gate.measure) == LOWER else "higher"
        if gate.direction != known:
            what = f"the gate on {gate.figure} says that {gate.direction} is better"
            raise UserError("review.gates", what, f"write direction: {known}")


def with_gates_of(before: Run, params: Params) -> tuple[Params, list[str]]:
    """Return the parameters with the gates and the tests of another run.

    Gates on figures that the other run does not gate are kept. The second value lists the
    thresholds that differ.
    """
    params, tests = _with_tests_of(before, params)
    params, gates = _with_review_of(before, params)
    return params, tests + gates


def _with_tests_of(before: Run, params: Params) -> tuple[Params, list[str]]:
    """Return the parameters with the tests of another run's section `compare`."""
    section = before.params.get("compare")
    if not isinstance(section, dict):
        return params, []
    own = params.compare
    tests = {key: section[key] for key in TESTS if key in section}
    try:
        base = Compare.model_validate({**own.model_dump(), **tests})
    except ValidationError:
        return params, ["its section compare has another form, so the tests of this run apply"]
    changes = differences(base.model_dump(include=TESTS), own.model_dump(include=TESTS), "compare")
    found = [_difference(change) for change in changes]
    return params.model_copy(update={"compare": base}), found


def _with_review_of(before: Run, params: Params) -> tuple[Params, list[str]]:
    """Return the parameters with the section `review` of another run."""
    own = params.review
    section = before.params.get("review")
    if not isinstance(section, dict):
        return params, []
    try:
        base = Review.model_validate({**own.model_dump(), **section})
    except ValidationError:
        return params, ["its section review has another form, so those of this run apply"]
    known = {gate.figure for gate in base.gates}
    gates = [*base.gates, *(gate for gate in own.gates if gate.figure not in known)]
    review = base.model_copy(update={"gates": gates})
    return params.model_copy(update={"review": review}), _differing(base, own)


def _differing(base: Review, own: Review) -> list[str]:
    """Return each threshold of a run that another run has with another value."""
    fields = {"alpha", "lock"}
    changes = differences(base.model_dump(include=fields), own.model_dump(include=fields))
    found = [_difference(change) for change in changes]
    gates = {gate.figure: gate for gate in own.gates}
    for gate in base.gates:
        other = gates.get(gate.figure)
        if other is None:
            found.append(f"{gate.figure} has no gate here")
            continue
        changes = differences(gate.model_dump(), other.model_dump())
        found += [f"{gate.figure} {_difference(change)}" for change in changes]
    return found


def _difference(change: Change) -> str:
    """Return the name of a threshold and its two values."""
    values = ("null" if part is None else part for part in (change.before, change.after))
    return "{} {} → {}".format(change.key, *values)


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
    if _may_be_worse(gate, figure):
        reason = f"the interval does not exclude a loss above {gate.max_drop:g}"
        return Outcome(gate, figure, "warn", reason)
    return Outcome(gate, figure, "pass", _passing(gate, figure))


def _is_beyond_floor(gate: Gate, level: float) -> bool:
    """Return whether a figure is worse than the worst value that passes."""
    if gate.floor is None:
        return False
    return level > gate.floor if gate.direction == "lower" else level < gate.floor


def _is_worse(figure: Figure, alpha: float) -> bool:
    """Return whether a figure is significantly worse after Holm's correction."""
    return figure.loss > 0 and figure.p_holm is not None and figure.p_holm < alpha


def _may_be_worse(gate: Gate, figure: Figure) -> bool:
    """Return whether the interval, or else the loss itself, reaches beyond `max_drop`."""
    if figure.p is None or figure.verdict == "better":
        return False
    worst = figure.loss if figure.largest_loss is None else figure.largest_loss
    return worst > gate.max_drop


def _passing(gate: Gate, figure: Figure) -> str:
    """Return what a gate that passes leaves open."""
    if figure.verdict == UNCHANGED:
        return UNCHANGED
    if figure.verdict == "better":
        return "better"
    return f"no loss above {gate.max_drop:g} was found"
