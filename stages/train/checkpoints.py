"""Checkpoints that survive a kill, a full disk and a second run, and that only the same run finds again.

They lie in .bula/checkpoints/FINGERPRINT, outside DVC's outputs, which `dvc repro` deletes before it starts a stage. A
checkpoint counts from the moment its seal is there: the seal is written last, by renaming.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.trainer_utils import get_last_checkpoint

from bula.errors import UserError
from bula.files import fsync_path, sha256_file, sha256_values
from bula.hardware import compute_dtype, device, matmul_dtype
from bula.params import Params

CHECKPOINTS = Path(".bula/checkpoints")
SEAL = "whole"
ENDING = "ending"
# What torch.save says where it cannot write, on a full disk for one: no OSError.
TORCH_WRITES = ("inline_container", "PytorchStreamWriter")
COMPUTES = ("torch", "transformers", "peft", "trl", "accelerate")
PACKAGE = Path(__file__).parent
CODE = [
    *sorted(PACKAGE.glob("*.py")),
    *(PACKAGE.parent.parent / "bula" / f"{name}.py" for name in ("models", "prompts", "records")),
]


def fingerprint(params: Params, files: list[Path]) -> str:
    """Hash of everything that shapes the adapter: seed, precision, those of computing and of its products, train's parameters, the
    longest row (packing fills up to it), the number of processes, what accelerate was told, the versions of what computes, and the
    bytes of `files`.
    """
    # accelerate/NAME.yaml as its launcher hands it on. Not the file, which differs from machine to machine in `machine_rank`.
    told = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(("ACCELERATE_", "FSDP_"))
    )
    computed = compute_dtype(params.dtype)
    kinds = [params.dtype, computed, str(matmul_dtype(getattr(torch, computed), device()))]
    settings = [params.seed, kinds, params.train.model_dump(), params.preprocess.max_tokens]
    where = [os.environ.get("WORLD_SIZE", "1"), *told, *map(version, COMPUTES)]
    return sha256_values(settings, where, [[file.name, sha256_file(file)] for file in files])[:16]


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, with the sizes of its files, once they are on the disk; the mark is there too when this returns."""
    sizes = []
    for file in sorted(checkpoint.iterdir()):
        fsync_path(file)
        sizes.append(f"{file.stat().st_size} {file.name}\n")
    temporary = checkpoint / f"{SEAL}.tmp"
    temporary.write_text("".join(sizes), encoding="utf-8")
    fsync_path(temporary)
    temporary.rename(checkpoint / SEAL)
    # fsync the directories before older checkpoints are deleted.
    fsync_path(checkpoint)
    fsync_path(checkpoint.parent)


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """End with a sentence where the block cannot write its checkpoint; what it left is removed when the run goes on."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(
            place in str(error) for place in TORCH_WRITES
        ):
            raise
        kept = max(
            (
                int(path.name.rpartition("-")[2])
                for path in checkpoint.parent.glob("checkpoint-*")
                if is_whole(path)
            ),
            default=0,
        )
        reason = getattr(error, "strerror", None) or error
        what = f"the checkpoint cannot be written ({reason})"
        fix = f"make room on the disk and run train again; it resumes from step {kept}"
        raise UserError(checkpoint, what, fix) from error


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has its seal and every file in the size that the seal names."""
    try:
        lines = (checkpoint / SEAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    named = [line.split(" ", 1) for line in lines]
    return bool(named) and all(
        (checkpoint / name).exists() and (checkpoint / name).stat().st_size == int(size)
        for size, name in named
    )


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None; what a kill cut short, in its writing or in its removal, is removed."""
    shutil.rmtree(_done(folder), ignore_errors=True)
    for checkpoint in folder.glob("checkpoint-*"):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(folder) if folder.exists() else None


def discard(folder: Path) -> None:
    """Remove the checkpoints of a run that is done. Under another name: of some of them, after a kill, no run must go on."""
    folder.rename(_done(folder))
    shutil.rmtree(_done(folder))


def _done(folder: Path) -> Path:
    """What the folder is called while it is removed."""
    return folder.with_suffix(".done")


def _lock(folder: Path) -> Path:
    """The file beside the folder whose lock its run holds."""
    return folder.with_suffix(".lock")


def say_ending(folder: Path) -> None:
    """Let others know that this folder's run was told to end and does so."""
    _lock(folder).write_text(ENDING, encoding="utf-8")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; UserError if another run does, unless that one is ending: then wait for it.

    The system lets go of the lock when a process ends, however it ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _hold(_lock(folder)):
        yield
        _lock(folder).unlink()


@contextmanager
def _hold(path: Path) -> Iterator[None]:
    """Lock the file at `path`, which must still be that file once it is locked: its last holder may have removed it."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                if file.read() != ENDING:
                    fix = "wait for it or end it"
                    raise UserError(
                        path.with_suffix(""), "another run trains there right now", fix
                    ) from error
                print("train: waiting for a run that is saving its last step", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                yield
                return
