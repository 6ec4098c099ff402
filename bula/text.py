"""Unicode normalisation and the Portuguese-safe word tokenizer, so that every stage means the same by "same text" and "word"."""

import re
import unicodedata
from collections.abc import Iterator

WORD = re.compile(r"[^\W_]+")
# Zero-width characters and the byte order mark carry no meaning in Portuguese text and defeat comparison.
INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def normalise(text: str) -> str:
    """NFC, line feeds, no control or invisible characters, single spaces, at most one blank line, no outer space."""
    text = CONTROL.sub(" ", INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    # Composed last: an invisible character may have stood between a letter and its accent.
    text = unicodedata.normalize("NFC", text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def words(text: str) -> list[str]:
    """Lower-case words of letters and digits, accents kept ("Não, à noite" -> não, à, noite)."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def comparison_key(text: str) -> str:
    """Two texts with the same key differ only in case, punctuation and spacing."""
    return " ".join(words(text))


def ngrams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Runs of `size` consecutive words, in order, with repetitions."""
    tokens = words(text)
    return zip(*(tokens[start:] for start in range(size)), strict=False)


def mask(text: object) -> str:
    """The shape of a text without its content: letters become x, digits 9; at most 60 characters."""
    shape = (
        "x" if c.isalpha() else "9" if c.isdigit() else c if c.isprintable() else " "
        for c in str(text)[:60]
    )
    return "".join(shape)
