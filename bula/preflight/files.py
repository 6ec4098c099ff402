"""Look for the files, models and tasks that params.yaml names."""

from functools import partial
from pathlib import Path

from bula.named_inputs import (
    NamedInput,
    named_inputs,
    refuse_folder_without_weights,
    refuse_missing,
)
from bula.params import Params
from bula.preflight.checks import Check
from bula.primary_measures import refuse_unknown_measures
from bula.task_files import refuse_unknown_tasks, refuse_unwritten_items


def input_checks(params: Params) -> list[Check]:
    """Return one check per file and model that must exist."""
    checks = []
    for item in named_inputs(params):
        checks.append(Check(item.key, item.path, partial(_find, item)))
    for name, variant in params.variants.items():
        if variant.engine == "openai":
            run = partial(_find_weights, name, variant.model)
            checks.append(Check(f"variants.{name}", f"weights in {variant.model}", run))
    return checks


def _find(item: NamedInput) -> str:
    """Find a file or folder, or its .dvc file."""
    refuse_missing(item)
    return "it exists"


def _find_weights(name: str, model: str) -> str:
    """Find the weights of a served model."""
    refuse_folder_without_weights(name, model)
    return "they exist, or a stage writes them"


def task_checks(params: Params, folder: Path) -> list[Check]:
    """Return the checks of the benchmark tasks; `folder` has the project's own."""
    tasks = params.benchmark.tasks
    written = [source.name for source in params.ingest.benchmarks]
    return [
        Check("benchmark.tasks", "task names", partial(_know_tasks, folder, tasks)),
        Check("benchmark.tasks", "items of tasks", partial(_know_items, folder, tasks, written)),
        Check("compare.primary", "names of measures", partial(_know_measures, params)),
    ]


def _know_measures(params: Params) -> str:
    """Find a stage for each primary measure."""
    refuse_unknown_measures(params)
    return f"{len(params.compare.primary)} measures are known"


def _know_tasks(folder: Path, tasks: list[str]) -> str:
    """Find each task in the folder, or among the reviewed tasks of lm-eval."""
    refuse_unknown_tasks(folder, tasks)
    return f"{len(tasks)} tasks are known"


def _know_items(folder: Path, tasks: list[str], written: list[str]) -> str:
    """Find a writer for the items of each task."""
    refuse_unwritten_items(folder, tasks, written)
    return "ingest writes the items of all tasks"
