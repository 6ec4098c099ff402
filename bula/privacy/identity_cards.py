"""Find the number of an identity card (RG) beside its name."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import NEXT_LINE, STATES, VERBOSE
from bula.privacy.kinds import Finding, Recogniser

# A shorter number beside the name is a count.
FEWEST_DIGITS = 4
_NAME = r"""
(?:
    \b[Rr]\.?[Gg]\.? | \b[Ii]dentidade | \b[Rr]egistro[ ][Gg]eral
    | \bIDENTIDADE | \bREGISTRO[ ]GERAL
)
"""
_ISSUER = rf"""
    (?: [ ,/-]{{0,3}} (?:SSP|DETRAN|PC|IFP|SESP|PM) [ /-]{{0,3}} (?:{STATES})\b )?
"""
RG = re.compile(
    rf"""
    {_NAME}
    # not a short count, such as "RG 12"
    (?! [ ]* \d{{1,3}}\b (?! [. ]\d{{3}} ) )
    (?: [^\d\n]{{0,30}}? | (?:{NEXT_LINE}) )
    (
        # groups of digits, such as MG-12.345.678-9
        (?: (?:{STATES}) [ -]{{0,3}} )?
        \d{{1,3}} [. ]? \d{{3}} [. ]? \d{{3}} (?: [ ]?[- ][ ]? [\dXx]{{1,2}} )? \b {_ISSUER}
        # digits without groups, or with one full stop
        | \d{{5,10}} [\dXx]? (?: -[\dXx]{{1,2}} )? \b {_ISSUER}
        | \d{{4,6}} \. \d{{3}} (?: -[\dXx]{{1,2}} )? \b {_ISSUER}
    )
    """,
    VERBOSE,
)


def _find(text: str) -> Iterator[Finding]:
    """Yield the numbers of identity cards."""
    for match in RG.finditer(text):
        digits = sum(character.isdigit() for character in match[1])
        if digits >= FEWEST_DIGITS:
            yield Finding("rg", match.start(1), match.end(1))


RECOGNISER = Recogniser(_find, digits=FEWEST_DIGITS)
