"""Format the benchmark scores of one variant as labelled cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bula.escaping import markdown
from bula.params import Params, scored_as
from bula.tables.cells import HIGHER, Column, percent_cell
from bula.tables.figures import Metrics, group, read_metrics

# From this share of one answer, a benchmark score describes the task and not the model.
CONSTANT_SHARE = 0.95
# The expected accuracy of guessing, where all items of a task have the same number of options.
CHANCE = {
    "bula_medmcqa": 0.25,
    "bula_medmcqa_cloze": 0.25,
    "bula_medqa_4options": 0.25,
    "bula_medqa_4options_cloze": 0.25,
    "medmcqa": 0.25,
    "medqa_4options": 0.25,
    "bula_contrast": 0.5,
    "bula_healthbench_br": 0.5,
}


def benchmark_cells(folder: Path, variant: str, params: Params) -> Column:
    """Return one cell per benchmark task with its first metric.

    A variant with the weights of an earlier variant has its scores, so the cells name that one.
    """
    scored = scored_as(params, variant)
    cells = {}
    for task, figures in benchmark_tasks(folder, variant, params.benchmark.tasks).items():
        name = first_metric(figures)
        label = benchmark_label(task, name, figures["items"], pin_note(folder, variant, task))
        is_own = scored == variant
        cells[label] = _benchmark_cell(figures, name) if is_own else f"as {markdown(scored)}"
    return cells


def _benchmark_cell(figures: Metrics, name: str) -> str:
    """Return a score in percent; note if nearly all answers were equal."""
    score = percent_cell(figures, name)
    share = constant_share(figures)
    # A model that always picks one option scores that option's share of the keys.
    if share < CONSTANT_SHARE:
        return score
    return f"{score} (one answer to all)" if share == 1 else f"{score} (nearly one answer to all)"


def constant_share(figures: Metrics) -> float:
    """Return the share of a task's most frequent answer, or else 0.

    The share over the indexes of the options replaces the share over the texts.
    """
    share = figures.get("constant_answer_share", figures.get("commonest_answer_share"))
    return float(share) if isinstance(share, int | float) else 0.0


def benchmark_tasks(folder: Path, variant: str, tasks: Sequence[str]) -> dict[str, Metrics]:
    """Return the figures of each benchmark task, without those of slices.

    Raise UserError if a figure is missing.
    """
    path = folder / "benchmark" / f"{variant}.json"
    stage = f"benchmark@{variant}"
    metrics = read_metrics(folder, "benchmark", variant)
    found = {}
    for name in sorted(metrics.keys() - {"settings"}):
        if name not in tasks and _is_slice(name, metrics):
            continue
        figures = group(metrics, name, ["items", "commonest_answer_share"], path, stage)
        metric = first_metric(figures)
        group(metrics, name, [metric, f"{metric}_stderr"], path, stage)
        found[name] = figures
    return found


def _is_slice(name: str, metrics: Metrics) -> bool:
    """Return whether a group of metrics/benchmark/V.json is a slice of another one."""
    return any(name.startswith(f"{task}_") for task in metrics)


def first_metric(figures: Metrics) -> str:
    """Return the first metric of a task that has a standard error."""
    return next((key for key in figures if f"{key}_stderr" in figures), "")


def benchmark_label(task: str, metric: str, items: int, doubt: str) -> str:
    """Return the label of one benchmark task, with its known guess level."""
    chance = f", chance {CHANCE[task] * 100:.0f} %" if task in CHANCE else ""
    return f"{markdown(task)}, {markdown(metric)}, % ({items} items{chance}{doubt}) {HIGHER}"


def pin_note(folder: Path, variant: str, task: str) -> str:
    """Return a note for the label of a task whose items are not pinned."""
    settings: Any = read_metrics(folder, "benchmark", variant).get("settings", {})
    return "" if settings.get(f"{task}_pinned", 1) else ", not pinned"
