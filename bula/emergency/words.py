"""Read messages with typing errors, and build the patterns of emergencies."""

import re

from bula.emergency.vocabulary import WORDS
from bula.safety_patterns import any_of

# A gap in a phrase: " ... " is up to four words of one sentence, and " ...2 " is up to two.
GAP = re.compile(r" \.\.\.(\d?) ")
NAME = re.compile(r"<([a-z]+)>")

# Common spellings of messages, and the spelling that the patterns use.
SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Repeated letters: muuuito
        (r"([a-z])\1{2,}", r"\1"),
        # Short words
        (r"\b(?:n|naum|nau)\b", "nao"),
        (r"\b(?:oq|o q)\b", "o que"),
        (r"\b(?:q|qe|ki|ke)\b", "que"),
        (r"\b(?:vc|vcs|ce)\b", "voce"),
        (r"\b(?:tb|tbm)\b", "tambem"),
        (r"\b(?:pq|pk)\b", "porque"),
        (r"\b(?:bb|bbs)\b", "bebe"),
        (r"\b(?:qd|qdo|qnd|qndo)\b", "quando"),
        (r"\b(?:td)\b", "tudo"),
        (r"\bcmg\b", "comigo"),
        (r"\bng\b", "ninguem"),
        (r"\bmsm\b", "mesmo"),
        (
            r"\bnum (?=(?:cons|to\b|ta\b|est|resp|acord|mex|para\b|quer|sei|sint|fal|aguent))",
            "nao ",
        ),
        (r"\btah?\b", "esta"),
        (r"\bt(?:o|ou|ow)\b", "estou"),
        (r"\btava\b", "estava"),
        (r"\btao (?=com|sem|fic|pass|rox|azu|inch)", "estao "),
        (r"\b(?:pra|p/) ?(?=\w)", "para "),
        (r"\bpro\b", "para o"),
        (r"\bpros\b", "para os"),
        (r"\bpras\b", "para as"),
        (r"\bm(?:t|to|ta|tos|tas|uitu)\b", "muito"),
        (r"\bhj\b", "hoje"),
        (r"\bag(?:r|ra)\b", "agora"),
        (r"\bdps\b", "depois"),
        (r"\b(?:qro|kero)\b", "quero"),
        (r"\baxo\b", "acho"),
        # Typing errors by sound
        (r"\bcon[sc][ei]g", "conseg"),
        (r"\benfart", "infart"),
        (r"\bco[mn]vul[sc]", "convuls"),
        (r"\b(?:em|in|im)gas", "engas"),
        (r"\b(?:em|in|im)goli", "engoli"),
        (r"\bemchad", "inchad"),
        (r"\b(?:inx|enx)(?=ad|ou|an)", "inch"),
        (r"\br(?:isp[ie]|espe)r(?=[aoe])", "respir"),
        (r"\bd[ei][sz]mai", "desmai"),
        (r"\bsang(?:ui|e|uie)\b", "sangue"),
        (r"\bcabe(?:sa|ssa)\b", "cabeca"),
        (r"\bpresao\b", "pressao"),
        (r"\b(?:suisid|suiscid|sucid)", "suicid"),
    )
)


def spell(text: str) -> str:
    """Return plain text with the common spellings of messages replaced."""
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def phrases(text: str) -> re.Pattern[str]:
    """Return a pattern that matches any phrase of a list.

    Each line is one regular expression, and a line that starts with | continues it. A comment
    starts with #, and <name> is an entry of WORDS. " ... " stands for up to four words and " ...2 "
    for up to two. "a ~ b" matches both in either order, with up to five words between them.
    """
    joined = re.sub(r"\n +\|", "|", text)
    lines = (line.partition("#")[0].strip() for line in joined.splitlines())
    return any_of(*(_expand(line) for line in lines if line))


def _expand(phrase: str) -> str:
    """Return a phrase as a regular expression."""
    while NAME.search(phrase):
        phrase = NAME.sub(lambda found: _alternatives(found[1]), phrase)
    first, _, second = phrase.partition(" ~ ")
    if second:
        phrase = f"(?:{first}) ...5 (?:{second})|(?:{second}) ...5 (?:{first})"
    return GAP.sub(lambda found: rf",? (?:[^\s.;!?]+ ){{0,{found[1] or 4}}}?", phrase)


def _alternatives(name: str) -> str:
    """Return an entry of the vocabulary as a regular expression."""
    joined = re.sub(r"\n +\|", "|", WORDS[name])
    lines = (line.strip() for line in joined.splitlines())
    return f"(?:{'|'.join(line for line in lines if line)})"
