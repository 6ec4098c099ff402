"""Find numbers of health-plan cards and of medical records beside their names."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import ANY_CASE, LINK, NO_DATE, find_groups
from bula.privacy.kinds import Finding, Recogniser

# A price, a telephone of a service and a number of a law are no card.
_NO_CARD = rf"(?<![$/]) (?<!R\$[ ]) {NO_DATE} (?! (?:3003|400\d) [ -]? \d{{4}} (?!\d) )"
_GAP = r"(?: [ ]? [.-] [ ]? | [ ] )?"
# A unit or a share after a number says that it counts something.
_NO_UNIT = r"(?! [,.]?\d | / \d{4} (?!\d) | [ ]? (?: % | reais | mil\b | m?c?g\b | dias | anos ) )"
_CARD = r"""
    (?:
        carteirinha s? | carteira [ ] d[oae] [ ] (?: plano | conv[êe]nio | benefici[áa]ri[oa] )
        | cart[ãa]o [ ] d[oae] [ ] (?: plano | conv[êe]nio ) | benefici[áa]ri[oa]
        | (?: n[úu]mero | n[º°]? \.? ) [ ] d[oae] [ ] (?: plano | conv[êe]nio | carteir\w+ )
        | carteira | associad[oa] | matr[íi]cula
    )
"""
_COMPANY = r"""
    (?:
        plano (?: [ ] de [ ] sa[úu]de )? | conv[êe]nio | unimed | amil | hapvida
          | bradesco [ ] sa[úu]de
        | sul [ ]? am[ée]rica | notre[ ]?dame | intermédica | cassi | geap | golden [ ] cross
        | porto [ ] seguro | prevent [ ] senior | ipasgo | ipsemg
    )
"""
# Groups of digits, perhaps after letters, as on the card.
HEALTH_PLAN = (
    re.compile(
        rf"""
        \b {_CARD} \b {LINK} {_NO_CARD}
        ((?-i:[A-Z]{{1,3}}[ -]?)? \d (?:{_GAP} \d){{4,20}}) {_NO_UNIT}
        """,
        ANY_CASE,
    ),
    re.compile(
        rf"\b {_COMPANY} \b {LINK} {_NO_CARD} (\d (?:{_GAP} \d){{7,20}}) {_NO_UNIT}",
        ANY_CASE,
    ),
)
_RECORD = r"""
    (?:
        prontu[áa]rio s? | pront \.? | ficha (?= [ ] (?: n[º°.]{1,2} [ ]? )? \d )
        | reg(?:istro | \.) [ ] (?: hosp\w* | d[oae] [ ] (?: paciente | interna\w+ | atendimento ) )
        | (?: n[úu]mero | n[º°]? \.? ) [ ] (?: d[oe] [ ] )?
          (?: paciente | atendimento | prontu[áa]rio )
        | atend(?:imento|\.) (?= [ ]? (?: n[º°.]{0,2} | : | - )? [ ]? \d{5} ) | AIH | boletim
        | atendimento [ ] n[º°.]{1,2} | same | cadastro [ ] (?: n[º°.]{1,2} | d[oa] [ ] paciente )
    )
"""
# A year after "prontuário de" is no number of a record.
RECORD = re.compile(
    rf"""
    (?<!\w) {_RECORD} (?!\w) {LINK} {NO_DATE}
    (?! (?:19|20)\d{{2}} (?![\d./-]\d | \d) )
    ((?-i:[A-Z]{{1,3}}[ -]?)? \d (?: [.\-/]? \d ){{3,14}} (?: -?[A-Z]\b )?) {_NO_UNIT}
    """,
    ANY_CASE,
)


def _cards(text: str) -> Iterator[Finding]:
    """Yield the numbers of health-plan cards."""
    for pattern in HEALTH_PLAN:
        yield from find_groups("health_plan", pattern, text)


def _records(text: str) -> Iterator[Finding]:
    """Yield the numbers of medical records."""
    yield from find_groups("record", RECORD, text)


CARDS = Recogniser(_cards, digits=5)
RECORDS = Recogniser(_records, digits=4)
