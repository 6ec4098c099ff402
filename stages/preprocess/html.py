"""Convert fragments of HTML to the text that a reader would see.

Python's html.parser takes the markup apart. It reports every tag, so "1</div>5 mg" stays two
lines. Parsers that build a tree drop an end tag without a start tag: lxml, BeautifulSoup,
selectolax and inscriptis return 15 mg, and html2text breaks words in angle brackets.
People write "<" for "less than" and put words in angle brackets, so the parser is only shown the
tags that TAG recognises; every other "<" is escaped first.
"""

import re
from html.parser import HTMLParser

# Elements on separate lines.
BLOCK_NAMES = """
address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure
footer form h1 h2 h3 h4 h5 h6 head header hr html legend li main nav ol option p pre section select
summary table tbody td tfoot th thead title tr ul
"""
BLOCKS = frozenset(BLOCK_NAMES.split())
# Elements whose content continues the line.
INLINE_NAMES = """
a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd label mark nobr s samp small span
strike strong sub sup tt u var wbr
"""
INLINE = frozenset(INLINE_NAMES.split())
# Elements whose content is no text.
HIDDEN = frozenset({"script", "style", "xml"})
# Where "<" may have been meant as a sign, these elements count only if they are closed.
NEEDS_END = INLINE | HIDDEN
# Elements that a reader sees as a gap between two words.
OBJECT_NAMES = "audio button embed iframe img input link meta object param picture source svg video"
OBJECTS = frozenset(OBJECT_NAMES.split())
# Attributes without a value; any other word makes "<em jejum>" and "<a 100 e >" text.
FLAGS = (
    "allowfullscreen|async|checked|compact|controls|defer|disabled|hidden|noshade|nowrap|readonly"
    "|selected"
)
# Elements of Word and Outlook, such as o:p and st1:PersonName, continue the line.
OFFICE = "(?:o|w|v|m|x|u1|st1|st2|w10|wx|aml):[a-z][a-z0-9]*"
NAMES = "|".join([*sorted(BLOCKS | INLINE | HIDDEN | OBJECTS | {"br"}), OFFICE])
# Possessive quantifiers (*+, ++) keep the match linear on a field full of openings.
TAG = re.compile(
    rf"""
    # A tag: a known name, then nothing but attributes.
    < (?P<end>/?) (?P<name>{NAMES})
    (?=[\s/>])
    (?:
        # name=value
        [\s/]*+ [a-z_:@][a-z0-9_:.@-]*+ \s*+ = \s*+ (?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>]++)
        # an attribute without a value
        | \s++ (?:{FLAGS}) (?=[\s/>])
    )*+
    [\s/]*+ >
    # The start of a comment.
    | <!--
    # A document type.
    | <!doctype [^<>]{{0,200}} >
    # Marks of Word and of XML around text that is shown.
    | (?P<mark>
        <!\[ (?: if\b [^<>]{{0,200}} | endif ) \]>
        | <\?xml\b [^<>]{{0,300}} >
        | <!\[CDATA\[
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
END_TAG = re.compile(rf"</(?P<name>{NAMES})\s*+>", re.IGNORECASE)
LESS_THAN = re.compile(f"{TAG.pattern}|<", TAG.flags)
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});")

# How many levels of escaping are undone.
ESCAPE_LEVELS = 3

# Marks in the parser's output. In a fragment these control characters become spaces first.
EDGE = "\x01"
SUPERSCRIPT = "\x02"
SUPERSCRIPT_END = "\x03"
SUBSCRIPT = "\x04"
# Versions of Python disagree about these empty comments.
EMPTY_COMMENT = re.compile("<!--+>")
MARKS = re.compile(f"[{EDGE}-{SUBSCRIPT}]")
CDATA = "<![CDATA["
AT_START = (
    dict.fromkeys(BLOCKS, EDGE)
    | dict.fromkeys(OBJECTS | HIDDEN, " ")
    | {"br": "\n", "sup": SUPERSCRIPT, "sub": SUBSCRIPT}
)
AT_END = (
    dict.fromkeys(BLOCKS, EDGE) | dict.fromkeys(OBJECTS, " ") | {"br": "\n", "sup": SUPERSCRIPT_END}
)
SUPERSCRIPTS = re.compile(
    rf"""
    {SUPERSCRIPT} (?:
        # A fraction: "1<sup>1</sup>/<sub>2</sub>" is one and a half.
        (?P<fraction> (?=\s*\d+\s*{SUPERSCRIPT_END}\s*[/⁄]\s*{SUBSCRIPT}) )
        # An ordinal or a trade mark, "1<sup>o</sup>" or "Marca<sup>®</sup>", or nothing at all.
        | (?P<ordinal> (?=\s*(?:[oaªº°®™]s?\s*)?(?:{MARKS.pattern}|<|$)|[ªº°®™]\s|\n) )
        # Anything else is a power.
        |
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


def strip_html(text: str) -> str:
    """Return the text without HTML, including escaped HTML.

    Each pass undoes one level: "&amp;lt;p&amp;gt;" is a paragraph that was escaped twice.
    """
    for level in range(ESCAPE_LEVELS):
        has_tag = "<" in text and TAG.search(text)
        if not has_tag and not ("&" in text and ENTITY.search(text)):
            break
        plain = html_to_text(text, unescaped=level > 0)
        if plain == text:
            break
        text = plain
    return text


def html_to_text(fragment: str, unescaped: bool = False) -> str:
    """Convert a fragment of HTML to text.

    Each block element is on a separate line. Scripts, styles and comments are removed. Numbers and
    words stay as they are read: "10<sup>6</sup>" becomes 10^6, and "1,<div>5" becomes two lines.

    `unescaped` says that the fragment's "<" were character references ("&lt;b&gt;") before. A "<"
    may then be meant as a sign, so an inline tag counts only if it is closed further on.
    """
    parser = _TextParser()
    fragment = EMPTY_COMMENT.sub(" ", MARKS.sub(" ", fragment))
    if CDATA in fragment:
        fragment = fragment.replace("]]>", "")
    parser.feed(_escape_signs(fragment, unescaped))
    parser.close()
    return _break_lines(_mark_powers("".join(parser.parts)))


class _TextParser(HTMLParser):
    """Collect the text of a fragment.

    Marks in the text show where blocks, superscripts and subscripts begin and end.
    """

    # Newer versions of Python list more elements here, so their output would differ.
    CDATA_CONTENT_ELEMENTS = ("script", "style", "xml")  # type: ignore[misc]
    RCDATA_CONTENT_ELEMENTS = ()  # type: ignore[misc]

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the mark of a start tag."""
        self.hidden = tag in HIDDEN
        self.parts.append(AT_START.get(tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the mark of a tag such as `<br/>` once."""
        self.handle_starttag(tag, attrs)
        if tag in HIDDEN:
            # A script is open until its end tag, as in browsers.
            self.set_cdata_mode(tag)

    def handle_endtag(self, tag: str) -> None:
        """Collect the mark of an end tag."""
        self.hidden = False
        self.parts.append(AT_END.get(tag, ""))

    def handle_data(self, data: str) -> None:
        """Collect text outside scripts and styles."""
        if not self.hidden:
            self.parts.append(data)

    def handle_decl(self, decl: str) -> None:
        """Collect a space for a document type."""
        self.parts.append(" ")


def _escape_signs(fragment: str, unescaped: bool) -> str:
    """Return the fragment with "&lt;" for every "<" that starts no markup."""
    last_comment_end = fragment.rfind("-->")
    last_end_tag = {tag["name"].lower(): tag.start() for tag in END_TAG.finditer(fragment)}

    def replace(match: re.Match[str]) -> str:
        markup = match.group()
        if markup == "<!--":
            return markup if match.end() <= last_comment_end else " "
        if match["mark"]:
            return ""
        # Browsers hide no text after an open <xml>, but after an open <script>.
        can_be_text = unescaped or (match["name"] or "").lower() == "xml"
        if markup == "<" or (can_be_text and _is_open(match, last_end_tag)):
            return "&lt;" + markup[1:]
        return markup

    return LESS_THAN.sub(replace, fragment)


def _is_open(match: re.Match[str], last_end_tag: dict[str, int]) -> bool:
    """Return whether a start tag must be closed and is not."""
    name = (match["name"] or "").lower()
    if match["end"] or name not in NEEDS_END:
        return False
    return match.start() > last_end_tag.get(name, -1)


def _mark_powers(text: str) -> str:
    """Replace marks by "^" before powers and a space before fractions."""

    def replace(match: re.Match[str]) -> str:
        if match["fraction"] is not None:
            return " "
        return "" if match["ordinal"] is not None else "^"

    text = SUPERSCRIPTS.sub(replace, text)
    return text.replace(SUPERSCRIPT_END, "").replace(SUBSCRIPT, "")


def _break_lines(text: str) -> str:
    """Replace the edges between two blocks by one line feed."""
    parts = []
    line_is_open = False
    for piece in text.split(EDGE):
        if line_is_open:
            parts.append("\n")
        parts.append(piece)
        line = piece.rstrip(" \t")
        line_is_open = bool(line) and not line.endswith("\n")
    return "".join(parts)
