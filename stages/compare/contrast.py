"""Build the table of the contrast pairs."""

from pathlib import Path

from bula.params import Params, scored_as
from bula.tables.cells import HIGHER, UNKNOWN, percent_cell
from bula.tables.figures import Metrics, group, read_metrics

TASK = "bula_contrast"
METRICS = ("acc", "acc_norm")
NOTE = (
    "The answers of a pair differ in one clinical fact, and guessing decides 50 % correctly. "
    "± is a standard error. acc compares the log-likelihoods of the two answers, and acc_norm "
    "divides them by the characters. A variant with the model of another variant has its scores, "
    "and no column.\n"
)


def contrast_section(figures: Path, params: Params) -> str:
    """Return the table with its note, or nothing if no variant has contrast pairs.

    The table has a row per slice and one for all pairs.
    """
    scored = [name for name in params.variants if scored_as(params, name) == name]
    found = {name: read_metrics(figures, "benchmark", name) for name in scored}
    measured = {name: metrics for name, metrics in found.items() if TASK in metrics}
    if not measured:
        return ""
    head = ["slice", "pairs"]
    for variant in measured:
        head += [f"{variant}: {metric}, % {HIGHER}" for metric in METRICS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in _groups(measured):
        lines.append("| " + " | ".join(_row(figures, name, measured)) + " |")
    return "\n".join(lines) + f"\n\n{NOTE}"


def _groups(measured: dict[str, Metrics]) -> list[str]:
    """Return the slices of all variants by name, and the complete task."""
    names = {name for metrics in measured.values() for name in metrics}
    slices = sorted(name for name in names if name.startswith(f"{TASK}_"))
    return [*slices, TASK]


def _row(figures: Path, name: str, measured: dict[str, Metrics]) -> list[str]:
    """Return the cells of one slice, or of the complete task."""
    title = "all" if name == TASK else name.removeprefix(f"{TASK}_").replace("_", " ")
    cells = []
    items = UNKNOWN
    for variant, metrics in measured.items():
        path = figures / "benchmark" / f"{variant}.json"
        needed = ["items", *METRICS, *(f"{metric}_stderr" for metric in METRICS)]
        scores = group(metrics, name, needed, path, f"benchmark@{variant}")
        cells += [percent_cell(scores, metric) for metric in METRICS]
        items = str(scores["items"])
    return [title, items, *cells]
