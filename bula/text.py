"""Normalise Unicode text, and split it into words and sentences.

All stages use these functions, so that they agree on "the same text", "a word" and "a sentence".
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

WORD = re.compile(r"[^\W_]+")
# Zero-width characters, soft hyphens and byte order marks have no meaning and prevent comparison.
INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
BLANK_LINES = re.compile(r"\n{3,}")
# The end of a sentence or of a line. "Dr. Silva", "p. ex." and "1. Lave" end no sentence.
SENTENCE_END = re.compile(
    r"""
    (?<! \b [DS]r ) (?<! \b [DS]ra ) (?<! \b ex ) (?<! \n\d )
    # Only the first sign of a row of dots may begin the match, which keeps it linear.
    (?<! [.!?…] ) [.!?…]++ ["”’)\]]*+ (?= \s++ [^a-zà-ÿ] | \s*+ $ )
    | \n+
    """,
    re.VERBOSE,
)
MASK_CHARACTERS = 60


def normalise(text: str) -> str:
    """Return the text in NFC, with uniform spaces and line feeds.

    Control and invisible characters, repeated spaces, outer space and all but one of several blank
    lines are removed.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = INVISIBLE.sub("", text)
    text = CONTROL.sub(" ", text)
    # NFC comes after the removal: an invisible character may separate a letter from its accent.
    text = unicodedata.normalize("NFC", text)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def words(text: str) -> list[str]:
    """Return the lower-case words of letters and digits.

    Accents are kept: "Não, à noite" becomes não, à, noite.
    """
    composed = unicodedata.normalize("NFC", text)
    return WORD.findall(composed.lower())


def comparison_key(text: str) -> str:
    """Return a key that ignores case, punctuation and spacing."""
    return " ".join(words(text))


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text; joined, they are the text."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    starts = [0, *ends]
    parts = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    return [part for part in parts if part]


def ngrams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yield the runs of `size` consecutive words, in order and with repetitions."""
    tokens = words(text)
    shifted = [tokens[start:] for start in range(size)]
    return zip(*shifted, strict=False)


def strings(value: Any) -> Iterator[str]:
    """Yield every text in a value at any depth of dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(list(value.values()))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def mask(text: object) -> str:
    """Return the shape of a text without its content.

    Letters become x, digits 9, and characters that cannot be printed a space. At most 60 characters
    are returned.
    """
    return "".join(_mask_character(character) for character in str(text)[:MASK_CHARACTERS])


def _mask_character(character: str) -> str:
    """Return the masked form of one character."""
    if character.isalpha():
        return "x"
    if character.isdigit():
        return "9"
    return character if character.isprintable() else " "
