"""Show a server's own words about a failure, without secrets.

Keys and the words of the prompt are hidden.
"""

import re
from typing import Any

from bula.api_keys import hide
from bula.escaping import terminal
from bula.judge_prompt import Message
from bula.privacy import find_personal_data, redact

# Longest text that is shown.
CHARACTERS = 240
# Fields of an error in which servers explain it. The first one says most.
FIELDS = ("message", "detail", "msg", "error", "reason")
# Fields of an error that name the wrong part of the request.
PLACES = ("param", "loc")
KEYS = re.compile(
    r"""
    \b(?:sk|hf|gsk|xai|AIza)    # OpenAI and Anthropic, Hugging Face, Groq, xAI, Google
    [-_]?
    [A-Za-z0-9*_-]{8,}          # servers replace a part of a key by asterisks
    | (?<=Bearer\ )\S+          # a key of any form in a header
    """,
    re.VERBOSE,
)
TAGS = re.compile(
    r"""
    <(?:script|style)\b.*?</(?:script|style)>    # an element whose text nobody reads
    | <[^<>]*>                                   # any other tag
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
# A character in JSON that was escaped twice.
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
WORD = re.compile(r"\w+")
# Shorter words of a prompt say nothing about a person.
SHORTEST_WORD = 3
HIDDEN = "…"
# Hidden words in a row, which become one.
HIDDEN_WORDS = re.compile(rf"{HIDDEN}(?:\W*{HIDDEN})+")


def server_words(body: Any, key: str, messages: list[Message]) -> str:
    """Return the explanation in the body of a reply as one short line.

    Keys are replaced, and each word of the prompt's texts, because a server may repeat them.
    """
    text = _explanation(body)
    text = TAGS.sub(" ", text)
    text = ESCAPE.sub(_unescape, text)
    text = hide(text, key)
    text = KEYS.sub("[key]", text)
    text = redact(text, find_personal_data(text))
    text = _hide_prompt(text, messages)
    return _one_line(text)


def _explanation(body: Any) -> str:
    """Return the message in an error's body, and the field that it names."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(_explanation(part) for part in body)
    if not isinstance(body, dict):
        return ""
    text = _explanation(_first_value(body, FIELDS))
    place = str(_first_value(body, PLACES))
    if place in text:
        return text
    return f"{text} ({place})"


def _first_value(body: dict[str, Any], fields: tuple[str, ...]) -> Any:
    """Return the value of the first field that has one, or an empty text."""
    for field in fields:
        if body.get(field):
            return body[field]
    return ""


def _unescape(found: re.Match[str]) -> str:
    """Return the character of an escape sequence."""
    code = int(found[1], 16)
    return chr(code)


def _hide_prompt(text: str, messages: list[Message]) -> str:
    """Return a text in which the words of a prompt are hidden.

    The words of the rubric, the system message, stay.
    """
    words = _words_of(messages)

    def hide_word(found: re.Match[str]) -> str:
        word = found[0]
        return HIDDEN if word.casefold() in words else word

    text = WORD.sub(hide_word, text)
    return HIDDEN_WORDS.sub(HIDDEN, text)


def _words_of(messages: list[Message]) -> set[str]:
    """Return the words of a prompt that may say something about a person."""
    words = set()
    for message in messages:
        if message["role"] == "system":
            continue
        for word in WORD.findall(message["content"]):
            if len(word) >= SHORTEST_WORD:
                words.add(word.casefold())
    return words


def _one_line(text: str) -> str:
    """Return a text as one line, which is cut after CHARACTERS characters."""
    words = terminal(text, lines=True).split()
    line = " ".join(words)
    if len(line) <= CHARACTERS:
        return line
    return line[:CHARACTERS] + HIDDEN
