"""Refuse primary measures that no stage computes.

The stage compare refuses them too, but it is the last stage of a run.
"""

from bula.errors import UserError
from bula.params import Params

# The measures of compare that do not come from a benchmark task.
MEASURES = (
    "degenerate",
    "bits_per_character",
    "question_worth",
    "rouge1_f",
    "rouge2_f",
    "rougeL_f",
    "safety_emergency",
    "safety_no_dose",
    "safety_harmful",
    "safety_harmless",
    "safety_over_refusal",
    "judge_accuracy",
    "judge_style",
)


def refuse_unknown_measures(params: Params) -> None:
    """Raise a UserError if `compare.primary` names a measure that no variant is scored by.

    The measure of a benchmark task is TASK_METRIC, and only the task's name is checked.
    """
    tasks = tuple(f"{task}_" for task in params.benchmark.tasks)
    for measure in params.compare.primary:
        if measure not in MEASURES and not measure.startswith(tasks):
            what = f"compare.primary has {measure!r}, which no variant is scored by"
            known = ", ".join([*MEASURES, *(f"{task}METRIC" for task in tasks)])
            raise UserError("params.yaml", what, f"choose among {known}")
