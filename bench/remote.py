"""Measure the rate of verify-remote beside hashing the same bytes.

The remote is a folder with one large file per core and many small files. The contender is
hashlib's own file_digest over the same files, in as many threads. Both run in turn, and the best
of the rounds counts, because other programs on the machine can only slow a round down. The files
are in the page cache, so the disk does not limit either.

    python -m bench.remote --megabytes 1024
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from contextlib import chdir
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Annotated

import typer

from bench.clones import git
from bench.preprocess import run
from bench.summary import show
from bula.commands.verify_remote import verify_all

ROUNDS = 3
JOBS = 8
SMALL_FILES = 200
SMALL_BYTES = 100_000
# Smallest share of the contender's rate, and most memory of the command.
GOAL = 0.85
MEMORY_GB = 0.3
CONFIG = "[core]\n    remote = store\n['remote \"store\"']\n    url = ../store\n"


def write_object(store: Path, content: bytes, ending: str = "") -> str:
    """Write an object of a DVC remote, and return its name."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ending
    file = store / "files/md5" / md5[:2] / md5[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return md5


def write_repository(folder: Path, megabytes: int) -> int:
    """Write a DVC repository and its remote, and return the bytes of all objects."""
    large = os.cpu_count() or 1
    large_bytes = megabytes * 10**6 // large
    sizes = [large_bytes] * large + [SMALL_BYTES] * SMALL_FILES
    entries = []
    for number, size in enumerate(sizes):
        md5 = write_object(folder / "store", os.urandom(size))
        entries.append({"md5": md5, "relpath": f"{number}.bin"})
    manifest = json.dumps(entries).encode()
    name = write_object(folder / "store", manifest, ".dir")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(CONFIG, encoding="utf-8")
    out = f"outs:\n- md5: {name}\n  size: {sum(sizes)}\n  hash: md5\n  path: data\n"
    (folder / "data.dvc").write_text(out, encoding="utf-8")
    git(folder, "init", "--quiet")
    return sum(sizes) + len(manifest)


def hash_file(file: Path) -> str:
    """Return the MD5 of a file by hashlib."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def time_hashing(folder: Path) -> float:
    """Return the seconds that hashlib needs for all objects."""
    files = [file for file in (folder / "store").rglob("*") if file.is_file()]
    started = time.perf_counter()
    with ThreadPool(JOBS) as pool:
        pool.map(hash_file, files, chunksize=1)
    return time.perf_counter() - started


def time_command(folder: Path, expected: int) -> float:
    """Return the seconds that verify-remote needs, without the import of DVC."""
    with chdir(folder):
        started = time.perf_counter()
        results, _ = verify_all(None, JOBS, all_commits=False, fix=False)
        seconds = time.perf_counter() - started
    result = results["store"]
    if result.problems or result.bytes != expected:
        raise RuntimeError(f"{result.bytes} of {expected} bytes were read")
    return seconds


def main(
    megabytes: Annotated[int, typer.Option(help="Size of all large files.")] = 1024,
) -> None:
    """Measure rate and memory."""
    with tempfile.TemporaryDirectory(prefix="bula-bench.") as name:
        folder = Path(name)
        count = write_repository(folder, megabytes)
        _, memory = run(folder, [sys.executable, "-m", "bula", "verify-remote"])
        seconds = []
        hashing = []
        for _ in range(ROUNDS):
            hashing.append(time_hashing(folder))
            seconds.append(time_command(folder, count))
    share = min(hashing) / min(seconds)
    figures = {
        "bytes": count,
        "seconds": min(seconds),
        "megabytes_per_second": count / min(seconds) / 1e6,
        "hashing_megabytes_per_second": count / min(hashing) / 1e6,
        "share_of_hashing": share,
        "peak_memory_gb": memory,
    }
    goals = {"share_of_hashing": GOAL, "peak_memory_gb": MEMORY_GB}
    show("remote", figures, goals, share >= GOAL and memory <= MEMORY_GB)


if __name__ == "__main__":
    typer.run(main)
