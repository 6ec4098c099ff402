"""Find gates of params.yaml on a figure that no run has.

`bula preflight` imports this module, so it loads no statistics.
"""

from bula.errors import UserError, did_you_mean
from bula.params import Gate, Params
from bula.safety import SLICES

# The measures of all runs. Those of benchmarks are named by task and metric.
MEASURES = (
    "bits_per_character",
    "question_worth",
    "degenerate",
    "rouge1_f",
    "rouge2_f",
    "rougeL_f",
    "judge_accuracy",
    "judge_style",
    "safety_over_refusal",
    *(f"safety_{name}" for name in SLICES),
)


def refuse_unknown_figures(params: Params) -> None:
    """Raise UserError for the first gate on a figure that no run can have.

    A gate on a variant that was removed is left to the review, which fails there.
    """
    for gate in params.review.gates:
        if not _is_known(gate, params):
            what = f"no such figure as {gate.figure}{did_you_mean(gate.figure, _figures(params))}"
            fix = (
                "name a variant of params.yaml, and a measure of docs/metrics.md or a task of "
                "benchmark.tasks with its metric"
            )
            raise UserError("review.gates", what, fix)


def _is_known(gate: Gate, params: Params) -> bool:
    """Return whether a gate has a known measure and no mistyped variant."""
    tasks = tuple(f"{task}_" for task in params.benchmark.tasks)
    known = {*MEASURES, *params.compare.primary}
    has_measure = gate.measure in known or gate.measure.startswith(tasks)
    is_mistyped = gate.variant not in params.variants and did_you_mean(
        gate.variant, params.variants
    )
    return has_measure and not is_mistyped


def _figures(params: Params) -> list[str]:
    """Return the names of the figures that a message may propose."""
    measures = dict.fromkeys([*MEASURES, *params.compare.primary])
    return [f"{variant}.{measure}" for variant in params.variants for measure in measures]
