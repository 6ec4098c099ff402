"""Find repetition loops in an answer, and show each of them once."""

import re
from typing import NamedTuple

# A text that follows itself.
TWICE = re.compile(r"(?P<unit>.{1,400}?)(?P=unit)", re.DOTALL)
DIGIT = re.compile(r"[0-9]")
# The start of a sentence, or else of a word.
STARTS = (re.compile(r"(?<=[.!?:;]\s)\S|(?<=\n)\S"), re.compile(r"(?<=\s)\w"))
MIN_REPEATS = 3
# Shorter repetitions, such as an ellipsis, stay.
MIN_CHARACTERS = 30


class Loop(NamedTuple):
    """The place of a loop in a text."""

    start: int
    """Position of the first repetition."""
    size: int
    """Characters of one repetition."""
    repeats: int
    """Number of complete repetitions."""
    end: int
    """Position after the last repetition, even an incomplete one at the end of the text."""


def cut_loops(text: str, note: str = "(repeats {} times)") -> str:
    """Return a text in which each loop appears once, followed by its count.

    `note` is the format of the count. Units that differ only in their digits repeat each other, so
    a loop with a counter is cut too.
    """
    shape = DIGIT.sub("0", text)
    parts = []
    shown = 0
    position = 0
    while found := TWICE.search(shape, position):
        loop = _loop(shape, found.start(), len(found["unit"]))
        if loop is None:
            position = found.start() + 1
            continue
        once = text[shown : loop.start + loop.size].rstrip()
        parts.append(f"{once} {note.format(loop.repeats)} ")
        shown = loop.end
        position = loop.end
    return "".join([*parts, text[shown:]]).rstrip()


def _loop(shape: str, start: int, size: int) -> Loop | None:
    """Return the loop of this size at `start`, or None."""
    end = start + 2 * size
    while end < len(shape) and shape[end] == shape[end - size]:
        end += 1
    at_end = end == len(shape)
    if end - start < MIN_CHARACTERS:
        return None
    for first in _first_positions(shape, start, size):
        unit = shape[first : first + size]
        # The last repetition often lacks the space that separates the others.
        missing = len(unit) - len(unit.rstrip()) if at_end else 0
        count = (end + missing - first) // size
        if count >= MIN_REPEATS:
            last = end if at_end else first + count * size
            return Loop(first, size, count, last)
    return None


def _first_positions(shape: str, start: int, size: int) -> list[int]:
    """Return the positions at which a repetition may start, the best first."""
    positions = []
    for pattern in STARTS:
        found = pattern.search(shape, start, start + size)
        if found:
            positions.append(found.start())
    if start == 0 or shape[start - 1].isspace():
        return [start, *positions]
    return [*positions, start]
