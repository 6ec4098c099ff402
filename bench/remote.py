"""Measure the rate of verify-remote beside hashing the same bytes.

The remote has large files, by default one per core, and many small files. The contender is
hashlib's own file_digest over the same files, in as many threads. `dvc fetch` with `verify = true`
reads and hashes them too, and writes them to the cache. All run in turn, and the best of the rounds
counts, because other programs on the machine can only slow a round down. The files are in the page
cache, so the disk does not limit reading. A server on this machine takes CPU time too, so only a
folder has a goal for its rate.

    python -m bench.remote --megabytes 1024
    python -m bench.remote --kind s3 --megabytes 500 --large-files 1
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.clones import git
from bench.preprocess import run
from bench.remote_servers import PLACES, Place, missing
from bench.summary import show
from bula.commands.verify_remote import verify_all
from bula.errors import UserError, run_stage

ROUNDS = 3
JOBS = 8
SMALL_FILES = 200
SMALL_BYTES = 100_000
# Smallest share of the contender's rate, and most memory of the command.
GOAL = 0.85
MEMORY_GB = 0.3
CACHE = ".dvc/cache"


def write_object(store: Path, content: bytes, ending: str = "") -> str:
    """Write an object of a cache of DVC, and return its name."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ending
    file = store / "files/md5" / md5[:2] / md5[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    # DVC trusts only read-only files of its cache without a hash.
    file.chmod(0o444)
    return md5


def write_repository(folder: Path, megabytes: int, large: int) -> int:
    """Write a DVC repository with its cache, and return the bytes of all objects."""
    large_bytes = megabytes * 10**6 // large
    sizes = [large_bytes] * large + [SMALL_BYTES] * SMALL_FILES
    entries = []
    for number, size in enumerate(sizes):
        md5 = write_object(folder / CACHE, os.urandom(size))
        entries.append({"md5": md5, "relpath": f"{number}.bin"})
    manifest = json.dumps(entries).encode()
    name = write_object(folder / CACHE, manifest, ".dir")
    out = f"outs:\n- md5: {name}\n  size: {sum(sizes)}\n  hash: md5\n  path: data\n"
    (folder / "data.dvc").write_text(out, encoding="utf-8")
    git(folder, "init", "--quiet")
    return sum(sizes) + len(manifest)


def push(folder: Path, place: Place) -> None:
    """Name a remote at a place and push the objects of the cache."""
    lines = ["[core]", "    analytics = false", "    remote = store", "['remote \"store\"']"]
    settings = {"url": f"{place.root}/store", "verify": "true", **place.settings}
    lines += [f"    {key} = {value}" for key, value in settings.items()]
    (folder / ".dvc/config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.environ.update(place.environment)
    subprocess.run([sys.executable, "-m", "dvc", "push", "--quiet"], cwd=folder, check=True)


def hash_file(file: Path) -> str:
    """Return the MD5 of a file by hashlib."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def time_hashing(folder: Path) -> float:
    """Return the seconds that hashlib needs for all objects."""
    files = [file for file in (folder / CACHE / "files").rglob("*") if file.is_file()]
    started = time.perf_counter()
    with ThreadPool(JOBS) as pool:
        pool.map(hash_file, files, chunksize=1)
    return time.perf_counter() - started


def time_command(folder: Path, expected: int) -> float:
    """Return the seconds that verify-remote needs, without the import of DVC."""
    with chdir(folder):
        started = time.perf_counter()
        results, _ = verify_all(None, JOBS)
        seconds = time.perf_counter() - started
    result = results["store"]
    if result.problems or result.bytes != expected:
        raise RuntimeError(f"{result.bytes} of {expected} bytes were read")
    return seconds


def time_fetch(folder: Path) -> float:
    """Return the seconds that `dvc fetch` needs with an empty cache, without its import."""
    from dvc.repo import Repo

    shutil.rmtree(folder / CACHE)
    shutil.rmtree(folder / ".dvc/tmp", ignore_errors=True)
    with chdir(folder), Repo() as repo:
        started = time.perf_counter()
        repo.fetch()
        return time.perf_counter() - started


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Return the rates of hashing, verify-remote and DVC, and the memory of verify-remote."""
    _, memory = run(folder, [sys.executable, "-m", "bula", "verify-remote"])
    hashing = []
    seconds = []
    fetching = []
    for _ in range(ROUNDS):
        hashing.append(time_hashing(folder))
        seconds.append(time_command(folder, count))
        fetching.append(time_fetch(folder))
    return {
        "bytes": count,
        "seconds": min(seconds),
        "megabytes_per_second": count / min(seconds) / 1e6,
        "hashing_megabytes_per_second": count / min(hashing) / 1e6,
        "fetch_megabytes_per_second": count / min(fetching) / 1e6,
        "share_of_hashing": min(hashing) / min(seconds),
        "share_of_fetch": min(fetching) / min(seconds),
        "peak_memory_gb": memory,
    }


def main(
    megabytes: Annotated[int, typer.Option(help="Size of all large files.")] = 1024,
    large_files: Annotated[int, typer.Option(help="Number of large files. 0: one per core.")] = 0,
    kind: Annotated[str, typer.Option(help="folder, s3 or ssh.")] = "folder",
) -> None:
    """Measure rate and memory."""
    if reason := missing(kind):
        raise UserError(f"--kind {kind}", reason, "install it, or choose another kind")
    with tempfile.TemporaryDirectory(prefix="bula-bench.") as name:
        folder = Path(name) / "repository"
        count = write_repository(folder, megabytes, large_files or os.cpu_count() or 1)
        with PLACES[kind](Path(name) / "place") as place:
            push(folder, place)
            figures = measure(folder, count)
    goals = {"peak_memory_gb": MEMORY_GB}
    met = figures["peak_memory_gb"] <= MEMORY_GB
    if kind == "folder":
        goals["share_of_hashing"] = GOAL
        met = met and figures["share_of_hashing"] >= GOAL
    show(f"remote-{kind}", figures, goals, met)


if __name__ == "__main__":
    run_stage(main)
