"""Translate the labels of tables and charts into Portuguese."""

import re
from typing import NamedTuple

from stages.compare.page.portuguese import LABELS, PATTERNS

# A number with a decimal point, outside names such as llama-3.2-1b.
DECIMAL = re.compile(r"(?<![\w./-])([-+]?\d+)\.(\d+(?:e[-+]?\d+)?)(?!\w|[.-]\w)")
# The bounds of an interval, whose comma would look like a decimal comma.
BOUNDS = re.compile(r"(\[[-+]?[\d.]+), ([-+]?[\d.]+\])")


class Both(NamedTuple):
    """One text in both languages of the page."""

    en: str
    pt: str

    @property
    def is_figure(self) -> bool:
        """Return whether the text has figures and no words."""
        return not any(sign.isalpha() for sign in self.en)

    @property
    def same(self) -> bool:
        """Return whether both languages have one text."""
        return self.en == self.pt


def both(text: str) -> Both:
    """Return a label or a cell of the report in both languages."""
    return Both(text, portuguese(text))


def portuguese(text: str) -> str:
    """Return a label or a cell in Portuguese.

    Words that the dictionary lacks, such as the names of variants and tasks, stay as they are.
    """
    if text in LABELS:
        return LABELS[text]
    for pattern, words in PATTERNS:
        text = pattern.sub(words, text)
    return figures(text)


def figures(text: str) -> str:
    """Return figures with decimal commas, and with semicolons between bounds."""
    return DECIMAL.sub(r"\1,\2", BOUNDS.sub(r"\1; \2", text))
