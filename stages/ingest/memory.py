"""Limit the memory that a block of code may allocate."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# This file exists on Linux only.
MEMORY_PAGES = Path("/proc/self/statm")


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
