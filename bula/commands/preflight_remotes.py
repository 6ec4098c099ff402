"""Check that a run may push to the DVC remotes.

The proof is one small object that is written and deleted.
"""

import tempfile
from functools import partial
from pathlib import Path

from dvc.repo import Repo

from bula.commands.remote_checks import (
    client_errors,
    open_stores,
    remote_errors,
    short_reason,
)
from bula.errors import UserError
from bula.preflight.checks import NETWORK_SECONDS, Check

# DVC reads no object of this name, because the name of each object's folder has two letters.
OBJECT = "bula-write-check"
CONTENT = b"Written by bula preflight --remote.\n"
# A client starts, and sends three requests.
SECONDS = 2 * NETWORK_SECONDS


def remote_checks(root: Path) -> list[Check]:
    """Return one check per DVC remote of the repository."""
    with remote_errors("the DVC repository"):
        repo = Repo(str(root))
    return [
        Check("--remote", f"DVC remote {name}", partial(check_remote, repo, name), True, SECONDS)
        for name in repo.config["remote"]
    ]


def check_remote(repo: Repo, name: str) -> str:
    """Write a small object to a remote, and delete it.

    Raise UserError if the remote cannot be reached or refuses the object. `dvc push` deletes
    nothing, so a refused deletion is no fault.
    """
    store = open_stores(repo, name).remote["md5"]
    folder = store.fs.parent(store.path)
    target = store.fs.join(folder, OBJECT)
    with tempfile.NamedTemporaryFile() as file:
        file.write(CONTENT)
        file.flush()
        try:
            store.fs.makedirs(folder, exist_ok=True)
            store.fs.put_file(file.name, target)
        except client_errors() as error:
            what = f"it refuses to store an object ({short_reason(error)})"
            fix = "give this account write access, because the run pushes its outputs there"
            raise UserError(f"remote {name}", what, fix) from error
    refused: tuple[type[Exception], ...] = (NotImplementedError, *client_errors())
    try:
        store.fs.rm(target)
    except FileNotFoundError:
        # Another check deleted it at the same moment.
        return "it stores objects"
    except refused:
        return f"it stores objects, and keeps {target}, because it refuses to delete"
    return "it stores objects"
