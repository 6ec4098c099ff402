"""Find the files from which a task of lm-eval reads its items."""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bula.errors import UserError

# Where ingest writes the items of benchmarks.
ITEMS = "data/benchmarks"
# The code of these tasks of lm-eval 0.4.13 was read: it runs no downloaded code, calls no server.
# Some of the other 15,000 tasks load code from the hub (humaneval, mbpp, meddialog) or send a key
# to an API (pisa, realtoxicityprompts).
REVIEWED = (
    "arc_challenge",
    "arc_easy",
    "boolq",
    "hellaswag",
    "medmcqa",
    "medqa_4options",
    "piqa",
    "pubmedqa",
    "squad_completion",
)


def list_files(data_files: object) -> list[str]:
    """Return the paths in `data_files` of a task.

    lm-eval passes this value to `datasets`, which accepts a path, a list of paths, or either of
    them for each split.
    """
    if isinstance(data_files, dict):
        return [path for value in data_files.values() for path in list_files(value)]
    if isinstance(data_files, list | tuple):
        return [str(path) for path in data_files]
    return [str(data_files)] if data_files else []


def is_pinned(path: str) -> bool:
    """Return whether ingest writes the file: it lies in `ITEMS`."""
    return os.path.normpath(path).startswith(f"{ITEMS}/")


def unwritten_items(folder: Path, tasks: list[str], written: list[str]) -> dict[str, str]:
    """Return the first file of each task that ingest does not write.

    `written` has the names of the entries of ingest.benchmarks. Only tasks of `folder` count.
    """
    outputs = [f"{ITEMS}/{name}.jsonl" for name in written]
    found: dict[str, str] = {}
    for task, paths in _task_files(folder):
        for path in filter(is_pinned, paths):
            if task in tasks and not _matches(path, outputs):
                found.setdefault(task, path)
    return found


def refuse_unwritten_items(folder: Path, tasks: list[str], written: list[str]) -> None:
    """Raise a UserError if a benchmark task reads items that ingest does not write."""
    missing = unwritten_items(folder, tasks, written)
    if missing:
        named = ", ".join(f"{task} ({path})" for task, path in missing.items())
        what = f"no entry of ingest.benchmarks writes the items of {named}"
        fix = "add an entry with the name of that file, or remove the task from benchmark.tasks"
        raise UserError("params.yaml", what, fix)


def refuse_unknown_tasks(folder: Path, tasks: list[str]) -> None:
    """Raise a UserError if a task is neither in a folder nor reviewed."""
    own = {str(_read_task(file).get("task")) for file in sorted(folder.rglob("*.yaml"))}
    refuse_unknown(tasks, own, folder)


def refuse_unknown(tasks: list[str], own: set[str], folder: Path) -> None:
    """Raise a UserError if a task is unknown.

    `own` has the names of the tasks in a folder.
    """
    unknown = sorted(set(tasks) - own - set(REVIEWED))
    if unknown:
        listed = ", ".join(unknown)
        what = f"benchmark.tasks names {listed}, neither in {folder}/ nor a reviewed task"
        use = f"name tasks of {folder}/ or {', '.join(REVIEWED)}"
        copy = f"to use another task, review its code and copy it to {folder}/"
        raise UserError("params.yaml", what, f"{use}; {copy}")


def _matches(path: str, outputs: list[str]) -> bool:
    """Return whether a path, or a pattern of paths, names an output of ingest."""
    pattern = os.path.normpath(path)
    return any(fnmatch(output, pattern) for output in outputs)


def _task_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the files of each task in a folder."""
    for file in sorted(folder.rglob("*.yaml")):
        task = _read_task(file)
        loading = task.get("dataset_kwargs")
        if isinstance(loading, dict):
            yield str(task.get("task")), list_files(loading.get("data_files"))


def _read_task(file: Path) -> dict[str, Any]:
    """Return the keys of a task and of the files that it includes.

    Raise UserError if a file is missing or no YAML mapping.
    """
    try:
        # The safe mode refuses the tag !function.
        content = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        what = f"the task cannot be read ({type(error).__name__})"
        raise UserError(file, what, "correct the file, or remove it") from error
    if not isinstance(content, dict):
        raise UserError(file, "it contains no task", "correct the file, or remove it")
    included = content.get("include") or []
    task: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        task |= _read_task(file.parent / name)
    return task | dict(content)
