"""Refuse a profile whose inputs its clone would lack.

A clone has what git and DVC track here: no other file, and no edit that `dvc add` has not seen.
"""

import os
from pathlib import Path

from bula.errors import UserError
from bula.experiments import refuse_untracked_inputs, run_git
from bula.params import DirectoryModel, Params


def refuse_missing_inputs(params: Params) -> None:
    """Raise a UserError if the clone of a profile would miss an input."""
    refuse_untracked_inputs()
    for source in (params.ingest.base, params.ingest.judge):
        if isinstance(source, DirectoryModel):
            _refuse_untracked_model(source.path)
    _refuse_changed_data()


def _refuse_untracked_model(path: str) -> None:
    """Raise a UserError if a relative path means nothing in a clone."""
    if not Path(path).is_absolute() and not _is_tracked(Path(os.path.normpath(path))):
        what = "the profile names this model by a relative path, and neither git nor DVC tracks it"
        raise UserError(path, what, "use an absolute path, or track the model with `dvc add`")


def _is_tracked(path: Path) -> bool:
    """Return whether git or DVC tracks a path of the repository."""
    if ".." in path.parts:
        return False
    folders = [path, *path.parents][:-1]
    files = [str(path), *(f"{folder}.dvc" for folder in folders)]
    return bool(run_git("--literal-pathspecs", "ls-files", "--cached", "--", *files))


def _refuse_changed_data() -> None:
    """Raise a UserError if data differs from its .dvc file.

    Deleted data is no problem, because the clone takes it from DVC's cache.
    """
    files = run_git("ls-files", "--cached", "-z", "--", "*.dvc").split("\0")
    targets = [name for name in files if name and Path(name).exists()]
    if not targets:
        return
    # Imported here because DVC takes a second to load.
    from dvc.repo import Repo

    with Repo() as repo:
        status = repo.status(targets=targets)
    changed = [file for file in targets if _is_changed(status.get(file, []))]
    if changed:
        data = changed[0].removesuffix(".dvc")
        what = f"it differs from {changed[0]}, from which the clone takes the data"
        raise UserError(data, what, f"run `dvc add {data}` again")


def _is_changed(entries: list[object]) -> bool:
    """Return whether DVC's status of one .dvc file names data that exists and differs."""
    changes = [entry.get("changed outs", {}) for entry in entries if isinstance(entry, dict)]
    return any(state != "deleted" for outs in changes for state in outs.values())
