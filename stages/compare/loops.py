"""Shorten repetition loops in the answers that the report shows."""

import re

# The unit of a loop, which follows itself at least twice more.
LOOP = re.compile(r"(?P<unit>.{1,400}?)(?P=unit){2,}", re.DOTALL)
DIGIT = re.compile(r"[0-9]")
# Shorter repetitions, such as an ellipsis, stay.
MIN_CHARACTERS = 30


def cut_loops(text: str) -> str:
    """Return a text in which each loop appears once, with the number of its repetitions.

    Units that differ only in their digits repeat each other, so a loop with a counter is cut too.
    """
    # The last repetition often lacks the space that separates the others.
    padded = text + " "
    shape = DIGIT.sub("0", padded)
    parts = []
    start = 0
    for loop in LOOP.finditer(shape):
        if len(loop.group()) < MIN_CHARACTERS:
            continue
        unit = loop.group("unit")
        count = len(loop.group()) // len(unit)
        parts.append(padded[start : loop.start() + len(unit)].rstrip())
        parts.append(f" (repeats {count} times) ")
        start = _after_partial(shape, loop.end(), unit)
    return "".join([*parts, padded[start:]]).rstrip()


def _after_partial(shape: str, end: int, unit: str) -> int:
    """Return the end of a loop, with an incomplete last repetition at the end of the text."""
    rest = shape[end:].rstrip()
    return len(shape) if unit.startswith(rest) else end
