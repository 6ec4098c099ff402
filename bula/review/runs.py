"""Read the files of one run from its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bula.errors import UserError

PROFILES = "profiles/"


class Run(NamedTuple):
    """The files of one run."""

    name: str
    """What a reader calls it: the revision, or "this run"."""
    commit: str
    """Hash of the commit, shortened."""
    is_changed: bool
    """Whether files differ from the commit."""
    folder: Path
    """Where its files are, by their path in the repository."""
    params: Mapping[str, Any]
    """The content of params.yaml, which may have an older form."""
    lock: Mapping[str, Any]
    """The stages of dvc.lock by name."""
    missing: Mapping[str, str]
    """Why a file of rows is missing, by path."""
    stale: Sequence[str]
    """Files of rows in the workspace that do not have the hash of dvc.lock."""

    @property
    def variants(self) -> list[str]:
        """Return the names of the variants."""
        found = self.params.get("variants")
        return list(found) if isinstance(found, dict) else []

    def metrics(self, path: str) -> dict[str, Any]:
        """Return the content of metrics/PATH.json, or nothing if the run lacks it."""
        file = self.folder / "metrics" / f"{path}.json"
        return _read_json(file, f"{self.name}: metrics/{path}.json") if file.is_file() else {}


def _read_json(file: Path, name: str) -> dict[str, Any]:
    """Return the object in a file; raise UserError if it has none."""
    fix = "restore it from git, or run `dvc repro`"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    # A UnicodeDecodeError and a JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise UserError(name, "the file is not JSON", fix) from error
    if not isinstance(content, dict):
        raise UserError(name, "the file contains no JSON object", fix)
    return content
