"""Write files and folders completely or not at all, and hash them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bula.errors import UserError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write a file or folder to; rename it on success, remove it on failure.

    The bytes are on the disk before the name appears, so a power cut leaves the old output or the new one.
    A failed write (disk full, quota, read-only) is a UserError; what was at `path` stays.
    """
    temporary, old = (
        path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old.tmp")
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield temporary
        _tree_to_disk(temporary)
        if path.is_dir():
            # A folder cannot be renamed over another: the old one steps aside and is deleted last.
            path.rename(old)
        temporary.rename(path)
        fsync_path(path.parent)
    except (OSError, SafetensorError) as error:
        if old.exists():
            old.rename(path)
        if not _is_failed_write(error, path.parent):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        what = f"it cannot be written ({reason}); what was there before is kept"
        raise UserError(path, what, "look at disk space, quota and permissions") from error
    finally:
        _remove(temporary)
        _remove(old)


def _is_failed_write(error: OSError | SafetensorError, folder: Path) -> bool:
    """Whether an error comes from writing below `folder`, and not from reading somewhere else while rows are made."""
    if isinstance(error, ConnectionError | FileNotFoundError):
        return False
    if isinstance(error, SafetensorError):
        return "os error" in str(error)
    named = [
        Path(os.fsdecode(name))
        for name in (error.filename, error.filename2)
        if isinstance(name, str | bytes)
    ]
    return error.errno is not None and all(
        folder.absolute() in path.absolute().parents or path == folder for path in named
    )


def fsync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _tree_to_disk(path: Path) -> None:
    """Wait until a file, or every file and folder below a folder, is on the disk."""
    for part in [*path.rglob("*"), path]:
        if not part.is_symlink():
            fsync_path(part)


def _remove_stale(path: Path) -> None:
    """Delete what killed runs, or an earlier one of this process, left under a temporary name of `path`."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        owner = int(stale.name.removeprefix(f".{path.name}.").split(".")[0])
        if owner == os.getpid() or not Path(f"/proc/{owner}").exists():
            _remove(stale)


def _remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_values(*values: Any) -> str:
    """SHA-256 over plain values (what JSON can hold), in hexadecimal; key order does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
