"""Recognise answers that repeat themselves, as docs/metrics.md defines them."""

import re
from collections.abc import Sequence

from bula.text import ngrams, words

WORDS_IN_A_RUN = 4
# Four Portuguese words are about 20 letters, so both measures look at runs of the same length.
LETTERS_IN_A_RUN = 20


def repeated_4gram_share(text: str) -> float:
    """Return 1 - distinct / all word 4-grams; 0 for fewer than four words."""
    return _repeated_share(list(ngrams(text, WORDS_IN_A_RUN)))


def repeated_letters_share(text: str) -> float:
    """Return the same share over runs of 20 letters and digits, without the spaces.

    Every digit counts as 0, so that a counter does not hide a loop ("1. Beba água. 2. Beba água.").
    """
    letters = re.sub(r"\d", "0", "".join(words(text)))
    starts = range(len(letters) - LETTERS_IN_A_RUN + 1)
    return _repeated_share([letters[start : start + LETTERS_IN_A_RUN] for start in starts])


def is_degenerate(text: str, max_share: float) -> bool:
    """Tell whether an answer has no word or repeats more than `max_share` of itself."""
    if not words(text):
        return True
    return max(repeated_4gram_share(text), repeated_letters_share(text)) > max_share


def _repeated_share(runs: Sequence[object]) -> float:
    """Return the share of runs that occurred before; 0 without runs."""
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
