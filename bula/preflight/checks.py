"""Run checks with time limits, and keep every outcome.

Checks of the network run beside each other, each in its own thread.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from bula.errors import UserError

# A host that does not answer costs at most this time.
NETWORK_SECONDS = 5.0

State = Literal["passed", "fault", "not checked"]


class NotCheckedError(Exception):
    """The reason why something was not checked."""


class Check(NamedTuple):
    """One thing that a run needs."""

    key: str
    """Where params.yaml asks for it."""
    name: str
    """The thing that is checked."""
    run: Callable[[], str]
    """Return what was found. Raise UserError for a fault, or NotCheckedError."""
    network: bool = False
    """Whether the check waits for a host."""
    seconds: float = NETWORK_SECONDS
    """Time limit of a check of the network."""


class Outcome(NamedTuple):
    """The result of one check."""

    key: str
    name: str
    state: State
    text: str
    """What was found, what is wrong, or why nothing was checked."""
    fix: str = ""
    """How to mend a fault."""


Answer = Outcome | BaseException
Box = queue.SimpleQueue[Answer]


def run_checks(checks: Sequence[Check], *, offline: bool = False) -> list[Outcome]:
    """Run all checks, and return their outcomes in the same order.

    `offline` leaves out the checks of the network. The others start together, and each that has no
    answer after its time limit is a fault. An unexpected exception is raised here.
    """
    started = time.monotonic()
    boxes: dict[int, Box] = {}
    for number, check in enumerate(checks):
        if check.network and not offline:
            boxes[number] = _start(check)
    found: dict[int, Outcome] = {}
    # The network comes first, because a thread would wait while a local check loads torch.
    for number, box in boxes.items():
        found[number] = _wait(checks[number], box, started)
    for number, check in enumerate(checks):
        if number in found:
            continue
        if check.network:
            found[number] = Outcome(check.key, check.name, "not checked", "offline")
        else:
            found[number] = outcome_of(check)
    return [found[number] for number in range(len(checks))]


def outcome_of(check: Check) -> Outcome:
    """Run one check, and return its outcome."""
    try:
        return Outcome(check.key, check.name, "passed", check.run())
    except NotCheckedError as error:
        return Outcome(check.key, check.name, "not checked", str(error))
    except UserError as error:
        return Outcome(check.key, check.name, "fault", _problem(error, check.key), error.fix)


def _problem(error: UserError, key: str) -> str:
    """Return what is wrong, and where unless the key says it."""
    if error.where in (key, "params.yaml"):
        return error.what
    return f"{error.where}: {error.what}"


def _start(check: Check) -> Box:
    """Run a check in a thread, and return the box of its answer.

    A thread that never ends does not keep the program from exiting.
    """
    box: Box = queue.SimpleQueue()

    def work() -> None:
        try:
            box.put(outcome_of(check))
        except BaseException as error:
            # The main thread raises it.
            box.put(error)

    threading.Thread(target=work, daemon=True).start()
    return box


def _wait(check: Check, box: Box, started: float) -> Outcome:
    """Return the outcome in a box, or a fault after the time limit."""
    left = started + check.seconds - time.monotonic()
    try:
        answer = box.get(timeout=max(0.0, left))
    except queue.Empty:
        what = f"{check.name}: no answer in {check.seconds:g} s"
        fix = "check the network and the address; --offline leaves this check out"
        return Outcome(check.key, check.name, "fault", what, fix)
    if isinstance(answer, BaseException):
        raise answer
    return answer
