"""Find the number of an identity card (RG) beside its name."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import LINK, NEXT_LINE, NO_DATE, STATES, VERBOSE, find_groups
from bula.privacy.kinds import Finding, Recogniser

# A shorter number beside the name is a count.
FEWEST_DIGITS = 4
_NAME = r"""
(?:
    \b[Rr]\.?[ ]?[Gg]\.? | \b[Ii]dent(?:idade|\.|\b) | \b[Rr]egistro[ ][Gg]eral
    | \bIDENTIDADE | \bREGISTRO[ ]GERAL | \bIDENT\b\.? | \bC\.?I\.?(?=[ ]?(?:n[º°.]|n[úu]mero|:))
    | \bCIN\b
)
"""
_BODY = rf"""
    (?i:
        SSP (?: DS | DC )? | SDS | SESDC | SESP | SJS | SJTC | SEJUSP | SPTC | SSI | DETRAN
        | PC (?:II)? | PM (?:[A-Z]{{2}})? | IFP | IIRGD | IGP | ITEP | IIP | II | IPF | IC | DIC
        | MD | MAE | MB | MEX | EB | FAB | DPF | PF | POLITEC | CBM
    )
    (?: [ ]? [/-]? [ ]? \(? (?i:{STATES})\b \)? )?
"""
_ISSUER = rf"""
    (?:
        [ ,/(-]{{0,3}} {_BODY} \b
        # "expedido pela SSP/BA", "órgão emissor: SSP"
        | [ ,;(-]{{1,3}} (?i:
            expedi(?:d[oa]|[çc][ãa]o) | exp\. | emitid[oa] | emi[sç]{{1,2}}[ãa]o | emissor
            | [óo]rg[ãa]o (?: [ ] (?: emissor | expedidor ) )? | [óo]rg\. (?: [ ] \w{{2,4}}\. )?
          ) [ ]? :? [ ]? (?i: (?: p(?:or|el[ao]) | d[ao] ) [ ] )? {_BODY} \b
    )?
"""
RG = re.compile(
    rf"""
    {_NAME}
    # not a short count, such as "RG 12"
    (?! [ ]* \d{{1,3}}\b (?! [. ]\d{{3}} ) )
    (?: [^\d\n]{{0,30}}? | (?:{NEXT_LINE}) | [ ]{{0,3}} \r?\n [ ]{{0,8}} )
    (
        # groups of digits, such as MG-12.345.678-9
        (?: (?i:{STATES}|M) [ .-]{{0,3}} )?
        \d{{1,3}} [. ]? \d{{3}} [. ]? \d{{3}} (?: [ ]?[- ][ ]? [\dXx]{{1,2}} )? \b {_ISSUER}
        # digits without groups, or with one full stop
        | (?: (?i:{STATES}|M) [ .-]{{0,3}} )? \d{{5,10}} [\dXx]? (?: -[\dXx]{{1,2}} )? \b {_ISSUER}
        | \d{{4,6}} \. \d{{3}} (?: -[\dXx]{{1,2}} )? \b {_ISSUER}
    )
    """,
    VERBOSE,
)

# Other groups of digits, because people mistype.
MISTYPED_RG = re.compile(
    rf"""
    {_NAME} (?!\w) {LINK} {NO_DATE}
    (
        (?: (?i:{STATES}|M) [ .-]{{0,3}} )? \d (?: [ .,-]{{0,2}} \d ){{5,10}}
        (?: -? [Xx]\b )? {_ISSUER}
    )
    (?!\d)
    """,
    VERBOSE,
)

# An issuer with its state proves a number without the word.
ISSUED = re.compile(
    rf"""
    (?<![\d.,/-])
    (
        \d{{1,2}} \.? \d{{3}} \.? \d{{3}} (?: -[\dXx] )? [ ,/-]{{1,3}}
        (?i: SSP | SESP | SDS | SJS | SEJUSP | DETRAN | IFP | PC ) [ ]? [/-] [ ]? (?i:{STATES}) \b
    )
    """,
    VERBOSE,
)


def _find(text: str) -> Iterator[Finding]:
    """Yield the numbers of identity cards."""
    for pattern in (RG, MISTYPED_RG, ISSUED):
        for finding in find_groups("rg", pattern, text):
            value = text[finding.start : finding.end]
            if sum(character.isdigit() for character in value) >= FEWEST_DIGITS:
                yield finding


RECOGNISER = Recogniser(_find, digits=FEWEST_DIGITS)
