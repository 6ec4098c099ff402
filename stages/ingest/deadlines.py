"""Interrupt a transfer that takes too much wall-clock time."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import TypeVar

from bula.errors import UserError

Element = TypeVar("Element")
# A library may catch the error of a deadline and retry, so the error repeats after this pause.
REPEAT_SECONDS = 1.0
# setitimer would take zero as no deadline.
SHORTEST_SECONDS = 0.001


@contextmanager
def deadline(seconds: float, where: str) -> Iterator[None]:
    """Raise UserError in the block after `seconds` of wall-clock time.

    The timeout of a socket restarts with every byte, so it does not stop a server that drips.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread can be interrupted by a deadline")

    def stop(_signal: int, _frame: FrameType | None) -> None:
        what = "the transfer takes longer than ingest.limits.download_seconds allows"
        raise UserError(where, what, "try again later, or raise the limit")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, SHORTEST_SECONDS), REPEAT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def within(seconds: float, elements: Iterable[Element], where: str) -> Iterator[Element]:
    """Yield elements until waiting for them takes too long.

    UserError once the time of all waits together exceeds `seconds`.
    """
    waiting = iter(elements)
    left = float(seconds)
    missing = object()
    while True:
        start = monotonic()
        with deadline(left, where):
            element = next(waiting, missing)
        left -= monotonic() - start
        if element is missing:
            return
        yield element  # type: ignore[misc]
