"""Write figures in the hub's form of results (model-index)."""

from typing import Any

from huggingface_hub import EvalResult

from bula.publish.parts import safe_name
from bula.publish.results import VALIDATION, Result, Results

TASK = "text-generation"
# Figures in metrics/ have six significant digits.
DIGITS = 6


def eval_results(found: Results, file: str, commit: str) -> list[EvalResult]:
    """Return the figures of one variant as the hub's results.

    `file` names a GGUF file; it is an empty text for other repositories. The hub has no field for
    intervals, so they stand among the arguments of the metric, with the commit.
    """
    results = []
    for result in found.shown:
        name = f"{result.name} ({file})" if file else result.name
        results.append(
            EvalResult(
                task_type=TASK,
                dataset_type=_data_set(result),
                dataset_name=f"bula, {result.items_from}",
                metric_type=result.kind,
                metric_name=name,
                metric_value=_rounded(result.value),
                metric_args=_arguments(result, found.variant, commit),
            )
        )
    return results


def _data_set(result: Result) -> str:
    """Return the name of a set of items as the hub allows it."""
    name = "validation" if result.items_from == VALIDATION else result.items_from
    return safe_name(name if name.startswith("bula") else f"bula {name}")


def _arguments(result: Result, variant: str, commit: str) -> dict[str, Any]:
    """Return the interval, the number of items and the origin of a figure."""
    return {
        "interval_low": _rounded(result.low),
        "interval_high": _rounded(result.high),
        "interval_confidence": result.confidence,
        "items": result.items,
        "better": result.better,
        "variant": variant,
        "git_commit": commit,
    }


def _rounded(value: float) -> float:
    """Return a value with the digits that metrics/ has."""
    return float(f"{value:.{DIGITS}g}")
