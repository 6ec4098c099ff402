"""One escaping function for each place where somebody else's text is shown.

Text of models, data sets, params.yaml and servers may hold markup, links, images and control
characters. Each function returns text that its target shows as plain text.
"""

import re

# Characters that a reader cannot see: controls, marks that reorder or hide text, lone surrogates
# (which no file can hold), and blank letters (Unicode categories Cc, Cf, Cs, Zl, Zp and fillers).
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# What Unicode calls the end of a line or a field; the text goes on after it.
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
# The number of a list's item.
NUMBER = re.compile(r"^(\d{1,9})(?=[.)])")
# GitHub looks for @name, user@host, #12 and GH-12 in the rendered text, where no backslash helps.
REFERENCE = re.compile(r"(?<=@)(?=\S)|(?<=\#)(?=\d)|(?<=\bGH-)(?=\d)", re.IGNORECASE)
JOINER = "\N{WORD JOINER}"


def terminal(text: str, *, lines: bool = False) -> str:
    """Return text without characters that control a terminal; with `lines`, line feeds stay."""
    if lines:
        return "\n".join(terminal(line) for line in text.split("\n"))
    return HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\t", " "))


def markdown(text: str) -> str:
    """Return text as one line of GitHub Markdown that shows it literally, also inside a table.

    Line breaks become spaces, other hidden characters the replacement character. A name or number
    that GitHub would link after the rendering gets an invisible joiner (U+2060) behind its sign.
    """
    plain = terminal(" ".join(BREAKS.sub(" ", text).split()))
    entities = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = NUMBER.sub(r"\1\\", MARKUP.sub(r"\\\g<0>", entities))
    return REFERENCE.sub(JOINER, escaped)
