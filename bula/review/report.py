"""Define the content of a review."""

from typing import Literal, NamedTuple

from bula.review.answers import Answers
from bula.review.changes import Change
from bula.review.gate import Outcome
from bula.review.runs import Run
from bula.review.verdicts import NOT_COMPARABLE, NOT_MEANINGFUL, UNCHANGED, Figure


class Review(NamedTuple):
    """Everything that a review says."""

    before: Run
    after: Run
    behind: int
    """Commits of the other run's branch that this one lacks."""
    problems: list[str]
    """Differences between dvc.lock and the workspace."""
    figures: list[Figure]
    outcomes: list[Outcome]
    params: list[Change]
    counts: list[Change]
    headline: list[Change]
    answers: Answers
    alpha: float
    lock: Literal["fail", "warn"]
    """What follows if dvc.lock does not match."""
    differing: list[str]
    """Thresholds of the other run, which apply, that this run has with another value."""

    @property
    def passed(self) -> bool:
        """Return whether no gate fails, and dvc.lock matches or need not."""
        return not self.failed and not (self.problems and self.lock == "fail")

    @property
    def is_equal(self) -> bool:
        """Return whether both runs have equal figures, parameters, counts and answers."""
        changes = (self.problems, self.differing, self.params, self.counts, self.headline)
        return (
            self.passed
            and not any(changes)
            and not self.answers.changed
            and all(_is_equal(figure) for figure in self.figures)
        )

    @property
    def failed(self) -> list[Outcome]:
        """Return the gates that fail."""
        return [outcome for outcome in self.outcomes if outcome.result == "fail"]

    @property
    def warned(self) -> list[Outcome]:
        """Return the gates that warn."""
        return [outcome for outcome in self.outcomes if outcome.result == "warn"]


def _is_equal(figure: Figure) -> bool:
    """Return whether a figure is unchanged, or is equal but not compared."""
    without = figure.verdict in (NOT_COMPARABLE, NOT_MEANINGFUL)
    return figure.verdict == UNCHANGED or (without and figure.before == figure.after)
