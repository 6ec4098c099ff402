"""Protect checkpoints against kills, full disks and concurrent runs.

They lie in .bula/checkpoints/FINGERPRINT, outside DVC's outputs, because `dvc repro` deletes the
outputs of a stage before it starts the stage. Only a run with the same fingerprint finds them. A
checkpoint counts once its marker exists, and the marker is written last, by renaming. The stages
train and prefer share this code.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError
from transformers.trainer_utils import get_last_checkpoint

from bula.errors import UserError, is_full_disk
from bula.files import fsync_path, sha256_file, sha256_values
from bula.hardware import compute_dtype, device, matmul_dtype
from bula.params import Params

# DVC runs an experiment in a copy that it deletes; DVC_ROOT is the repository itself even there.
CHECKPOINTS = Path(os.environ.get("DVC_ROOT", "")) / ".bula/checkpoints"
COMPLETE_MARKER = "complete"
# The content of a lock file whose run is about to exit.
EXITING = "exiting"
COMPUTE_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate")
BULA_FOLDER = Path(__file__).parent
BULA_MODULES = (
    "checkpoints",
    "gguf_config",
    "gguf_repairs",
    "hardware",
    "models",
    "prompts",
    "records",
    "save_and_stop",
    "scoring",
    "turn_ends",
)


def code_files(stage_folder: Path, modules: tuple[str, ...]) -> list[Path]:
    """Return the files of the code that shapes an adapter.

    They are those of a stage, BULA_MODULES and further `modules` of bula. A run of other code must
    not resume its checkpoints.
    """
    names = sorted({*BULA_MODULES, *modules})
    return [*sorted(stage_folder.glob("*.py")), *(BULA_FOLDER / f"{name}.py" for name in names)]


def fingerprint(params: Params, settings: list[Any], files: list[Path]) -> str:
    """Return a hash of everything that shapes the adapter, 16 hexadecimal digits.

    That is the seed, the device, the precisions, the stage's own `settings`, the number of
    processes, accelerate's settings, the versions of the computing packages, and the bytes of
    `files`.
    """
    common = [params.seed, params.device, _precisions(params.dtype)]
    versions = [version(name) for name in COMPUTE_PACKAGES]
    environment = [os.environ.get("WORLD_SIZE", "1"), *_accelerate_settings(), *versions]
    contents = [[file.name, sha256_file(file)] for file in files]
    return sha256_values([*common, *settings], environment, contents)[:16]


def _precisions(dtype: str) -> list[str]:
    """Return the precisions of weights, computation and matmuls."""
    computed = compute_dtype(dtype)
    matmul = matmul_dtype(getattr(torch, computed), device())
    return [dtype, computed, str(matmul)]


def _accelerate_settings() -> list[str]:
    """Return the settings that accelerate's launcher passes in the environment.

    The file accelerate/NAME.yaml itself differs between machines, in `machine_rank`.
    """
    prefixes = ("ACCELERATE_", "FSDP_")
    return sorted(
        f"{name}={value}" for name, value in os.environ.items() if name.startswith(prefixes)
    )


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint as complete once its files are on the disk.

    The marker states the size of each file. It is on the disk too when this function returns.
    """
    lines = []
    for file in sorted(checkpoint.iterdir()):
        fsync_path(file)
        lines.append(f"{file.stat().st_size} {file.name}\n")
    temporary = checkpoint / f"{COMPLETE_MARKER}.tmp"
    temporary.write_text("".join(lines), encoding="utf-8")
    fsync_path(temporary)
    temporary.rename(checkpoint / COMPLETE_MARKER)
    # fsync the directories before older checkpoints are deleted.
    fsync_path(checkpoint)
    fsync_path(checkpoint.parent)


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint has its marker and every file it names."""
    try:
        marker = (checkpoint / COMPLETE_MARKER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    lines = marker.splitlines()
    return bool(lines) and all(_matches_marker_line(checkpoint, line) for line in lines)


def _matches_marker_line(checkpoint: Path, line: str) -> bool:
    """Return whether a file has the size that a marker line states."""
    size, name = line.split(" ", 1)
    file = checkpoint / name
    return file.exists() and file.stat().st_size == int(size)


@contextmanager
def report_failed_write(checkpoint: Path) -> Iterator[None]:
    """Turn a failed write of the checkpoint into a UserError.

    The next run removes the incomplete checkpoint.
    """

    def translate(kind: type[BaseException] | None, error: Any, trace: object) -> bool:
        # torch and tokenizers report a full disk as a RuntimeError and as an Exception.
        is_write = isinstance(error, OSError | SafetensorError)
        if is_write or (isinstance(error, Exception) and is_full_disk(error)):
            reason = getattr(error, "strerror", None) or error
            step = last_complete_step(checkpoint.parent)
            what = f"the checkpoint cannot be written ({reason})"
            fix = f"make room on the disk and run the stage again; it resumes from step {step}"
            raise UserError(checkpoint, what, fix) from error
        return False

    with ExitStack() as stack:
        stack.push(translate)
        yield


def last_complete_step(folder: Path) -> int:
    """Return the step of the newest complete checkpoint, or 0."""
    complete = filter(is_complete, folder.glob("checkpoint-*"))
    steps = (int(step_of(path.name)) for path in complete)
    return max(steps, default=0)


def step_of(checkpoint: str) -> str:
    """Return the step of a checkpoint, from the name of its folder."""
    return checkpoint.rpartition("-")[2]


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, or None.

    Incomplete checkpoints and the remains of an interrupted deletion are removed first.
    """
    shutil.rmtree(_deletion_path(folder), ignore_errors=True)
    for checkpoint in folder.glob("checkpoint-*"):
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(folder) if folder.exists() else None


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished run.

    The folder is renamed first, so that no run resumes from the remains of an interrupted deletion.
    """
    folder.rename(_deletion_path(folder))
    shutil.rmtree(_deletion_path(folder))


def _deletion_path(folder: Path) -> Path:
    """Return the name that a folder has while it is deleted."""
    return folder.with_suffix(".done")


def _lock_path(folder: Path) -> Path:
    """Return the lock file of a folder, which lies beside it."""
    return folder.with_suffix(".lock")


def announce_exit(folder: Path) -> None:
    """Tell other processes that this folder's run is about to exit."""
    _lock_path(folder).write_text(EXITING, encoding="utf-8")


@contextmanager
def exclusive_run(folder: Path) -> Iterator[None]:
    """Hold the folder's lock while the block runs.

    Raise UserError if another run holds it. If that run has announced its exit, wait for it
    instead. The kernel releases the lock when the process exits, even when it is killed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = _lock_path(folder)
    with _locked(path):
        yield
        path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the file at `path` while the block runs.

    The previous holder deletes the file when it exits, so a lock on a deleted file does not count.
    """
    while True:
        with path.open("a+", encoding="utf-8") as file:
            _acquire(file, path.with_suffix(""))
            if _is_file_at(path, file):
                file.truncate(0)
                yield
                return


def _acquire(file: TextIO, folder: Path) -> None:
    """Lock an open file; wait only for a run that is exiting."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        if file.read() != EXITING:
            what = "another run trains in this folder"
            raise UserError(folder, what, "wait for that run or stop it") from error
        print("waiting for a run that is saving its last step", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_file_at(path: Path, file: TextIO) -> bool:
    """Return whether an open file is the file at `path`."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
