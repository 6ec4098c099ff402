"""Gather the files of two runs: this workspace and a commit.

git has the figures, the parameters and the lock. DVC has the rows of items, in its cache or on a
remote, or nowhere. Rows of the workspace count only if they have the hash of dvc.lock.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bula.commands.remote_checks import client_errors, short_reason
from bula.errors import UserError
from bula.experiments import run_git
from bula.item_scores import ROWS
from bula.records import SET_NAMES
from bula.review.runs import PROFILES, Run

PARAMS = "params.yaml"
LOCK = "dvc.lock"
# What git has of a run.
TRACKED = ("metrics", PARAMS, LOCK, "profiles")
DIGITS = 7
# DVC 2 changed line ends before it hashed, so only this hash is that of the bytes.
HASH = "md5"


def resolve(revision: str) -> str:
    """Return the hash of the commit that a revision names.

    Raise UserError if there is none.
    """
    try:
        names = ("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        return run_git("rev-parse", *names).strip()
    except UserError as error:
        fix = "name a commit, branch or tag of this clone (`git fetch` brings those of a server)"
        raise UserError(f"--base {revision}", "git knows no such commit", fix) from error


def gather_workspace(folder: Path) -> Run:
    """Copy the files of this workspace's run, and fetch missing rows."""
    for path in _tracked_files():
        _copy(Path(path), folder / path)
    commit = run_git("rev-parse", "HEAD").strip()
    is_changed = bool(run_git("status", "--porcelain", "--untracked-files=no", "--", "."))
    return _with_rows("this run", commit, folder, None, is_changed=is_changed)


def _tracked_files() -> list[str]:
    """Return the files of the workspace that git would track."""
    paths = [PARAMS, LOCK]
    paths += map(str, sorted(Path("metrics").rglob("*.json")))
    paths += map(str, sorted(Path(PROFILES).glob("*.yaml")))
    return [path for path in paths if Path(path).is_file()]


def gather_revision(revision: str, commit: str, folder: Path) -> Run:
    """Write the files of a commit's run, and fetch its rows."""
    for path in run_git("ls-tree", "-r", "-z", "--name-only", commit, *TRACKED).split("\0"):
        if path.endswith((".json", ".yaml", ".lock")):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(run_git("show", f"{commit}:./{path}"), encoding="utf-8")
    return _with_rows(revision, commit, folder, commit, is_changed=False)


def _with_rows(
    name: str, commit: str, folder: Path, revision: str | None, *, is_changed: bool
) -> Run:
    """Return a run after its rows were fetched into its folder."""
    params = _read_yaml(folder / PARAMS, name)
    lock = _read_yaml(folder / LOCK, name).get("stages")
    run = Run(name, commit[:DIGITS], is_changed, folder, params, lock or {}, {}, [])
    paths = _row_files(run.variants)
    stale = [] if revision else _copy_rows(paths, folder)
    wanted = [path for path in paths if not (folder / path).is_file()]
    missing = _fetch(wanted, folder, revision) if wanted else {}
    return run._replace(missing=missing, stale=stale)


def _read_yaml(file: Path, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, or nothing without the file."""
    if not file.is_file():
        return {}
    try:
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        what = f"{file.name} is not valid YAML"
        raise UserError(name, what, "name another commit, or correct the file") from error
    return content if isinstance(content, dict) else {}


def _row_files(variants: Iterable[str]) -> list[str]:
    """Return the files with rows of items, and the validation sets."""
    files = [f"data/clean/validation/{name}.jsonl" for name in SET_NAMES]
    for variant in variants:
        files += [f"data/{folder}/{variant}.jsonl" for folder, _ in ROWS.values()]
    return files


def _copy(source: Path, target: Path) -> None:
    """Copy a file, and make its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_rows(paths: list[str], folder: Path) -> list[str]:
    """Copy the workspace's rows that have the hash of dvc.lock, and return the others.

    After `git checkout` without `dvc checkout`, the workspace has the rows of another commit.
    """
    from dvc.repo import Repo

    from bula.commands.review_lock import matching_outputs, output_of

    with Repo() as repo:
        outputs = matching_outputs(repo)
    stale = []
    for path in filter(os.path.isfile, paths):
        if outputs.get(output_of(path, outputs), False):
            _copy(Path(path), folder / path)
        else:
            stale.append(path)
    return stale


def _fetch(paths: list[str], folder: Path, revision: str | None) -> dict[str, str]:
    """Write files that DVC has, and return why others are missing.

    After a failure of a remote, no other file is asked from it: each attempt may take minutes.
    """
    # Imported here because DVC takes seconds to load.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    missing: dict[str, str] = {}
    try:
        with Repo() as repo:
            # In a commit's own configuration, DVC resolves relative addresses wrongly.
            remotes = {name: dict(repo.config[name]) for name in ("core", "remote")}
        # The file system of DVC's objects alone: the other one prefers a file of the workspace.
        files = DVCFileSystem(rev=revision, config=remotes).repo.datafs
        for path in paths:
            reason = _fetch_one(files, path, folder / path)
            if reason:
                missing[path] = reason
    except (DvcException, *client_errors()) as error:
        reason = f"DVC cannot fetch it ({short_reason(error)})"
        return missing | {path: reason for path in paths if not (folder / path).is_file()}
    return missing


def _fetch_one(files: Any, path: str, target: Path) -> str:
    """Write one file of a DVC file system.

    Return why that failed, or an empty text. The bytes must have the hash of dvc.lock, because a
    remote may hold half of an object.
    """
    from dvc_data.index import DataIndexDirError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        files.get_file(path, str(target))
        entry = files.info(path).get("entry")
    except (FileNotFoundError, DataIndexDirError):
        target.unlink(missing_ok=True)
        return "DVC finds it neither in its cache nor on a remote"
    found = entry.hash_info if entry else None
    if found and found.name == HASH and found.value != _md5(target):
        target.unlink()
        return "its copy in DVC's cache or remote is damaged"
    return ""


def _md5(path: Path) -> str:
    """Return the MD5 of a file, by which DVC names objects."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
