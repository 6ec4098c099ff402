"""One escaping function for each place where somebody else's text is shown.

Text of models, data sets, params.yaml and servers may hold markup, links, images and control
characters. Each function returns text that its target shows as plain text.
"""

import html
import re

# Control characters, line separators and the marks that reorder or hide text (Unicode category Cc, Cf, Zl, Zp).
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Every ASCII punctuation character can be escaped in CommonMark (section 2.4).
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@/=\"'$^])")


def terminal(text: str, *, lines: bool = False) -> str:
    """Return text without characters that control a terminal; with `lines`, line feeds stay."""
    if lines:
        return "\n".join(terminal(line) for line in text.split("\n"))
    return HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\t", " "))


def markdown(text: str) -> str:
    """Return text as one line of GitHub Markdown that shows it literally, also inside a table."""
    plain = " ".join(HIDDEN.sub(" ", text).split())
    return MARKDOWN.sub(r"\\\1", plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def markup(text: str) -> str:
    """Return text for an HTML page, inside an element or a quoted attribute; line feeds stay."""
    return html.escape("\n".join(HIDDEN.sub("\N{REPLACEMENT CHARACTER}", line) for line in text.split("\n")))
