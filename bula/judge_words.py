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
# Fields of an error in which servers explain it, by how much they say.
FIELDS = ("message", "detail", "msg", "error", "reason")
# Keys of common providers: OpenAI, Anthropic, Hugging Face, Google, Groq, xAI.
KEYS = re.compile(r"\b(?:sk|hf|gsk|xai|AIza)[-_]?[A-Za-z0-9*_-]{8,}|(?<=Bearer )\S+")
TAGS = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^<>]*>", re.DOTALL | re.IGNORECASE)
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
WORD = re.compile(r"\w+")
# Shorter words of a prompt say nothing about a person.
SHORTEST_WORD = 3
HIDDEN = "…"


def server_words(body: Any, key: str, messages: list[Message]) -> str:
    """Return the explanation in the body of a reply as one short line.

    Keys are replaced, and each word of the prompt's texts, because a server may repeat them.
    """
    text = TAGS.sub(" ", _explanation(body))
    text = ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    text = KEYS.sub("[key]", hide(text, key))
    text = redact(text, find_personal_data(text))
    text = _without_prompt(text, messages)
    text = " ".join(terminal(text, lines=True).split())
    return text if len(text) <= CHARACTERS else text[:CHARACTERS] + HIDDEN


def _explanation(body: Any) -> str:
    """Return the message in an error's body, and the field that it names."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(map(_explanation, body))
    if not isinstance(body, dict):
        return ""
    said = next((body[field] for field in FIELDS if body.get(field)), "")
    text = _explanation(said)
    named = body.get("param") or body.get("loc") or ""
    return f"{text} ({named})" if named and str(named) not in text else text


def _without_prompt(text: str, messages: list[Message]) -> str:
    """Return a text without the words of a prompt, except those of the rubric."""
    content = " ".join(message["content"] for message in messages if message["role"] != "system")
    words = {word.casefold() for word in WORD.findall(content)}

    def hide_word(found: re.Match[str]) -> str:
        word = found[0]
        is_said = len(word) >= SHORTEST_WORD and word.casefold() in words
        return HIDDEN if is_said else word

    return re.sub(rf"{HIDDEN}(?:\W*{HIDDEN})+", HIDDEN, WORD.sub(hide_word, text))
