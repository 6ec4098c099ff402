"""Write a review as a JSON object."""

from typing import Any

from bula.review.answers import STATED
from bula.review.changes import base_of, profile_of
from bula.review.gate import Outcome
from bula.review.measures import machine, processor
from bula.review.report import Review
from bula.review.runs import Run
from bula.review.verdicts import Figure


def as_object(review: Review) -> dict[str, Any]:
    """Return a review as a JSON object."""
    return {
        "passed": review.passed,
        "base": _run_object(review.before),
        "run": _run_object(review.after),
        "commits_behind": review.behind,
        "lock_matches": not review.problems,
        "lock_problems": review.problems,
        "alpha": review.alpha,
        "thresholds_that_differ": review.differing,
        "gates": [_outcome_object(outcome) for outcome in review.outcomes],
        "figures": [_figure_object(figure) for figure in review.figures],
        "parameters": [change._asdict() for change in review.params],
        "counts": [change._asdict() for change in review.counts],
        "headline": [change._asdict() for change in review.headline],
        "answers": {
            "compared": review.answers.compared,
            "changed": review.answers.changed,
            "hidden": review.answers.hidden,
            "distance": STATED,
            "shown": [changed._asdict() for changed in review.answers.shown],
        },
    }


def _run_object(run: Run) -> dict[str, Any]:
    """Return what identifies a run."""
    return {
        "name": run.name,
        "commit": run.commit,
        "uncommitted_changes": run.is_changed,
        "machine": machine(run),
        "processor": processor(run),
        "profile": profile_of(run),
        "base_model": base_of(run),
        "missing_rows": dict(run.missing),
        "stale_rows": list(run.stale),
    }


def _outcome_object(outcome: Outcome) -> dict[str, Any]:
    """Return one gate with its outcome."""
    return {
        **outcome.gate.model_dump(),
        "result": outcome.result,
        "reason": outcome.reason,
        "can_fail": outcome.can_fail,
    }


def _figure_object(figure: Figure) -> dict[str, Any]:
    """Return one figure with its name and direction."""
    content = figure._asdict()
    lower = content.pop("lower_is_better")
    return {"figure": figure.name, "direction": "lower" if lower else "higher", **content}
