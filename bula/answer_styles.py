"""Define the styles of answers, their prompts, and their checks of form.

The reference work also wrote blog texts and posts for social media. A style puts an instruction
before the question, so the system prompt and the chat template stay those of training. A check
reads form and length only, and knows nothing of the content.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from bula.text import words

POST_CHARACTERS = 280
BLOG_WORDS = (120, 600)
BLOG_PARAGRAPHS = 3
TITLE_CHARACTERS = 100
SIMPLE_WORDS = (20, 150)
SIMPLE_SENTENCE_WORDS = 25
# Flesch's scale: 50 and more reads easily for people with eight years of school.
SIMPLE_READABILITY = 50.0
VOWELS = re.compile(r"[aeiouáéíóúâêôãõàü]+")
# Neighbours of two syllables: sa-ú-de, di-a.
HIATUS = re.compile(r"(?<=[aeo])[íú]|(?<=[ií])[ao](?=s?\b)")
SENTENCE_SIGN = (".", "!", "?", "…")


class StyleName(StrEnum):
    """The styles that `bula ask --style` offers."""

    SIMPLE = "simple"
    BLOG = "blog"
    POST = "post"


class Style(NamedTuple):
    """An instruction, the longest answer in tokens, and the check of the form."""

    instruction: str
    tokens: int
    faults: Callable[[str], list[str]]


def with_style(question: str, name: StyleName | None) -> str:
    """Return the question after the instruction of a style; without a style, unchanged."""
    if name is None:
        return question
    return f"{STYLES[name].instruction}\n\n{question}"


def readability(text: str) -> float:
    """Return Flesch's reading ease for Portuguese, from about 0 (hard) to 100 (easy).

    248.835 - 1.015 * words per sentence - 84.6 * syllables per word (Martins et al., 1996). A
    text without words has 0.
    """
    found = words(text)
    if not found:
        return 0.0
    syllables = sum(map(count_syllables, found))
    sentences = max(len(_sentences(text)), 1)
    return 248.835 - 1.015 * len(found) / sentences - 84.6 * syllables / len(found)


def count_syllables(word: str) -> int:
    """Return the number of groups of vowels in a word, and at least 1.

    A stressed í or ú after another vowel starts a syllable, and so does a final ia or io.
    """
    return max(len(VOWELS.findall(HIATUS.sub(r"-\g<0>", word.lower()))), 1)


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text that contain a word."""
    # Imported here, because the patterns of that module take time to compile.
    from bula.safety_patterns import SENTENCE_END

    return [part for part in SENTENCE_END.split(text) if words(part)]


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs, which blank lines separate."""
    return [part.strip() for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _outside(name: str, count: int, limits: tuple[int, int]) -> list[str]:
    """Return a fault if a count is outside its limits."""
    low, high = limits
    return [] if low <= count <= high else [f"{count} {name}, not {low} to {high}"]


def post_faults(text: str) -> list[str]:
    """Return why a text is not a complete post of one paragraph."""
    faults = _outside("characters", len(text.strip()), (1, POST_CHARACTERS))
    if len(_paragraphs(text)) > 1:
        faults.append("several paragraphs")
    if text.lstrip().startswith("# "):
        faults.append("a heading")
    if not _is_complete(text):
        faults.append("no complete last sentence")
    return faults


def blog_faults(text: str) -> list[str]:
    """Return why a text is not a blog text with a title and paragraphs."""
    faults = _outside("words", len(words(text)), BLOG_WORDS)
    title, *body = _paragraphs(text) or [""]
    if not _is_title(title):
        faults.append("no title")
    paragraphs = [part for part in body if not _is_title(part)]
    if len(paragraphs) < BLOG_PARAGRAPHS:
        faults.append(f"{len(paragraphs)} paragraphs, not {BLOG_PARAGRAPHS}")
    if not _is_complete(text):
        faults.append("no complete last sentence")
    return faults


def simple_faults(text: str) -> list[str]:
    """Return why a text is not in simple language: short sentences of short words."""
    faults = _outside("words", len(words(text)), SIMPLE_WORDS)
    longest = max((len(words(part)) for part in _sentences(text)), default=0)
    if longest > SIMPLE_SENTENCE_WORDS:
        faults.append(f"a sentence of {longest} words")
    if readability(text) < SIMPLE_READABILITY:
        faults.append(f"readability {readability(text):.0f}")
    return faults


def _is_title(paragraph: str) -> bool:
    """Return whether a paragraph is a title: one short line.

    It is marked, is a question, or lacks the sign of a sentence's end.
    """
    line = paragraph.strip("#* ")
    is_short = "\n" not in line and 0 < len(line) <= TITLE_CHARACTERS
    marked = paragraph.startswith(("#", "**"))
    return is_short and (marked or line.endswith("?") or not line.endswith(SENTENCE_SIGN))


def _is_complete(text: str) -> bool:
    """Return whether a text ends with a complete sentence or a hashtag."""
    last = text.rstrip(' \n"”*)').rsplit(maxsplit=1)[-1:] or [""]
    return last[0].endswith(SENTENCE_SIGN) or last[0].startswith("#")


STYLES = {
    StyleName.SIMPLE: Style(
        "Responda em linguagem bem simples, com frases curtas, de no máximo 20 palavras, e sem "
        "termos técnicos.",
        256,
        simple_faults,
    ),
    StyleName.BLOG: Style(
        "Escreva um texto de blog sobre a pergunta abaixo: um título na primeira linha e depois de "
        "três a cinco parágrafos curtos, separados por uma linha em branco.",
        640,
        blog_faults,
    ),
    StyleName.POST: Style(
        "Escreva uma publicação de rede social sobre a pergunta abaixo, em um só parágrafo, com no "
        f"máximo {POST_CHARACTERS} caracteres.",
        128,
        post_faults,
    ),
}
