"""Load benchmark tasks, and refuse unsuitable ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import load_yaml
from lm_eval.tasks.squad_completion.task import SQUADCompletion

from bula.errors import UserError
from bula.task_files import ITEMS, REVIEWED, is_pinned, list_files, refuse_unknown

# The names of this project's tasks start with this prefix, and no task of lm-eval does.
PREFIX = "bula_"
# What datasets raises if a data set cannot be fetched.
FETCH_ERRORS = (OSError, ValueError, datasets.exceptions.DatasetsError)
# What datasets raises over missing or damaged files of items.
FILE_ERRORS = (FileNotFoundError, datasets.exceptions.DatasetsError)


def find_tasks(folder: Path, names: list[str]) -> TaskManager:
    """Return lm-eval's task manager for the named tasks.

    The manager reads lm-eval's own 15,000 names, which takes seconds, only if they may be needed.
    Raise UserError if a name is unknown or not reviewed, or if a task in `folder` replaces lm-
    eval's.
    """
    own = TaskManager(include_path=str(folder), include_defaults=False)
    own_names = set(own.all_tasks)
    refuse_unknown(names, own_names, folder)
    foreign = {name for name in own_names if not name.startswith(PREFIX)}
    if own_names.issuperset(names) and not foreign:
        return own
    refuse_replacing(foreign, folder)
    return TaskManager(include_path=str(folder))


def refuse_replacing(names: set[str], folder: Path) -> None:
    """Raise a UserError if lm-eval has a task with the same name."""
    if not names:
        return
    replaced = sorted(names.intersection(TaskManager().all_tasks))
    if replaced:
        what = f"{', '.join(replaced)} is a task of lm-eval, which this one would replace"
        raise UserError(folder, what, f"rename it, such as {PREFIX}{replaced[0]}")


def load_tasks(names: Sequence[str], manager: TaskManager, cache: Path) -> dict[str, Task]:
    """Return the named tasks.

    Raise UserError if a task cannot be loaded, or has a metric without a number for each item.
    """
    tasks = {name: load_task(name, manager, cache) for name in names}
    for name, task in tasks.items():
        refuse_corpus_metrics(name, task)
    return tasks


def load_task(name: str, manager: TaskManager, cache: Path) -> Task:
    """Return a task over the items that ingest pinned, if there are such items.

    Pinned items go through an empty cache. Another task of lm-eval fetches its data set, or finds
    it in the user's own cache. Raise UserError if it cannot.
    """
    items = Path(ITEMS) / f"{name}.jsonl"
    if name in REVIEWED and not items.exists():
        return fetch_task(name, manager)
    spec: str | dict[str, Any] = pinned_task(name, items, manager) if name in REVIEWED else name
    usual = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = cache
    try:
        return manager.load([spec])["tasks"][name]
    except FILE_ERRORS as error:
        what = f"its items cannot be read ({type(error).__name__})"
        entry = "add the entry that its `data_files` name to ingest.benchmarks"
        fix = f"{entry}, run `dvc repro ingest`, or correct the task"
        raise UserError(f"task {name}", what, fix) from error
    finally:
        datasets.config.HF_DATASETS_CACHE = usual


def fetch_task(name: str, manager: TaskManager) -> Task:
    """Return a task of lm-eval that fetches its own data set."""
    try:
        return manager.load([name])["tasks"][name]
    except FETCH_ERRORS as error:
        what = f"its data set cannot be fetched ({type(error).__name__}), and no items are pinned"
        fix = f"add an entry with the name {name} to ingest.benchmarks, or check the network"
        raise UserError(f"task {name}", what, fix) from error


def pinned_task(name: str, items: Path, manager: TaskManager) -> dict[str, Any]:
    """Return the configuration of an lm-eval task that reads the pinned items."""
    config: dict[str, Any] = load_yaml(manager.task_index[name].yaml_path, resolve_func=True)
    if "class" in config:
        return config | {"class": squad_over(items)}
    return config | {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }


def squad_over(items: Path) -> type[SQUADCompletion]:
    """Return lm-eval's squad_completion over pinned items; its class names a data set."""

    class Pinned(SQUADCompletion):  # type: ignore[misc]
        def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
            files = {"data_files": {"validation": str(items)}}
            self.config.dataset_kwargs = files
            self.dataset = datasets.load_dataset("json", **files)

    return Pinned


def refuse_corpus_metrics(name: str, task: Task) -> None:
    """Raise UserError if a metric is no mean over items.

    Tests compare variants by pairs of items, so a metric needs a number for each item. F1 and
    perplexity over all items have none.
    """
    for metric, aggregation in task.aggregation().items():
        if aggregation not in (mean, np.mean):
            what = f"metric {metric} is no mean over items, so it has no number for each item"
            fix = "remove the task from benchmark.tasks, or the metric from the task"
            raise UserError(f"task {name}", what, fix)


def task_facts(tasks: Mapping[str, Task]) -> dict[str, str | int]:
    """Return each task's version, and 1 if ingest pinned its items."""
    facts: dict[str, str | int] = {}
    for name, task in tasks.items():
        paths = list_files((task.config.dataset_kwargs or {}).get("data_files"))
        facts[f"{name}_version"] = str(task.VERSION)
        facts[f"{name}_pinned"] = int(bool(paths) and all(map(is_pinned, paths)))
    return facts
