"""Cut raw files into shards, and hand them to workers.

All shards have about the same size. A shard does not depend on the number of workers: one process,
many processes or a Dask cluster write the same bytes (a test compares them).
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

# About 6,000 pairs: a worker's tables stay below 100 MB, and NumPy's overhead per call is small.
SHARD_BYTES = 4_000_000
# Dask's own variable. params.yaml must not name a machine that can run code here.
SCHEDULER = "DASK_SCHEDULER_ADDRESS"


class Shard(NamedTuple):
    """A piece of a JSON Lines file: the lines that start within a range of byte offsets."""

    number: int
    path: Path
    start: int
    """The first byte of the range."""
    end: int
    """The first byte after the range."""


def cut(paths: Iterable[Path], size: int = SHARD_BYTES) -> list[Shard]:
    """Return the shards of all files, numbered in order."""
    shards: list[Shard] = []
    for path in paths:
        file_size = path.stat().st_size
        for start in range(0, file_size, size):
            end = min(start + size, file_size)
            shards.append(Shard(len(shards), path, start, end))
    return shards


def shard_lines(shard: Shard) -> Iterator[bytes]:
    """Yield the lines of a shard.

    A line belongs to the shard in which it starts.
    """
    with shard.path.open("rb") as file:
        if shard.start:
            # One byte earlier, so that a line which starts exactly at `start` is not skipped.
            file.seek(shard.start - 1)
            file.readline()
        while file.tell() < shard.end:
            line = file.readline()
            if not line:
                break
            yield line


def scheduler_address() -> str:
    """Return the address of the Dask scheduler.

    The address comes from the environment. A scheduler sends pickles, which can run any code, so
    UserError unless it is reached over TLS or on this machine.
    """
    address = os.environ.get(SCHEDULER, "")
    if not address:
        raise UserError(
            SCHEDULER,
            "compute.scheduler is dask, and the environment does not name a scheduler",
            "set it to the scheduler's address, such as tls://HOST:8786",
        )
    parts = urlsplit(address)
    is_local = parts.scheme == "tcp" and _is_loopback(parts.hostname)
    if parts.scheme != "tls" and not is_local:
        raise UserError(
            SCHEDULER,
            "a scheduler on another machine must be reached over TLS (tls://HOST:PORT)",
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
    """Yield an executor: local processes, or the workers of a Dask cluster.

    Yield None if one process is enough for the number of pieces.
    """
    count = min(compute.workers, pieces)
    if compute.scheduler == "dask":
        with _cluster(scheduler_address()) as pool:
            yield pool
    elif count == 1:
        yield None
    else:
        # The server imports the libraries once and has no threads; "fork" would copy torch's locks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stages.preprocess.parts"])
        with ProcessPoolExecutor(count, context, end_with_parent) as pool:
            yield pool


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """Yield an executor over the workers of a cluster.

    UserError if its scheduler cannot be reached.
    """
    from distributed import Client

    try:
        client = Client(address)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            SCHEDULER,
            f"the scheduler cannot be reached ({type(error).__name__})",
            "start it, and let distributed.comm.tls name this machine's certificates "
            "(docs/data.md)",
        ) from error
    with client:
        yield client.get_executor()


def each(
    pool: Executor | None, work: Callable[..., Any], pieces: list[Any], *common: Any, what: str
) -> Iterator[Any]:
    """Yield `work(piece, *common)` for every piece in order, with a progress bar."""
    repeated = [[value] * len(pieces) for value in common]
    apply = map if pool is None else pool.map
    results = apply(work, pieces, *repeated)
    yield from tqdm(
        results,
        total=len(pieces),
        desc=f"preprocess: {what}",
        unit="shard",
        disable=len(pieces) < 2,
    )
