"""Work in pieces: raw files cut into shards of one size, and the workers that take them, here or on a cluster.

A shard is a pure function from bytes of a raw file to files in a work folder, and shards do not depend on how many workers
there are: one process, many, or a Dask cluster write the same bytes (a test compares them).
"""

import ipaddress
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from bula.errors import UserError
from bula.params import Compute
from bula.processes import end_with_parent

# About 6,000 pairs: few enough that a worker's tables stay below 100 MB, many enough that NumPy's calls do not count.
SHARD_BYTES = 4_000_000
# Dask's own variable for the address; params.yaml must not name a peer that can run code here.
SCHEDULER = "DASK_SCHEDULER_ADDRESS"


class Shard(NamedTuple):
    """A piece of a JSON Lines file: whole lines that start at or after `start` and before `end` (byte offsets)."""

    number: int
    path: Path
    start: int
    end: int


def cut(paths: Iterable[Path], size: int = SHARD_BYTES) -> list[Shard]:
    """Shards of all files, numbered in order."""
    pieces = [
        (path, start, min(start + size, path.stat().st_size))
        for path in paths
        for start in range(0, path.stat().st_size, size)
    ]
    return [Shard(number, *piece) for number, piece in enumerate(pieces)]


def shard_lines(shard: Shard) -> Iterator[bytes]:
    """The lines of a shard: a line belongs to the shard in which it starts."""
    with shard.path.open("rb") as file:
        if shard.start:
            # Back by one byte: a line that starts exactly at `start` is ours.
            file.seek(shard.start - 1)
            file.readline()
        while file.tell() < shard.end and (line := file.readline()):
            yield line


def scheduler_address() -> str:
    """Return the address of the Dask scheduler from the environment.

    A scheduler hands this process pickles, which can run any code. So it is reached over TLS, or on
    this machine alone.
    """
    address = os.environ.get(SCHEDULER, "")
    if not address:
        what = "compute.scheduler is dask, and the environment does not name a scheduler"
        raise UserError(
            SCHEDULER, what, "set it to the scheduler's address, such as tls://HOST:8786"
        )
    parts = urlsplit(address)
    if parts.scheme != "tls" and not (parts.scheme == "tcp" and _is_loopback(parts.hostname)):
        what = "a scheduler on another machine must be reached over TLS (tls://HOST:PORT)"
        raise UserError(
            SCHEDULER,
            what,
            "start it with certificates (docs/data.md), and name its tls:// address",
        )
    return address


def _is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


@contextmanager
def workers(compute: Compute, pieces: int) -> Iterator[Executor | None]:
    """Yield an executor: processes here, or a Dask cluster's workers; None where one process is enough."""
    if compute.scheduler == "dask":
        with _cluster(scheduler_address()) as pool:
            yield pool
    elif min(compute.workers, pieces) == 1:
        yield None
    else:
        # Forked from a server that has imported the libraries once and has no threads; "fork" would copy torch's locks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stages.preprocess.clean"])
        with ProcessPoolExecutor(
            min(compute.workers, pieces), mp_context=context, initializer=end_with_parent
        ) as pool:
            yield pool


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """Yield an executor over a cluster's workers; UserError if its scheduler cannot be reached."""
    from distributed import Client

    try:
        client = Client(address)
    except (OSError, ValueError, TypeError) as error:
        what = f"the scheduler cannot be reached ({type(error).__name__})"
        fix = (
            "start it, and let distributed.comm.tls name this machine's certificates (docs/data.md)"
        )
        raise UserError(SCHEDULER, what, fix) from error
    with client:
        yield client.get_executor()


def each(
    pool: Executor | None, work: Callable[..., Any], pieces: list[Any], *common: Any, what: str
) -> Iterator[Any]:
    """`work(piece, *common)` for every piece, results in the order of pieces, with a progress bar."""
    columns = [pieces, *([value] * len(pieces) for value in common)]
    results = map(work, *columns) if pool is None else pool.map(work, *columns)
    return iter(
        tqdm(
            results,
            total=len(pieces),
            desc=f"preprocess: {what}",
            unit="shard",
            disable=len(pieces) < 2,
        )
    )
