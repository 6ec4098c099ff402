"""Format names, numbers and texts as cells of Markdown tables."""

import json
import re
from collections.abc import Iterable
from typing import Any

from bula.escaping import markdown

# Bytes of one cell after escaping.
CELL_BYTES = 120
# Names, paths and numbers that Markdown shows as they are between backticks.
PLAIN = re.compile(r"[\w.\[\]@/+-]+", re.ASCII)


def row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    """Return a name between backticks, or escaped if it has other signs."""
    is_plain = len(text) <= CELL_BYTES and PLAIN.fullmatch(text)
    return f"`{text}`" if is_plain else short(text, CELL_BYTES)


def count(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number(figure: float | None, sign: str = "") -> str:
    """Return a number with four significant digits, or a signed one with three."""
    digits = 3 if sign else 4
    return "–" if figure is None else f"{figure:{sign}.{digits}g}"


def value(content: Any) -> str:
    """Return a value of a file as one cell."""
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    return code(text) or "(empty)"


def short(text: str, most: int) -> str:
    """Return the start of a text, escaped, in at most `most` bytes."""
    cut = text[:most]
    escaped = markdown(cut)
    while len(escaped.encode()) > most:
        cut = cut[: len(cut) * 9 // 10]
        escaped = markdown(cut)
    return escaped if cut == text else f"{escaped} …"
