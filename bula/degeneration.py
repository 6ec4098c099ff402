"""Recognise answers that repeat themselves, as docs/metrics.md defines them."""

import re
from collections.abc import Sequence

from bula.text import ngrams, words

WORDS_IN_A_RUN = 4
# Four Portuguese words have about 20 letters, so both measures compare runs of similar length.
LETTERS_IN_A_RUN = 20
NOT_MEANINGFUL = "not meaningful"


def repeated_4gram_share(text: str) -> float:
    """Return the share of repeated word 4-grams.

    The share is 1 - distinct / all 4-grams, and 0 for fewer than four words.
    """
    return _repeated_share(list(ngrams(text, WORDS_IN_A_RUN)))


def repeated_letters_share(text: str) -> float:
    """Return the share of repeated runs of 20 letters and digits.

    Spaces do not count. Every digit counts as 0, so that a counter does not hide a loop ("1. Beba
    água. 2. Beba água.").
    """
    letters = re.sub(r"\d", "0", "".join(words(text)))
    starts = range(len(letters) - LETTERS_IN_A_RUN + 1)
    return _repeated_share([letters[start : start + LETTERS_IN_A_RUN] for start in starts])


def is_degenerate(text: str, max_share: float) -> bool:
    """Return whether an answer has no word or repeats itself.

    An answer repeats itself if one of its two shares exceeds `max_share`.
    """
    if not words(text):
        return True
    return max(repeated_4gram_share(text), repeated_letters_share(text)) > max_share


def not_meaningful(share: float) -> str:
    """Return the words that mark or replace scores of mostly degenerate answers.

    `share` is the share of degenerate answers.
    """
    return f"{NOT_MEANINGFUL} ({share * 100:.0f} % loops)"


def _repeated_share(runs: Sequence[object]) -> float:
    """Return the share of runs that occurred before."""
    if not runs:
        return 0.0
    return 1 - len(set(runs)) / len(runs)
