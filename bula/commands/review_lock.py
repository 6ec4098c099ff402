"""Compare dvc.lock with the code, the parameters and the data."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.repo import Repo

from bula.commands.remote_checks import remote_errors

# States of `dvc status` of files that a clone without data lacks.
ABSENT = ("deleted", "not in cache")
DEPS = "changed deps"
OUTS = "changed outs"


def lock_problems(lock: Mapping[str, Any]) -> list[str]:
    """Return each difference between the workspace and dvc.lock.

    An output that is missing or that another commit wrote is no difference: git has the figures,
    and DVC may have the rest.
    """
    with remote_errors("DVC"), Repo() as repo:
        status: Mapping[str, Any] = repo.status()
        stale = [path for path, matches in matching_outputs(repo).items() if not matches]
    outs = _hashes(lock, "outs")
    stages: dict[str, list[str]] = {}
    for stage, entries in status.items():
        for problem in (found for entry in entries for found in _problems(entry, outs, stale)):
            stages.setdefault(problem, []).append(stage)
    for stage, problem in _contradictions(lock, outs):
        stages.setdefault(problem, []).append(stage)
    return [f"{problem} ({_first(names)})" for problem, names in stages.items()]


def matching_outputs(repo: Repo) -> dict[str, bool]:
    """Return whether each cached output in the workspace has the hash of dvc.lock."""
    outs = [out for out in repo.index.outs if out.use_cache and out.exists]
    return {str(out): not out.changed_checksum() for out in outs}


def output_of(path: str, outs: Iterable[str]) -> str:
    """Return the output that is a path or contains it, or an empty text."""
    parts = PurePosixPath(path)
    return next((out for out in outs if parts.is_relative_to(out)), "")


def _first(stages: list[str]) -> str:
    """Return the first of some stages, and how many others there are."""
    others = len(stages) - 1
    noun = "stage" if others == 1 else "stages"
    return f"{stages[0]} and {others} more {noun}" if others else stages[0]


def _hashes(lock: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return the hash of each output of all stages, by path."""
    entries = [entry for stage in lock.values() for entry in stage.get(kind, [])]
    return {entry["path"]: entry.get("md5", "") for entry in entries}


def _problems(entry: object, outs: Mapping[str, str], stale: list[str]) -> Iterator[str]:
    """Yield the differences in one entry of `dvc status`, except those of stale outputs."""
    if not isinstance(entry, dict):
        yield str(entry)
        return
    for path, state in entry.get(OUTS, {}).items():
        if state not in ABSENT and path not in stale:
            yield f"{path} is {state}"
    for path, state in entry.get(DEPS, {}).items():
        if isinstance(state, dict):
            yield from (f"{path} {key} is {what}" for key, what in state.items())
        elif not _waits_for_data(path, outs) and not _is_stale(path, stale):
            yield f"{path} is {state}"


def _waits_for_data(path: str, outs: Mapping[str, str]) -> bool:
    """Return whether a dependency lacks the output of a stage."""
    dependency = PurePosixPath(path)
    for out in outs:
        output = PurePosixPath(out)
        if dependency.is_relative_to(output) and not Path(path).exists():
            return True
        if output.is_relative_to(dependency) and not Path(out).exists():
            return True
    return False


def _is_stale(path: str, stale: list[str]) -> bool:
    """Return whether a stale output explains that a dependency is modified."""
    within = any(PurePosixPath(out).is_relative_to(path) for out in stale)
    return within or bool(output_of(path, stale))


def _contradictions(lock: Mapping[str, Any], outs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each stage that read another version of an output.

    `dvc status` cannot see this without the data, and a merge of two locks can cause it.
    """
    for name, stage in lock.items():
        for entry in stage.get("deps", []):
            path = entry["path"]
            if path in outs and outs[path] != entry.get("md5", ""):
                yield name, f"{path} has another hash where a stage read it"
