"""Write files and folders completely or not at all, and hash them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bula.errors import UserError, is_full_disk


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` on success.

    The caller writes a file or a folder to the temporary path, which lies beside `path`. On success
    it is renamed to `path`; on failure it is deleted and the old output stays. The bytes are on
    the disk before the rename, so a power cut leaves the old output or the new output.
    A failed write (disk full, quota, read-only) raises a UserError.
    """
    temporary = _hidden_sibling(path, "tmp")
    old = _hidden_sibling(path, "old.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield temporary
        _fsync_tree(temporary)
        if path.is_dir():
            # No rename can replace a folder that has files, so the old folder moves aside first.
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


def _hidden_sibling(path: Path, ending: str) -> Path:
    """Return the temporary name of `path` that belongs to this process."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def _is_failed_write(error: OSError | SafetensorError, folder: Path) -> bool:
    """Return whether an error comes from writing below `folder`.

    The caller may also read other files while it writes, and their errors keep their meaning.
    """
    if isinstance(error, SafetensorError):
        return "os error" in str(error)
    if isinstance(error, ConnectionError | FileNotFoundError):
        return False
    if error.errno is None:
        # numpy's tofile raises such errors.
        return is_full_disk(error)
    names = (error.filename, error.filename2)
    paths = [Path(os.fsdecode(name)) for name in names if isinstance(name, str | bytes)]
    return all(path == folder or folder.absolute() in path.absolute().parents for path in paths)


def fsync_path(path: Path) -> None:
    """Write a file's bytes or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(path: Path) -> None:
    """Write a file, or a folder with its contents, to the disk."""
    for part in [*path.rglob("*"), path]:
        if not part.is_symlink():
            fsync_path(part)


def _remove_stale(path: Path) -> None:
    """Delete temporary outputs of `path` that killed runs left behind.

    Temporary outputs of other living processes stay.
    """
    prefix = f".{path.name}."
    for stale in path.parent.glob(f"{prefix}*.tmp"):
        owner = int(stale.name.removeprefix(prefix).split(".")[0])
        if owner == os.getpid() or not Path(f"/proc/{owner}").exists():
            _remove(stale)


def _remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.parent.is_dir():
        path.unlink(missing_ok=True)


def write_documents(folder: Path, documents: Mapping[str, bytes]) -> None:
    """Write each document of a folder under its name."""
    for name, content in documents.items():
        (folder / name).write_bytes(content)


def make_readable(folder: Path) -> None:
    """Give every file below a folder the mode 644.

    safetensors writes files that only their owner can read. Folders keep their modes.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


def sha256_values(*values: Any) -> str:
    """Return the SHA-256 of JSON values, in hexadecimal.

    The order of keys does not matter.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
