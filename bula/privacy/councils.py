"""Find registrations of physicians (CRM) and of other professions (COREN, CRF, OAB).

A finding includes the name of the council and the state.
"""

import re
from collections.abc import Iterator

from bula.privacy.fragments import ANY_CASE, STATES
from bula.privacy.kinds import Finding, Recogniser

# A shorter number beside the name is a version or a year.
FEWEST_DIGITS = 4
# Signs and words between the council, the state and the number.
_SEPARATOR = r"(?: [ ]? [/.:-]{1,2} [ ]? | [ ] )"
_STATE = rf"(?: {_SEPARATOR}? \(? (?:{STATES})\b \)? )"
# Words between the council and the number: "COREN da enfermeira:", "CRO dele é".
_TALK = r"""
    (?: [ ] (?: d[aeo] | del[ae] | meu | minha | seu | sua | é | eh | e | o | a | sob | ativo
      | n[º°o.]{1,2} | n[úu]mero | num\.? | registro | inscri[çc][ãa]o | inscrit[oa]
      | enfermeir[oa] | dentista | farmac[êe]utic[oa] | doutora? | dra?\.? | m[ée]dic[oa]
      | psic[óo]log[oa] | nutri(?:cionista)? | fisio(?:terapeuta)? | fono(?:audi[óo]log[oa])?
      | profissional | t[ée]cnic[oa] | advogad[oa] | assistente | social ) (?!\w) ){1,5} [ ]?:?[ ]?
"""
_NUMBER_WORD = rf"""
    (?:
        {_TALK}
        | [ .:/-]{{0,3}} (?: sob[ ]o[ ] )? (?: n[º°o.]{{1,3}} | n[úu]mero | [ée][ ]o?
          | registro ) [ .:]{{0,3}}
        | [ ] n [ ]
        | [ ./:º°-]{{1,6}}
    )?
"""
CRM = re.compile(
    rf"""
    # the word, and a state before the number
    \b (?: CRMM? | C\.R\.M\.? | CREM(?: E[A-Z]{{1,3}} | ESP | ERJ ) ) [ ./:-]{{0,6}}
    (?: \((?:{STATES})\) | (?:{STATES})\b )? (?:{STATES})?
    (?:
        [ ./:nNº°ro-]{{0,8}}
        | {_TALK}
        | [ ] (?: é | eh | e | n[úu]mero | num\.? | registro | sob | d[aeo] | o | a
        | m[ée]dic[oa] | dele | dela
          | n[º°.]{{1,2}} ){{1}} (?: [ ] (?: é | eh | o | n[º°.]{{1,2}} | n[úu]mero
          | m[ée]dic[oa] ) ){{0,3}} [ :]{{1,3}}
    )
    (?:
        # the number of a state's council, such as 52-12345-6
        \d{{2}} [ .-] \d{{4,6}} -\d
        | \d{{1,3}} [ ] \d{{3}} (?![ ]?\d)
        | \d [\d.]{{1,9}} \d (?:-\d{{1,4}})?
    )
    # a state after the number
    (?: [ ]? [/-]? [ ]? \(? (?:{STATES})\b \)? )?
    """,
    ANY_CASE,
)
# CRF and CRP are also a hormone and a protein, so these need a state, a region or no unit.
_UNIT = r"(?! [\d.,]* [ ]? (?: m?c?g | mL | UI | [pn]g | mg/ | % | x[ ] )\b | [.,/]?\d )"
_CATEGORY = r"(?: TEC | TE | ENF | AUX | AE | CD | TPD | TSB | ASB | LB | TO | LTT? | [A-DFGPST] )"
COUNCIL = re.compile(
    rf"""
    \b
    (?:
        (?: COREN | OAB | CRO | CREFITO | CRN | CRBM | CRFA | CRESS | CREF | CRMV | CRF | CREFONO
          | CRBIO | CRTR | COFEN | C\.O\.R\.E\.N\.? | O\.A\.B\.? | C\.R\.[OFN]\.? ) {_STATE}?
        | (?: CRP | C\.R\.P\.? ) (?: {_STATE} | (?= \D{{1,6}} \d{{2}} [/-] \d{{4,6}} ) )
        # a physician of a federal programme
        | RMS (?= \D{{1,5}} \d{{7}} )
        | conselho [ ] regional [ ] de [ ] \w+ {_STATE}?
          (?: [^\d\n;!?]{{1,40}} (?= \b (?: registro | inscri | n[º°.] ) ) )?
        # the region of the council, such as CRP 06/12345, CRN-3 12345 and CRFa 2ª região 12345
        | (?: CRP | CRN | CREFITO | CRFA | CREF | CRBM | CREFONO | CRBIO | CRTR | CRESS
          | C\.R\.P\. ) {_SEPARATOR}? \d{{1,2}} [ªa]? (?: [ ] regi[ãa]o \b )? (?= [ /.-] )
    )
    # the category before the number, such as CRO-SP CD 12345
    (?: [ /-]{{1,2}} (?: CD | TPD | TSB | ASB | LB | TEC | TE | ENF | AUX ) \b )?
    {_NUMBER_WORD} (?: (?:{STATES}) [ -]{{1,2}} )?
    (?: \d{{1,3}} (?: \.\d{{3}} ){{1,2}} | \d{{1,2}} [ ]?[-/][ ]? \d{{4,6}} | \d{{4,7}} )
    (?: -\d \b )? {_UNIT}
    # the category or the state after the number
    (?: [FGNP] \b )?
    (?: [ ]? [/-] [ ]? (?: {STATES} | {_CATEGORY} ) \b | [ ] (?: {STATES} | ENF | TEC | TE ) \b
    ){{0,2}}
    """,
    ANY_CASE,
)


def _find(text: str) -> Iterator[Finding]:
    """Yield the registrations of a text."""
    for kind, pattern in (("crm", CRM), ("council", COUNCIL)):
        for match in pattern.finditer(text):
            digits = sum(character.isdigit() for character in match[0])
            if digits >= FEWEST_DIGITS:
                yield Finding(kind, match.start(), match.end())


RECOGNISER = Recogniser(_find, digits=FEWEST_DIGITS)
