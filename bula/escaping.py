"""Escape other people's text for the place where it is shown.

Text from models, data sets, params.yaml and servers may contain markup, links, images and control
characters. Each function returns text that its target shows as plain text.
"""

import re

# Characters that a reader cannot see (Unicode categories Cc, Cf, Cs, Zl, Zp and fillers).
HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters
    "\u00ad\u034f\u180b-\u180f"  # soft hyphen, grapheme joiner, Mongolian variation selectors
    "\u115f\u1160\u17b4\u17b5"  # Hangul fillers and Khmer vowels without a glyph
    "\u2800\u3164\uffa0"  # blank Braille pattern, further Hangul fillers
    "\u061c\u200b-\u200f"  # zero-width characters and direction marks
    "\u2028-\u202e\u2060-\u206f"  # line separators, direction overrides, word joiner
    "\ufeff\ufff9-\ufffb"  # byte order mark, interlinear annotations
    "\ud800-\udfff"  # lone surrogates, which UTF-8 cannot encode
    "\U0001d173-\U0001d17a"  # musical formatting
    "\U000e0000-\U000e0fff"  # tags
    "]"
)
# Unicode's ends of lines and fields.
BREAKS = re.compile("[\t\n\x0b\x0c\r\x1c-\x1f\x85\u2028\u2029]+")
# Punctuation that Markdown (CommonMark, GitHub, and its mathematics) may read as markup.
MARKUP = re.compile(
    r"""
    [\\`*\[\]|~$\#]        # everywhere: escapes, code, emphasis, links, cells, formulas, headings
    | (?<![^\W_])_ | _(?![^\W_])   # an underscore that does not stand inside a word
    | !(?=\[)              # an image
    | ^[-+=:]              # at the start: lists, rules, underlines of headings
    | :(?=/)               # https://
    | \.(?=[A-Za-z])       # www.example.org
    """,
    re.VERBOSE,
)
# The number of an item of a numbered list.
NUMBER = re.compile(r"^(\d{1,9})(?=[.)])")
# GitHub links @name, user@host, #12 and GH-12 after rendering, when no backslash protects them.
REFERENCE = re.compile(r"(?<=@)(?=\S)|(?<=\#)(?=\d)|(?<=\bGH-)(?=\d)", re.IGNORECASE)
JOINER = "\N{WORD JOINER}"


def terminal(text: str, *, lines: bool = False) -> str:
    """Return text without characters that control a terminal.

    With `lines`, line feeds stay.
    """
    if lines:
        return "\n".join(terminal(line) for line in text.split("\n"))
    return HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\t", " "))


def markdown(text: str) -> str:
    """Return text as one line of GitHub Markdown that shows it literally.

    The line can also stand in a table. Line breaks become spaces, and other hidden characters
    become the replacement character. An invisible joiner (U+2060) separates the sign from each
    name or number that GitHub would link after rendering.
    """
    plain = terminal(" ".join(BREAKS.sub(" ", text).split()))
    entities = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = NUMBER.sub(r"\1\\", MARKUP.sub(r"\\\g<0>", entities))
    return REFERENCE.sub(JOINER, escaped)
