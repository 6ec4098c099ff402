"""Limit the memory that a block of code may allocate."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# This file exists on Linux only.
MEMORY_PAGES = Path("/proc/self/statm")
MEMORY_FREE = Path("/proc/meminfo")
# Share of the free memory that one file may take.
FREE_SHARE = 0.5
KIBIBYTE = 1024
# A library also takes memory for its own tables.
SLACK_BYTES = 500_000_000


def memory_for_reading(unpacked: int) -> int:
    """Return the bytes of memory that reading a file of `unpacked` bytes may take.

    They are at most half of the free memory, because the machine would end the program.
    """
    most = unpacked + SLACK_BYTES
    try:
        lines = MEMORY_FREE.read_text(encoding="ascii").splitlines()
    except OSError:
        return most
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return min(most, int(FREE_SHARE * KIBIBYTE * int(free[0]))) if free else most


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let this process allocate at most `size` more bytes in the block.

    An allocation over the limit raises MemoryError. There is no limit outside Linux.
    """
    try:
        pages = int(MEMORY_PAGES.read_text(encoding="ascii").split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + size
    bounds = [bound for bound in (wanted, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
